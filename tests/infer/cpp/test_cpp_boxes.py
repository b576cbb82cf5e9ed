"""verydeep-classify --box-engine against `python -m infer --boxes`, to the last printed digit. `make cpp` builds it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_engines import box_net, classifier
from helpers import encode, noise, slim_spec

from export.to_onnx import export_onnx
from infer.__main__ import main as infer
from trainer.checkpoint import load

BUILD = os.environ.get("VERYDEEP_CPP", "")
pytestmark = pytest.mark.skipif(not BUILD, reason="VERYDEEP_CPP names no build of infer/cpp: make cpp")
SIZES = ((90, 130), (200, 150), (64, 64), (120, 260))


def app(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([Path(BUILD) / "verydeep-classify", *map(str, words)], capture_output=True, text=True)


def same(image: Path, words: Sequence[object], picture: Path, capsys: pytest.CaptureFixture[str]) -> list[Any]:
    """Both lines, after they were found the same; returns the boxes."""
    assert infer([str(image), *map(str, words), "--boxes", str(picture), "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)
    done = app(image, *words, "--json")
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    assert theirs.keys() == ours.keys()
    for mine, other in zip(ours["predictions"], theirs["predictions"], strict=True):
        assert mine.keys() == other.keys()
        assert (mine["index"], mine["wnid"]) == (other["index"], other["wnid"])
        assert other["probability"] == pytest.approx(mine["probability"], rel=1e-12)
        assert other["box"] == (None if mine["box"] is None else pytest.approx(mine["box"], rel=1e-9))
    return [one["box"] for one in ours["predictions"]]


@pytest.mark.parametrize("kinds", [("box-scr",), ("box-pcr",), ("box-scr", "box-pcr")])
def test_boxes_are_pythons(kinds: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nets = [
        box_net(tmp_path, f"net{number}", slim_spec("D", task=kind), seed=number) for number, kind in enumerate(kinds)
    ]
    words = ["--engine", classifier(tmp_path), *(word for net in nets for word in ("--box-engine", net)), "--top", "4"]
    for number, size in enumerate(SIZES):
        image = tmp_path / f"{number}.png"
        image.write_bytes(encode(noise(size), "PNG"))
        boxes = same(image, words, tmp_path / "out.png", capsys)
        assert all(box is not None for box in boxes)
        assert kinds == ("box-scr",) or len({tuple(box) for box in boxes}) > 1
    scaled = [*words, "--scales", "70,90"]
    same(image, scaled, tmp_path / "out.png", capsys)
    said = app(image, *words).stdout
    assert said.count(" at ") == 4 and said.startswith(f"{image}: ")


def test_a_net_whose_boxes_are_no_numbers_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = box_net(tmp_path, "nan", slim_spec("D", task="box-scr"), seed=0, bias=[np.nan, 0, 0.5, 0.5])
    image = tmp_path / "a.png"
    image.write_bytes(encode(noise((90, 130)), "PNG"))
    words = ["--engine", classifier(tmp_path), "--box-engine", net, "--top", "2"]
    assert same(image, words, tmp_path / "out.png", capsys) == [None, None]
    assert " at " not in app(image, *words).stdout


def test_a_box_net_in_half_precision_that_is_not_rounded_is_named(tmp_path: Path) -> None:
    box_net(tmp_path, "net", slim_spec("D", task="box-scr"), seed=0)
    export_onnx(load(tmp_path / "net.pt"), tmp_path / "half.onnx", precision="fp16")
    image = tmp_path / "a.png"
    image.write_bytes(encode(noise((90, 130)), "PNG"))
    words = [image, "--engine", classifier(tmp_path), "--box-engine", tmp_path / "half.onnx"]
    rounded = app(*words)
    assert (rounded.returncode, rounded.stderr) == (0, "")
    (tmp_path / "half.check.onnx").unlink()
    done = app(*words)
    assert done.returncode == 0
    assert f"{tmp_path / 'half.onnx'}: fp16 weights, fp32 arithmetic: ONNX Runtime does not round" in done.stderr


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(encode(noise((90, 130)), "PNG"))
    with_maps, net = classifier(tmp_path), box_net(tmp_path, "net", slim_spec("D", task="box-scr"), seed=0)
    plain = tmp_path / "plain.onnx"
    export_onnx(load(tmp_path / "c.pt"), plain)
    other = box_net(tmp_path, "other", slim_spec("D", task="box-scr", classes=("a", "b")), seed=0)
    for words, status, said in [
        ((plain, net), 1, "slim-a has no output score_map: export it with --outputs posterior,score_map"),
        ((with_maps, with_maps), 1, "slim-a is no box net"),
        ((net, net), 1, "net is a box net, which has no posterior"),
        ((with_maps, other), 1, "slim-a and other have different classes: use nets of the same data"),
        ((with_maps, tmp_path / "none.onnx"), 1, "none.onnx: no such file"),
    ]:
        done = app(image, "--engine", words[0], "--box-engine", words[1])
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (status, "", 1), done
        assert said in done.stderr
    done = app(image, "--engine", with_maps, "--box-engine", net, "--protocol", "center")
    assert done.returncode == 2 and "finds boxes in dense views, not center: leave --protocol out" in done.stderr
