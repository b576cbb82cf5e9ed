"""evaluation/localization/find_boxes.py against a slow reading of the appendix, by both protocols."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import make_scores
from localization_runs import BOXES, IMAGES, hits, only, opened, report

from evaluation.errors import ScoresError
from evaluation.localization import find_boxes as locate
from evaluation.localization.__main__ import main
from evaluation.localization.table import LocatedImage, read_located
from evaluation.scores import metrics
from evaluation.scores import table as tables
from infer.data.annotations import parse_annotation
from infer.data.dataset import Dataset, Item, open_dataset
from infer.data.folder import File
from infer.pixels.decode import decode
from infer.views import plan_views


def slow_windows(nets: dict[str, Path], name: str, scale: int, image: Any) -> list[tuple[Any, Any]]:
    """(boxes of each class [10, 4], posterior [10]) of each position, one by one."""
    net, classifier = opened(nets[name]), opened(nets["cls"])
    plan = plan_views(net.spec, "dense", image.shape[:2], [scale])
    box_map = net.run(net.load([image]), [plan], ["box_map"])["box_map"][0].astype(float)
    scores = classifier.run(classifier.load([image]), [plan], ["score_map"])["score_map"][0].astype(float)
    height, width = plan.views[0].size_px
    down, across = image.shape[0] / height, image.shape[1] / width
    found = []
    for i in range(scores.shape[1]):
        for j in range(scores.shape[2]):
            boxes = []
            for label in range(10):
                x, y, w, h = 64 * box_map[:, i, j].reshape(-1, 4)[label if len(box_map) > 4 else 0]
                x, y, w, h = (32 * j + 32 + x) * across, (32 * i + 32 + y) * down, w * across, h * down
                w, h = max(w, 1), max(h, 1)
                boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            powers = np.exp(scores[:, i, j])
            found.append((boxes, powers / powers.sum()))
    return found


def slow_guess(windows: Any, label: int, size: tuple[int, int], at: float) -> tuple[float, list[float]]:
    """(score, box) of a class: merge the closest two until none are close, then the one with most posterior."""
    groups = [([boxes[label]], posterior[label]) for boxes, posterior in windows]

    def score(one: Any, other: Any) -> float:
        a, b = (np.mean(group[0], 0) for group in (one, other))
        area = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
        shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        apart = np.hypot(*((a[:2] + a[2:] - b[:2] - b[2:]) / 2))
        return float(apart / np.sqrt(sum(area) / 2) + 1 - shared / (sum(area) - shared))

    while len(groups) > 1:
        best, i, j = min(
            (score(groups[i], groups[j]), i, j) for i in range(len(groups)) for j in range(i + 1, len(groups))
        )
        if best > at:
            break
        groups[i] = (groups[i][0] + groups[j][0], groups[i][1] + groups[j][1])
        del groups[j]
    boxes, total = max(groups, key=lambda group: group[1])
    left, top, right, bottom = np.mean(boxes, 0)
    height, width = size
    return total, [max(left, 0) + 1, max(top, 0) + 1, min(right, width), min(bottom, height)]


@pytest.mark.parametrize("at", [0.75, 1.6])
def test_the_dense_protocol_is_a_slow_reading_of_it(
    at: float,
    dense: list[str],
    nets: dict[str, Path],
    miniature_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every guess of every image, and the two errors, from the engines' maps by loops."""
    assert main([*dense, "--merge-at", str(at), "--limit", "10", "--out", str(tmp_path / "out")]) == 0
    rows = list(read_located(only(tmp_path / "out")))
    items = open_dataset(miniature_dir, limit=10).items
    assert [row.image for row in rows] == [item.name for item in items] and len(rows) == 10
    classifier = opened(nets["cls"])
    wrong_top5 = wrong_given = 0
    for item, row in zip(items, rows, strict=True):
        image = decode(item.read_bytes())
        windows = slow_windows(nets, "scr", 96, image)
        windows += slow_windows(nets, "pcr", 72, image) + slow_windows(nets, "pcr", 80, image)
        plan = plan_views(classifier.spec, "dense", (image.shape[0], image.shape[1]), [72, 80, 96])
        views = [type(plan)(plan.protocol, plan.image_px, plan.views[n : n + 2]) for n in (0, 2, 4)]
        posterior = [classifier.run(classifier.load([image]), [own])["posterior"] for own in views]
        likely = np.argsort(-np.concatenate(posterior).astype(float).mean(0), kind="stable")[:5].tolist()
        assert (row.label, row.status, row.size_px) == (item.label, "ok", image.shape[:2])
        assert [guess.label for guess in row.guesses] == likely
        assert row.given is not None and row.given.label == item.label
        for guess in [*row.guesses, row.given]:
            score, box = slow_guess(windows, guess.label, (image.shape[0], image.shape[1]), at)
            assert np.allclose(guess.box, box, atol=1e-3) and guess.score == pytest.approx(score, abs=1e-4)
        stem = item.path.stem
        ((_, truth),) = parse_annotation((miniature_dir / BOXES / "val" / f"{stem}.xml").read_bytes()).objects
        wrong_given += not hits(row.given.box, truth)
        wrong_top5 += not any(guess.label == item.label and hits(guess.box, truth) for guess in row.guesses)
    given, top5 = report(tmp_path / "out")["results"]
    assert (given["measure"], top5["measure"]) == ("given class", "top-5")
    assert given["localization_error_percent"] == 100 * wrong_given / 10
    assert top5["localization_error_percent"] == 100 * wrong_top5 / 10
    assert at < 1 or wrong_given < 10  # some are right, so that a wrong frame would show
    assert (given["images"], given["protocol"], given["merging"]) == (10, "dense", f"overlap at {at}")
    assert given["nets"] == "scr/96 SCR + pcr/72,80 PCR" and given["classifier"] == "slim-a"
    low, high = given["interval95_percent"]
    assert low < given["localization_error_percent"] <= high
    assert "| scr/96 SCR + pcr/72,80 PCR | slim-a " in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["scr", "pcr"])
