"""Options of a build: each acts, is refused by name, or is said to do nothing; each is in the sidecar."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import TENSORRT_LISTS, Built, Watched, build_engine, frozen_api, tensorrt_double

from export.tensorrt import build as trt_build
from export.tensorrt.build import HARDWARE, BuildOptions, OptionError, check_options, flag, set_options
from export.to_trt import main
from infer.tensorrt import log as trt_log
from infer.tensorrt.library import LIBRARIES, Library

rtx = pytest.importorskip("tensorrt_rtx")
OneLine = Callable[[], str]

GIVEN = {
    "workspace_mb": 4000,
    "optimization_level": 0,
    "timing_cache": Path("a.cache"),
    "version_compatible": True,
    "hardware_compatible": "ampere+",
}
NOTHING = {
    "workspace_mb": None,
    "optimization_level": None,
    "timing_cache": None,
    "version_compatible": False,
    "hardware_compatible": None,
}


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Watched:
    double = tensorrt_double(rtx, set(), frozen_api(TENSORRT_LISTS[-1]))
    monkeypatch.setitem(sys.modules, "tensorrt", double)  # type: ignore[arg-type]
    monkeypatch.setitem(trt_log._MESSAGES, "tensorrt", trt_log.messages(rtx))
    monkeypatch.setattr(trt_build, "gpu_present", lambda: "sm89")
    return double


# The table


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=lambda library: library.name)
@pytest.mark.parametrize("name", GIVEN)
def test_every_option_acts_or_is_refused_or_is_said_to_do_nothing(
    name: str, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)
    options = BuildOptions(**{name: GIVEN[name]})  # type: ignore[arg-type]
    if name in library.refuses:
        with pytest.raises(OptionError, match=f"{flag(name)}: {library.name} "):
            check_options(library, options)
        return
    checked, said = check_options(library, options)
    if checked == BuildOptions():
        assert (name, library.name) == ("timing_cache", "tensorrt-rtx")
        assert said == ["--timing-cache a.cache: tensorrt-rtx times no kernels, so it is not written"]
        return
    config = Config()
    set_options(rtx, config, dataclasses.replace(checked, timing_cache=None))
    assert checked == options and said == [] and (config.calls or name == "timing_cache")


class Config:
    """Notes what is set."""

    def __init__(self) -> None:
        self.__dict__["calls"] = []

    def __setattr__(self, name: str, value: Any) -> None:
        self.calls.append((name, value))

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append((name, *arguments))


def test_what_the_options_set() -> None:
    config = Config()
    set_options(rtx, config, BuildOptions(2048, 5, None, True, "same-compute-capability"))
    assert config.calls == [
        ("set_memory_pool_limit", rtx.MemoryPoolType.WORKSPACE, 2 * 1024**3),
        ("builder_optimization_level", 5),
        ("set_flag", rtx.BuilderFlag.VERSION_COMPATIBLE),
        ("hardware_compatibility_level", rtx.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY),
    ]
    untouched = Config()
    set_options(rtx, untouched, BuildOptions())
    assert untouched.calls == []
    assert all(hasattr(rtx.HardwareCompatibilityLevel, name) for name in HARDWARE.values())


def test_the_table_names_options_that_there_are() -> None:
    fields = {field.name for field in dataclasses.fields(BuildOptions)}
    assert set(GIVEN) == set(NOTHING) == fields
    for library in LIBRARIES.values():
        assert set(library.refuses) <= fields


# TensorRT-RTX


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--optimization-level", "0"], "--optimization-level: tensorrt-rtx makes the same plan at every level"),
        (
            ["--version-compatible"],
            "--version-compatible: tensorrt-rtx comes without the lean runtime that such a plan",
        ),
        (
            ["--hardware-compatible", "ampere+"],
            "--hardware-compatible: tensorrt-rtx takes GPUs by name instead: use --target sm80 sm86 sm89 sm120",
        ),
        (["--optimization-level", "6"], "argument --optimization-level: invalid choice: 6 (choose from"),
        (["--hardware-compatible", "all"], "argument --hardware-compatible: invalid choice: 'all'"),
        (["--workspace", "0"], "argument --workspace: expected a whole number of megabytes above 0, got '0'"),
        (["--workspace", "1.5"], "expected a whole number of megabytes above 0, got '1.5'"),
    ],
)
def test_refused(argv: list[str], message: str, built: Built, tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(built.engine.with_suffix(".onnx")), "-o", str(tmp_path / "m.engine"), *argv])
    assert message in one_line()
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_limit_acts(built: Built, tmp_path: Path, one_line: OneLine) -> None:
    argv = (built.engine.with_suffix(".onnx"), "-o", tmp_path / "m.engine", "--target", "sm86")
    made = build_engine(*argv, "--workspace", "4000", "--timing-cache", tmp_path / "a.cache")
    assert made.sidecar["options"] == {**NOTHING, "workspace_mb": 4000}
    assert made.printed[0].endswith("a.cache: tensorrt-rtx times no kernels, so it is not written")
    assert not (tmp_path / "a.cache").exists()
    (tmp_path / "m.engine").unlink()
    assert main([str(value) for value in (*argv, "--workspace", "1")]) == 1
    assert "m.engine" not in {path.name for path in tmp_path.iterdir()}
    error = one_line()
    assert (
        ": tensorrt-rtx could not build it within --workspace 1: " in error and "workspace" in error.split(": ", 2)[2]
    )


# TensorRT, by its double


def test_options_of_tensorrt(tensorrt: Watched, built: Built, tmp_path: Path) -> None:
    argv = ("--optimization-level", "0", "--version-compatible", "--hardware-compatible", "ampere+")
    made = build_engine(built.engine.with_suffix(".onnx"), "-o", tmp_path / "m.engine", *argv)
    expected = {"optimization_level": 0, "version_compatible": True, "hardware_compatible": "ampere+"}
    assert made.sidecar["options"] == {**NOTHING, **expected}
    assert made.printed[-1].endswith(" --versionCompatible")  # else trtexec does not let the plan bring its runtime


def test_tensorrt_10_3_lacks_one_kind_of_compatibility(
    built: Built, tmp_path: Path, one_line: OneLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JetPack 6's: said before anything is written. What it has still builds."""
    double = tensorrt_double(rtx, set(), frozen_api(TENSORRT_LISTS[0]))
    double.__version__ = "10.3.0"
    monkeypatch.setitem(sys.modules, "tensorrt", double)  # type: ignore[arg-type]
    monkeypatch.setitem(trt_log._MESSAGES, "tensorrt", trt_log.messages(rtx))
    monkeypatch.setattr(trt_build, "gpu_present", lambda: "sm87")
    argv = [str(built.engine.with_suffix(".onnx")), "-o", str(tmp_path / "m.engine"), "--hardware-compatible"]
    with pytest.raises(SystemExit, match="2"):
        main([*argv, "same-compute-capability"])
    assert one_line().endswith(
        "--hardware-compatible same-compute-capability: tensorrt 10.3.0 does not know it, only ampere+: use that, or "
        "a newer TensorRT"
    )
    assert list(tmp_path.iterdir()) == []
    assert build_engine(*argv, "ampere+").sidecar["builder"] == "tensorrt 10.3.0"


