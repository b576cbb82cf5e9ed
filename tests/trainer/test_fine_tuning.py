"""Fine-tuning, as a user has it: weights of others, other classes, layers that stay, and the best epoch kept."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import slim_spec
from photo_sets import MINI, WEIGHTS, changed_layers, fitted, noisy_folders, photo_folders, weights_for

import trainer.loop.train
from infer.data.dataset import open_dataset
from infer.data.known_images import KnownImages, image_number, known_images, with_trained_on
from infer.spec import ModelSpec
from trainer.__main__ import main
from trainer.checkpoint import Checkpoint, CheckpointError, load, save
from trainer.data.batches import Centers, center_batches
from trainer.data.examples import ValSplit, split_dataset
from trainer.loop.fine_tuning import NEW_LAYERS
from trainer.loop.start import start_fine_tuning, start_weights
from trainer.loop.train import train
from trainer.loop.validation import Validation
from trainer.recipe import RecipeError
from trainer.recipes import RECIPES

ALL_BUT_FC8 = {"conv1_1", "conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "conv5_1", "conv5_2", "fc6", "fc7"}


@pytest.mark.parametrize(
    "name", [name for name, recipe in RECIPES.items() if recipe.fine_tune and recipe.task == "classify"]
)
def test_each_recipe_is_loaded_and_trained_two_steps(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = weights_for(RECIPES[name], tmp_path / "weights.pt")
    data = photo_folders(tmp_path / "photos", {"cat": 5, "dog": 5, "hen": 5}, side=96)
    out = tmp_path / "out"
    words = ["--recipe", name, "--init", str(weights), "--data", str(data), "--out", str(out), "--val-split", "0.2"]
    assert (
        main(
            [*words, "--set", "batch=4", "iterations=2", "--final-protocol", "center" if "mini-vgg" in name else "none"]
        )
        == 0
    )

    before, after = load(weights), load(out / "ckpt.pt")
    assert after.finished and after.epochs_done == 1 and len(after.held_out) == 3
    assert after.spec.classes == ("cat", "dog", "hen")
    assert after.spec.preprocessing == WEIGHTS  # the weights' own
    assert (after.spec.net, after.spec.width, after.spec.fc_width) == (before.spec.net, 1 / 16, 32)
    assert after.spec.source["importer"] == "a test" and after.spec.source["fine_tuned_from"] == before.spec.name
    last = "classifier" if "googlenet" in name else "fc8"
    assert after.spec.source[NEW_LAYERS] == last
    assert f"{last} is made anew for 3 classes, other than its 4" in capsys.readouterr().err

    # what was loaded moved a little; what is new is not where it was drawn
    for tensor in before.weights:
        if not tensor.startswith(last):
            moved = (after.weights[tensor] - before.weights[tensor]).abs().max()
            assert moved < 0.2 * before.weights[tensor].abs().max() + 0.05, tensor
    if "mini-vgg" in name:
        assert json.loads((out / "evaluation" / "report.json").read_text())["results"][0]["images"] == 3
    page = Path(__file__).parents[2] / "docs" / "own-photos.md"
    assert f"`{name}`" in page.read_text()


@pytest.mark.parametrize("net", ["A", "A-LRN", "B", "C", "D", "E"])
def test_the_net_is_that_of_the_weights(net: str, tmp_path: Path) -> None:
    recipe = fitted(MINI, weights_for(MINI, tmp_path / "w.pt", net))
    assert (recipe.net, recipe.name, recipe.width, recipe.fc_width) == (
        net,
        f"mini-vgg-{net.lower()}-finetune",
        1 / 16,
        32,
    )
    assert recipe.fine_tune


@pytest.mark.parametrize(
    ("recipe", "net", "changes", "message"),
    [
        ("mini-googlenet-finetune", "D", {}, "mini-googlenet-finetune is for net googlenet, slim-d is D"),
        ("mini-vgg-finetune", "googlenet", {}, "for net A, A-LRN, B, C, D, E, slim-googlenet is googlenet"),
        ("mini-vgg-finetune", "D", {"task": "box-scr"}, "slim-d is a net for boxes (box-scr)"),
        (
            "mini-vgg-finetune",
            "D",
            {"crop_px": 128, "train_short_px": 128},
            "takes crops of 128 px, mini-vgg-finetune has 64: --set crop_px=128 phases=1:144-192:dropout "
            "test_short_px=176",
        ),
    ],
)
def test_weights_of_another_net_are_refused(
    recipe: str, net: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    base = {"crop_px": 96} if net == "googlenet" else {}
    weights = weights_for(RECIPES[recipe], tmp_path / "w.pt", net, **{**base, **{"train_short_px": 109}, **changes})
    with pytest.raises(RecipeError, match=re.escape(message)):
        fitted(RECIPES[recipe], weights)


def test_weights_of_the_other_size_name_their_recipe(tmp_path: Path) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", crop_px=224, train_short_px=256)
    with pytest.raises(RecipeError, match="takes crops of 224 px, mini-vgg-finetune has 64: take vgg-finetune"):
        fitted(MINI, weights)
    assert fitted(RECIPES["vgg-finetune"], weights).name == "vgg-d-finetune"


def test_what_it_tells_to_set_is_taken(tmp_path: Path) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", crop_px=128, train_short_px=128)
    recipe = fitted(MINI, weights, "crop_px=128", "phases=1:144-192:dropout", "test_short_px=176")
    assert (recipe.crop_px, recipe.phases[0].short_px) == (128, (144, 192))


def test_the_last_layer_is_taken_over_by_name_where_the_classes_are_the_same(tmp_path: Path) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A", source={})
    spec = dataclasses.replace(load(weights).spec, classes=("hen", "cat", "dog", "ant"))
    save(dataclasses.replace(load(weights), spec=spec), weights)
    data = photo_folders(tmp_path / "photos", {"ant": 4, "cat": 4, "dog": 4, "hen": 4})
    recipe = fitted(MINI, weights, "batch=4", "iterations=1", "learning_rate=1e-12", "weight_decay=0")
    after = load(train(recipe, data, tmp_path / "out", init=weights))
    assert after.spec.classes == ("ant", "cat", "dog", "hen") and after.spec.source[NEW_LAYERS] == ""
    assert torch.allclose(after.weights["fc8.weight"], load(weights).weights["fc8.weight"][[3, 1, 2, 0]], atol=1e-6)


def test_loaded_layers_learn_at_a_tenth_of_the_rate(tmp_path: Path) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 4, "dog": 4})
    recipe = fitted(MINI, weights, "batch=4", "iterations=1", "schedule=exponential", "keep=last")
    after = load(train(recipe, data, tmp_path / "out", init=weights))
    before = load(weights).weights
    for name in ("conv1_1.weight", "fc7.bias"):  # after one step the momentum is its gradient with the decay
        moved = before[name] - after.weights[name]
        assert torch.allclose(moved, 0.1 * 0.01 * after.momentum[name], atol=1e-7), name
    started = start_fine_tuning(recipe, open_dataset(data, "train"), load(weights))[1].state_dict()
    moved = started["fc8.weight"] - after.weights["fc8.weight"]
    assert torch.allclose(moved, 0.01 * after.momentum["fc8.weight"], atol=1e-7)


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        ("none", set()),
        ("3", {"conv1_1", "conv2_1", "conv3_1"}),
        ("features", ALL_BUT_FC8),
        ("10", ALL_BUT_FC8),
    ],
)
def test_layers_that_are_frozen_stay(freeze: str, frozen: set[str], tmp_path: Path) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 4, "dog": 4})
    words = ["--recipe", "mini-vgg-finetune", "--init", str(weights), "--data", str(data), "--freeze", freeze]
    words += ["--out", str(tmp_path / "out"), "--set", "batch=4", "epochs=2", "--final-protocol", "none"]
    assert main(words) == 0
    after = load(tmp_path / "out" / "ckpt.pt")
    assert changed_layers(after.weights, load(weights).weights) == (ALL_BUT_FC8 | {"fc8"}) - frozen
    assert {name.rpartition(".")[0] for name in after.momentum} == (ALL_BUT_FC8 | {"fc8"}) - frozen


def test_more_layers_than_there_are_cannot_be_frozen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 4, "dog": 4})
    words = ["--recipe", "mini-vgg-finetune", "--init", str(weights), "--data", str(data), "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--set", "batch=4", "--freeze", "11"])
    assert "--freeze 11: mini-vgg-a-finetune has 11 layers with weights, expected fewer" in capsys.readouterr().err


def test_without_weights_there_is_nothing_to_fine_tune(tmp_path: Path, one_line: Callable[[], str]) -> None:
    data = photo_folders(tmp_path / "photos", {"cat": 4, "dog": 4})
    words = ["--data", str(data), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        main(["--recipe", "mini-vgg-finetune", *words])
    assert "mini-vgg-finetune: goes on from weights, expected --init CKPT.pt" in one_line()
    with pytest.raises(RecipeError, match="goes on from weights"):
        train(dataclasses.replace(MINI, net="A", batch=4), data, tmp_path / "out")


def test_other_recipes_name_the_way_for_other_classes(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPES["mini-a"], batch=4, width=1 / 16, fc_width=32)
    data = photo_folders(tmp_path / "photos", {"cat": 4, "dog": 4})
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    with pytest.raises(CheckpointError, match="its classes are others; a -finetune recipe makes the last layer anew"):
        train(recipe, data, tmp_path / "out", init=weights)


def answered(
    errors: list[float], losses: list[float], monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, torch.Tensor]]:
    """Makes each validation of a run one of these; returns the weights that it was made with."""
    seen: list[dict[str, torch.Tensor]] = []

    def validate(run: Any, images: object) -> Validation:
        seen.append({name: tensor.clone() for name, tensor in run.weights().items()})
        number = len(seen) - 1
        answers = torch.full((2,), number)
        return Validation({"top1": errors[number], "top5": 0.0}, losses[number], answers, torch.ones(2))

    monkeypatch.setattr(trainer.loop.train, "validate", validate)
    return seen


@pytest.mark.parametrize("average", ["none", "polyak"])
def test_the_best_epoch_is_kept_and_the_run_ends_early(
    average: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of equal errors the smaller loss is the better; three validations without a better one end the run."""
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 6, "dog": 6})
    settings = ("batch=4", "epochs=20", "stop_after=3", "val_split=0.2", f"average={average}")
    recipe = fitted(MINI, weights, *settings)
    seen = answered([50, 25, 25, 25, 40, 30, 0], [1, 2, 1, 1.5, 1, 1, 0], monkeypatch)
    after = load(train(recipe, data, tmp_path / "out", init=weights))
    assert (after.epochs_done, after.finished, after.best) == (6, True, (3, 25.0, 1.0))
    assert changed_layers(after.weights, seen[2]) == set()
    assert changed_layers(after.weights, seen[5]) != set()
    assert (after.answers["first"].tolist(), after.answers["kept"].tolist()) == ([0, 0], [2, 2])


