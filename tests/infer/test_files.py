"""infer/files.py: pointers of Git LFS, which every reader of files names as what they are."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from feature_sets import voc

from evaluation.features.readers import open_collection
from evaluation.features.table import read as read_features
from evaluation.localization.ground_truth import read_blacklist
from evaluation.scores.table import read as read_scores
from export.caffe.net import read_description, read_weights
from export.importing.classes import read_classes
from export.model import file as model_file
from export.torchvision.reading import read_state_dict
from infer.command import Parser, run
from infer.data.annotations import read_annotation
from infer.data.dataset import open_dataset
from infer.data.devkit import DEVKIT, read_synsets
from infer.data.folder import DatasetError, File, open_folder
from infer.data.label_file import read_label_file
from infer.errors import Refused
from infer.files import read_file, replacing
from infer.open import open_engine
from infer.pixels.decode import image_size, read
from infer.tensorrt.sidecar import check_sidecar
from trainer.checkpoint import load
from trainer.data.colours import Statistics

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 553433881\n"

READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "ONNX engine": ("model.onnx", open_engine),
    "plan": ("model.engine", open_engine),
    "ONNX model": ("model.onnx", model_file.read),
    "checkpoint": ("ckpt.pt", load),
    "torch's weights": ("vgg16.pth", read_state_dict),
    "safetensors": ("vgg16.safetensors", read_state_dict),
    "Caffe's description": ("deploy.prototxt", read_description),
    "Caffe's weights": ("vgg.caffemodel", read_weights),
    "classes": ("names.txt", lambda path: read_classes(path, 3)),
    "image": ("cat.jpg", read),
    "size of an image": ("cat.jpg", image_size),
    "scores": ("a.scores.parquet", read_scores),
    "data set in a tar": ("val.tar", open_dataset),
    "Parquet shard": ("val.parquet", open_dataset),
    "list of labels": ("labels.csv", read_label_file),
    "box": ("a.xml", lambda path: read_annotation(as_stored(path), path.name)),
    "features": ("a.parquet", lambda path: read_features([path])),
}


def as_stored(path: Path) -> File:
    return open_folder(path.parent).files[path.name]


@pytest.mark.parametrize("kind", READERS)
def test_a_pointer_is_named_by_every_reader(kind: str, tmp_path: Path) -> None:
    name, reader = READERS[kind]
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(Refused, match="a git-lfs pointer, not the file: git lfs pull"):
        reader(tmp_path / name)


PIPES = {
    **{kind: one for kind, one in READERS.items() if kind not in ("scores", "features")},
    "blacklist": ("blacklist.txt", read_blacklist),
    "statistics": ("statistics.json", Statistics.read),
    "sidecar": ("model.engine.json", lambda path: check_sidecar(path.with_suffix(""))),
    "shards": ("val.tar", lambda path: open_dataset(path.with_name("{val,test}.tar"))),
}


@pytest.mark.parametrize("kind", PIPES)
def test_no_reader_waits_for_a_pipe(kind: str, tmp_path: Path) -> None:
    name, reader = PIPES[kind]
    (tmp_path / "model.engine").write_bytes(b"a plan")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    outcome: list[BaseException] = []

    def look() -> None:
        try:
            reader(tmp_path / name)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(30)
    if thread.is_alive():
        os.close(os.open(tmp_path / name, os.O_WRONLY | os.O_NONBLOCK))  # lets it end
    assert outcome and isinstance(outcome[0], Refused | OSError), outcome


def test_a_pointer_within_a_data_set_is_named(tmp_path: Path) -> None:
    """The devkit's files, unpacked and packed, a blacklist, and VOC's sets."""
    said = "a git-lfs pointer, not the file: git lfs pull"
    data = tmp_path / DEVKIT / "data"
    data.mkdir(parents=True)
    (data / "meta.mat").write_text(POINTER)
    with pytest.raises(DatasetError, match=rf"meta\.mat: {said}"):
        read_synsets(open_folder(tmp_path))

    shutil.rmtree(tmp_path / DEVKIT)
    (tmp_path / f"{DEVKIT}.tar.gz").write_text(POINTER)
    with pytest.raises(DatasetError, match=rf"{DEVKIT}\.tar\.gz: {said}"):
        read_synsets(open_folder(tmp_path))

    root = voc(tmp_path / "VOC2007")
    next((root / "ImageSets" / "Main").glob("*_trainval.txt")).write_text(POINTER)
    with pytest.raises(DatasetError, match=rf"_trainval\.txt: {said}"):
        open_collection(root)

    (tmp_path / "blacklist.txt").write_text(POINTER)
    with pytest.raises(DatasetError, match=rf"blacklist\.txt: {said}"):
        read_blacklist(tmp_path / "blacklist.txt")


def test_a_small_file_is_a_file_and_small(tmp_path: Path) -> None:
    """Neither a pipe that never ends nor a device that is never empty is waited for."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    folder = tmp_path / "in"
    (folder / "plain.json").write_bytes(b"12345")
    (folder / "link.json").symlink_to("plain.json")
    (folder / "out.json").symlink_to(tmp_path / "secret")
    (folder / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "secret").write_bytes(b"secret")
    os.mkfifo(folder / "pipe.json")

    for name in ("plain.json", "link.json"):
        assert read_file(folder / name, 5, DatasetError, within=folder) == b"12345"
    assert read_file(folder / "out.json", 9, DatasetError) == b"secret"
    for name, most, said in (
        ("plain.json", 4, "5 bytes, expected at most 4"),
        ("out.json", 9, "a link that leads out of"),
        ("pipe.json", 9, "is no regular file, expected one of at most 9 bytes"),
        ("deep", 9, "is no regular file"),
    ):
        with pytest.raises(DatasetError, match=said):
            read_file(folder / name, most, DatasetError, within=folder)
    with pytest.raises(DatasetError, match="is no regular file"):
        read_file(folder / "zero.json", 9, DatasetError)
    with pytest.raises(FileNotFoundError):
        read_file(folder / "none.json", 9, DatasetError)


def test_what_is_replaced_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    replace = os.replace
    monkeypatch.setattr("os.fsync", lambda descriptor: said.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr("os.replace", lambda one, other: (said.append("renamed"), replace(one, other)))
    with replacing(tmp_path / "a") as unfinished:
        unfinished.write_text("content")
    assert said == [f"{tmp_path}/a.unfinished", "renamed", str(tmp_path)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_without_room_names_the_file(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: Callable[[], str]
) -> None:
    """Which its own error does not; a command that can go on says how."""
    (tmp_path / "a").write_text("before")

    def write() -> int:
        with replacing(tmp_path / "a"):
            raise OSError(number, "no room")
        return 0

    said = f"{tmp_path / 'a'}: {os.strerror(number)}: make room, then "
    parser = Parser(prog="x")
    assert run(parser, write) == 1
    assert one_line() == f"{said}begin again"
    parser.add_argument("--resume", action="store_true")
    assert run(parser, write) == 1
    assert one_line() == f"{said}go on with --resume: what was done is kept"
    assert (tmp_path / "a").read_text() == "before" and len(list(tmp_path.iterdir())) == 1

    def fail(descriptor: int) -> None:
        raise OSError(number, "no room")

    monkeypatch.setattr("os.fsync", fail)  # where the system finds out only then
    with pytest.raises(OSError, match=os.strerror(number)) as caught, replacing(tmp_path / "b") as unfinished:
        unfinished.write_text("content")
    assert caught.value.filename == str(tmp_path / "b") and len(list(tmp_path.iterdir())) == 1