def test_a_timing_cache_goes_from_build_to_build(tensorrt: Watched, built: Built, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    argv = (built.engine.with_suffix(".onnx"), "-o", tmp_path / "m.engine", "--timing-cache", cache)
    made = build_engine(*argv)
    assert made.sidecar["options"] == {**NOTHING, "timing_cache": str(cache)}
    assert cache.read_bytes() == b"+1"
    build_engine(*argv)
    assert cache.read_bytes() == b"+1+1"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("m.engine", "m.engine.json", "m.inputs"),
        "timing.cache",
    }


def test_a_timing_cache_of_another_gpu(tensorrt: Watched, built: Built, tmp_path: Path, one_line: OneLine) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"of another GPU")
    digest = hashlib.sha256(cache.read_bytes()).digest()
    argv = (built.engine.with_suffix(".onnx"), "-o", tmp_path / "m.engine", "--timing-cache", cache)
    assert main([str(value) for value in argv]) == 1
    assert one_line() == (f"{cache}: not a timing cache of this version and this GPU: remove it, or name another file")
    assert hashlib.sha256(cache.read_bytes()).digest() == digest and len(list(tmp_path.iterdir())) == 1


def test_no_options_are_recorded_as_none(built: Built) -> None:
    assert built.sidecar["options"] == NOTHING
