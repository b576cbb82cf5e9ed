"""--profile auto: the dense range that the images of a data set need, by their headers, and what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import build_engine
from helpers import encode, full_spec

from export.tensorrt.profiles import (
    DataSizes,
    ProfileError,
    dense_range,
    parse_profile,
    read_sizes,
    shapes_from_options,
)
from export.to_trt import main
from infer.pixels import decode as image
from infer.views import Extent, out_of_range, plan_views

Checkpoints = Callable[..., Path]
OneLine = Callable[[], str]


def sizes(counts: dict[tuple[int, int], int], *unreadable: str) -> DataSizes:
    return DataSizes("0123", Counter(counts), {size: f"{size[0]}.jpg" for size in counts}, unreadable)


def make(folder: Path, images: dict[str, tuple[int, int]]) -> Path:
    """Class folders with images of these sizes."""
    for name, size in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(np.zeros((*size, 3), np.uint8), "PNG"))
    return folder


def test_range_of_the_papers_images() -> None:
    """S = 256, so Q = 224, 256, 288; most images are 375x500."""
    found = dense_range(full_spec("D"), sizes({(375, 500): 70, (500, 375): 20, (400, 400): 5, (300, 750): 1}))
    assert found[0] == parse_profile("dense:min=224x224,opt=256x341,max=288x720")
    assert found[1] == (
        "profile auto: 96 images of 0123 at 224, 256, 288, most often 500x375 px: --profile "
        "dense:min=224x224,opt=256x341,max=288x720",
    )


def test_every_image_fits_and_none_beyond() -> None:
    """Against the plans themselves: what the range admits is what it was made from, at every scale, either way up."""
    spec = full_spec("D", train_short_px=(256, 512))
    own = {(375, 500): 3, (333, 500): 9, (640, 427): 2, (1200, 450): 1}
    shapes = shapes_from_options(spec, {"dense": dense_range(spec, sizes(own))[0]})
    for size in own:
        for turned in (size, size[::-1]):
            assert out_of_range(plan_views(spec, "dense", turned), shapes, spec) is None
    landscape = shapes[1]
    assert landscape.height_px == Extent(256, 384, 512)
    assert landscape.width_px == Extent(341, 577, 1365)  # 500 * 384 / 333 = 576.6
    assert out_of_range(plan_views(spec, "dense", (400, 1100)), shapes, spec) is not None


def test_what_is_left_out_is_counted_and_named() -> None:
    found = dense_range(
        full_spec("D"),
        sizes({(375, 500): 2, (100, 267): 3, (100, 266): 1, (7, 9): 4, (2000, 50): 5}, "a.jpg: broken", "b.jpg: x"),
    )
    assert found[0].sizes["max"] == (288, 766)
    assert found[1][1:] == (
        "profile auto: 12 images beyond an aspect of 8:3 or below 8 px left out, such as 2000.jpg (50x2000 px), "
        "7.jpg (9x7 px), 100.jpg (267x100 px)",
        "profile auto: 2 images unreadable, first a.jpg: broken",
    )


def test_no_image_to_go_by() -> None:
    with pytest.raises(ProfileError, match=r"no image of 0123 has sides of 8 px .* \(2 beyond, 1 unreadable\): say"):
        dense_range(full_spec("D"), sizes({(10, 100): 2}, "a.jpg: broken"))


def test_image_bounds_the_upload_too() -> None:
    spec = full_spec("D")
    found = dense_range(spec, sizes({(375, 500): 1}), 640)
    assert found[1][0].endswith("max=288x384,image=640")
    assert shapes_from_options(spec, {"dense": found[0]})[1].source_px.max == 640


def test_sizes_of_a_folder(tmp_path: Path) -> None:
    make(tmp_path, {"a/1.png": (30, 40), "a/2.png": (30, 40), "b/3.png": (50, 20)})
    (tmp_path / "b/4.png").write_bytes(b"no image")
    found = read_sizes(tmp_path)
    assert found.counts == {(30, 40): 2, (50, 20): 1}
    assert found.examples == {(30, 40): "a/1.png", (50, 20): "b/3.png"}
    (line,) = found.unreadable
    assert line.startswith("b/4.png: is not an image whose size we can read")


def test_nothing_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*arguments: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(image.cv2, "imdecode", decode)
    assert read_sizes(make(tmp_path, {"a/1.png": (30, 40)})).counts == {(30, 40): 1}


# The command


def test_profile_auto(slim_checkpoint: Checkpoints, tmp_path: Path) -> None:
    """Slim A's scales are 72, 96, 120 and its crop 64."""
    pytest.importorskip("tensorrt_rtx")
    data = make(tmp_path / "data", {"a/1.png": (100, 150), "a/2.png": (100, 150), "b/3.png": (180, 120)})
    argv = ("--profile", "auto", "--data", data, "--profile", "crops:views=4", "--target", "sm86")
    made = build_engine(slim_checkpoint("A"), "-o", tmp_path / "m.engine", *argv)
    said = made.printed[1]
    assert said.startswith("profile auto: 3 images of ") and said.endswith("dense:min=72x108,opt=96x144,max=120x180")
    _, landscape, portrait = made.sidecar["profiles"]
    assert landscape["inputs"]["rows"] == [[1, 72], [8, 96], [16, 120]]
    assert landscape["inputs"]["cols"] == portrait["inputs"]["rows"] == [[1, 108], [8, 144], [16, 180]]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--profile", "auto"], "--profile auto and --data DIR: one needs the other"),
        (["--data", "."], "--profile auto and --data DIR: one needs the other"),
        (
            ["--profile", "auto", "--profile", "dense", "--data", "."],
            "--profile: dense and auto are two ways to say one thing, give one of them",
        ),
        (["--profile", "batch", "--profile", "crops:views=2"], "--profile: crops and batch are two ways to say one"),
        (
            ["--profile", "auto:min=3x4", "--data", "."],
            "profile auto has no key 'min', only image: write it like",
        ),
    ],
)
def test_usage_errors(argv: list[str], message: str, slim_checkpoint: Checkpoints, one_line: OneLine) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(slim_checkpoint("A")), *argv])
    assert message in one_line()


def test_data_that_is_none(slim_checkpoint: Checkpoints, tmp_path: Path, one_line: OneLine) -> None:
    argv = [str(slim_checkpoint("A")), "-o", str(tmp_path / "m.engine"), "--target", "sm86", "--profile", "auto"]
    assert main([*argv, "--data", str(tmp_path / "none")]) == 1
    assert one_line() == f"{tmp_path / 'none'}: no such folder"
    assert main([*argv, "--data", str(make(tmp_path / "thin", {"a/1.png": (8, 100)}))]) == 1
    assert one_line().startswith("profile auto: no image of ")
    assert [path.name for path in tmp_path.iterdir()] == ["thin"]
