"""trainer/loop/train.py on 64 images: what a run leaves behind, that it repeats to the bit, and SGD written out."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TRAIN_DIGITS
from helpers import write_checkpoint
from torch import Tensor
from torch.nn import functional as F

import trainer.loop.train
from infer.data.dataset import DatasetError, open_dataset
from infer.data.known_images import TRAINED_ON, KnownImages, image_number, known_images, with_trained_on
from infer.spec import ModelSpec, SpecError
from trainer import checkpoint as checkpoints
from trainer.checkpoint import Checkpoint, load
from trainer.data.batches import TrainingBatch
from trainer.loop.execution import Execution
from trainer.loop.start import make_spec, start_weights
from trainer.loop.train import TrainingError, train
from trainer.miniature import RENDERINGS
from trainer.nets.googlenet import GoogLeNet
from trainer.nets.zoo import Net, build_net
from trainer.recipe import Phase, Recipe
from trainer.recipes import RECIPES

IMAGES = TRAIN_DIGITS * RENDERINGS
TINY = dataclasses.replace(RECIPES["mini-a"], name="tiny", width=1 / 16, fc_width=16, epochs=2, batch=8)


def layers(names: Any) -> set[str]:
    return {name.rsplit(".", 1)[0] for name in names}


def start_of(recipe: Recipe, spec: ModelSpec) -> Net:
    """The net as a run starts it. Random numbers fill a tensor in the order of its memory: channels last."""
    torch.manual_seed(recipe.seed)
    net = build_net(spec, auxiliary_heads=True).to(memory_format=torch.channels_last)
    start_weights(net, recipe.start)
    return net


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture(scope="module")
def finished(miniature_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one uninterrupted run of TINY."""
    out = tmp_path_factory.mktemp("run")
    train(TINY, miniature_dir, out)
    return out


def test_a_run_ends_with_a_loadable_checkpoint_and_a_finite_loss(finished: Path, miniature_dir: Path) -> None:
    checkpoint = load(finished / "ckpt.pt")
    assert (checkpoint.epochs_done, checkpoint.recipe) == (2, TINY.to_json())
    data = open_dataset(miniature_dir, "train")
    assert with_trained_on(checkpoint.spec, None) == make_spec(TINY, data, None)
    assert known_images(checkpoint.spec) == KnownImages(frozenset(image_number(i.read_bytes()) for i in data.items))
    assert (checkpoint.finished, checkpoint.images) == (True, IMAGES)
    assert all(tensor.isfinite().all() for tensor in checkpoint.weights.values())
    assert checkpoint.build()(torch.zeros(1, 3, 64, 64)).shape == (1, len(data.classes), 1, 1)
    log = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["iteration"]) for row in log] == [(1, 8), (2, 16)]
    assert all(0 < row["loss"] < 10 and 0 <= row["training_error_percent"] <= 100 for row in log)
    assert all(row["validation_top5_error_percent"] <= row["validation_top1_error_percent"] <= 100 for row in log)
    assert sorted(path.name for path in finished.iterdir()) == ["ckpt.pt", "curves.png", "metrics.jsonl", "tensorboard"]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    finished: Path, miniature_dir: Path, tmp_path: Path
) -> None:
    first = load(finished / "ckpt.pt")
    again = load(train(TINY, miniature_dir, tmp_path / "again"))
    assert same_tensors(first.weights, again.weights)
    assert same_tensors(first.momentum, again.momentum)
    other = load(train(dataclasses.replace(TINY, seed=1), miniature_dir, tmp_path / "other"))
    assert not torch.equal(first.weights["fc8.weight"], other.weights["fc8.weight"])


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    finished: Path, miniature_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_and_stop(checkpoint: Checkpoint, path: Path) -> None:
        save(checkpoint, path)
        if checkpoint.epochs_done:
            raise KeyboardInterrupt

    save = checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, miniature_dir, tmp_path)
    assert load(tmp_path / "ckpt.pt").epochs_done == 1
    whole, resumed = load(finished / "ckpt.pt"), load(train(TINY, miniature_dir, tmp_path, resume=True))
    assert resumed.epochs_done == 2
    assert same_tensors(whole.weights, resumed.weights)
    assert same_tensors(whole.momentum, resumed.momentum)
    assert whole.spec == resumed.spec
    before = (tmp_path / "ckpt.pt").read_bytes()
    train(TINY, miniature_dir, tmp_path, resume=True)  # nothing is left to do
    assert (tmp_path / "ckpt.pt").read_bytes() == before


