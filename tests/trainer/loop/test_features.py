"""trainer/loop/features.py: features of frozen layers are computed once, and steps on them are those on pixels."""

from __future__ import annotations

import dataclasses
import json
import re
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_sets import MINI, fitted, photo_folders, weights_for
from PIL import Image

import trainer.loop.train
from infer.data.known_images import known_images
from trainer.__main__ import main
from trainer.checkpoint import load, save
from trainer.loop.features import CHUNK, FeaturesError, FeatureStore
from trainer.loop.train import train
from trainer.loop.training_state import TrainingState


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
        "draw1-000000.numbers.npy",
        "draw2-000000.npy",
        "draw2-000000.numbers.npy",
        "key",
        "validation-000000.npy",
        "validation-000000.numbers.npy",
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


def test_features_of_images_that_changed_are_computed_anew(tmp_path: Path) -> None:
    """Of the same names and sizes in bytes; and those that are damaged, or of another's."""
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data, out = tmp_path / "photos", tmp_path / "out"
    for name in ("cat", "dog"):
        (data / name).mkdir(parents=True)
        for place in range(8):
            Image.new("RGB", (80, 80), (place, 50 if name == "cat" else 90, 0)).save(data / name / f"{place}.bmp")
    recipe = fitted(MINI, weights, "batch=4", "epochs=2", "val_split=0.3", "train_layers=last")
    first = load(train(recipe, data, out, init=weights))

    held = first.held_out[0]
    learnt = next(f"cat/{place}.bmp" for place in range(8) if f"cat/{place}.bmp" not in first.held_out)
    for damage in ("held-out image", "image to learn from", "cut", "double", "fewer"):
        for written in ("ckpt.pt", "metrics.jsonl", "curves.png"):
            (out / written).unlink()
        features = out / "features" / "draw1-000000.npy"
        if "image" in damage:
            name = held if damage == "held-out image" else learnt
            Image.new("RGB", (80, 80), (255, 255, 250)).save(data / name)
        elif damage == "cut":
            features.write_bytes(features.read_bytes()[:-7])
        else:
            rows = np.load(features)
            np.save(features, rows.astype(np.float64) if damage == "double" else rows[1:])

        found = load(train(recipe, data, out, init=weights))
        expected = load(train(recipe, data, tmp_path / damage, init=weights))
        assert torch.equal(found.weights["fc8.weight"], expected.weights["fc8.weight"]), damage
        assert torch.equal(found.answers["probability"], expected.answers["probability"]), damage
        assert known_images(found.spec) == known_images(expected.spec)


def test_features_in_double_and_the_time_of_all_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The time that is told is that of the command that is told: its epochs are not those of the last layer alone."""
    weights = weights_for(MINI, tmp_path / "w.pt", "A")
    data = photo_folders(tmp_path / "photos", {"cat": 10, "dog": 10})
    words = ["--recipe", "mini-vgg-finetune", "--init", str(weights), "--data", str(data), "--freeze", "features"]
    words += ["--final-protocol", "none", "--precision", "fp64", "--set", "batch=4"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert re.search(r"training all layers for 30 epochs .* \(--freeze none --set epochs=30\)", capsys.readouterr().err)
    assert load(tmp_path / "out" / "ckpt.pt").finished


def test_features_of_many_images_keep_no_file_open(tmp_path: Path) -> None:
    """More files than a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    there = len(list(Path("/proc/self/fd").iterdir()))
    store = FeatureStore(tmp_path, "draw0", [0] * (60 * CHUNK))
    rows = np.random.default_rng(0).normal(size=(60 * CHUNK, 3)).astype(np.float32)
    for chunk in range(60):
        np.save(store.path(chunk), rows[store.places(chunk)])
    places = np.random.default_rng(1).permutation(60 * CHUNK)
    resource.setrlimit(resource.RLIMIT_NOFILE, (there + 40, hard))
    try:
        found = [store.rows(places[start : start + 7]) for start in range(0, 60 * CHUNK, 7)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert torch.equal(torch.cat(found), torch.from_numpy(rows[places]))
    store.path(3).write_bytes(b"damaged")
    with pytest.raises(FeaturesError, match=r"draw0-000003\.npy: cannot be read .*: go on with --resume"):
        store.rows(np.arange(60 * CHUNK))
