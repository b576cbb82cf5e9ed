"""Progress of a build, and builds that Ctrl-C or SIGTERM end: one line, no traceback, nothing left behind."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from tqdm import tqdm

from export.model.source import read_source
from export.tensorrt.build import (
    BuildError,
    BuildOptions,
    Phases,
    build,
    interruptible,
    progress_bar,
    progress_monitor,
)
from infer.tensorrt.library import LIBRARIES
from infer.views import crops_shape

rtx = pytest.importorskip("tensorrt_rtx")
Checkpoints = Callable[..., Path]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.processes
def test_an_interrupted_build(sent: signal.Signals, slim_checkpoint: Checkpoints, tmp_path: Path) -> None:
    checkpoint = slim_checkpoint("A", width=1.0)
    engine = tmp_path / "model.engine"
    command = [sys.executable, "-m", "export.to_trt", checkpoint, "-o", engine, "--target", "sm75", "sm86", "sm120"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"{engine.with_suffix('.onnx')}: fp16, ")  # now it builds
        time.sleep(0.3)
        process.send_signal(sent)
        sent_at = time.monotonic()
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout, stderr) == (130, "", "interrupted\n")
    assert time.monotonic() - sent_at < 20
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.check.onnx"}
    onnx.checker.check_model(tmp_path / "model.onnx")


def test_an_interrupted_build_leaves_the_old_engine(slim_checkpoint: Checkpoints, tmp_path: Path) -> None:
    """The monitor's answer is what ends it: here from its third step on."""
    from export import to_trt
    from export.tensorrt import build
    from export.tensorrt.sidecar import write_engine

    write_engine(tmp_path / "model.engine", b"old", {})
    real = build.progress_monitor

    def impatient(trt: Any, bar: Any, stop: threading.Event) -> Any:
        threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT]).start()
        return real(trt, bar, stop)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build, "progress_monitor", impatient)
        to_trt.main([str(slim_checkpoint("A")), "-o", str(tmp_path / "model.engine"), "--target", "sm86"])
    assert {path.name for path in tmp_path.iterdir()} == {
        *("model.engine", "model.engine.json", "model.onnx", "model.check.onnx")
    }
    assert (tmp_path / "model.engine").read_bytes() == b"old"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.processes
def test_a_bar_on_a_terminal_and_none_in_a_pipe(single: Path, tmp_path: Path) -> None:
    argv = ["--precision", "fp32", "--target", "sm86", "-o", tmp_path / "m.engine"]
    command = [sys.executable, "-m", "export.to_trt", single, *argv]
    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert piped.stderr == ""
    terminal, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.set_blocking(terminal, False)
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=child, text=True, check=True)
    seen = os.read(terminal, 100_000).decode()
    os.close(child)
    os.close(terminal)
    shares = [int(share) for share in re.findall(r"building +(\d+) %\|", seen)]
    assert shares[0] == 0 and shares[-1] > 50 and shares == sorted(shares)
    assert "\n" not in seen and "\x1b[A" not in seen  # one bar, in one line
    assert [line.split(": ")[0] for line in process.stdout.splitlines()] == [
        str(tmp_path / "m.engine"),
        "run it there with real inputs",
    ]


# The share that is done


def test_phases_within_phases() -> None:
    phases = Phases()
    phases.start("all", None, 4)
    assert phases.done == 0
    phases.step("all", 0)
    assert phases.done == 1 / 4
    phases.start("part", "all", 2)
    phases.step("part", 0)
    assert phases.done == 1 / 4 + 1 / 8
    phases.step("part", 1)
    phases.start("next to it", "all", 10)
    phases.step("next to it", 8)
    assert phases.done == 2 / 4  # never beyond the step that they are within
    phases.finish("part")
    phases.finish("next to it")
    phases.start("again", "all", 100)
    phases.step("again", 0)
    assert phases.done == 2 / 4  # never back
    phases.finish("unknown")
    phases.step("unknown", 1)
    phases.finish("all")
    assert phases.done == 1


def test_the_monitor_says_stop() -> None:
    stop = threading.Event()
    with tqdm(total=1.0, disable=True) as bar:
        made = progress_monitor(rtx, bar, stop)
        made.phase_start("Building engine", None, 2)
        assert made.step_complete("Building engine", 0)
        stop.set()
        assert not made.step_complete("Building engine", 1)
        made.phase_finish("Building engine")
    with progress_bar() as bar:
        assert bar.total == 1.0 and bar.disable  # no terminal here


# Interrupts


def test_the_real_builder_obeys(single: Path) -> None:
    """Its own words for a build that the monitor has ended."""
    stop = threading.Event()
    stop.set()
    spec = read_source(single).spec
    with pytest.raises(BuildError, match=r"tensorrt-rtx could not build it: .*Build canceled by user"):
        build(LIBRARIES["tensorrt-rtx"], single, spec, [crops_shape(spec)], ["sm86"], BuildOptions(), stop)


def test_work_is_told_to_stop_and_waited_for() -> None:
    ended = []

    def work(stop: threading.Event) -> None:
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(10)
        time.sleep(0.05)
        ended.append(threading.current_thread())

    with pytest.raises(KeyboardInterrupt):
        interruptible(work)
    assert ended and ended[0] is not threading.main_thread()


def test_results_and_errors_of_work_come_through() -> None:
    assert interruptible(lambda stop: stop.is_set()) is False
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda stop: 1 // 0)
