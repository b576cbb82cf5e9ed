"""One logger for a library's builder and its runtimes: the library ignores any other while something of it lives."""

from __future__ import annotations

import hashlib
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cudasim
import pytest
from helpers import slim_spec
from plans import write_plan

from export.tensorrt.build import BuildError, build
from infer.engine import EngineError
from infer.tensorrt.library import LIBRARIES
from infer.tensorrt.log import messages
from infer.tensorrt.sidecar import Sidecar, SidecarContent, load_plan
from infer.views import crops_shape

rtx = pytest.importorskip("tensorrt_rtx")


def sidecar_of(path: Path) -> Sidecar:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    content = SidecarContent(spec={}, sha256=sha256, builder="tensorrt-rtx 1.7", targets=("sm86",), profiles=())
    return Sidecar(path, slim_spec("A"), (), content)


def test_a_builder_first_then_an_engine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The engine's error is read, and the library has no other logger to complain of."""
    path = tmp_path / "no.engine"
    path.write_bytes(b"no plan, but long enough to hold a header" * 4)
    builder = rtx.Builder(messages(rtx).logger)
    with caplog.at_level(logging.WARNING), pytest.raises(EngineError, match=r"cannot load it: .*Serialization") as seen:
        load_plan(rtx, sidecar_of(path))
    assert "it does not say why" not in str(seen.value)
    assert "differs from one already registered" not in caplog.text
    del builder


def test_the_builder_gets_the_logger_of_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def refuse(logger: Any) -> None:
        given.append(logger)
        raise RuntimeError("no builder today")

    flags = SimpleNamespace(STRONGLY_TYPED=0)
    double = SimpleNamespace(__name__="tensorrt_rtx", Builder=refuse, NetworkDefinitionCreationFlag=flags)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", double)  # type: ignore[arg-type]
    spec = slim_spec("A")
    with pytest.raises(BuildError, match="tensorrt-rtx cannot start: no builder today"):
        build(LIBRARIES["tensorrt-rtx"], Path("none.onnx"), spec, [crops_shape(spec)], ["sm86"])
    assert given == [messages(rtx).logger]


@pytest.mark.processes
def test_an_engine_after_the_builder_on_the_double(exported: Any, tmp_path: Path) -> None:
    """The double keeps the first logger for good: an engine that brought another would not know why it failed."""
    plan = write_plan(exported("A"), tmp_path)
    code = f"""
import hashlib, json, fake_tensorrt
from pathlib import Path
from infer.engine import EngineError; from infer.tensorrt.engine import TensorRTEngine
from infer.tensorrt.log import messages
from export.tensorrt.build import messages as messages_of_the_builder
trt = fake_tensorrt.install("tensorrt", "11.4.0.106")
builder = trt.Runtime(messages_of_the_builder(trt).logger)
plan, sidecar = Path({str(plan)!r}), Path({str(plan)!r} + ".json")
plan.write_bytes(b"something else")
digest = hashlib.sha256(b"something else").hexdigest()
sidecar.write_text(json.dumps({{**json.loads(sidecar.read_text()), "sha256": digest}}))
try:
    TensorRTEngine(plan)
except EngineError as error:
    print(error)
"""
    seen = cudasim.run(code, tmp_path)
    assert "cannot load it: Serialization assertion failed. Magic tag does not match" in seen.stdout, seen.stderr


def test_lines_of_a_build_and_errors_since(caplog: pytest.LogCaptureFixture) -> None:
    """Everything is kept during a build; afterwards errors alone, and warnings go to Python's logging."""
    log = messages(rtx)
    severity = rtx.ILogger.Severity
    with log.recording():
        log.logger.log(severity.INFO, "one\ntwo")
        log.logger.log(severity.WARNING, "three")
        log.logger.log(severity.INTERNAL_ERROR, "four \n five")
    assert log.lines == ["one", "two", "three", "four ", " five"] and not caplog.records
    log.logger.log(severity.INFO, "six")
    log.logger.log(severity.WARNING, "seven")
    log.logger.log(severity.ERROR, "eight")
    assert len(log.lines) == 5 and [record.message for record in caplog.records] == ["seven"]
    assert (log.errors(), log.errors(), log.said()) == ("four five; eight", "it does not say why", "")
