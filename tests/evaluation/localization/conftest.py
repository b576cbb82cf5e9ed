"""Fixtures of localisation: box nets, the words of a dense run, a score table of the same images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from box_engines import make_box_engine
from helpers import Exported

from evaluation import ilsvrc


@pytest.fixture(scope="module")
def nets(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`cls`; `scr` with a box in the middle of each window; `pcr` whose boxes depend on image and class."""
    folder, rng = tmp_path_factory.mktemp("nets"), np.random.default_rng(0)
    shutil.copy(exported(), folder / "cls.onnx")
    biases = np.tile([0, 0, 0.8, 0.9], 10)
    make_box_engine(folder / "cls.onnx", folder / "scr.onnx", [0, 0, 0.7, 0.9])
    make_box_engine(folder / "cls.onnx", folder / "pcr.onnx", biases, weights=rng.normal(0, 0.01, (40, 10)))
    return {path.stem: path for path in folder.glob("*.onnx")}


@pytest.fixture
def dense(nets: dict[str, Path], miniature_copy: Path) -> list[str]:
    """Two box nets, an SCR and a PCR, at different scales."""
    boxes = ["--boxes", str(nets["scr"]), "--boxes", str(nets["pcr"]), "--scales", "96", "--scales", "72,80"]
    return [*boxes, "--engine", str(nets["cls"]), "--data", str(miniature_copy), "--protocol", "dense"]


@pytest.fixture
def scored(nets: dict[str, Path], miniature_dir: Path, tmp_path: Path) -> Path:
    """A score table of the classifier."""
    arguments = ["--engine", str(nets["cls"]), "--data", str(miniature_dir), "--protocol", "center"]
    assert ilsvrc.main([*arguments, "--out", str(tmp_path / "scored")]) == 0
    (path,) = (tmp_path / "scored" / "scores").iterdir()
    return path
