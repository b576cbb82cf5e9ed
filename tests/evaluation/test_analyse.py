"""Per-class errors, confusion, calibration and subsets: worked by hand, against scikit-learn, and by the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import make_scores
from sklearn.metrics import confusion_matrix

from evaluation.analyse import main
from evaluation.scores.metrics import BINS, details, select, top_errors
from evaluation.scores.table import concatenate, write

HAND = make_scores(
    [[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1], [0.1, 0.1, 0.8], [0.0, 0.0, 0.0], [0.5, 0.3, 0.2]],
    [0, 1, 0, 2, 2, -1],
    ("ok", "ok", "ok", "ok", "broken", "ok"),
)


def test_worked_by_hand() -> None:
    found = details([HAND])
    assert found.confusion.toarray().tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert (found.unanswered.tolist(), found.class_images.tolist()) == ([0, 0, 1], [2, 1, 2])
    assert {one.name: one.rate.percent for one in found.class_errors()} == {"a": 50, "b": 0, "c": 50}
    assert found.most_confused(5) == [("a", "b", 1)]
    # confidences .9, .7, .6, .8 lie in bins of their own; right, right, wrong, right
    assert found.expected_calibration_error_percent == pytest.approx(100 * (0.1 + 0.3 + 0.6 + 0.2) / 4)


def test_confusion_is_scikit_learns_and_parts_change_nothing() -> None:
    rng = np.random.default_rng(0)
    posterior = rng.dirichlet(np.ones(5), 300)
    labels = rng.integers(0, 5, 300)
    whole = make_scores(posterior, labels)
    found = details([whole])
    assert np.array_equal(found.confusion.toarray(), confusion_matrix(labels, whole.posterior.argmax(1)))
    cut = details(make_scores(posterior[i : i + 70], labels[i : i + 70]) for i in range(0, 300, 70))
    assert np.array_equal(cut.confusion.toarray(), found.confusion.toarray())
    assert np.allclose(cut.bin_confidence, found.bin_confidence)
    assert found.bin_images.sum() == 300


def test_a_calibrated_model_has_a_small_error_and_a_boastful_one_a_large() -> None:
    rng = np.random.default_rng(1)
    sure = rng.uniform(0.5, 1, 20_000)
    right = rng.random(20_000) < sure
    posterior = np.stack([sure, 1 - sure], 1)
    calibrated = details([make_scores(posterior, (~right).astype(int))])
    assert calibrated.expected_calibration_error_percent == pytest.approx(0, abs=1.5)
    boastful = details([make_scores(np.tile([0.99, 0.01], (20_000, 1)), (~right).astype(int))])
    assert boastful.expected_calibration_error_percent == pytest.approx(99 - 75, abs=1)
    assert len(boastful.bin_images) == BINS


def test_subsets() -> None:
    assert [part.images for part in select([HAND], classes=["a"])] == [("0.jpg", "2.jpg")]
    (chosen,) = select([HAND], images={"0.jpg", "4.jpg", "5.jpg"})
    assert (chosen.images, chosen.labels.tolist()) == (("0.jpg", "4.jpg", "5.jpg"), [0, 2, -1])
    assert chosen.statuses == ("ok", "broken", "ok")
    (both,) = select([HAND], images={"0.jpg", "1.jpg"}, classes=["b"])
    assert both.images == ("1.jpg",)
    assert concatenate(list(select([HAND]))).images == HAND.images
    assert top_errors(select([HAND], images={"none"}), (1,)) == (None,)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], one_line: Callable[[], str]) -> None:
    table = tmp_path / "a.parquet"
    write([HAND], table)
    assert main([str(table)]) == 0
    said = capsys.readouterr().out
    assert "5 labelled images, 1 without an answer" in said
    assert "top-1 error 40.00 % [11.8, 76.9]" in said
    assert "| a            | b              |        1 |" in said
    assert main([str(table), "--json", "--classes", "a,b"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["images"], content["top1"]["percent"]) == (3, pytest.approx(100 / 3))
    assert content["classes"]["a"]["images"] == 2
    (tmp_path / "names.txt").write_text("3.jpg\n")
    assert main([str(table), "--images", str(tmp_path / "names.txt")]) == 0
    assert "1 labelled images, 0 without" in capsys.readouterr().out
    assert main([str(table), "--classes", "z"]) == 1
    assert "has no class 'z'" in one_line()
    (tmp_path / "names.txt").write_text("nothing\n")
    assert main([str(table), "--images", str(tmp_path / "names.txt")]) == 1
    assert "no labelled image of this subset" in one_line()
    assert main([str(tmp_path / "b.parquet")]) == 1
    assert "no such file" in one_line()
