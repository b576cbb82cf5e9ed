"""Commands in surroundings of other people: their terminals' encodings, names of files, packages that are missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from infer.command import Parser, print_notes, run
from infer.errors import MissingPackage, Refused, UsageError, need, one_line


def refuse(error: Exception) -> int:
    raise error


def test_a_refusal_is_one_line_whatever_a_file_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\nb\r\x1b[31m\u2028\udcff.png"
    line = "a\\nb\\r\\x1b[31m\\u2028\\udcff.png: no image\n"
    assert run(Parser(prog="p"), lambda: refuse(Refused(f"{name}: no image"))) == 1
    assert capsys.readouterr().err == line
    with pytest.raises(SystemExit) as caught:
        run(Parser(prog="p"), lambda: refuse(UsageError(f"{name}: no image")))
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"p: {line}"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
    ],
    ids=str,
)
def test_want_of_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Parser(prog="p"), lambda: refuse(error)) == 1
    said = capsys.readouterr().err
    assert said.startswith("out of memory (") and said.endswith("limit)\n") and said.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("memory"), ValueError("5")], ids=str)
def test_what_is_wrong_with_a_program_stays_a_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run(Parser(prog="p"), lambda: refuse(error))


def test_a_note_is_one_line_whatever_a_folder_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    print_notes(["a\nb: left out: 1 .txt", "c"])
    assert capsys.readouterr().err == "a\\nb: left out: 1 .txt\nc\n"


@pytest.mark.parametrize("text", ["", "a b", "C:\\x", "Grün 中", "a\u00a0b"])
def test_what_a_terminal_can_show_stays(text: str) -> None:
    assert one_line(text) == text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_of_another_encoding_gets_escapes(encoding: str) -> None:
    code = "from infer.command import exit_with; exit_with(lambda: print('ü ± 中') or 0)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == "ü ± 中\n".encode(encoding, "backslashreplace")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        ("evaluation.ilsvrc", "pyarrow", "evaluation"),
        ("evaluation.features", "sklearn", "evaluation"),
        ("export.from_onnx", "onnx", "build"),
        ("export.from_torch", "onnxscript", "export"),
        ("export.from_caffe", "google.protobuf", "build"),
        ("export.from_caffe", "torch", "trainer"),
        ("export.from_torchvision", "torch", "trainer"),
        ("export.to_onnx", "torch", "trainer"),
        ("trainer", "tensorboard", "trainer"),
    ],
)
def test_a_missing_package_is_one_line_that_installs_it(command: str, module: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{module!r}] = None")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )
    line = f"{module}: not installed, expected the extra '{extra}': pip install 'verydeep[{extra}]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)


def test_a_program_that_imports_us_gets_an_exception() -> None:
    need("evaluation", "numpy")
    with pytest.raises(ImportError, match=r"no_such_package: not installed, .*pip install 'verydeep\[evaluation\]'"):
        need("evaluation", "numpy", "no_such_package")
    assert issubclass(MissingPackage, Refused)


@pytest.mark.processes
def test_ctrl_c_before_a_command_begins_is_a_line(tmp_path: Path) -> None:
    """While it imports what it needs."""
    (tmp_path / "jinja2.py").write_text("raise KeyboardInterrupt")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "evaluation.report", "x"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "interrupted\n")
