"""Boxes by several processes, or on a Ray of this machine: the same bytes as by one."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_engines import make_box_engine

from evaluation import ilsvrc
from evaluation.localization.__main__ import main
from evaluation.run import loop


@pytest.fixture(autouse=True)
def _a_shard_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that both processes have some."""
    monkeypatch.setattr(loop, "GROUP", 1)


@pytest.fixture(scope="module")
def nets(exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier `cls`, a box net `scr`, and one `pcr` whose boxes depend on image and class."""
    folder, rng = tmp_path_factory.mktemp("nets"), np.random.default_rng(0)
    shutil.copy(exported(), folder / "cls.onnx")
    make_box_engine(folder / "cls.onnx", folder / "scr.onnx", [0, 0, 0.7, 0.9])
    biases = np.tile([0, 0, 0.8, 0.9], 10)
    make_box_engine(folder / "cls.onnx", folder / "pcr.onnx", biases, weights=rng.normal(0, 0.01, (40, 10)))
    return folder


@pytest.fixture(params=["dense", "given-class"])
def arguments(request: pytest.FixtureRequest, nets: Path, miniature_copy: Path) -> list[str]:
    """Over images of which one is damaged."""
    (miniature_copy / "ILSVRC2012_img_val" / "ILSVRC2012_val_00000011.JPEG").write_bytes(b"no image")
    common = ["--data", str(miniature_copy), "--protocol", request.param]
    if request.param == "given-class":
        return ["--boxes", str(nets / "pcr.onnx"), *common]
    boxes = ["--boxes", str(nets / "scr.onnx"), "--boxes", str(nets / "pcr.onnx"), "--scales", "96", "--scales", "72"]
    return [*boxes, "--engine", str(nets / "cls.onnx"), *common]


def found(out: Path) -> tuple[bytes, Any]:
    """The table of boxes and what report.json says of the data set and of the errors."""
    assert not (out / "unfinished-boxes").exists()
    (path,) = (out / "boxes").iterdir()
    report = json.loads((out / "report.json").read_text())
    results = [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in report["results"]]
    return path.read_bytes(), (report["dataset"], results)


@pytest.mark.processes
def test_two_processes_change_nothing(arguments: list[str], tmp_path: Path) -> None:
    for name, more in (("whole", []), ("two", ["--device", "0,1", "--workers", "2"])):
        assert main([*arguments, "--out", str(tmp_path / name), *more]) == 0
    assert found(tmp_path / "two") == found(tmp_path / "whole")
    assert not multiprocessing.active_children()


def test_two_processes_with_a_score_table(nets: Path, miniature_dir: Path, tmp_path: Path) -> None:
    """The likeliest classes of each image go to the process that has the image."""
    common = ["--data", str(miniature_dir), "--engine", str(nets / "cls.onnx")]
    assert ilsvrc.main([*common, "--protocol", "center", "--out", str(tmp_path / "scored")]) == 0
    (scores,) = (tmp_path / "scored" / "scores").iterdir()
    dense = [*common, "--boxes", str(nets / "scr.onnx"), "--protocol", "dense", "--scales", "72"]
    for name, more in (("whole", []), ("two", ["--device", "0,1"])):
        assert main([*dense, "--scores", str(scores), "--out", str(tmp_path / name), *more]) == 0
    assert found(tmp_path / "two") == found(tmp_path / "whole")


def test_a_strict_run_of_two_processes_stops(arguments: list[str], tmp_path: Path, one_line: Callable[[], str]) -> None:
    assert main([*arguments, "--out", str(tmp_path), "--device", "0,1", "--strict"]) == 1
    line = one_line()
    assert "ILSVRC2012_val_00000011" in line and "--strict stops at the first unreadable image" in line
    assert main([*arguments, "--out", str(tmp_path), "--resume"]) == 0  # what was committed is gone on with


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.usefixtures("alone_on_ray")
def test_two_actors_change_nothing(arguments: list[str], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is in the extra `distributed`")
    command = [sys.executable, "-m", "evaluation.localization", *arguments, "--out", str(tmp_path / "ray")]
    done = subprocess.run([*command, "--ray", "auto", "--ray-actors", "2"], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    assert found(tmp_path / "ray") == found(tmp_path / "whole")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ray", "auto", "--device", "0,1"], "--ray and --device exclude each other"),
        (["--ray-actors", "2"], "--ray-actors is for --ray"),
        (["--device", "0,0"], "expected different numbers of GPUs like 0,1, got '0,0'"),
    ],
)
def test_usage(more: list[str], said: str, nets: Path, tmp_path: Path, one_line: Callable[[], str]) -> None:
    arguments = ["--boxes", str(nets / "scr.onnx"), "--data", str(tmp_path), "--protocol", "given-class"]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, *more])
    assert caught.value.code == 2
    assert said in one_line()