def test_resuming_with_other_settings_is_refused(finished: Path, miniature_dir: Path) -> None:
    with pytest.raises(TrainingError, match="was made by another recipe or other settings: resume with the same"):
        train(dataclasses.replace(TINY, epochs=3), miniature_dir, finished, resume=True)


def test_googlenet_trains_with_its_heads_and_is_saved_without(miniature_dir: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPES["mini-googlenet"], width=1 / 8, fc_width=8, epochs=1, batch=16)
    checkpoint = load(train(recipe, miniature_dir, tmp_path))
    assert not any(name.startswith("auxiliary") for name in checkpoint.weights)
    parts = ("conv", "fc", "classifier")
    assert layers(checkpoint.auxiliary) == {f"auxiliary.{head}.{part}" for head in ("aux1", "aux2") for part in parts}
    trained = {**checkpoint.weights, **checkpoint.auxiliary}
    start = start_of(recipe, checkpoint.spec).state_dict()
    still = {name for name, tensor in start.items() if torch.equal(tensor, trained[name])}
    assert not still, "part of the net took no part in the training"


def test_a_net_knows_the_images_of_its_steps_and_of_the_weights_that_it_started_from(
    miniature_dir: Path, tmp_path: Path
) -> None:
    recipe, data = dataclasses.replace(TINY, iterations=3, epochs=1), open_dataset(miniature_dir, "train")
    seen = np.random.default_rng((recipe.seed, 0)).permutation(IMAGES)[: 3 * recipe.batch]
    numbers = frozenset(image_number(data.items[place].read_bytes()) for place in seen)
    checkpoint = load(train(recipe, miniature_dir, tmp_path / "few"))
    assert known_images(checkpoint.spec) == KnownImages(numbers)

    old = KnownImages(frozenset([5, 9]), limit=1 << 61)
    marked = with_trained_on(recipe.spec(data.classes, (), (0.0, 0.0, 0.0)), old)
    a = write_checkpoint(tmp_path / "a.pt", marked)
    found = known_images(load(train(recipe, miniature_dir, tmp_path / "both", init=a)).spec)
    assert found == old.united(KnownImages(numbers))
    assert 2 < len(found.numbers) < len(numbers)


def test_weights_whose_images_are_damaged_are_refused(miniature_dir: Path, tmp_path: Path) -> None:
    spec = TINY.spec(("a", "b"), (), (0.0, 0.0, 0.0))
    a = write_checkpoint(tmp_path / "a.pt", dataclasses.replace(spec, source={TRAINED_ON: "?"}))
    with pytest.raises(SpecError, match=r"source\.trained_on is no sample of images"):
        train(TINY, miniature_dir, tmp_path / "out", init=a)


def test_init_reaches_the_run(miniature_dir: Path, tmp_path: Path) -> None:
    """At a learning rate that changes nothing visible, D ends with A's first convolution."""
    recipe = dataclasses.replace(TINY, net="D", epochs=1, batch=64, learning_rate=1e-12, weight_decay=0.0)
    data = open_dataset(miniature_dir, "train")
    a = write_checkpoint(tmp_path / "a.pt", TINY.spec(data.classes, (), (0.0, 0.0, 0.0)), seed=5)
    got = load(train(recipe, miniature_dir, tmp_path, init=a))
    assert torch.allclose(got.weights["conv1_1.weight"], load(a).weights["conv1_1.weight"], atol=1e-6)


