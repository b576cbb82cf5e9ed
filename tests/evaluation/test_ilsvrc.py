"""python -m evaluation.ilsvrc: what it writes and prints, images that cannot be read, and every kind of bad input."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import encode, noise
from image_folders import keep_first

from evaluation.ilsvrc import main
from evaluation.scores.metrics import error_rate
from evaluation.scores.table import OK, read
from infer.data.dataset import VAL, open_dataset
from trainer.miniature import WNIDS, WORDS

OneLine = Callable[[], str]
Checkpoints = Callable[..., Path]
RESULT_FIELDS = {
    *("model", "protocol", "scales", "pooling", "images", "top1_error_percent", "top5_error_percent"),
    *("top1_interval95_percent", "top5_interval95_percent", "paper", "engine_seconds", "wall_seconds"),
}


def arguments(engines: list[Path], data: Path, out: Path, *more: str, protocol: str = "center") -> list[str]:
    named = [word for engine in engines for word in ("--engine", str(engine))]
    return [*named, "--data", str(data), "--protocol", protocol, "--out", str(out), *more]


def report(out: Path) -> Any:
    return json.loads((out / "report.json").read_text())


def content_id(data: Path, images: int) -> str:
    """Of what so many images are: their bytes and labels, summed, so that neither names nor order matter."""
    total = 0
    for item in open_dataset(data, limit=images).items:
        content = f"{item.label} {hashlib.sha256(item.read_bytes()).hexdigest()}"
        total += int(hashlib.sha256(content.encode()).hexdigest(), 16)
    return hashlib.sha256(f"{images} {total % 2**256:064x}".encode()).hexdigest()[:16]


def path_of(root: Path, number: int) -> Path:
    return root / VAL / f"ILSVRC2012_val_{number:08d}.JPEG"


@pytest.fixture
def damaged(miniature_copy: Path) -> Path:
    """The first six images of the miniature, with a text file, a truncated JPEG and a 1x1 PNG among them."""
    keep_first(miniature_copy, 6)
    path_of(miniature_copy, 1).write_bytes(b"no image, although its name says so\n" * 9)
    path_of(miniature_copy, 2).write_bytes(path_of(miniature_copy, 2).read_bytes()[:1500])
    path_of(miniature_copy, 4).write_bytes(encode(np.zeros((1, 1, 3), np.uint8), "PNG"))
    return miniature_copy


def test_two_models_and_their_fusion(
    slim_checkpoint: Checkpoints, miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = [slim_checkpoint("A"), slim_checkpoint("B")]
    argv = arguments(engines, miniature_dir, tmp_path, "--limit", "5", "--scales", "72", protocol="center,dense")
    assert main(argv) == 0
    captured = capsys.readouterr()
    said = f"{miniature_dir}: 5 of 24 images, 5 of 8 classes"
    assert captured.err == f"{said}\n"
    content = report(tmp_path)
    assert content["remarks"] == [said]
    assert content["dataset"] == {
        "id": content_id(miniature_dir, 5),
        "is_ilsvrc2012_val": False,
        "images": 5,
        "unreadable": 0,
        "unreadable_images": {},
        "class_names": dict(zip(WNIDS, WORDS, strict=True)),
        "name": "miniature",
    }
    rows = content["results"]
    names = ["slim-a", "slim-a", "slim-b", "slim-b", "fused", "fused"]
    assert [(row["model"], row["protocol"]) for row in rows] == list(zip(names, ["center", "dense"] * 3, strict=True))
    for row in rows:
        assert row.keys() >= RESULT_FIELDS
        assert (row["scales"], row["pooling"], row["images"], row["paper"]) == ([72], "scores", 5, None)
        for k in ("top1", "top5"):
            low, high = row[f"{k}_interval95_percent"]
            assert 0 <= low <= row[f"{k}_error_percent"] <= high <= 100
    assert content["environment"]["command"].startswith("python -m evaluation.ilsvrc --engine ")
    table, last = captured.out.rstrip("\n").rsplit("\n", 1)
    assert last.startswith(f"5 images of {miniature_dir} in ")
    assert table in (tmp_path / "report.md").read_text()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert [line[0] for line in lines[2:]] == names
    first = rows[0]["top1_error_percent"], *rows[0]["top1_interval95_percent"]
    assert "{:.2f} [{:.1f}, {:.1f}]".format(*first) in lines[2]
    tables = sorted(path.name for path in (tmp_path / "scores").iterdir())
    assert tables == [
        f"slim-{net}.torch-fp32.{protocol}.q72.scores.parquet" for net in "ab" for protocol in ("center", "dense")
    ]


def test_scales_and_pooling_default_to_the_models_own(
    slim_checkpoint: Checkpoints, miniature_dir: Path, tmp_path: Path
) -> None:
    argv = arguments([slim_checkpoint("A")], miniature_dir, tmp_path, "--limit", "1", protocol="center,dense")
    assert main([*argv, "--pooling", "posteriors"]) == 0
    rows = report(tmp_path)["results"]
    assert [(row["scales"], row["pooling"]) for row in rows] == [([96], "posteriors"), ([72, 96, 120], "posteriors")]


def test_what_cannot_be_read_is_wrong_and_named_and_stops_nothing(
    slim_checkpoint: Checkpoints, damaged: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(arguments([slim_checkpoint("A")], damaged, out)) == 0
    names = [f"{VAL}/ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 7)]
    content = report(out)
    unreadable = content["dataset"]["unreadable_images"]
    assert content["dataset"]["unreadable"] == 3
    assert list(unreadable) == [names[0], names[1], names[3]]
    assert unreadable[names[0]].endswith("is not an image we can decode")
    assert unreadable[names[1]].endswith("truncated or damaged JPEG")
    assert unreadable[names[3]] == "out of range"
    for name in unreadable:
        assert name in (out / "report.md").read_text()
    scores = read(next((out / "scores").iterdir()))
    assert [status == OK for status in scores.statuses] == [False, False, True, False, True, True]
    assert not scores.posterior[~scores.readable].any()
    right = (scores.posterior.argmax(1) == scores.labels) & scores.readable
    assert content["results"][0]["top1_error_percent"] == pytest.approx(100 * (1 - right.sum() / 6))
    assert content["results"][0]["top5_error_percent"] >= 50


def test_the_rotation_that_a_camera_noted_is_chosen_for_a_run(
    slim_checkpoint: Checkpoints, exported: Callable[..., Path], miniature_dir: Path, tmp_path: Path, one_line: OneLine
) -> None:
    """Image 13 of the miniature has one: with --exif apply a net answers to the turned image, in torch and ONNX."""
    found = {}
    for engine in (slim_checkpoint("A"), exported("A")):
        for exif in ("ignore", "apply"):
            out = tmp_path / f"{engine.suffix}-{exif}"
            argv = arguments([engine], miniature_dir, out, "--scales", "72", "--exif", exif)
            assert main(argv) == 0
            (table,) = (out / "scores").iterdir()
            scores = read(table)
            assert json.loads(scores.metadata["spec"])["preprocessing"]["exif"] == exif
            found[engine.suffix, exif] = scores.posterior
    for suffix in (".pt", ".onnx"):
        different = np.abs(found[suffix, "apply"] - found[suffix, "ignore"]).max(1) > 1e-4
        assert np.flatnonzero(different).tolist() == [12]
    assert np.abs(found[".pt", "apply"] - found[".onnx", "apply"]).max() < 1e-5


@pytest.mark.parametrize(
    ("number", "message"),
    [(1, "is not an image we can decode"), (2, "truncated or damaged JPEG"), (4, "1x1 px is too small")],
)
def test_strict_stops_at_the_first_and_names_it(
    slim_checkpoint: Checkpoints, damaged: Path, tmp_path: Path, one_line: OneLine, number: int, message: str
) -> None:
    others = [other for other in (1, 2, 4) if other != number]
    for other in others:
        path_of(damaged, other).write_bytes(path_of(damaged, 3).read_bytes())
    assert main(arguments([slim_checkpoint("A")], damaged, tmp_path / "out", "--strict")) == 1
    line = one_line()
    assert path_of(damaged, number).name in line
    assert message in line
    assert not (tmp_path / "out" / "report.json").exists()


def test_an_image_beyond_the_dense_range_is_wrong_in_that_protocol_only(
    slim_checkpoint: Checkpoints, miniature_copy: Path, tmp_path: Path, one_line: OneLine
) -> None:
    path_of(miniature_copy, 2).write_bytes(encode(noise((64, 400)), "PNG"))
    argv = arguments([slim_checkpoint("A")], keep_first(miniature_copy, 2), tmp_path / "out", "--scales", "120")
    argv[argv.index("center")] = "dense,multicrop"
    assert main(argv) == 0
    line = one_line()
    assert path_of(miniature_copy, 2).name in line
    assert "use --protocol multicrop" in line
    statuses = {path.name.split(".")[2]: read(path).statuses for path in (tmp_path / "out" / "scores").iterdir()}
    assert statuses == {"dense": ("ok", "out of range"), "multicrop": ("ok", "ok")}


def test_a_protocol_that_sees_no_image_has_no_error(
    slim_checkpoint: Checkpoints, miniature_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its errors are unknown, not 100 %; where no protocol sees any there is no result at all."""
    for number in (1, 2):
        path_of(miniature_copy, number).write_bytes(encode(noise((64, 400)), "PNG"))
    path_of(miniature_copy, 3).write_bytes(b"")
    argv = arguments([slim_checkpoint("A")], keep_first(miniature_copy, 3), tmp_path / "out", "--scales", "120")
    argv[argv.index("center")] = "dense,multicrop"
    assert main(argv) == 0
    said = "slim-a by dense: 3 of 3 images have no answer, so that there is no error to tell (the first is "
    assert said in capsys.readouterr().err
    dense, multicrop = report(tmp_path / "out")["results"]
    assert dense["top1_error_percent"] is dense["top5_error_percent"] is dense["top1_interval95_percent"] is None
    assert multicrop["top1_error_percent"] is not None
    assert [said in remark for remark in report(tmp_path / "out")["remarks"]] == [True]

    argv[argv.index("dense,multicrop")] = "dense"
    argv[argv.index("--out") + 1] = str(tmp_path / "none")
    assert main(argv) == 1
    assert f"no image could be scored: {said}" in capsys.readouterr().err


