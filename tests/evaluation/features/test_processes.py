"""Features by several processes, or on a Ray of this machine: the same bytes as by one."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from feature_sets import voc
from helpers import encode, noise

from evaluation.features import table as feature_table
from evaluation.features.__main__ import main
from evaluation.run import loop

Exported = Callable[..., Path]
OneLine = Callable[[], str]


@pytest.fixture(autouse=True)
def _a_shard_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that both processes have some."""
    monkeypatch.setattr(loop, "GROUP", 1)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Images of more than one shard in two classes; one is damaged."""
    for number in range(feature_table.PART + 6):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(noise((70 + number % 9, 80), number), "PNG") if number != 7 else b"no image")
    return tmp_path / "data"


def command(engines: list[Path], data: Path, out: Path, *more: str) -> list[str]:
    named = [word for engine in engines for word in ("--engine", str(engine))]
    return ["extract", *named, "--data", str(data), "--scales", "72,80", "-o", str(out), *more]


@pytest.mark.processes
def test_two_processes_change_nothing(exported: Exported, folders: Path, tmp_path: Path, one_line: OneLine) -> None:
    engines = [exported("A"), exported("B")]
    for name, more in (("one", []), ("two", ["--device", "0,1", "--workers", "2"])):
        assert main(command(engines, folders, tmp_path / f"{name}.parquet", *more)) == 0
        assert "7.png: is not an image we can decode" in one_line()
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
    assert not multiprocessing.active_children() and not (tmp_path / "two.parquet.parts").exists()


def test_people_and_their_boxes_by_two_processes(exported: Exported, tmp_path: Path) -> None:
    root = voc(tmp_path / "VOC2012", images=feature_table.PART + 6)
    more = ["--kind", "voc-action", "--regions", "image+box"]
    for name, devices in (("one", "0"), ("two", "0,1")):
        assert main(command([exported("A")], root, tmp_path / f"{name}.parquet", *more, "--device", devices)) == 0
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.usefixtures("alone_on_ray")
def test_two_actors_change_nothing(exported: Exported, folders: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is in the extra `distributed`")
    words = command([exported("A")], folders, tmp_path / "ray.parquet", "--ray", "auto", "--ray-actors", "2")
    done = subprocess.run(
        [sys.executable, "-m", "evaluation.features", *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1, done.stderr
    assert main(command([exported("A")], folders, tmp_path / "whole.parquet")) == 0
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ray", "auto", "--device", "0,1"], "--ray and --device exclude each other"),
        (["--ray-actors", "2"], "--ray-actors is for --ray"),
        (["--device", "0,0"], "expected different numbers of GPUs like 0,1, got '0,0'"),
    ],
)
def test_usage(more: list[str], said: str, folders: Path, tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(SystemExit) as caught:
        main(command([tmp_path / "a.onnx"], folders, tmp_path / "f.parquet", *more))
    assert caught.value.code == 2
    assert said in one_line()
