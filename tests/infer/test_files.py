"""infer/files.py: pointers of Git LFS, which every reader of files names as what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.features.table import read as read_features
from evaluation.scores.table import read as read_scores
from export.caffe.net import read_description, read_weights
from export.importing.classes import read_classes
from export.model import file as model_file
from export.torchvision.reading import read_state_dict
from infer.data.dataset import open_dataset
from infer.data.label_file import read_label_file
from infer.errors import Refused
from infer.open import open_engine
from infer.pixels.decode import image_size, read
from trainer.checkpoint import load

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
    "features": ("a.parquet", lambda path: read_features([path])),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_pointer_is_named_by_every_reader(kind: str, tmp_path: Path) -> None:
    name, reader = READERS[kind]
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(Refused, match="a git-lfs pointer, not the file: git lfs pull"):
        reader(tmp_path / name)
