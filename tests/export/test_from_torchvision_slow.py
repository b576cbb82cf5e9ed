"""export/from_torchvision.py against torchvision itself, in an environment of its own: its pixels, its scores.

`make test-slow`. Pillow below 13 there: a newer one resamples rows first where that is cheaper, and rounds
otherwise in between.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision_nets
from conftest import Photos
from helpers import network_input
from paths import SUPPORT
from PIL import Image

from export.from_torchvision import main
from infer.pixels.decode import read
from infer.pixels.render import render
from infer.views import plan_views
from trainer.checkpoint import Checkpoint, load

PYTHON = os.environ.get("VERYDEEP_TORCHVISION_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="VERYDEEP_TORCHVISION_PYTHON is not set: make test-slow"),
]
ORACLE = SUPPORT / "torchvision_oracle.py"
PHOTOS = 50
TOLERANCE = 1e-4  # of the scores' standard deviation


def oracle(*arguments: object) -> None:
    command = [str(PYTHON), str(ORACLE), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def photo_dir(photos: Photos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cuts of photographs with odd sides, from a third of the preset's size to more than twice, up to 5:1."""
    directory = tmp_path_factory.mktemp("photos")
    rng, sources = np.random.default_rng(0), list(photos.values())
    for number in range(PHOTOS):
        source = sources[number % len(sources)]
        height, width = (int(rng.integers(85, side)) // 2 * 2 + 1 for side in source.shape[:2])
        top, left = (
            int(rng.integers(0, whole - side + 1)) for whole, side in zip(source.shape, (height, width), strict=False)
        )
        image = Image.fromarray(source[top : top + height, left : left + width])
        if number % 5 == 0:
            image = image.resize((2 * width - 1, 2 * height - 1), Image.Resampling.LANCZOS)
        image.save(directory / f"{number:02d}.png")
    return directory


OTHERS = ("vgg11", "vgg13", "vgg13_bn", "vgg16_bn", "vgg19", "vgg19_bn")


@pytest.fixture(
    scope="module",
    params=["googlenet", "vgg11_bn", "vgg16", *(pytest.param(name, marks=pytest.mark.full) for name in OTHERS)],
)
def net(request: pytest.FixtureRequest, photo_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(checkpoint that the command made of torchvision's random weights, torchvision's scores)."""
    base = tmp_path_factory.mktemp("net") / request.param
    oracle("net", request.param, photo_dir, base)
    out = base.with_suffix(".pt")
    assert main([f"{base}.pth", "-o", str(out)]) == 0
    base.with_suffix(".pth").unlink()  # half a gigabyte each
    yield load(out), np.load(base.with_suffix(".npz"))
    out.unlink()


def center(checkpoint: Checkpoint, path: Path) -> Any:
    """The view of the protocol `center`, u8 [224, 224, 3]."""
    image = read(path)
    return render(image, plan_views(checkpoint.spec, "center", image.shape[:2]).views, checkpoint.spec)[0]


def error_in_deviations(got: Any, expected: Any) -> float:
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / expected.std())


@torch.inference_mode()
def test_its_scores(net: tuple[Checkpoint, Any], photo_dir: Path) -> None:
    """At 224, from the files of two photographs on; and VGG's dense map of a fully convolutional rewrite."""
    checkpoint, theirs = net
    spec, ours = checkpoint.spec, checkpoint.build()
    paths = sorted(photo_dir.glob("*.png"))[: len(theirs["logits"])]
    x = torch.cat([network_input(center(checkpoint, path), spec) for path in paths])
    error = error_in_deviations(ours(x)[:, :, 0, 0].numpy(), theirs["logits"])
    print(f"{spec.source['origin']}: logits differ by {error:.1e} of their deviation {theirs['logits'].std():.2g}")
    assert error < TOLERANCE
    if spec.net != "googlenet-tv":
        got = ours(network_input(theirs["dense_pixels"], spec)).numpy()
        assert got.shape == (1, 1000, 1, 4)
        error = error_in_deviations(got, theirs["dense"])
        print(f"{spec.source['origin']}: dense map differs by {error:.1e}")
        assert error < TOLERANCE


@pytest.mark.parametrize("name", ["vgg11", "googlenet"])
def test_its_pixels(name: str, photo_dir: Path, tmp_path: Path) -> None:
    """Every pixel of the crops that its transforms make of 50 photographs."""
    weights, out = tmp_path / "weights.pth", tmp_path / "ckpt.pt"
    torch.save(torchvision_nets.make(name).state_dict(), weights)
    assert main([str(weights), "-o", str(out)]) == 0
    checkpoint = load(out)
    oracle("pixels", photo_dir, tmp_path / "pixels.npz")
    theirs = np.load(tmp_path / "pixels.npz")
    assert theirs["residual"] < 1e-3 and len(theirs["crops"]) == PHOTOS
    wrong = [
        path.name
        for path, crop in zip(sorted(photo_dir.glob("*.png")), theirs["crops"], strict=True)
        if not np.array_equal(center(checkpoint, path), crop)
    ]
    assert wrong == []
