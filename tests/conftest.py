"""Shared fixtures: real photographs, a miniature of the miniature, slim untrained checkpoints."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines import Built, build_engine
from helpers import random_net, slim_spec, write_checkpoint
from numpy.typing import NDArray

from trainer import miniature
from trainer.miniature import detection

TRAIN_DIGITS, VAL_DIGITS = 16, 24
TRAIN_SCENES, VAL_SCENES = 40, 44

Photos = dict[str, NDArray[np.uint8]]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Threads of small nets wait for each other more than they compute, above all on a shared machine."""
    torch.set_num_threads(1)


@pytest.fixture
def alone_on_ray() -> Iterator[None]:
    """Holds a lock: `--ray auto` joins whatever Ray runs on this machine, so another test's too."""
    with (Path(tempfile.gettempdir()) / "verydeep-tests-ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def photos() -> Photos:
    """Real photographs that ship with scikit-image and scikit-learn, u8 RGB [h, w, 3]."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    return {
        "astronaut": data.astronaut(),  # 512x512
        "cat": data.chelsea(),  # 300x451
        "china": load_sample_image("china.jpg"),  # 427x640
        "portrait": np.ascontiguousarray(data.coffee().transpose(1, 0, 2)),  # 600x400
    }


@pytest.fixture(scope="session")
def miniature_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small miniature of 16 training and 24 validation digits. Not to be changed: see `miniature_copy`."""
    directory = tmp_path_factory.mktemp("data") / "miniature"
    miniature.make(directory, train_digits=TRAIN_DIGITS, val_digits=VAL_DIGITS)
    return directory


@pytest.fixture
def miniature_copy(miniature_dir: Path, tmp_path: Path) -> Path:
    """The small miniature, for a test to damage."""
    return Path(shutil.copytree(miniature_dir, tmp_path / "miniature"))


@pytest.fixture(scope="session")
def scenes_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small miniature of detection, TRAIN_SCENES and VAL_SCENES. Not to be changed: see `scenes_copy`."""
    directory = tmp_path_factory.mktemp("data") / "scenes"
    detection.make(directory, train_scenes=TRAIN_SCENES, val_scenes=VAL_SCENES)
    return directory


@pytest.fixture
def scenes_copy(scenes_dir: Path, tmp_path: Path) -> Path:
    """The small miniature of detection, for a test to damage."""
    return Path(shutil.copytree(scenes_dir, tmp_path / "scenes"))


@pytest.fixture(scope="session")
def slim_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds (once for the same arguments) the checkpoint of `slim_spec(net, **changes)` with random weights."""
    made: dict[str, Path] = {}

    def build(net: str = "A", *, seed: int = 0, **changes: Any) -> Path:
        spec = slim_spec(net, **changes)
        key = f"{seed} {spec.to_json()}"
        if key not in made:
            made[key] = write_checkpoint(tmp_path_factory.mktemp("ckpt") / f"{spec.name}.pt", spec, seed)
        return made[key]

    return build


@pytest.fixture
def one_line(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Reads what a command wrote to stderr since the last call, which must be a single line."""

    def read() -> str:
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return read


@pytest.fixture(scope="session")
def exported(slim_checkpoint: Callable[..., Path]) -> Callable[..., Path]:
    """Exports (once for the same arguments) a slim net to ONNX with every output that can be asked for."""
    from export.graph.interface import ON_REQUEST
    from export.to_onnx import export_onnx
    from trainer.checkpoint import load

    made: dict[tuple[str, ...], Path] = {}

    def export(net: str = "A", *, interface: str = "views", precision: str = "fp32") -> Path:
        key = (net, interface, precision)
        if key not in made:
            source = slim_checkpoint(net)
            made[key] = source.with_name(f"{net}.{interface}.{precision}.onnx")
            outputs = [name for name in ON_REQUEST if interface != "nchw" or name != "pixels"]
            export_onnx(load(source), made[key], interface=interface, precision=precision, outputs=outputs)  # type: ignore[arg-type]
        return made[key]

    return export


@pytest.fixture(scope="session")
def built(slim_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Slim VGG-A from a checkpoint, FP16, for two targets. Not to be changed."""
    path = tmp_path_factory.mktemp("built") / "model.engine"
    return build_engine(slim_checkpoint("A"), "-o", path, "--target", "sm89", "sm86")


@pytest.fixture(scope="session")
def single(built: Built) -> Path:
    """The same net as an FP32 ONNX model."""
    from export.to_onnx import export_onnx
    from trainer.checkpoint import Checkpoint

    spec = slim_spec("A")
    path = built.engine.with_name("single.onnx")
    export_onnx(Checkpoint(spec, random_net(spec).state_dict()), path)
    return path