def test_the_given_class_at_the_central_crop(
    kind: str, nets: dict[str, Path], miniature_dir: Path, tmp_path: Path
) -> None:
    arguments = ["--boxes", str(nets[kind]), "--data", str(miniature_dir), "--protocol", "given-class"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    net, wrong = opened(nets[kind]), 0
    rows = list(read_located(only(tmp_path)))
    for item, row in zip(open_dataset(miniature_dir).items, rows, strict=True):
        image = decode(item.read_bytes())
        plan = plan_views(net.spec, "center", (image.shape[0], image.shape[1]))
        box_map = net.run(net.load([image]), [plan], ["box_map"])["box_map"][0, :, 0, 0].astype(float)
        x, y, w, h = 64 * box_map.reshape(-1, 4)[item.label if kind == "pcr" else 0]
        top, left, _, _ = plan.views[0].box
        scale = min(image.shape[:2]) / 96
        x, y, w, h = (left + 32 + x) * scale, (top + 32 + y) * scale, w * scale, h * scale
        expected = [max(x - w / 2, 0) + 1, max(y - h / 2, 0) + 1, min(x + w / 2, image.shape[1])]
        assert row.given is not None and row.guesses == () and row.given.label == item.label
        assert np.allclose(row.given.box[:3], expected, atol=1.0)  # the long side is rounded
        truth = (miniature_dir / BOXES / "val" / f"{item.path.stem}.xml").read_bytes()
        wrong += not hits(row.given.box, parse_annotation(truth).objects[0][1])
    (result,) = report(tmp_path)["results"]
    assert (result["measure"], result["classifier"], result["merging"]) == ("given class", None, None)
    assert result["localization_error_percent"] == 100 * wrong / IMAGES
    assert 0 < wrong < IMAGES


def test_the_top_5_classes_of_a_score_table(
    dense: list[str], scored: Path, miniature_dir: Path, tmp_path: Path
) -> None:
    """They change the guesses' classes, and no box of a class."""
    assert main([*dense, "--limit", "9", "--out", str(tmp_path / "own")]) == 0
    assert main([*dense, "--scores", str(scored), "--out", str(tmp_path / "given")]) == 0
    assert main([*dense, "--scores", str(scored), "--limit", "9", "--out", str(tmp_path / "nine")]) == 0
    own, given, nine = (list(read_located(only(tmp_path / name))) for name in ("own", "given", "nine"))
    table = tables.read(scored)
    for place, row in enumerate(given):
        assert [guess.label for guess in row.guesses] == np.argsort(-table.posterior[place], kind="stable")[:5].tolist()
    few = [open_dataset(miniature_dir).items.index(item) for item in open_dataset(miniature_dir, limit=9).items]
    for row, other in zip(nine, own, strict=True):
        assert closely(row, other)
    assert [[g.label for g in row.guesses] for row in own] != [[g.label for g in row.guesses] for row in nine]
    assert nine == [given[place] for place in few]


def closely(one: LocatedImage, other: LocatedImage) -> bool:
    """Views that share a call with others round otherwise."""
    assert one.given is not None and other.given is not None
    return one.given.label == other.given.label and np.allclose(one.given.box, other.given.box, atol=1e-3)


def test_scores_of_another_data_set(
    dense: list[str], scored: Path, miniature_copy: Path, tmp_path: Path, one_line: Any
) -> None:
    arguments = [*dense, "--scores", str(scored), "--out", str(tmp_path / "out")]
    whole = [LocatedImage(item.name, item.label, "ok") for item in open_dataset(miniature_copy).items]
    image = miniature_copy / "ILSVRC2012_img_val" / "ILSVRC2012_val_00000007.JPEG"
    data = image.read_bytes()
    shutil.copy(image.with_name("ILSVRC2012_val_00000009.JPEG"), image)
    assert main(arguments) == 1  # the same names and labels, but another image
    assert re.search(
        r"scores of data set \w{16}, but the images are \w{16}: use a table of the same images", one_line()
    )
    image.write_bytes(data)
    shutil.rmtree(tmp_path / "out")
    devkit = miniature_copy / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt"
    labels = devkit.read_text().split()
    devkit.write_text("\n".join([labels[0], str(int(labels[1]) % 10 + 1), *labels[2:]]))
    assert main(arguments) == 1
    assert "image 2 is ILSVRC2012_img_val/ILSVRC2012_val_00000002.JPEG of class" in one_line()
    devkit.write_text("\n".join(labels))
    tables.write(metrics.select(tables.parts(scored), images={row.image for row in whole[:5]}), tmp_path / "5.parquet")
    assert main([*dense, "--scores", str(tmp_path / "5.parquet"), "--out", str(tmp_path / "out")]) == 1
    assert "5.parquet: 5 images, but the data set has 24: use a table of the same" in one_line()
    with pytest.raises(
        ScoresError, match=r"slim-a and the box nets have different classes: use nets of the same data$"
    ):
        locate.read_likeliest(scored, open_dataset(miniature_copy), tuple("abcdefghij"), np.arange(10))


def test_an_image_that_was_not_scored_has_no_top_5(tmp_path: Path) -> None:
    posterior = np.random.default_rng(0).random((4, 7)).astype(np.float32)
    posterior[2, 3] = np.nan
    table = make_scores(posterior, [2, 0, 1, -1], ("ok", "damaged", "ok", "ok"))
    tables.write([table], tmp_path / "t.parquet")
    items = [Item(f"{i}.jpg", label, File(tmp_path)) for i, label in enumerate((2, 0, 1, -1))]
    dataset = Dataset(tmp_path, items, table.classes, table.classes, is_ilsvrc2012_val=False)
    answers, scored = locate.read_likeliest(
        tmp_path / "t.parquet", dataset, table.classes, np.arange(7, dtype=np.int32)
    )
    best = [tuple(np.argsort(-row)[:5].tolist()) for row in posterior]
    assert answers == [best[0], (), (), best[3]] and scored == "0123456789abcdef"
    dataset = replace(dataset, items=items[:1])
    assert locate.read_likeliest(tmp_path / "t.parquet", dataset, table.classes, np.arange(7, dtype=np.int32)) == (
        best[:1],
        None,
    )
