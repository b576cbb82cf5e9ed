"""trainer/miniature/digits.py: the same bytes for the same seed, in ILSVRC-2012's shape, with its odd files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.io
from conftest import TRAIN_DIGITS, VAL_DIGITS
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from infer.data.dataset import TRAIN, VAL
from infer.data.devkit import DEVKIT, GROUND_TRUTH, META
from infer.pixels.decode import read
from trainer import miniature
from trainer.miniature import DEVKIT_ORDER, RENDERINGS, WNIDS, WORDS, digits
from trainer.miniature import __main__ as command
from trainer.miniature.digits import Rendering

OneLine = Callable[[], str]


def digests(root: Path) -> dict[str, str]:
    paths = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def val_path(root: Path, number: int) -> Path:
    return root / VAL / f"ILSVRC2012_val_{number:08d}.JPEG"


def open_image(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def test_same_seed_same_bytes_and_another_seed_other_images(miniature_dir: Path, tmp_path: Path) -> None:
    first = digests(miniature_dir)
    assert len(first) == 2 * (TRAIN_DIGITS * RENDERINGS + VAL_DIGITS) + 2
    miniature.make(tmp_path / "again", train_digits=TRAIN_DIGITS, val_digits=VAL_DIGITS)
    assert digests(tmp_path / "again") == first
    miniature.make(tmp_path / "other", seed=1, train_digits=TRAIN_DIGITS, val_digits=VAL_DIGITS)
    images = {name: digest for name, digest in digests(tmp_path / "other").items() if name.startswith(VAL)}
    assert len(images) == VAL_DIGITS
    assert all(first[name] != digest for name, digest in images.items())


def test_every_digit_is_used_and_none_is_in_both_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full set with drawing left out: which of the 1,797 digits each rendering was made from."""
    seen: list[bytes] = []
    pixels = np.zeros((1, 1, 3), np.uint8)

    def observe(digit_image: NDArray[np.float64], digit: int, rng: Generator) -> Rendering:
        seen.append(digit_image.tobytes() + bytes([digit]))
        return Rendering(pixels, digit, (1, 1, 1, 1))

    monkeypatch.setattr(digits, "render", observe)
    monkeypatch.setattr(digits, "write_image", lambda *args: None)
    monkeypatch.setattr(digits, "_write_box", lambda *args: None)
    assert miniature.make(tmp_path / "m") == (1397 * RENDERINGS, 400)
    train, val = set(seen[: 1397 * RENDERINGS]), set(seen[1397 * RENDERINGS :])
    assert len(train) == 1397
    assert len(val) == 400
    assert not train & val
    bunch = load_digits()
    assert train | val == {image.tobytes() + bytes([t]) for image, t in zip(bunch.images, bunch.target, strict=True)}


def test_renderings_of_one_digit_differ() -> None:
    digit = load_digits().images[0]
    one, other = (miniature.render(digit, 0, np.random.default_rng(seed)) for seed in (0, 1))
    assert one.pixels.shape != other.pixels.shape or not np.array_equal(one.pixels, other.pixels)


def test_odd_files_of_the_original(miniature_dir: Path) -> None:
    grey, cmyk, png, exif = (val_path(miniature_dir, number) for number in (3, 5, 8, 13))
    assert open_image(grey).mode == "L"
    assert open_image(cmyk).mode == "CMYK"
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert open_image(exif).getexif()[0x0112] == 6
    for path in (grey, cmyk, exif):
        assert path.read_bytes().startswith(b"\xff\xd8\xff")
    plain = [open_image(val_path(miniature_dir, n)) for n in range(1, VAL_DIGITS + 1) if n not in (3, 5, 8, 13)]
    assert all(image.mode == "RGB" and image.format == "JPEG" and not image.getexif() for image in plain)
    kinds = {(image.mode, image.format) for image in map(open_image, (miniature_dir / TRAIN).rglob("*.JPEG"))}
    assert kinds == {("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG")}


def test_sides_and_aspect_ratios(miniature_dir: Path) -> None:
    sizes = [read(path).shape[:2] for path in miniature_dir.rglob("*.JPEG")]
    assert len(sizes) == TRAIN_DIGITS * RENDERINGS + VAL_DIGITS
    assert all(72 <= min(size) <= 200 for size in sizes)
    assert all(max(size) <= 1.5 * min(size) + 1 for size in sizes)
    assert any(h > w for h, w in sizes)
    assert any(w > h for h, w in sizes)
    assert len({min(size) for size in sizes}) > 20