def test_all_images_unreadable_is_an_error_of_100_percent(
    slim_checkpoint: Checkpoints, miniature_copy: Path, tmp_path: Path
) -> None:
    for number in (1, 2):
        path_of(miniature_copy, number).write_bytes(b"")
    assert main(arguments([slim_checkpoint("A")], keep_first(miniature_copy, 2), tmp_path / "out")) == 0
    row = report(tmp_path / "out")["results"][0]
    assert row["top1_error_percent"] == row["top5_error_percent"] == 100
    assert row["top1_interval95_percent"] == pytest.approx(error_rate(2, 2).interval95_percent)


@pytest.mark.processes
def test_the_module_prints_the_table_and_nothing_else_in_a_pipe(
    slim_checkpoint: Checkpoints, damaged: Path, tmp_path: Path
) -> None:
    path_of(damaged, 4).write_bytes(path_of(damaged, 3).read_bytes())
    argv = arguments([slim_checkpoint("A")], damaged, tmp_path / "out")
    done = subprocess.run([sys.executable, "-m", "evaluation.ilsvrc", *argv], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("| model ")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--protocol", "centre"], "unknown protocol 'centre': expected different ones of center, ten-crop, dense"),
        (["--protocol", "center,center"], "a protocol is named twice"),
        (["--protocol", ""], "unknown protocol ''"),
        (["--scales", "63"], "scale 63 px is below the crop of 64 px that slim-a needs: use --scales of 64 or more"),
        (["--scales", "72,96,63"], "scale 63 px is below the crop"),
        (["--scales", "72,72"], "scales must be different positive integers, got 72,72"),
        (["--scales", "large"], "expected whole numbers of pixels like 256,384,512, got 'large'"),
        (["--scales", ""], "expected whole numbers of pixels"),
        (["--pooling", "max"], "argument --pooling: invalid choice: 'max'"),
        (["--limit", "0"], "expected a positive whole number, got '0'"),
        (["--limit", "-3"], "--limit"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_usage_errors(
    slim_checkpoint: Checkpoints,
    miniature_dir: Path,
    tmp_path: Path,
    one_line: OneLine,
    more: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments([slim_checkpoint("A")], miniature_dir, tmp_path / "out"), *more])
    assert caught.value.code == 2
    line = one_line()
    assert line.startswith("python -m evaluation.ilsvrc: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_engines_that_are_none(miniature_dir: Path, tmp_path: Path, one_line: OneLine) -> None:
    def line(path: Path) -> str:
        assert main(arguments([path], miniature_dir, tmp_path / "out")) == 1
        assert not (tmp_path / "out").exists()
        return one_line()

    path = tmp_path / "ckpt.pt"
    assert line(path) == f"{path}: no such file, expected a checkpoint (.pt)"
    torch.save({"state_dict": {"conv.weight": torch.zeros(2)}}, path)
    assert line(path).startswith(f"{path}: a torch file, but not a checkpoint of ours")
    path.write_bytes(b"text\n" * 100)
    assert line(path).startswith(f"{path}: ")
    for suffix in (".onnx", ".engine", ".h5", ""):
        assert str(path.with_suffix(suffix)) in line(path.with_suffix(suffix))


def test_pickled_code_is_refused(miniature_dir: Path, tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(pickle.dumps(print, 2))
    assert main(arguments([path], miniature_dir, tmp_path / "out")) == 1
    assert "pickled code" in one_line()


def test_the_same_engine_twice(
    slim_checkpoint: Checkpoints, miniature_dir: Path, tmp_path: Path, one_line: OneLine
) -> None:
    path = slim_checkpoint("A")
    assert main(arguments([path, path], miniature_dir, tmp_path / "out")) == 1
    assert "are both slim-a on torch-fp32: their scores would have the same file name" in one_line()
    assert not (tmp_path / "out").exists()


def test_a_model_of_other_classes(
    slim_checkpoint: Checkpoints, miniature_dir: Path, tmp_path: Path, one_line: OneLine
) -> None:
    path = slim_checkpoint("A", classes=tuple(f"n0{i}" for i in range(12)))
    assert main(arguments([path], miniature_dir, tmp_path / "out")) == 1
    line = one_line()
    assert line.startswith("slim-a knows 12 classes (n00 ... n011), but the data set has 10 of 10 others (n99000000, ")
    assert not (tmp_path / "out" / "report.json").exists()


def test_data_and_out_that_cannot_be(
    slim_checkpoint: Checkpoints, miniature_dir: Path, tmp_path: Path, one_line: OneLine
) -> None:
    engine = slim_checkpoint("A")
    assert main(arguments([engine], tmp_path / "missing", tmp_path / "out")) == 1
    assert one_line() == f"{tmp_path / 'missing'}: no such folder"
    (tmp_path / "file").write_text("x")
    assert main(arguments([engine], miniature_dir, tmp_path / "file", "--limit", "1")) == 1
    assert str(tmp_path / "file") in one_line()


def test_named_images_alone_are_evaluated(
    slim_checkpoint: Checkpoints, miniature_dir: Path, tmp_path: Path, one_line: OneLine
) -> None:
    items = open_dataset(miniature_dir).items
    (tmp_path / "few.txt").write_text(f"{items[3].name}\n{items[1].path.name}\n")
    engines, named = [slim_checkpoint("A")], ("--only", str(tmp_path / "few.txt"))
    assert main(arguments(engines, miniature_dir, tmp_path / "out", *named)) == 0
    (table,) = (tmp_path / "out" / "scores").glob("*.parquet")
    assert read(table).images == (items[1].name, items[3].name)
    said = f"{miniature_dir}: 2 of {len(items)} images, those of few.txt"
    assert one_line() == said and said in report(tmp_path / "out")["remarks"]

    (tmp_path / "few.txt").write_text("none.JPEG\n")
    assert main(arguments(engines, miniature_dir, tmp_path / "other", *named)) == 1
    assert "few.txt: 1 of 1 names are of no image of" in one_line()
