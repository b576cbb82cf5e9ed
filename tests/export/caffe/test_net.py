"""export/caffe/net.py: what a train_val.prototxt says of images, which of its layers are tested, comments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from caffe_files import write_caffe
from helpers import random_net, slim_spec

from export.caffe.net import CaffeError, Transform, read_description
from export.from_caffe import main
from trainer.checkpoint import load

OneLine = Callable[[], str]
DATA = 'layer { name: "data" type: "Data" top: "data" top: "label" include { phase: %s } transform_param { %s } }\n'


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, Path]:
    """A slim VGG-A for crops of 64 px."""
    return write_caffe(random_net(slim_spec("A")), tmp_path, "new", 64)


def with_head(model: tuple[Path, Path], head: str, *, encoding: str = "utf-8") -> Path:
    """The description with another beginning than `input: "data"`."""
    text = model[0].read_text()
    path = model[0].with_name("train_val.prototxt")
    path.write_bytes((head + text[text.index("layer {") :]).encode(encoding))
    return path


def said(model: tuple[Path, Path], head: str) -> Transform | None:
    return read_description(with_head(model, head)).transform


def test_a_deploy_prototxt_says_nothing(model: tuple[Path, Path]) -> None:
    assert read_description(model[0]).transform is None


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ("mean_value: 103.939 mean_value: 116.779 mean_value: 123.68", Transform((103.939, 116.779, 123.68))),
        ("mean_value: 127.5 scale: 0.0078125", Transform((127.5,) * 3, scale=0.0078125)),
        ("crop_size: 64 mirror: true", Transform(crop_px=64)),  # no mean is subtracted
        ('mean_file: "mean.binaryproto" crop_size: 64', Transform(mean_file="mean.binaryproto", crop_px=64)),
    ],
)
def test_transform_param_of_the_phase_test(transform: str, expected: Transform, model: tuple[Path, Path]) -> None:
    head = DATA % ("TRAIN", "crop_size: 32 scale: 7") + DATA % ("TEST", transform)
    assert said(model, head) == expected


def test_what_sources_said_until_2014(model: tuple[Path, Path]) -> None:
    head = 'layer { name: "d" type: "ImageData" top: "data" image_data_param { scale: 0.5 crop_size: 64 %s } }\n'
    assert said(model, head % "new_height: 80 new_width: 90") == Transform(scale=0.5, crop_px=64, warped="90x80")
    with pytest.raises(CaffeError, match="layer d reads grey images, expected colours"):
        said(model, head % "is_color: false")


@pytest.mark.parametrize(
    ("state", "rule", "included"),
    [
        ("", "include { phase: TEST }", True),
        ("", "include { phase: TRAIN }", False),
        ("", "exclude { phase: TEST }", False),
        ("", "exclude { phase: TRAIN }", True),
        ("", 'include { stage: "deploy" }', False),
        ('state { stage: "deploy" }', 'include { stage: "deploy" }', True),
        ('state { stage: "deploy" }', 'exclude { stage: "deploy" }', False),
        ('state { stage: "deploy" }', 'include { phase: TEST not_stage: "deploy" }', False),
        ("state { level: 2 }", "include { min_level: 3 }", False),
        ("state { level: 2 }", "include { max_level: 2 }", True),
        ("", 'include { phase: TRAIN } include { phase: TEST not_stage: "x" }', True),
    ],
)
def test_layers_that_are_tested(state: str, rule: str, included: bool, model: tuple[Path, Path]) -> None:
    """A source that scales by 7, or is left out by its rules."""
    layer = f'layer {{ name: "a" type: "Data" top: "data" {rule} transform_param {{ scale: 7 }} }}\n'
    found = said(model, f'input: "data" {state} {layer}')
    assert found == (Transform(scale=7) if included else None)


def test_two_sources_that_differ(model: tuple[Path, Path]) -> None:
    with pytest.raises(CaffeError, match="2 sources to test with, of different transform_param, expected one"):
        said(model, DATA % ("TEST", "scale: 2") + DATA % ("TEST", "scale: 3"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "gbk"])
def test_comments_in_any_encoding(encoding: str, model: tuple[Path, Path]) -> None:
    comment = {"latin-1": "# moyenne calculée", "gbk": "# 均值"}.get(encoding, "# naïve 均值")
    path = with_head(model, f'input: "data"  {comment}\nname: "a # b" {comment} "\n', encoding=encoding)
    assert read_description(path).classifier.name == "fc8"


def imported(model: tuple[Path, Path], head: str, *arguments: str) -> Any:
    out = model[0].with_name("ckpt.pt")
    assert main([str(with_head(model, head)), str(model[1]), "-o", str(out), *arguments]) == 0
    return load(out)


def test_the_preprocessing_of_an_import(model: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    head = DATA % ("TEST", "mean_value: 103.939 mean_value: 116.779 mean_value: 123.68 scale: 0.0125")
    checkpoint = imported(model, head)
    assert checkpoint.spec.preprocessing.mean_rgb == (123.68, 116.779, 103.939)
    assert checkpoint.spec.preprocessing.std_rgb == (80.0,) * 3
    line = capsys.readouterr().out.splitlines()[1]
    assert "mean 123.68,116.779,103.939 (transform_param) and std 80,80,80 (1 / scale of transform_param)" in line
    assert "channels bgr (Caffe's)" in line

    # a net that was trained on RGB: its weights and its mean are in that order
    other = imported(model, head, "--channels", "rgb")
    assert other.spec.preprocessing.mean_rgb == (103.939, 116.779, 123.68)
    first = other.weights["conv1_1.weight"]
    assert torch.equal(first[:, [2, 1, 0]], checkpoint.weights["conv1_1.weight"])
    assert imported(model, DATA % ("TEST", "mirror: false")).spec.preprocessing.mean_rgb == (0.0, 0.0, 0.0)
    assert "authors" not in capsys.readouterr().out


def test_without_a_transform_param_it_says_whose_mean_it_takes(
    model: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    imported(model, 'input: "data"\n')
    assert "(VGG group's, not in the prototxt)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("transform", "arguments", "message"),
    [
        ('mean_file: "m.binaryproto"', [], "subtracts a mean image, 'm.binaryproto', where our nets subtract a colour"),
        ("crop_size: 56", [], "weights are for crops of 64 px, got crop_size 56 in its transform_param"),
        ("crop_size: 64", ["--crop", "56"], "weights are for crops of 64 px, got --crop 56"),
        ("mean_value: 1 mean_value: 2", [], "mean_value [1.0, 2.0], expected one number or three"),
        ("scale: -1", [], "scale -1, expected a number above 0"),
        ("force_gray: true", [], "reads grey images, expected colours"),
        ("scale: 2.5", [], "would spread grey levels of 0-255 over 637.5"),
    ],
)
def test_what_it_says_that_no_net_of_ours_does(
    transform: str, arguments: list[str], message: str, model: tuple[Path, Path], one_line: OneLine
) -> None:
    path = with_head(model, DATA % ("TEST", transform))
    assert main([str(path), str(model[1]), "-o", str(path.with_name("a.pt")), *arguments]) == 1
    assert message in one_line()
