"""Fine-tuning, as a user has it: weights of others, other classes, layers that stay, and the best epoch kept."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import slim_spec, write_checkpoint
from PIL import Image

import trainer.loop.train
from infer.data.dataset import open_dataset
from infer.data.known_images import KnownImages, image_number, known_images, with_trained_on
from infer.spec import ModelSpec, Preprocessing
from trainer.__main__ import main
from trainer.checkpoint import Checkpoint, CheckpointError, load, save
from trainer.loop.fine_tuning import NEW_LAYERS, fit_recipe
from trainer.loop.start import check_scale, start_fine_tuning, start_weights
from trainer.loop.train import TrainingError, train
from trainer.loop.training_state import TrainingState
from trainer.loop.validation import Validation
from trainer.recipe import Recipe, RecipeError, override
from trainer.recipes import RECIPES

WEIGHTS = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), filter="bilinear")
MINI = RECIPES["mini-vgg-finetune"]
ALL_BUT_FC8 = {"conv1_1", "conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "conv5_1", "conv5_2", "fc6", "fc7"}


def weights_for(recipe: Recipe, out: Path, net: str = "", **changes: Any) -> Path:
    """Slim weights of 4 classes with another's preprocessing, as an importer writes them."""
    name = net or ("D" if recipe.net == "vgg" else recipe.net)
    px = recipe.crop_px * 256 // 224
    values: dict[str, Any] = {
        "preprocessing": WEIGHTS,
        "crop_px": recipe.crop_px,
        "train_short_px": px,
        "width": 1 / 16,
    }
    values |= {"source": {"importer": "a test"}, "classes": tuple("wxyz")}
    spec = slim_spec(name, **{**values, **changes})
    return write_checkpoint(out, spec)


def photo_folders(out: Path, counts: dict[str, int], side: int = 80) -> Path:
    """Class folders of images of one colour each, which differ a little."""
    for number, (name, count) in enumerate(counts.items()):
        (out / name).mkdir(parents=True)
        for place in range(count):
            colour = (40 * number + 40, 200 - 30 * number, place % 256)
            Image.new("RGB", (side + 16, side), colour).save(out / name / f"{place:03d}.png")
    return out


def fitted(recipe: Recipe, weights: Path, *settings: str) -> Recipe:
    return fit_recipe(override(recipe, list(settings)), load(weights).spec)


def changed_layers(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    return {
        name.rpartition(".")[0]
        for name, tensor in one.items()
        if tensor.shape != other[name].shape or not torch.equal(tensor, other[name])
    }


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.fine_tune])
def test_each_recipe_is_loaded_and_trained_two_steps(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = weights_for(RECIPES[name], tmp_path / "weights.pt")
    data = photo_folders(tmp_path / "photos", {"cat": 5, "dog": 5, "hen": 5}, side=96)
    out = tmp_path / "out"
    words = ["--recipe", name, "--init", str(weights), "--data", str(data), "--out", str(out), "--val-split", "0.2"]
    assert main([*words, "--set", "batch=4", "iterations=2", "--final-protocol", "center"]) == 0

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


def test_features_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 9, "dog": 7})
    recipe = fitted(MINI, weights, "batch=4", "epochs=6", "val_split=0.3", "train_layers=last", "feature_draws=3")
    path = train(recipe, data, tmp_path / "out", init=weights)
    files = sorted(file.name for file in (tmp_path / "out" / "features").iterdir())
    assert files == [
        "draw0-000000.npy",
        "draw0-000000.numbers.npy",
        "draw1-000000.npy",
        "draw2-000000.npy",
        "key",
        "validation-000000.npy",
    ]

    # a start that finds them computes none, and one with other settings none of theirs
    path.unlink()
    (tmp_path / "out" / "metrics.jsonl").unlink()
    (tmp_path / "out" / "curves.png").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(trainer.loop.train.Features, "_computed", None)
        train(recipe, data, tmp_path / "out", init=weights)
    times = (tmp_path / "out" / "features" / "draw0-000000.npy").stat().st_mtime_ns
    path.unlink()
    (tmp_path / "out" / "metrics.jsonl").unlink()
    (tmp_path / "out" / "curves.png").unlink()
    train(dataclasses.replace(recipe, seed=1), data, tmp_path / "out", init=weights)
    assert (tmp_path / "out" / "features" / "draw0-000000.npy").stat().st_mtime_ns > times


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


