"""trainer/loop/start.py: distributions of random starts, and which layers of another net are taken."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import slim_spec, write_checkpoint
from photo_sets import photo_folders

from infer.data.dataset import open_dataset
from trainer.checkpoint import CheckpointError, load
from trainer.loop.start import check_scale, class_weights, copy_layers, start_weights
from trainer.nets.zoo import build_net
from trainer.recipe import RecipeError, Start
from trainer.recipes import RECIPES

FROM_A = {"conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"}


def layers(names: Any) -> set[str]:
    return {name.rsplit(".", 1)[0] for name in names}


def fans(weight: torch.Tensor) -> tuple[int, int]:
    """Of a convolution [out, in, k, k] or a fully connected layer [out, in]: what feeds one output, and one input."""
    positions = math.prod(weight.shape[2:])
    return weight.shape[1] * positions, weight.shape[0] * positions


@pytest.mark.parametrize("net", ["D", "googlenet"])
@pytest.mark.parametrize("start", ["he", "normal", "glorot"])
def test_distributions_of_random_starts(net: str, start: Start) -> None:
    torch.manual_seed(0)
    built = build_net(slim_spec(net, fc_width=256), auxiliary_heads=True)
    start_weights(built, start, sigma=0.02)
    for name, tensor in built.named_parameters():
        if name.endswith("bias"):
            assert not tensor.any()
            continue
        fan_in, fan_out = fans(tensor)
        variance = {"he": 2 / fan_in, "normal": 0.02**2, "glorot": 2 / (fan_in + fan_out)}[start]
        count, sigma = tensor.numel(), math.sqrt(variance)
        assert tensor.std().item() == pytest.approx(sigma, rel=5 / math.sqrt(2 * count)), name
        assert abs(tensor.mean().item()) < 5 * sigma / math.sqrt(count), name
        if count > 2000:  # tails: a uniform's end at sqrt(3) sigma, a normal's go on
            beyond = (tensor.abs() > 1.7321 * sigma).float().mean().item()
            assert beyond == 0 if start == "glorot" else beyond == pytest.approx(0.0833, abs=5 * 0.28 / count**0.5), (
                name
            )


@pytest.mark.parametrize(
    ("source", "target", "taken"),
    [
        ("A", "D", FROM_A),
        ("A", "E", FROM_A),
        ("A-LRN", "B", FROM_A),
        ("B", "D", FROM_A),
        ("A", "A", None),
        ("D", "D", None),
        ("googlenet", "googlenet", None),
    ],
)
def test_init_takes_the_papers_layers_or_all_of_the_same_net(
    tmp_path: Path, source: str, target: str, taken: set[str] | None
) -> None:
    given = load(write_checkpoint(tmp_path / "source.pt", slim_spec(source), seed=1))
    net = build_net(slim_spec(target), auxiliary_heads=True)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    copy_layers(net, given, "classify")
    after = net.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert layers(changed) == (layers(given.weights) if taken is None else taken)
    assert all(torch.equal(after[name], given.weights[name]) for name in changed)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (
            slim_spec("A", classes=("a", "b")),
            slim_spec("D"),
            r"--init: slim-a \(net A\) does not fit: fc8\.weight, fc8\.bias",
        ),
        (slim_spec("A", width=1 / 4), slim_spec("D"), r"does not fit: conv1_1\.weight"),
        (slim_spec("A"), slim_spec("googlenet"), r"does not fit: conv1_1\.weight"),
        (slim_spec("googlenet"), slim_spec("D"), r"slim-googlenet \(net googlenet\) does not fit: no layer"),
    ],
)
def test_init_that_does_not_fit(tmp_path: Path, source: Any, target: Any, message: str) -> None:
    given = load(write_checkpoint(tmp_path / "source.pt", source))
    with pytest.raises(CheckpointError, match=message):
        copy_layers(build_net(target), given, "classify")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """They gave a loss that is none, and advice to lower the learning rate."""
    source = load(write_checkpoint(tmp_path / "w.pt", slim_spec()))
    source.weights["conv3_1.weight"][0, 0, 0, 0] = math.nan
    with pytest.raises(
        CheckpointError, match=r"conv3_1\.weight has values that are no numbers, expected other weights"
    ):
        copy_layers(build_net(slim_spec()), source, "classify")


def test_a_box_net_is_of_the_classifiers_s(tmp_path: Path) -> None:
    """VGG appendix A: the classifier of the same S; within an eighth it counts as the same."""
    for name, base in (("vgg-d-loc-scr", "vgg-d"), ("vgg-d-384-loc-pcr", "vgg-d-384"), ("mini-d-loc-scr", "mini-d")):
        classifier = RECIPES[base].spec(("a", "b"), ("a", "b"), (1.0, 2.0, 3.0))
        check_scale(RECIPES[name], classifier)
    with pytest.raises(
        CheckpointError, match="vgg-d was trained at S = 256, vgg-d-384-loc-scr learns boxes at S = 384"
    ):
        check_scale(RECIPES["vgg-d-384-loc-scr"], RECIPES["vgg-d"].spec(("a", "b"), (), (1.0, 2.0, 3.0)))
    jitter = RECIPES["vgg-d-jitter"].spec(("a", "b"), (), (1.0, 2.0, 3.0))
    check_scale(RECIPES["vgg-d-384-loc-scr"], jitter)


def test_every_mini_loc_recipe_has_a_classifier_that_it_takes() -> None:
    for recipe in RECIPES.values():
        if recipe.task.startswith("box-"):
            check_scale(recipe, RECIPES[recipe.init].spec(("a", "b"), (), (1.0, 2.0, 3.0)))


def test_weights_of_classes_have_a_mean_of_one_over_the_images(tmp_path: Path) -> None:
    """6 cats and 2 dogs: balanced is 8/12 and 8/4; cat:3 is 3 to 1, over 20 eighths."""
    dataset = open_dataset(photo_folders(tmp_path, {"cat": 6, "dog": 2}), "train")
    for text, expected in (("balanced", [2 / 3, 2.0]), ("cat:3", [3 * 0.4, 0.4]), ("dog:0", [8 / 6, 0.0])):
        weights = class_weights(dataclasses.replace(RECIPES["mini-a"], class_weights=text), dataset)
        assert weights is not None and weights.tolist() == pytest.approx(expected)
    assert class_weights(RECIPES["mini-a"], dataset) is None
    with pytest.raises(RecipeError, match="class_weights: no class is called 'hen', expected of cat, dog"):
        class_weights(dataclasses.replace(RECIPES["mini-a"], class_weights="hen:2"), dataset)
    with pytest.raises(RecipeError, match="no image of a class with a weight above 0"):
        class_weights(dataclasses.replace(RECIPES["mini-a"], class_weights="cat:0,dog:0"), dataset)
