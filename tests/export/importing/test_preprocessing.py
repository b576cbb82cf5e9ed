"""export/importing/preprocessing.py: what a command line says of pixels, in either of two conventions, or neither."""

from __future__ import annotations

import argparse
import re
from typing import Any

import numpy as np
import pytest

from export.importing.preprocessing import Known, PreprocessingError, add_preprocessing_options, choose
from infer.errors import UsageError
from infer.spec import Preprocessing

IMAGENET = "--mean imagenet --std imagenet"
TORCHVISION = Known("torchvision's", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=1 / 255)
CAFFE = Known("Caffe's", "bgr", "bicubic", (123.68, 116.779, 103.939), (1.0, 1.0, 1.0), 1.0, is_grey=True)
SCALED = Known("Caffe's", "bgr", "bicubic", (3.0, 2.0, 1.0), (1.0, 1.0, 1.0), 1 / 64, is_grey=True)
FOREIGN = Known("default")


def arguments(text: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_preprocessing_options(parser, default="")
    return parser.parse_args(text.split())


def inputs(p: Preprocessing) -> Any:
    """What a net sees of black, of grey and of white."""
    levels = np.array([0.0, 128.0, 255.0])[:, None]
    return (levels - p.mean_rgb) / p.std_rgb


@pytest.mark.parametrize(
    ("known", "text", "expected"),
    [
        # the transforms of torchvision and Caffe, said again
        (TORCHVISION, "", lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        (FOREIGN, IMAGENET, lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        (FOREIGN, "--mean 0.5,0.5,0.5 --std 0.5,0.5,0.5", lambda x: (x / 255 - 0.5) / 0.5),
        (FOREIGN, "--mean 127.5,127.5,127.5 --std 127.5,127.5,127.5", lambda x: x / 127.5 - 1),
        (FOREIGN, "--mean 0,0,0 --std 255,255,255", lambda x: x / 255),
        (FOREIGN, "--mean 0,0,0 --std 1,1,1 --scale 1/255", lambda x: x / 255),
        (FOREIGN, "--mean 0,0,0 --std 1,1,1 --scale 1", lambda x: x),
        (FOREIGN, "--mean 1,1,1 --std 1,1,1 --scale 1/127.5", lambda x: x / 127.5 - 1),
        (FOREIGN, "--mean 0.4,0.5,0.6 --std 1,1,1 --scale 1/255", lambda x: x / 255 - [0.4, 0.5, 0.6]),
        (FOREIGN, "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --scale 0.00392156862745098",
         lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        (FOREIGN, "--mean imagenet", lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        (CAFFE, "", lambda x: x - [123.68, 116.779, 103.939]),
        (CAFFE, "--mean 103,117,123 --scale 0.017", lambda x: (x - [103, 117, 123]) * 0.017),
        (CAFFE, "--mean 0,0,0", lambda x: x),
        (CAFFE, IMAGENET, lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        (SCALED, "", lambda x: (x - [3, 2, 1]) / 64),  # a mean below 255 / 64 is of grey levels all the same
        (SCALED, "--mean 100,110,120", lambda x: (x - [100, 110, 120]) / 64),
        (SCALED, "--std 58,57,56", lambda x: (x - [3, 2, 1]) / [58, 57, 56]),
        (TORCHVISION, "--mean 123.68,116.779,103.939 --std 1,1,1", lambda x: x - [123.68, 116.779, 103.939]),
        (TORCHVISION, "--mean 0.4,0.4,0.4", lambda x: (x / 255 - 0.4) / [0.229, 0.224, 0.225]),
    ],
)  # fmt: skip
def test_what_a_net_sees(known: Known, text: str, expected: Any) -> None:
    levels = np.array([0.0, 128.0, 255.0])[:, None] * np.ones(3)
    assert np.abs(inputs(choose(arguments(text), known).preprocessing) - expected(levels)).max() < 1e-4


@pytest.mark.parametrize(
    ("known", "text", "said"),
    [
        (FOREIGN, "--mean 123.675,116.28,103.53 --std 0.229,0.224,0.225", "one is of pixels 0-255, the other of 0-1"),
        (FOREIGN, "--mean 0.485,0.456,0.406 --std 58,57,57", "one is of pixels 0-255, the other of 0-1"),
        (FOREIGN, "--mean 0.485,0.456,0.406 --std 1,1,1", "are ambiguous (of pixels 0-255 or of 0-1)"),
        (FOREIGN, "--mean 0,0,0 --std 1,1,1", "and --scale 1 where they are of 0-255, or --scale 1/255"),
        (TORCHVISION, "--mean 0,0,0 --std 1,1,1", "are ambiguous"),
        (TORCHVISION, "--mean 123.68,116.779,103.939", "one is of pixels 0-255, the other of 0-1"),
        (CAFFE, "--mean 0.485,0.456,0.406", "are ambiguous"),
        (CAFFE, "--std 0.229,0.224,0.225", "one is of pixels 0-255, the other of 0-1"),
        (TORCHVISION, "--scale 1", "would spread grey levels of 0-255 over 1138, expected 0.05 to 300"),
        (FOREIGN, "--mean 123,117,104 --std 58,57,57 --scale 1/255", "would spread grey levels of 0-255 over 0.0175"),
    ],
)
def test_what_fits_both_or_contradicts_itself(known: Known, text: str, said: str) -> None:
    with pytest.raises(PreprocessingError, match=re.escape(said)):
        choose(arguments(text), known)


@pytest.mark.parametrize(
    ("text", "missing"), [("", "--mean, --std"), ("--mean 1,2,3", "--std"), ("--scale 1 --std 1,1,1", "--mean")]
)
def test_what_nobody_says(text: str, missing: str) -> None:
    with pytest.raises(UsageError, match=f"the following arguments are required: {missing}$"):
        choose(arguments(text), FOREIGN)


def test_each_value_has_its_origin() -> None:
    text = "--mean 127.5,127.5,127.5 --std 127.5,127.5,127.5 --channels bgr --exif apply --filter bicubic"
    chosen = choose(arguments(text), TORCHVISION)
    assert chosen.origins == {
        "mean": "--mean, read as of 0-255",
        "std": "--std, read as of 0-255",
        "channels": "--channels",
        "crop": "torchvision's",
        "filter": "--filter",
        "exif": "--exif",
    }
    assert (chosen.channels, chosen.preprocessing.exif, chosen.preprocessing.filter) == ("bgr", "apply", "bicubic")
    assert set(choose(arguments(""), CAFFE).origins.values()) == {"Caffe's", "default"}


@pytest.mark.parametrize(
    "text", ["--mean 1,2", "--mean coco", "--scale 0", "--scale 1/0", "--scale x", "--std 1,2,nan"]
)
def test_values_that_are_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        arguments(text)
    assert "expected" in capsys.readouterr().err