def test_steps_on_features_are_those_on_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same rate, the last layer learns what it would behind layers that are frozen one by one."""
    monkeypatch.setattr(TrainingState, "fit_rate_to_features", lambda state, mean_square: None)
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 8, "dog": 8})
    settings = ("batch=4", "epochs=1", "val_split=0.25", "phases=1:72-96")
    by = {}
    for layers in ("last", "after-10"):
        recipe = fitted(MINI, weights, *settings, f"train_layers={layers}")
        by[layers] = load(train(recipe, data, tmp_path / layers, init=weights))
    for name in ("fc8.weight", "fc8.bias"):
        assert torch.allclose(by["last"].weights[name], by["after-10"].weights[name], atol=1e-5)
    rows = [json.loads((tmp_path / layers / "metrics.jsonl").read_text()) for layers in by]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


def test_features_of_any_size_are_learnt_alike(tmp_path: Path) -> None:
    """Weights whose features are 64 times as large: the last layer is 64 times smaller, and its scores are the same."""
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    small = load(weights)
    larger = {name: t * (64 if name.startswith("fc7.") else 1) for name, t in small.weights.items()}
    save(dataclasses.replace(small, weights=larger), tmp_path / "larger.pt")
    data = photo_folders(tmp_path / "photos", {"cat": 8, "dog": 8})
    recipe = fitted(MINI, weights, "batch=4", "epochs=3", "train_layers=last", "start_sigma=1e-9", "weight_decay=0")
    recipe = dataclasses.replace(recipe, start="normal")
    one, other = (
        load(train(recipe, data, tmp_path / path.stem, init=path)) for path in (weights, tmp_path / "larger.pt")
    )
    scale = float(one.weights["fc8.weight"].abs().max())
    assert scale > 1e-3
    assert torch.allclose(one.weights["fc8.weight"], 64 * other.weights["fc8.weight"], atol=1e-4 * scale)
    assert torch.allclose(one.weights["fc8.bias"], other.weights["fc8.bias"], atol=1e-5)


def test_the_last_layer_alone_has_more_epochs(tmp_path: Path) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 5, "dog": 5})
    words = ["--recipe", "mini-vgg-finetune", "--init", str(weights), "--data", str(data), "--freeze", "features"]
    words += ["--final-protocol", "none", "--set", "batch=4", "iterations=2"]
    for more, epochs, stop_after in (([], 150, 40), (["epochs=7"], 7, 40), (["stop_after=3"], 150, 3)):
        out = tmp_path / f"{epochs}-{stop_after}"
        assert main([*words, *more, "--out", str(out)]) == 0
        recipe = json.loads(load(out / "ckpt.pt").recipe)
        assert (recipe["epochs"], recipe["stop_after"]) == (epochs, stop_after)


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


def test_the_validation_images_are_the_same_ever_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 20, "dog": 10, "hen": 2, "one": 1})
    recipe = fitted(MINI, weights, "batch=4", "iterations=1", "val_split=0.2")
    first = load(train(recipe, data, tmp_path / "a", init=weights))
    of_class = {
        name: sum(held.startswith(f"{name}/") for held in first.held_out) for name in ("cat", "dog", "hen", "one")
    }
    assert of_class == {"cat": 4, "dog": 2, "hen": 1, "one": 0}
    assert "--val-split keeps none of 1 classes of one image (one)" in capsys.readouterr().err
    assert (tmp_path / "a" / "held-out.txt").read_text().splitlines() == list(first.held_out)
    assert first.images == 33 - 7

    # another seed of training keeps the same, another of the split others; weights of a run keep what they kept
    again = load(train(dataclasses.replace(recipe, seed=5), data, tmp_path / "b", init=weights))
    other = load(train(dataclasses.replace(recipe, split_seed=1), data, tmp_path / "c", init=weights))
    onward = load(
        train(dataclasses.replace(recipe, split_seed=1), data, tmp_path / "d", init=tmp_path / "a" / "ckpt.pt")
    )
    assert again.held_out == first.held_out == onward.held_out
    assert other.held_out != first.held_out

    # an image more moves one at most
    Image.new("RGB", (96, 80), (1, 2, 3)).save(data / "cat" / "new.png")
    more = load(train(recipe, data, tmp_path / "e", init=weights))
    assert len(set(more.held_out) - set(first.held_out)) <= 1


def test_a_split_that_cannot_be(miniature_dir: Path, tmp_path: Path, one_line: Callable[[], str]) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    words = [
        "--recipe",
        "mini-vgg-finetune",
        "--init",
        str(weights),
        "--out",
        str(tmp_path / "o"),
        "--val-split",
        "0.2",
    ]
    assert main([*words, "--data", str(miniature_dir)]) == 1
    assert "has validation images of its own: leave out --val-split 0.2" in one_line()
    with pytest.raises(SystemExit, match="2"):
        main([*words[:-1], "20", "--data", str(miniature_dir)])
    assert "val_split is a share below 1, got 20.0" in one_line()
    single = photo_folders(tmp_path / "photos", {"cat": 1, "dog": 1})
    assert main([*words, "--data", str(single)]) == 1
    assert "--val-split needs a class of two images at least" in one_line()


def test_another_share_is_another_run(tmp_path: Path) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 10, "dog": 10})
    recipe = fitted(MINI, weights, "batch=4", "epochs=1", "val_split=0.2")
    train(recipe, data, tmp_path / "out", init=weights)
    with pytest.raises(TrainingError, match="was made by another recipe or other settings"):
        train(dataclasses.replace(recipe, val_split=0.3), data, tmp_path / "out", init=weights, resume=True)


def test_exif_is_the_weights_own_unless_it_is_asked_for(tmp_path: Path) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A", preprocessing=dataclasses.replace(WEIGHTS, exif="apply"))
    data = photo_folders(tmp_path / "photos", {"cat": 4, "dog": 4})
    words = ["--recipe", "mini-vgg-finetune", "--init", str(weights), "--data", str(data), "--final-protocol", "none"]
    words += ["--set", "batch=4", "iterations=1"]
    for more, exif in (([], "apply"), (["--exif", "ignore"], "ignore")):
        out = tmp_path / exif
        assert main([*words, "--out", str(out), *more]) == 0
        assert load(out / "ckpt.pt").spec.preprocessing.exif == exif


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
        if recipe.task != "classify":
            check_scale(recipe, RECIPES[recipe.init].spec(("a", "b"), (), (1.0, 2.0, 3.0)))


def test_it_says_how_long_all_layers_would_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 20, "dog": 20})
    words = ["--recipe", "mini-vgg-finetune", "--init", str(weights), "--data", str(data), "--freeze", "features"]
    assert main([*words, "--final-protocol", "none", "--set", "iterations=2", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    form = (
        r"features of the frozen layers take about \d+ s, once; training all layers would take about \d+ s an epoch, "
    )
    assert re.search(form + r"\d+ (s|min) for 30 \(--freeze none\)", said), said


def test_photographs_that_were_turned_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 4, "dog": 4})
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(3):
        Image.new("RGB", (96, 80), (number, 2, 3)).save(data / "cat" / f"turned{number}.jpg", exif=exif)
    words = ["--recipe", "mini-vgg-finetune", "--init", str(weights), "--data", str(data), "--final-protocol", "none"]
    words += ["--set", "batch=4", "iterations=1"]
    assert main([*words, "--out", str(tmp_path / "ignored")]) == 0
    line = "3 of 11 images were turned by their camera, and are used as stored: --exif apply turns them"
    assert line in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "applied"), "--exif", "apply"]) == 0
    assert "turned by their camera" not in capsys.readouterr().err
