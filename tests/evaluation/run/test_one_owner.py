"""One run owns its OUT: a second one of any command is told who holds it, and commands refuse each other's OUT."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluation import fuse, ilsvrc, localization
from evaluation.errors import RunError
from evaluation.features.__main__ import main as features
from evaluation.localization.__main__ import main as localize
from evaluation.run.store import check_out
from export import from_caffe, from_onnx, from_torch, from_torchvision, to_onnx, to_trt
from trainer import chain, statistics
from trainer.__main__ import main as train
from trainer.miniature.__main__ import main as make_miniature

HOLD = """
import contextlib, sys
from pathlib import Path
from infer.processes.owned import own_file, own_folder
root = Path(sys.argv[1])
with contextlib.ExitStack() as stack:
    stack.enter_context(own_folder(root / "out"))
    for name in ("f.parquet", "m.onnx", "m.pt", "m.engine", "data", "s.json"):
        stack.enter_context(own_file(root / name))
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A folder in which another process owns all that is written, and its id."""
    root = tmp_path_factory.mktemp("held")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(root)], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "held\n"
        yield root, process.pid
        process.communicate()
    assert [path.name for path in root.iterdir()] == []


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "ilsvrc": (ilsvrc.main, "--engine x.onnx --data d --protocol center --out {}/out"),
    "localization": (localize, "--boxes x.onnx --data d --protocol given-class --out {}/out"),
    "features": (features, "extract --engine x.onnx --data d --scales 72 -o {}/f.parquet"),
    "fuse": (fuse.main, "a.parquet b.parquet -o {}/f.parquet"),
    "trainer": (train, "--recipe mini-a --data d --out {}/out --final-protocol none"),
    "chain": (chain.main, "--mini --data d --out {}/out"),
    "miniature": (make_miniature, "{}/data"),
    "statistics": (statistics.main, "--data d -o {}/s.json"),
    "to_onnx": (to_onnx.main, "x.pt -o {}/m.onnx"),
    "to_trt": (to_trt.main, "x.onnx -o {}/m.engine"),
    "from_onnx": (from_onnx.main, "x.onnx --mean 1,1,1 --std 1,1,1 --filter bilinear --classes n.txt -o {}/m.onnx"),
    "from_torch": (from_torch.main, "x.pt2 --mean 1,1,1 --std 1,1,1 -o {}/m.onnx"),
    "from_caffe": (from_caffe.main, "x.prototxt x.caffemodel -o {}/m.pt"),
    "from_torchvision": (from_torchvision.main, "--net D x.pth -o {}/m.pt"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_second_run_says_who_holds_it(command: str, held: tuple[Path, int], one_line: Any) -> None:
    (main, words), (root, holder) = COMMANDS[command], held
    before = sorted(root.rglob("*"))
    assert main(words.format(root).split()) == 1
    assert re.search(rf": process {holder} on .* writes there: wait until it has ended, or use another", one_line())
    assert sorted(root.rglob("*")) == before


@pytest.mark.processes
def test_a_kill_of_the_parent_alone_does_not_keep_its_resume_out(
    exported: Callable[..., Path], miniature_dir: Path, tmp_path: Path
) -> None:
    words = ["--engine", str(exported("A")), "--data", str(miniature_dir), "--protocol", "multicrop", "--device", "0,1"]
    command = [sys.executable, "-m", "evaluation.ilsvrc", *words, "--resume", "--out"]
    out, whole = tmp_path / "out", tmp_path / "whole"
    process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workers: list[int] = []
    while not list((out / "unfinished").glob("*/*.parquet")):
        assert process.poll() is None
        workers = children(process.pid) or workers  # they may end with the last shard
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert ilsvrc.main([*words, "--resume", "--out", str(out)]) == 0
    assert ilsvrc.main([*words, "--out", str(whole)]) == 0
    one, other = ({path.name: path.read_bytes() for path in (at / "scores").iterdir()} for at in (out, whole))
    assert one == other
    assert workers and not [worker for worker in workers if (Path("/proc") / str(worker) / "exe").exists()]


def children(parent: int) -> list[int]:
    """The workers of a process: not multiprocessing's tracker, which ends with its pipe."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # one that has ended since
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and b"spawn_main" in path.with_name("cmdline").read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("kind", [None, localization.table.KIND])
def test_no_command_replaces_the_report_of_another(kind: str | None, tmp_path: Path) -> None:
    check_out(tmp_path, kind)
    contents = {
        None: {"dataset": {}, "results": []},
        "localization": {"kind": "localization"},
        "other": {"kind": "more"},
    }
    for owner, content in contents.items():
        (tmp_path / "report.json").write_text(json.dumps(content))
        if owner == kind:
            check_out(tmp_path, kind)
        else:
            with pytest.raises(RunError, match=r"report\.json: a report of another command, which would be lost"):
                check_out(tmp_path, kind)
    for content in ("[]", "{", '{"kind": 3}', "[" * 100_000):
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(RunError, match=r"json: no report, or a damaged one: remove it, or use another --out"):
            check_out(tmp_path, kind)
    for content in ("", "\0" * 9):  # as a loss of power leaves it
        (tmp_path / "report.json").write_text(content)
        check_out(tmp_path, kind)


def test_no_command_begins_where_another_did(tmp_path: Path, one_line: Any) -> None:
    for name in ("unfinished", "unfinished-boxes"):
        (tmp_path / name / name).mkdir(parents=True)
    boxes = ["--boxes", "x.onnx", "--data", "d", "--protocol", "given-class", "--out", str(tmp_path / "unfinished")]
    scores = ["--engine", "x.onnx", "--data", "d", "--protocol", "center", "--out", str(tmp_path / "unfinished-boxes")]
    for main, words in ((localize, boxes), (ilsvrc.main, scores)):
        assert main(words) == 1
        assert "another command has begun here: remove that folder, or use another --out" in one_line()


@pytest.mark.parametrize("name", ["unfinished", "mistakes"])
def test_what_is_not_ours_in_out_stops_a_run_before_it_begins(
    name: str, exported: Callable[..., Path], miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = tmp_path / name / "draft.txt"
    draft.parent.mkdir()
    draft.write_text("mine")
    words = ["--engine", str(exported("A")), "--data", str(miniature_dir), "--protocol", "center"]
    assert ilsvrc.main([*words, "--out", str(tmp_path)]) == 1
    assert f"{draft}: is not of ours, and {draft.parent} would be removed" in capsys.readouterr().err
    assert draft.read_text() == "mine" and not (tmp_path / "scores").exists()


def test_o_replaces_no_file_of_another_kind(tmp_path: Path, one_line: Any) -> None:
    out = tmp_path / "photo.jpg"
    out.write_bytes(b"a photograph")
    for main, words in (
        (features, ["extract", "--engine", "x.onnx", "--data", "d", "--scales", "72"]),
        (fuse.main, ["a.parquet", "b.parquet"]),
    ):
        assert main([*words, "-o", str(out)]) == 1
        assert "it is not replaced: remove it, or use another -o" in one_line()
    assert out.read_bytes() == b"a photograph"
