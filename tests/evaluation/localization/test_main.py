"""python -m evaluation.localization from end to end: box nets with known maps, on the miniature."""

from __future__ import annotations

import functools
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_engines import make_box_engine
from helpers import full_spec, make_scores, slim_spec

from evaluation import ilsvrc
from evaluation.errors import ScoresError
from evaluation.localization import find_boxes as locate
from evaluation.localization.__main__ import main
from evaluation.localization.find_boxes import ScaledNet
from evaluation.localization.ground_truth import read_ground_truth
from evaluation.localization.report import Counts, beside, format_paper, format_table, results_of
from evaluation.localization.table import LocatedImage, read_located
from evaluation.published.papers import LOCALIZATION, LOCALIZATION_LITERATURE
from evaluation.scores import metrics
from evaluation.scores import table as tables
from evaluation.scores.fusion import fuse_files
from evaluation.scores.metrics import error_rate
from infer.data.annotations import Box, parse_annotation
from infer.data.dataset import Dataset, Item, open_dataset
from infer.data.stored import File
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import decode
from infer.views import plan_views

Exported = Callable[..., Path]
BOXES = "ILSVRC2012_bbox_val_v3"
IMAGES = 24


@pytest.fixture(scope="module")
def nets(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`cls`; `scr` with a box in the middle of each window; `pcr` whose boxes depend on image and class."""
    folder, rng = tmp_path_factory.mktemp("nets"), np.random.default_rng(0)
    shutil.copy(exported(), folder / "cls.onnx")
    biases = np.tile([0, 0, 0.8, 0.9], 10)
    make_box_engine(folder / "cls.onnx", folder / "scr.onnx", [0, 0, 0.7, 0.9])
    make_box_engine(folder / "cls.onnx", folder / "pcr.onnx", biases, weights=rng.normal(0, 0.01, (40, 10)))
    return {path.stem: path for path in folder.glob("*.onnx")}


@pytest.fixture
def dense(nets: dict[str, Path], miniature_copy: Path) -> list[str]:
    """Two box nets, an SCR and a PCR, at different scales."""
    boxes = ["--boxes", str(nets["scr"]), "--boxes", str(nets["pcr"]), "--scales", "96", "--scales", "72,80"]
    return [*boxes, "--engine", str(nets["cls"]), "--data", str(miniature_copy), "--protocol", "dense"]


@functools.cache
def opened(path: Path) -> OnnxEngine:
    return OnnxEngine(path)


def only(out: Path) -> Path:
    """The one table of boxes of a run that ended."""
    assert not (out / "unfinished-boxes").exists()
    (path,) = (out / "boxes").iterdir()
    return path


def report(out: Path) -> Any:
    return json.loads((out / "report.json").read_text())


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


def hits(box: Box, truth: Box) -> bool:
    w = min(box.xmax, truth.xmax) - max(box.xmin, truth.xmin) + 1
    h = min(box.ymax, truth.ymax) - max(box.ymin, truth.ymin) + 1
    areas = [(b.xmax - b.xmin + 1) * (b.ymax - b.ymin + 1) for b in (box, truth)]
    return w > 0 and h > 0 and w * h / (sum(areas) - w * h) >= 0.5


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


@pytest.fixture
def scored(nets: dict[str, Path], miniature_dir: Path, tmp_path: Path) -> Path:
    """A score table of the classifier."""
    arguments = ["--engine", str(nets["cls"]), "--data", str(miniature_dir), "--protocol", "center"]
    assert ilsvrc.main([*arguments, "--out", str(tmp_path / "scored")]) == 0
    (path,) = (tmp_path / "scored" / "scores").iterdir()
    return path


def test_the_top_5_classes_of_a_score_table(dense: list[str], scored: Path, tmp_path: Path) -> None:
    """They change the guesses' classes, and no box of a class."""
    assert main([*dense, "--limit", "9", "--out", str(tmp_path / "own")]) == 0
    assert main([*dense, "--scores", str(scored), "--out", str(tmp_path / "given")]) == 0
    assert main([*dense, "--scores", str(scored), "--limit", "9", "--out", str(tmp_path / "nine")]) == 0
    own, given, nine = (list(read_located(only(tmp_path / name))) for name in ("own", "given", "nine"))
    table = tables.read(scored)
    for place, row in enumerate(given):
        assert [guess.label for guess in row.guesses] == np.argsort(-table.posterior[place], kind="stable")[:5].tolist()
    for row, other in zip(nine, own, strict=True):
        assert closely(row, other)
    assert [[g.label for g in row.guesses] for row in own] != [[g.label for g in row.guesses] for row in nine]
    assert nine == given[:9]


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


def run(arguments: list[str], out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "evaluation.localization", *arguments, "--out", str(out), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(
    which: signal.Signals, dense: list[str], tmp_path: Path, one_line: Any
) -> None:
    dense = [*dense, "--limit", "16"]
    assert main([*dense, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "out"
    process = run(dense, out)
    while not list((out / "unfinished-boxes").glob("*.parquet")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(which)
    _, said = process.communicate(timeout=60)
    if which == signal.SIGINT:
        assert process.returncode == 130 and re.fullmatch(r"interrupted: \d+ of 16 images are kept in .*\n", said)
    assert not (out / "boxes").exists()
    done = {path: path.stat().st_mtime_ns for path in (out / "unfinished-boxes").glob("*.parquet")}
    assert len(done) == 1
    assert main([*dense, "--out", str(out)]) == 1
    assert re.search(r"unfinished-boxes holds 8 of 16 images of a run that did not end: go on with it by", one_line())
    assert main([*dense, "--out", str(out), "--merge-at", "1", "--resume"]) == 1
    assert "--resume: the merging changed from overlap at 0.75 to overlap at 1 since the run in" in one_line()
    assert {path: path.stat().st_mtime_ns for path in (out / "unfinished-boxes").glob("*.parquet")} == done
    assert main([*dense, "--out", str(out), "--resume"]) == 0
    assert only(out).read_bytes() == only(tmp_path / "whole").read_bytes()
    resumed, whole = (report(path) for path in (out, tmp_path / "whole"))
    assert without_seconds(resumed["results"]) == without_seconds(whole["results"])
    assert resumed["dataset"] == whole["dataset"]


def without_seconds(content: Any) -> Any:
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in content]


def given_class(nets: dict[str, Path], data: Path, *more: str) -> list[str]:
    return ["--boxes", str(nets["scr"]), "--data", str(data), "--protocol", "given-class", *more]


def usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--boxes", "other.onnx"], "given-class is of one box net and the images' own classes: one --boxes"),
        (["--scores", "s.parquet"], "given-class is of one box net and the images' own classes: one --boxes"),
        (["--scales", "72,96"], "given-class looks at one central crop: expected one scale"),
        (["--scales", "72", "--scales", "96"], "--scales 2 times for 1 --boxes: expected one or as many"),
        (["--scales", "60"], "scale 60 px is below the crop of 64 px that scr needs"),
        (["--merge-at", "nan"], "--merge-at: expected a number of 0 or more, got nan"),
        (["--limit", "0"], "argument --limit: expected a positive whole number, got '0'"),
        (["--protocol", "dense"], "dense rates boxes by a classifier: expected --engine CLASSIFIER.onnx"),
    ],
)
def test_usage_errors(more: list[str], said: str, nets: dict[str, Path], miniature_dir: Path, one_line: Any) -> None:
    usage_error(given_class(nets, miniature_dir, *more))
    assert said in one_line()


def test_engines_that_cannot_take_part(
    nets: dict[str, Path],
    miniature_dir: Path,
    single: Path,
    slim_checkpoint: Exported,
    tmp_path: Path,
    one_line: Any,
) -> None:
    common = ["--data", str(miniature_dir), "--protocol", "dense", "--out", str(tmp_path / "out")]
    boxes, classifier = ["--boxes", str(nets["scr"])], ["--engine", str(nets["cls"])]
    for arguments, said in (
        ([*boxes, "--engine", str(single)], r"no output 'score_map', .*: export it again, python -m .* score_map$"),
        (
            ["--boxes", str(nets["cls"]), *classifier],
            r"is a classifier, which has no box_map: expected a box net, of a recipe like vgg-d-loc-pcr$",
        ),
        (["--boxes", str(slim_checkpoint("A")), *classifier], r"a checkpoint is not an engine: run python -m export"),
        (["--boxes", str(tmp_path / "none.onnx"), *classifier], r"none.onnx: no such file"),
    ):
        assert main([*arguments, *common]) == 1
        assert re.search(said, one_line())
    assert not (tmp_path / "out").exists()


def test_boxes_that_are_missing(nets: dict[str, Path], miniature_copy: Path, tmp_path: Path, one_line: Any) -> None:
    arguments = given_class(nets, miniature_copy, "--out", str(tmp_path / "out"))
    folder = miniature_copy / BOXES
    (folder / "val" / "ILSVRC2012_val_00000004.xml").unlink()
    assert main(arguments) == 1
    assert "no XML for 1 of 24 images (ILSVRC2012_val_00000004.xml ...): expected the bounding boxes" in one_line()
    assert main([*arguments, "--limit", "3"]) == 0
    folder.rename(tmp_path / "away")
    assert main(arguments) == 1
    assert f"{folder}: no such folder, expected the bounding boxes there or in {BOXES}.tar" in one_line()
    assert main([*arguments, "--annotations", str(tmp_path / "nowhere")]) == 1
    assert one_line().endswith("nowhere: no such folder")


def test_boxes_in_a_tar_wherever_it_is(nets: dict[str, Path], miniature_copy: Path, tmp_path: Path) -> None:
    """Beside the images, also where these are an archive, named, or with all else in one archive."""
    root, images = miniature_copy, "ILSVRC2012_img_val"

    def pack(folder: Path, archive: Path) -> Path:
        with tarfile.open(archive, "w") as opened:
            opened.add(folder, folder.name)
        return archive

    def error(name: str, data: Path, *more: str) -> float:
        assert main(given_class(nets, data, *more, "--limit", "8", "--out", str(tmp_path / name))) == 0
        return float(report(tmp_path / name)["results"][0]["localization_error_percent"])

    (root / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2014_clsloc_validation_blacklist.txt").write_text("2\n")
    errors = [error("folder", root)]
    errors.append(error("whole", pack(root, tmp_path / "miniature.tar")))
    pack(root / BOXES, root / f"{BOXES}.tar")
    shutil.rmtree(root / BOXES)
    errors.append(error("beside", root))
    errors.append(error("images", pack(root / images, root / f"{images}.tar")))
    away = (root / f"{BOXES}.tar").rename(tmp_path / "boxes.tar")
    errors.append(error("named", root, "--annotations", str(away)))
    assert errors == [errors[0]] * 5 and errors[0] < 100
    names = ("folder", "whole", "beside", "images", "named")
    assert [report(tmp_path / name)["dataset"]["blacklisted"] for name in names] == [1] * 5


def test_broken_boxes_are_named_and_left_out(
    nets: dict[str, Path], miniature_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, data in ((2, b"<annotation>"), (5, b"<a><object><name>x</name></object></a>")):
        (miniature_copy / BOXES / "val" / f"ILSVRC2012_val_{number:08d}.xml").write_bytes(data)
    assert main(given_class(nets, miniature_copy, "--out", str(tmp_path))) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"ILSVRC2012_val_00000002.xml: not XML \(.*\): not counted", lines[0])
    assert lines[1] == "ILSVRC2012_val_00000005.xml: <bndbox/xmin> is '', expected a number: not counted"
    found = report(tmp_path)
    assert found["results"][0]["images"] == IMAGES - 2
    assert len(found["dataset"]["broken_annotations"]) == 2
    assert lines[1].removesuffix(": not counted") in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("where", ["devkit", "option"])
def test_blacklisted_images_do_not_count(
    where: str, nets: dict[str, Path], miniature_copy: Path, tmp_path: Path, one_line: Any
) -> None:
    """Nor need they have boxes. The list of the detection task is another."""
    arguments = given_class(nets, miniature_copy, "--out", str(tmp_path / "out"))
    assert main(arguments) == 0
    before = report(tmp_path / "out")["results"][0]
    rows = list(read_located(only(tmp_path / "out")))
    data = miniature_copy / "ILSVRC2012_devkit_t12" / "data"
    (data / "ILSVRC2014_det_validation_blacklist.txt").write_text("9\n")
    if where == "option":
        arguments += ["--blacklist", str(tmp_path / "list.txt")]
    path = tmp_path / "list.txt" if where == "option" else data / "ILSVRC2014_clsloc_validation_blacklist.txt"
    path.write_text("3\n17\n24\n")
    (miniature_copy / BOXES / "val" / "ILSVRC2012_val_00000017.xml").unlink()
    assert main(arguments) == 0
    after = report(tmp_path / "out")
    assert (before["images"], after["results"][0]["images"], after["dataset"]["blacklisted"]) == (24, 21, 3)
    truths = [(miniature_copy / BOXES / "val" / f"{Path(row.image).stem}.xml") for row in rows]
    wrong = sum(
        not hits(row.given.box, parse_annotation(truth.read_bytes()).objects[0][1])
        for number, (row, truth) in enumerate(zip(rows, truths, strict=True), start=1)
        if number not in (3, 17, 24) and row.given is not None
    )
    assert after["results"][0]["localization_error_percent"] == pytest.approx(100 * wrong / 21)
    path.write_text("3\nseventeen\n")
    assert main(arguments) == 1
    assert one_line().endswith(f"{path.name}: 'seventeen' is not the number of an image, expected one on each line")


def in_class_folders(root: Path, out: Path) -> Path:
    """The validation images as torchvision's users have them, val/WNID/NAME, the boxes and the devkit beside."""
    dataset = open_dataset(root, "val")
    for item in dataset.items:
        folder = out / "val" / dataset.classes[item.label]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(item.path, folder / item.path.name)
    for name in (BOXES, "ILSVRC2012_devkit_t12"):
        shutil.copytree(root / name, out / name)
    return out


def test_the_blacklist_has_the_numbers_of_names_wherever_they_lie(miniature_copy: Path, tmp_path: Path) -> None:
    root = in_class_folders(miniature_copy, tmp_path / "folders")
    devkit = root / "ILSVRC2012_devkit_t12"
    (tmp_path / "list.txt").write_text("3\n17\n")
    (devkit / "data" / "ILSVRC2014_clsloc_validation_blacklist.txt").write_text("3\n17\n")
    for packed in (False, True):
        if packed:  # as it is distributed
            with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
                archive.add(devkit, devkit.name)
            shutil.rmtree(devkit)
        for data in (root, root / "val"):
            dataset = open_dataset(data, "val")
            boxes = miniature_copy / BOXES
            truth = read_ground_truth(dataset, boxes, None if data == root else tmp_path / "list.txt")
            left_out = {item.path.stem for item, one in zip(dataset.items, truth.truths, strict=True) if one is None}
            assert left_out == {"ILSVRC2012_val_00000003", "ILSVRC2012_val_00000017"}


def test_other_names_have_the_numbers_of_their_order(miniature_copy: Path, tmp_path: Path) -> None:
    root = in_class_folders(miniature_copy, tmp_path / "folders")
    for path in [*root.glob("val/*/*"), *root.glob(f"{BOXES}/val/*")]:
        path.rename(path.with_name(path.name.replace("ILSVRC2012_val_000000", "photo")))
    (tmp_path / "list.txt").write_text("3\n17\n")
    dataset = open_dataset(root, "val")
    truth = read_ground_truth(dataset, None, tmp_path / "list.txt")
    left_out = {item.path.stem for item, one in zip(dataset.items, truth.truths, strict=True) if one is None}
    assert left_out == {"photo03", "photo17"} and truth.blacklisted == 2


def test_images_without_a_box_of_their_class_are_said(
    nets: dict[str, Path], miniature_copy: Path, tmp_path: Path, one_line: Any
) -> None:
    """They count as wrong; where none has one nothing is run."""
    arguments = given_class(nets, miniature_copy, "--out", str(tmp_path / "out"))
    xmls = sorted((miniature_copy / BOXES / "val").glob("*.xml"))
    foreign = re.sub("<name>.*</name>", "<name>n12345678</name>", xmls[4].read_text())
    for xml, text in zip(xmls[:2], ("<annotation></annotation>", foreign), strict=True):
        xml.write_text(text)
    assert main(arguments) == 0
    said = "2 images have no box of their class, so that whatever was found counts as wrong"
    assert one_line() == said
    found = report(tmp_path / "out")
    assert (found["results"][0]["images"], found["remarks"]) == (IMAGES, [said])
    for xml in xmls:
        xml.write_text(foreign)
    assert main([*arguments[:-1], str(tmp_path / "none")]) == 1
    assert "no object is of its image's class, expected names like 'n99000000' in the XMLs" in one_line()
    for xml in xmls:
        xml.write_text("<annotation>")
    assert main([*arguments[:-1], str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()


def test_tables_of_other_rules_and_classes_lie_side_by_side(dense: list[str], scored: Path, tmp_path: Path) -> None:
    fused = tmp_path / "fused.parquet"
    tables.write(fuse_files([scored, scored], "two-nets"), fused)
    for more in ([], ["--merge-at", "0.5"], ["--match", "literal"], ["--scores", str(fused)]):
        assert main([*dense, *more, "--out", str(tmp_path)]) == 0
    rules = ("overlap-0.75.top5-slim-a", "overlap-0.5.top5-slim-a", "literal-0.25.top5-slim-a")
    names = {path.name for path in (tmp_path / "boxes").iterdir()}
    common = "scr+pcr.onnxruntime-fp32.dense.q96+72-80.slim-a"
    assert names == {f"{common}.{rule}.parquet" for rule in (*rules, "overlap-0.75.top5-two-nets")}
    assert [row["classes_of"] for row in report(tmp_path)["results"]] == [None, "two-nets"]


def test_images_that_no_engine_sees(
    nets: dict[str, Path], miniature_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is damaged, one too long: both are wrong and named, and stop nothing but a strict run."""
    from PIL import Image

    val = miniature_copy / "ILSVRC2012_img_val"
    (val / "ILSVRC2012_val_00000002.JPEG").write_bytes(b"no image")
    Image.fromarray(np.zeros((70, 1400, 3), np.uint8)).save(val / "ILSVRC2012_val_00000006.JPEG")
    arguments = ["--boxes", str(nets["scr"]), "--engine", str(nets["cls"]), "--data", str(miniature_copy)]
    arguments += ["--protocol", "dense", "--scales", "72", "--limit", "8"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "ILSVRC2012_val_00000006.JPEG: image 70x1400 px at Q=72 needs a view of" in capsys.readouterr().err
    found = report(tmp_path / "out")
    assert list(found["dataset"]["unreadable_images"]) == [
        f"ILSVRC2012_img_val/ILSVRC2012_val_{number:08d}.JPEG" for number in (2, 6)
    ]
    rows = list(read_located(only(tmp_path / "out")))
    assert [row.status == "ok" for row in rows] == [True, False, True, True, True, False, True, True]
    assert rows[5].status == "out of range" and rows[5].size_px == (70, 1400) and rows[5].given is None
    assert found["results"][0]["images"] == 8
    assert main([*arguments, "--strict", "--out", str(tmp_path / "strict")]) == 1
    assert "(--strict stops at the first unreadable image)" in capsys.readouterr().err


def test_a_report_of_another_command_is_not_lost(
    nets: dict[str, Path], miniature_dir: Path, tmp_path: Path, one_line: Any
) -> None:
    (tmp_path / "report.json").write_text('{"results": []}')
    assert main(given_class(nets, miniature_dir, "--out", str(tmp_path))) == 1
    assert "report.json: a report of another command, which would be lost: use another --out" in one_line()


def test_a_file_that_is_no_table_of_boxes(scored: Path, tmp_path: Path) -> None:
    for path in (scored, tmp_path / "none.parquet"):
        with pytest.raises(ScoresError, match=r"not a table of boxes of evaluation.localization \("):
            list(read_located(path))


PAPER = """
8   D/384/384                  SCR  first two FC  given-class  36.4  -
8   D/384/384                  PCR  first two FC  given-class  34.3  -
8   D/384/384                  PCR  all           given-class  33.1  -
9   D/256/256                  PCR  all           dense        29.5  -
9   D/384/384                  PCR  all           dense        28.2  26.7
9   D/384/352,384              PCR  all           dense        27.5  -
9   D/256/256 + D/384/352,384  PCR  all           dense        26.9  25.3
"""


def test_the_papers_tables() -> None:
    """Typed anew from the paper; Table 10 has the best of Table 9 first."""
    typed = [re.split(r"  +", line) for line in PAPER.strip().splitlines()]
    rows = [
        [
            row.source.removeprefix("VGG Table "),
            " + ".join(map(str, row.members)),
            row.kind,
            row.fine_tuned,
            row.protocol,
            str(row.error_percent),
            str(row.test_error_percent or "-"),
        ]
        for row in LOCALIZATION
    ]
    assert rows == typed
    assert [(row.method, row.error_percent, row.test_error_percent) for row in LOCALIZATION_LITERATURE] == [
        ("VGG", 26.9, 25.3),
        ("GoogLeNet", None, 26.7),
        ("OverFeat", 30.0, 29.9),
        ("Krizhevsky et al.", None, 34.2),
    ]


def test_the_paper_stands_beside_what_it_measured() -> None:
    """Table 9 is of top-5 guesses, Table 8 of the given class at the central crop; neither of a part of the images."""
    described: dict[str, Any] = {
        "classifier": None,
        "runtime": "onnxruntime-fp32",
        "merging": None,
        "classes_of": "fused",
        "engine_seconds": 1.0,
        "wall_seconds": 2.0,
    }
    counts, nets = Counts(100, 40, 30, 10), [ScaledNet(full_spec("D", train_short_px=384), "PCR", (384,))]
    given, top5 = results_of(counts, nets, "dense", is_ilsvrc2012_val=True, **described)
    assert (given.paper, [row["source"] for row in top5.paper]) == ([], ["VGG Table 9"])
    assert (given.localization_error_percent, top5.localization_error_percent) == (40, 30)
    assert (given.classification_error_percent, top5.classification_error_percent) == (None, 10)
    assert (given.classes_of, top5.classes_of) == (None, "fused") and "top-5 of fused" in format_table([given, top5])
    (crop,) = results_of(counts, nets, "given-class", is_ilsvrc2012_val=True, **described)
    assert [row["source"] for row in crop.paper] == ["VGG Table 8"] * 2
    (line,) = [
        line for line in format_paper([crop, top5]).splitlines() if "D/384/384, PCR, all fine-tuned, dense" in line
    ]
    assert [cell.strip() for cell in line.split("|")[3:6]] == ["28.2", "26.7", "30.00 [21.9, 39.6]"]
    for part in results_of(counts, nets, "dense", is_ilsvrc2012_val=False, **described):
        assert part.paper == []


def test_what_may_stand_beside_the_paper() -> None:
    rate = error_rate(13_600, 48_238)  # 28.19 %

    def net(s: int, *scales: int, kind: str = "PCR", **changes: Any) -> ScaledNet:
        return ScaledNet(full_spec("D", train_short_px=s, **changes), kind, scales)

    (row,) = beside([net(384, 384)], "dense", rate)
    assert row["source"] == "VGG Table 9" and row["error_percent"] == 28.2 and row["inside_interval95"]
    assert row["difference_percent"] == pytest.approx(-0.006, abs=1e-3)
    both = [net(384, 352, 384), net(256, 256)]
    assert [row["error_percent"] for row in beside(both, "dense", rate)] == [26.9]
    assert [row["error_percent"] for row in beside([net(384, 384)], "given-class", rate)] == [34.3, 33.1]
    trained = net(384, 384, source={"fine_tuned": "all"})
    assert [row["error_percent"] for row in beside([trained], "given-class", rate)] == [33.1]
    assert beside([net(384, 384, kind="SCR")], "dense", rate) == []
    assert beside([net(384, 384, 416)], "dense", rate) == []
    assert beside([ScaledNet(slim_spec("D"), "PCR", (384,))], "dense", rate) == []