def fixed_batches(count: int, size: int, classes: int, px: int = 64) -> list[TrainingBatch]:
    rng = np.random.default_rng(0)
    return [
        (
            torch.from_numpy(rng.integers(0, 256, (size, px, px, 3), np.uint8)),
            torch.from_numpy(rng.normal(0, 3, (size, 3)).astype(np.float32)),
            torch.from_numpy(rng.integers(0, classes, size)),
            torch.arange(size),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("net", ["A", "A-LRN", "D", "googlenet"])
def test_steps_are_sgd_with_momentum_and_decay_written_out(
    net: str, miniature_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """v = 0.9 v + g + 5e-4 w; w = w - lr v, with (pixels + shift - mean) / std and the rate of each step.

    In fp64 on both sides: in fp32 the rounding of a convolution, which differs from one CPU to another, grows with
    every step, and net D was 1e-4 off on some machines.
    """
    phases = (Phase(1.0, (98, 100), dropout=False),)
    recipe: Recipe = dataclasses.replace(TINY, phases=phases, epochs=1, batch=16, learning_rate=0.05, warmup=0.5)
    if net == "googlenet":
        recipe = dataclasses.replace(recipe, net=net, crop_px=96, test_short_px=98, learning_rate=0.01)
    else:
        recipe = dataclasses.replace(recipe, net=net)
    steps = IMAGES // recipe.batch
    data = open_dataset(miniature_dir, "train")
    given = fixed_batches(steps, recipe.batch, len(data.classes), recipe.crop_px)
    monkeypatch.setattr(trainer.loop.train, "batches", lambda crops, batch, **_: iter(given))
    checkpoint = load(train(recipe, miniature_dir, tmp_path, execution=Execution(precision="fp64")))
    trained = {**checkpoint.weights, **checkpoint.auxiliary}

    start = start_of(recipe, checkpoint.spec).eval().double()  # without dropout
    parameters = dict(start.named_parameters())
    velocity = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    mean = torch.tensor(checkpoint.spec.preprocessing.mean_rgb)
    for step, (pixels, shift, labels, _) in enumerate(given):
        x = (
            torch.stack([(image + s - mean) / 64 for image, s in zip(pixels, shift, strict=True)])
            .permute(0, 3, 1, 2)
            .double()
        )
        scores = [start(x).flatten(1)]
        if isinstance(start, GoogLeNet):  # paper, section 5: two heads in training, each 0.3 of the loss
            seen = start.trunk(x)[1]
            scores += [head(seen[name]) for name, head in start.auxiliary.items()]
        assert len(scores) == (3 if net == "googlenet" else 1)
        loss = sum((0.3 if number else 1.0) * F.cross_entropy(s, labels) for number, s in enumerate(scores))
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        done = (step + 1) / steps
        rate = recipe.learning_rate * (done / 0.5 if done < 0.5 else 0.5 * (1 + math.cos(math.pi * (done - 0.5) / 0.5)))
        with torch.no_grad():
            for (name, tensor), gradient in zip(parameters.items(), gradients, strict=True):
                velocity[name] = 0.9 * velocity[name] + gradient + 5e-4 * tensor
                tensor -= rate * velocity[name]
    for name, tensor in parameters.items():
        assert torch.allclose(trained[name].double(), tensor, rtol=1e-6, atol=1e-8), name


def test_dropout_is_on_in_the_phases_that_have_it(miniature_dir: Path, tmp_path: Path) -> None:
    def weights(out: str, *, dropout: bool) -> dict[str, Tensor]:
        phases = (Phase(1.0, (82, 90), dropout=dropout),)
        recipe = dataclasses.replace(TINY, phases=phases, epochs=1, batch=32)
        return load(train(recipe, miniature_dir, tmp_path / out)).weights

    without, again = weights("a", dropout=False), weights("b", dropout=False)
    with_dropout = weights("c", dropout=True)
    assert same_tensors(without, again)
    assert not torch.equal(without["fc8.weight"], with_dropout["fc8.weight"])


def test_a_loss_that_is_not_finite_stops_the_run(
    miniature_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(crops: Any, batch: int, **_: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for pixels, shift, labels, images in fixed_batches(2, batch, 2):
            yield pixels, shift * math.nan, labels, images

    monkeypatch.setattr(trainer.loop.train, "batches", broken)
    with pytest.raises(TrainingError, match=r"the loss became nan in iteration 1 \(epoch 1\): lower learning_rate$"):
        train(TINY, miniature_dir, tmp_path)


def test_images_without_labels_are_refused(miniature_dir: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(miniature_dir.rglob("*.JPEG"))[:4]
    rows = pa.table({"image": [file.read_bytes() for file in files], "label": [0, 1, -1, 1]})
    pq.write_table(rows, tmp_path / "train.parquet")
    with pytest.raises(DatasetError, match=r"train/00000002 has no label, expected one for every image"):
        train(TINY, tmp_path / "train.parquet", tmp_path / "out")
