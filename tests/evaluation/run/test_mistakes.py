"""The most confident mistakes of a run: the right ones, with what each view said, and thumbnails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.ilsvrc import main
from evaluation.scores.table import read
from infer.data.dataset import open_dataset
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import decode
from infer.views import plan_views

Exported = Callable[..., Path]


def evaluated(engine: Path, data: Path, out: Path, *more: str) -> Any:
    argv = ["--engine", str(engine), "--data", str(data), "--protocol", "center,multicrop+dense", "--out", str(out)]
    assert main([*argv, *more]) == 0
    index = out / "mistakes" / "index.json"
    return json.loads(index.read_text()) if index.exists() else []


def test_they_are_the_surest_wrong_answers_of_each_table(
    exported: Exported, miniature_dir: Path, tmp_path: Path
) -> None:
    index = evaluated(exported("A"), miniature_dir, tmp_path, "--mistakes", "3")
    for path in (tmp_path / "scores").iterdir():
        scores = read(path)
        answers, sure = scores.posterior.argmax(1), scores.posterior.max(1)
        wrong = [i for i in range(len(answers)) if answers[i] != scores.labels[i]]
        expected = sorted(wrong, key=lambda i: (-sure[i], scores.images[i]))[:3]
        own = [each for each in index if each["protocol"] == scores.metadata["protocol"]]
        assert len(own) == 3
        for each, i in zip(own, expected, strict=True):
            assert (each["image"], each["label"], each["answer"]) == (
                scores.images[i],
                scores.classes[scores.labels[i]],
                scores.classes[answers[i]],
            )
            assert each["probability"] == pytest.approx(float(sure[i]))
            assert each["label_probability"] == pytest.approx(float(scores.posterior[i, scores.labels[i]]))
            assert (each["model"], each["runtime"], each["scales"]) == (
                scores.model,
                "onnxruntime-fp32",
                list(scores.scales),
            )


def test_views_say_what_the_engine_said_of_them(exported: Exported, miniature_dir: Path, tmp_path: Path) -> None:
    index = evaluated(exported("A"), miniature_dir, tmp_path, "--mistakes", "2")
    engine = OnnxEngine(exported("A"))
    items = {item.name: item for item in open_dataset(miniature_dir).items}
    for each in index:
        pixels = decode(items[each["image"]].read_bytes())
        size = (pixels.shape[0], pixels.shape[1])
        plan = plan_views(engine.spec, each["protocol"], size, each["scales"])
        posterior = engine.run(engine.load([pixels]), [plan])["posterior"]
        answer, label = (engine.spec.classes.index(each[key]) for key in ("answer", "label"))
        assert (tuple(each["size"]), each["views_total"]) == (size, len(plan))
        assert each["views_agreeing"] == int((posterior.argmax(1) == answer).sum())
        views = {(v.short_side_px, v.box, v.mirrored): i for i, v in enumerate(plan.views)}
        said = [views[v["short_side_px"], tuple(v["box"]), v["mirrored"]] for v in each["views"]]
        assert len(said) == min(12, len(plan))
        for view, i in zip(each["views"], said, strict=True):
            assert view["answer_probability"] == pytest.approx(float(posterior[i, answer]), abs=1e-6)
            assert view["label_probability"] == pytest.approx(float(posterior[i, label]), abs=1e-6)
        others = np.delete(posterior[:, answer], said)
        assert others.max(initial=0) <= min(view["answer_probability"] for view in each["views"]) + 1e-6
        with Image.open(tmp_path / "mistakes" / each["thumbnail"]) as thumbnail:
            assert min(thumbnail.size) == min(160, *size)
            aspect = thumbnail.width / thumbnail.height
            assert aspect == pytest.approx(size[1] / size[0], rel=0.02)


def test_none_are_kept_on_request_and_old_ones_go(exported: Exported, miniature_dir: Path, tmp_path: Path) -> None:
    assert evaluated(exported("A"), miniature_dir, tmp_path, "--limit", "8")
    assert evaluated(exported("A"), miniature_dir, tmp_path, "--limit", "8", "--mistakes", "0") == []
    assert not (tmp_path / "mistakes").exists()