def test_boxes_lie_in_the_image_around_the_bright_ink(miniature_dir: Path) -> None:
    paths = sorted(miniature_dir.rglob("*.xml"))
    assert len(paths) == TRAIN_DIGITS * RENDERINGS + VAL_DIGITS
    for path in paths:
        root = ElementTree.parse(path)
        val = path.parent.name == "val"
        image = read(miniature_dir / (VAL if val else f"{TRAIN}/{path.parent.name}") / f"{path.stem}.JPEG")
        assert root.findtext("filename") == path.stem
        assert root.findtext("object/name") in WNIDS
        assert val or root.findtext("object/name") == path.parent.name
        width, height = (int(root.findtext(f"size/{tag}", "")) for tag in ("width", "height"))
        assert image.shape == (height, width, 3)
        sides = ("xmin", "ymin", "xmax", "ymax")
        xmin, ymin, xmax, ymax = (int(root.findtext(f"object/bndbox/{side}", "")) for side in sides)
        assert 1 <= xmin < xmax <= width
        assert 1 <= ymin < ymax <= height
        ys, xs = np.nonzero(image.mean(2) > 130)  # ground and clutter are darker
        inside = (xs + 1 >= xmin) & (xs + 1 <= xmax) & (ys + 1 >= ymin) & (ys + 1 <= ymax)
        assert inside.mean() > 0.99, path.name
        assert np.ptp(xs[inside]) > 0.65 * (xmax - xmin), path.name  # strokes end faintly
        assert np.ptp(ys[inside]) > 0.65 * (ymax - ymin), path.name


def test_devkit(miniature_dir: Path) -> None:
    assert b"Created on" not in (miniature_dir / DEVKIT / "data" / META).read_bytes()[:116]  # scipy's time stamp
    synsets = scipy.io.loadmat(miniature_dir / DEVKIT / "data" / META, squeeze_me=True)["synsets"]
    assert list(synsets.dtype.names) == [
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]
    assert synsets["ILSVRC2012_ID"].tolist() == list(range(1, 12))
    leaves = synsets[:10]
    assert leaves["num_children"].tolist() == [0] * 10
    assert leaves["WNID"].tolist() == [WNIDS[digit] for digit in DEVKIT_ORDER]
    assert leaves["words"].tolist() == [WORDS[digit] for digit in DEVKIT_ORDER]
    assert leaves["num_train_images"].sum() == TRAIN_DIGITS * RENDERINGS
    for row in leaves:
        folder = miniature_dir / TRAIN / row["WNID"]
        assert len(list(folder.glob("*.JPEG"))) == row["num_train_images"]
    assert synsets[10]["num_children"] == 10
    assert sorted(synsets[10]["children"].tolist()) == list(range(1, 11))
    assert sorted(DEVKIT_ORDER) == list(range(10))
    assert list(DEVKIT_ORDER) != list(range(10))
    lines = (miniature_dir / DEVKIT / "data" / GROUND_TRUTH).read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        path = miniature_dir / "ILSVRC2012_bbox_val_v3" / "val" / f"ILSVRC2012_val_{number:08d}.xml"
        assert ElementTree.parse(path).findtext("object/name") == WNIDS[DEVKIT_ORDER[int(line) - 1]]


def test_an_interrupted_run_leaves_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def interrupted(*args: Any) -> Rendering:
        calls.append(args)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return render(*args)

    render = miniature.render
    with monkeypatch.context() as patch:
        patch.setattr(digits, "render", interrupted)
        with pytest.raises(KeyboardInterrupt):
            miniature.make(tmp_path / "m", train_digits=2, val_digits=2)
    assert not (tmp_path / "m").exists()
    (tmp_path / "m").mkdir()
    assert miniature.make(tmp_path / "m", train_digits=2, val_digits=2) == (8, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert len(list((tmp_path / "m").rglob("*.JPEG"))) == 10


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[Any] = []

    def make(directory: Path, *, seed: int) -> tuple[int, int]:
        made.append((directory, seed))
        return 5588, 400

    monkeypatch.setitem(command.MAKE, "classification", make)
    assert command.main([str(tmp_path / "m"), "--seed", "3"]) == 0
    assert made == [(tmp_path / "m", 3)]
    out = capsys.readouterr().out
    assert out == f"{tmp_path / 'm'}: 5588 training images, 400 validation images, 10 classes\n"


def test_refuses_what_exists(tmp_path: Path, one_line: OneLine) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "x").write_text("x")
    file.write_text("x")
    for path in (folder, file):
        assert command.main([str(path)]) == 1
        assert one_line() == f"{path} exists and is not an empty folder: remove it or name another"
    assert [path.name for path in folder.iterdir()] == ["x"]


@pytest.mark.parametrize("path", [".", "file/below"])
def test_folders_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine, path: str
) -> None:
    """An empty working directory, and a path through a file: done, or one line and status 1; no traceback."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(digits, "_renderings", lambda *args: iter(()))
    if path != ".":
        (work / "file").write_text("x")
    if command.main([path]) != 0:
        assert one_line()


@pytest.mark.parametrize("argv", [[], ["m", "--seed", "x"], ["m", "--speed", "1"], ["m", "--task", "counting"]])
def test_usage_errors(argv: list[str], one_line: OneLine) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(argv)
    assert caught.value.code == 2
    assert one_line().startswith("python -m trainer.miniature: ")