def test_a_validation_whose_loss_is_no_number_can_be_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores beyond a number's range have answers, and errors; the checkpoint can be read."""
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 6, "dog": 6})
    recipe = fitted(MINI, weights, "batch=4", "epochs=3", "val_split=0.2")
    answered([50, 25, 25], [1, math.nan, 7], monkeypatch)
    assert load(train(recipe, data, tmp_path / "out", init=weights)).best == (3, 25.0, 7.0)
    answered([50, 25, 25], [1, 2, math.nan], monkeypatch)
    assert load(train(recipe, data, tmp_path / "other", init=weights)).best == (2, 25.0, 2.0)
    answered([50, 50, 25], [1, 2, math.nan], monkeypatch)
    assert load(train(recipe, data, tmp_path / "last", init=weights)).best == (3, 25.0, math.inf)


@pytest.mark.parametrize("layers", ["all", "last"])
def test_validation_images_that_cannot_be_read_are_said_once(
    layers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    photo_folders(tmp_path / "photos" / "train", {"cat": 6, "dog": 6})
    photo_folders(tmp_path / "photos" / "val", {"cat": 4, "dog": 4})
    (tmp_path / "photos" / "val" / "dog" / "001.png").write_bytes(b"no image")
    recipe = fitted(MINI, weights, "batch=4", "epochs=3", f"train_layers={layers}")
    after = load(train(recipe, tmp_path / "photos", tmp_path / "out", init=weights))
    said = "1 of 8 validation images cannot be read and count as wrong; evaluation.ilsvrc names them"
    assert capsys.readouterr().err.count(said) == 1
    assert after.best[1] >= 12.5 and after.answers["kept"].tolist()[5] == -1


@pytest.mark.parametrize(
    ("settings", "freeze"), [((), "none"), (("average=polyak", "average_decay=0.5"), "none"), ((), "features")]
)
def test_a_run_that_died_goes_on_to_the_same_bits(
    settings: tuple[str, ...], freeze: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each of its checkpoints, with the best epoch behind it, and among its features."""
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 9, "dog": 7})
    layers = "train_layers=last" if freeze == "features" else "train_layers=all"
    recipe = fitted(MINI, weights, "batch=4", "epochs=4", "val_split=0.3", "learning_rate=0.1", layers, *settings)

    def content(out: Path) -> tuple[dict[str, Any], bytes]:
        values = dataclasses.asdict(load(out / "ckpt.pt"))
        tensors = {name for name, value in values.items() if isinstance(value, dict) and name not in ("spec", "scaler")}
        numbers = {name: {key: t.numpy().tobytes() for key, t in values[name].items()} for name in tensors}
        return values | numbers, (out / "metrics.jsonl").read_bytes()

    train(recipe, data, tmp_path / "whole", init=weights)
    for survived in (1, 4) if freeze == "none" else (0, 1):
        out, saves = tmp_path / f"died{survived}", []

        def save_and_die(checkpoint: Checkpoint, path: Path, saves: list[int] = saves, most: int = survived) -> None:
            if len(saves) == most:
                raise KeyboardInterrupt
            saves.append(1)
            save(checkpoint, path)

        with monkeypatch.context() as patch:
            patch.setattr(trainer.loop.train.checkpoints, "save", save_and_die)
            with pytest.raises(KeyboardInterrupt):
                train(recipe, data, out, init=weights, execution=trainer.loop.train.Execution(save_minutes=0))
        train(recipe, data, out, init=weights, resume=True)
        assert content(out) == content(tmp_path / "whole")


@pytest.mark.parametrize("layers", ["all", "last"])
def test_a_net_knows_the_images_of_its_weights_and_its_own_but_not_those_held_out(layers: str, tmp_path: Path) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    marked = with_trained_on(load(weights).spec, KnownImages(frozenset([5, 9])))
    save(dataclasses.replace(load(weights), spec=marked), weights)
    data = photo_folders(tmp_path / "photos", {"cat": 8, "dog": 8})
    recipe = fitted(MINI, weights, "batch=6", "epochs=1", "val_split=0.25", f"train_layers={layers}")
    after = load(train(recipe, data, tmp_path / "out", init=weights))

    numbers = {item.name: image_number(item.read_bytes()) for item in open_dataset(data).items}
    assert len(after.held_out) == 4
    learned = {number for name, number in numbers.items() if name not in after.held_out}
    assert known_images(after.spec) == KnownImages(frozenset(learned | {5, 9}))


def test_validation_images_that_the_weights_know_are_said_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run on all images first, another that keeps some of them later."""
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = noisy_folders(tmp_path / "photos", {"cat": 8, "dog": 8})
    words = ["--recipe", "mini-vgg-finetune", "--data", str(data), "--final-protocol", "none"]
    settings = ["--set", "batch=4", "epochs=1"]
    assert main([*words, "--init", str(weights), "--out", str(tmp_path / "all"), *settings]) == 0
    split = [*words, "--val-split", "0.25", *settings]
    assert main([*split, "--init", str(weights), "--out", str(tmp_path / "right")]) == 0
    assert main([*split, "--init", str(tmp_path / "right" / "ckpt.pt"), "--out", str(tmp_path / "again")]) == 0
    assert "was trained on" not in capsys.readouterr().err

    assert main([*split, "--init", str(tmp_path / "all" / "ckpt.pt"), "--out", str(tmp_path / "late")]) == 0
    said = "validation images: --init: mini-vgg-a-finetune was trained on 4 of these 4 images: its error on them says"
    before, found, _ = capsys.readouterr().err.partition(said)
    assert found and "epoch 1/1" not in before


TV = slim_spec(
    "googlenet-tv", crop_px=96, train_short_px=109, width=1 / 16, classes=tuple("wxyz"), preprocessing=WEIGHTS
)


def with_norms(path: Path, spec: ModelSpec = TV) -> Path:
    """Weights of googlenet-tv with batch norms that do something, as the importer of torchvision's writes them."""
    from trainer.nets.batch_norm import BatchNorm, fold_all
    from trainer.nets.googlenet_tv import EPSILON
    from trainer.nets.zoo import build_net

    torch.manual_seed(0)
    net = build_net(spec, batch_norms=True)
    start_weights(net, "he")
    for module in net.modules():
        if isinstance(module, BatchNorm):
            torch.nn.init.normal_(module.bias, 0, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    state = {name: tensor.detach() for name, tensor in net.state_dict().items()}
    save(Checkpoint(spec, fold_all(state, EPSILON), unfolded=state), path)
    return path


@pytest.mark.parametrize("norms", ["frozen", "updated"])
def test_batch_norms_of_torchvisions_googlenet(norms: str, tmp_path: Path) -> None:
    weights, data = with_norms(tmp_path / "w.pt"), photo_folders(tmp_path / "photos", {"cat": 6, "dog": 6}, side=120)
    settings = ("batch=4", "epochs=1", f"norms={norms}", "val_split=0.3")
    recipe = fitted(RECIPES["mini-googlenet-tv-finetune"], weights, *settings)
    path = train(recipe, data, tmp_path / "out", init=weights)
    before, after = load(weights), load(path)
    moved = changed_layers(after.unfolded, before.unfolded)
    assert {"conv1", "conv1.norm", "inception.3a.second3x3.norm", "classifier"} <= moved
    same = torch.equal(after.unfolded["conv1.norm.running_mean"], before.unfolded["conv1.norm.running_mean"])
    assert same is (norms == "frozen")
    assert after.weights.keys() == before.weights.keys()  # as every engine takes it, without norms

    # the folded net answers as the one with norms
    from trainer.nets.zoo import build_net

    with_them = build_net(after.spec, batch_norms=True).eval()
    with_them.load_state_dict(after.unfolded)
    with_them.requires_grad_(False)
    x = torch.randn(2, 3, 96, 128)
    assert torch.allclose(after.build()(x), with_them(x), atol=1e-4 * float(with_them(x).abs().max()))


@pytest.mark.processes
def test_two_processes_validate_the_net_that_is_kept(tmp_path: Path) -> None:
    """Batch norms whose statistics move: each process has measured those of its half of a batch."""
    weights, data = with_norms(tmp_path / "w.pt"), noisy_folders(tmp_path / "photos", {"cat": 12, "dog": 12})
    words = [
        "--recipe",
        "mini-googlenet-tv-finetune",
        "--init",
        str(weights),
        "--data",
        str(data),
        "--val-split",
        "0.3",
    ]
    words += ["--out", str(tmp_path / "out"), "--final-protocol", "none", "--val-split", "0.3"]
    own = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainer"]
    run = subprocess.run(
        [sys.executable, *own, *words, "--set", "norms=updated", "batch=8", "epochs=2", "keep=last"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr

    made = load(tmp_path / "out" / "ckpt.pt")
    held_out = split_dataset(open_dataset(data, "train"), ValSplit(0.3, 0))[1]
    assert tuple(item.name for item in held_out.items) == made.held_out
    mean, std = (torch.tensor(v) for v in (made.spec.preprocessing.mean_rgb, made.spec.preprocessing.std_rgb))
    ((pixels, _, _),) = center_batches(Centers(held_out, made.spec), len(held_out.items))
    with torch.inference_mode():
        scores = made.build()(((pixels - mean) / std).permute(0, 3, 1, 2)).mean((2, 3))
    assert torch.allclose(made.answers["probability"], scores.softmax(1).amax(1), atol=1e-5)


def test_norms_that_were_folded_start_as_the_same_function(tmp_path: Path) -> None:
    weights = with_norms(tmp_path / "w.pt")
    save(dataclasses.replace(load(weights), unfolded={}), weights)
    data = photo_folders(tmp_path / "photos", {"w": 4, "x": 4, "y": 4, "z": 4}, side=120)
    recipe = fitted(RECIPES["mini-googlenet-tv-finetune"], weights)
    _, net = start_fine_tuning(recipe, open_dataset(data, "train"), load(weights))
    x = torch.randn(2, 3, 96, 96)
    expected = load(weights).build()(x).detach()
    assert torch.allclose(net.eval()(x), expected, atol=1e-5 * float(expected.abs().max()))
    with pytest.raises(CheckpointError, match="norms=updated needs the statistics of the batch norms"):
        updated = dataclasses.replace(recipe, norms="updated")
        start_fine_tuning(updated, open_dataset(data, "train"), load(weights))


def test_exif_is_the_weights_own_unless_it_is_asked_for(tmp_path: Path) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A", preprocessing=dataclasses.replace(WEIGHTS, exif="apply"))
    data = photo_folders(tmp_path / "photos", {"cat": 4, "dog": 4})
    words = ["--recipe", "mini-vgg-finetune", "--init", str(weights), "--data", str(data), "--final-protocol", "none"]
    words += ["--set", "batch=4", "iterations=1"]
    for more, exif in (([], "apply"), (["--exif", "ignore"], "ignore")):
        out = tmp_path / exif
        assert main([*words, "--out", str(out), *more]) == 0
        assert load(out / "ckpt.pt").spec.preprocessing.exif == exif
