"""The names that our code touches of TensorRT's module exist in each library and release that it is for.

TensorRT is not installable here. Its names are frozen in tests/golden, from the bindings of the oldest and of the
newest release that we know; what we touch is recorded while TensorRT-RTX builds, directly and in TensorRT's place.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import TENSORRT_LISTS, Built, Watched, build_engine, frozen_api, frozen_parameters, tensorrt_double
from paths import GOLDEN

from export.tensorrt import build as trt_build
from export.tensorrt import build as trt_builder
from infer.tensorrt import log as trt_log

rtx = pytest.importorskip("tensorrt_rtx")

RTX_ONLY = {
    *("module.ComputeCapability", "IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability"),
    *(f"ComputeCapability.{name}" for name in rtx.ComputeCapability.__members__),
}
"""Behind `just_in_time` in the table."""
TENSORRT_ONLY = {
    *("module.HardwareCompatibilityLevel", "HardwareCompatibilityLevel.AMPERE_PLUS"),
    *("IBuilderConfig.hardware_compatibility_level", "IBuilderConfig.builder_optimization_level"),
    *("BuilderFlag.VERSION_COMPATIBLE", "IBuilderConfig.set_flag"),
    *("IBuilderConfig.create_timing_cache", "IBuilderConfig.set_timing_cache", "ITimingCache.serialize"),
}
"""Behind the options that the table refuses to TensorRT-RTX."""

RECEIVERS = {
    "trt": "module",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "layer": "ILayer",
    "tensor": "ITensor",
    "error": "ParserError",
    "cache": "ITimingCache",
    "timing_cache": "ITimingCache",
}
"""What our variables hold."""
NOT_REACHED = {
    *("OnnxParser.num_errors", "OnnxParser.get_error"),
    *("ParserError.node_operator", "ParserError.node_name", "ParserError.desc"),
    *("module.ILogger", "ITensor.name"),
}
"""Names in the source that no build here touches: what the parser says of a bad file, the logger, made once, and what
tells INT8 convolutions."""


def written(source: str) -> Iterator[str]:
    """Every `Class.attribute` in a source text, by the names of its variables."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute):
            continue
        if isinstance(node.value, ast.Name) and node.value.id in RECEIVERS:
            yield f"{RECEIVERS[node.value.id]}.{node.attr}"
        elif isinstance(node.value, ast.Attribute) and ast.unparse(node.value.value) == "trt":
            yield f"{node.value.attr}.{node.attr}"  # trt.BuilderFlag.TF32


def sources() -> set[str]:
    files = [*Path(trt_builder.__file__).parent.glob("*.py"), Path(str(trt_log.__file__))]
    return {name for file in files for name in written(file.read_text())}


def touched_by_rtx(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    touched: set[str] = set()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", Watched(rtx, "module", touched, None, {}))  # type: ignore[arg-type]
    argv = ("--builder", "tensorrt-rtx", "--target", "sm86", "--workspace", "4000")
    build_engine(built.engine.with_suffix(".onnx"), "-o", tmp_path / "m.engine", *argv)
    return touched


def touched_by_tensorrt(
    release: str, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: set[str] | None = None
) -> set[str]:
    """Fails at the first name that is not in the frozen list."""
    touched: set[str] = set()
    double = tensorrt_double(rtx, touched, frozen_api(release) if allowed is None else allowed)
    monkeypatch.setitem(sys.modules, "tensorrt", double)  # type: ignore[arg-type]
    monkeypatch.setitem(trt_log._MESSAGES, "tensorrt", trt_log.messages(rtx))
    monkeypatch.setattr(trt_build, "gpu_present", lambda: "sm89")
    argv = (
        "--workspace",
        "4000",
        "--optimization-level",
        "5",
        "--version-compatible",
        "--hardware-compatible",
        "ampere+",
    )
    cache = ("--timing-cache", tmp_path / "timing.cache")
    build_engine(built.engine.with_suffix(".onnx"), "-o", tmp_path / "m.engine", *argv, *cache)
    return touched


@pytest.mark.parametrize("release", TENSORRT_LISTS)
def test_every_name_exists_in_tensorrt(
    release: str, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched = touched_by_tensorrt(release, built, tmp_path, monkeypatch)
    assert touched >= TENSORRT_ONLY and not touched & RTX_ONLY
    assert sources() - RTX_ONLY <= frozen_api(release)
    assert not RTX_ONLY & frozen_api(release)  # or the table has grown old


def test_every_name_exists_in_tensorrt_rtx(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched = touched_by_rtx(built, tmp_path, monkeypatch)
    assert len(touched) > 40 and {"ComputeCapability.SM86", "BuilderFlag.TF32", "ITensor.dtype"} < touched
    assert not touched & TENSORRT_ONLY
    for name in sources():
        owner, _, attribute = name.partition(".")
        assert hasattr(rtx if owner == "module" else getattr(rtx, owner), attribute), name


def test_the_record_and_the_source_agree(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written in the source is what builds touch, so neither look misses anything."""
    with monkeypatch.context() as patch:
        touched = touched_by_rtx(built, tmp_path, patch)
    touched |= touched_by_tensorrt(TENSORRT_LISTS[-1], built, tmp_path, monkeypatch)
    touched = {name for name in touched if not name.endswith("__")}  # __init__, __name__, __version__
    by_value = {"ComputeCapability.SM86", "HardwareCompatibilityLevel.AMPERE_PLUS"}  # by getattr in the source
    concrete = {name for name in touched if name.startswith("I") and name.split(".")[0].endswith("Layer")}
    assert {f"ILayer.{name.split('.')[1]}" for name in concrete} <= sources()
    assert touched - concrete - by_value - sources() == set()
    written_too = {name for name in sources() if not name.startswith("ILayer.") and not name.endswith("__")}
    assert written_too - touched == NOT_REACHED


def test_a_name_that_tensorrt_lacks_is_noticed(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = frozen_api(TENSORRT_LISTS[-1]) - {"IBuilderConfig.set_memory_pool_limit"}
    with pytest.raises(AttributeError, match="set_memory_pool_limit: this TensorRT has no such name"):
        touched_by_tensorrt(TENSORRT_LISTS[-1], built, tmp_path, monkeypatch, without)


@pytest.mark.parametrize("release", TENSORRT_LISTS)
def test_every_call_has_as_many_arguments_as_tensorrt_takes(release: str) -> None:
    """By the docstrings of its bindings. `*entry` of a profile's shapes is min, opt and max."""
    known, compared = frozen_parameters(release), set()
    for node in ast.walk(ast.parse(Path(trt_builder.__file__).read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        method = f"{RECEIVERS.get(ast.unparse(node.func.value), '')}.{node.func.attr}"
        if method not in known:
            continue
        given = sum(3 if isinstance(argument, ast.Starred) else 1 for argument in node.args)
        ranges = [(sum(not word.endswith("?") for word in one), len(one)) for one in known[method]]
        assert any(least <= given <= most for least, most in ranges), f"{ast.unparse(node)}: {known[method]}"
        compared.add(method)
    assert len(compared) >= 15, compared


@pytest.mark.parametrize("release", TENSORRT_LISTS)
def test_the_lists_say_how_they_are_made(release: str) -> None:
    head = (GOLDEN / release).read_text().splitlines()[:3]
    assert head[1].startswith("# pip download --no-deps") and head[2].endswith(f"> tests/golden/{release}")
    assert len(frozen_api(release)) > 2000 and {"module.Builder", "BuilderFlag.TF32"} < frozen_api(release)
    assert ("BuilderFlag.FP16" in frozen_api(release)) == (release == "tensorrt_10_3_api.txt")
