"""TensorRT as an engine, on a double of TensorRT's runtime (fake_tensorrt.py) and the simulated CUDA driver.

The double computes with ONNX Runtime, so an engine's answers must be those of the ONNX engine, byte for byte; what is
copied, waited for and left behind is read from the driver's log.
"""

from __future__ import annotations

import enum
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cudasim
import fake_tensorrt
import pytest
from cudasim import BINDINGS, Seen
from engines import TENSORRT_LISTS, frozen_api

from export import sidecar
from export.onnx_source import read_source
from export.profiles import profile_entries, shapes_from_options
from export.trt_builder import Plan
from export.trt_options import BuildOptions
from infer.spec import ShapeRange

Exported = Callable[..., Path]
BUILDERS = {"tensorrt": "11.4.0.106", "tensorrt-rtx": "1.7.1.116"}


def write_plan(
    onnx: Path, folder: Path, shapes: Sequence[ShapeRange] = (), builder: str = "tensorrt", **changes: Any
) -> Path:
    """A plan of the double for an ONNX model, with a sidecar as export.to_trt writes it, for sm86."""
    source = read_source(onnx)
    shapes = shapes or shapes_from_options(source.spec)
    data = fake_tensorrt.plan(onnx, [profile_entries(shape, source.spec.interface) for shape in shapes])
    plan = Plan(data, f"{builder} {BUILDERS[builder]}", 0, 0, 0, 0, (None,) * len(shapes))
    content = sidecar.content(source, plan, shapes, ["sm86"], BuildOptions())
    path = folder / f"{onnx.stem}.engine"
    sidecar.write_engine(path, data, {**content, **changes})
    return path


PRELUDE = r"""
import numpy as np, fake_tensorrt
from pathlib import Path
from infer.engine import EngineError
from infer.onnx_engine import OnnxEngine
from infer.views import PROTOCOLS, View, ViewPlan, plan_views
from infer.tensorrt_engine import TensorRTEngine
fake_tensorrt.install("tensorrt", "11.4.0.106")
fake_tensorrt.install("tensorrt_rtx", "1.7.1.116")

def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)

def same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype and found[name].shape == expected[name].shape, name
        assert found[name].tobytes() == expected[name].tobytes(), (name, np.abs(found[name] - expected[name]).max())

OUTPUTS = ("posterior", "posterior_positions", "pixel_sums")
"""

END = "\nassert not fake_tensorrt.live(), fake_tensorrt.live()\n"


def run(code: str, folder: Path, **options: Any) -> Seen:
    return cudasim.run(PRELUDE + textwrap.dedent(code) + END, folder, **options)


def check(seen: Seen) -> None:
    """Ended well, kept every contract, left nothing: of the driver's nor of TensorRT's."""
    assert "BREACH" not in seen.stderr, seen.stderr
    seen.check()


@pytest.mark.parametrize(
    ("interface", "binding", "builder"),
    [
        ("views", "pycuda", "tensorrt"),
        ("views", "cuda-python", "tensorrt-rtx"),
        ("images", "cuda-python", "tensorrt"),
        ("nchw", "pycuda", "tensorrt-rtx"),
    ],
)
def test_every_protocol_answers_as_the_onnx_engine_byte_for_byte(
    interface: str, binding: str, builder: str, exported: Exported, tmp_path: Path
) -> None:
    onnx = exported("A", interface=interface)
    plan = write_plan(onnx, tmp_path, builder=builder)
    code = f"""
    reference, engine = OnnxEngine(Path({str(onnx)!r})), TensorRTEngine(Path({str(plan)!r}))
    for name in PROTOCOLS:
        sizes = [(90, 130), (140, 80)] if name != "center" else [(90, 130), (140, 80), (75, 75), (64, 90), (300, 70)]
        images = [noise(*size, seed) for seed, size in enumerate(sizes)]
        plans = [plan_views(engine.spec, name, size) for size in sizes]
        same(engine.run(engine.load(images), plans, OUTPUTS), reference.run(reference.load(images), plans, OUTPUTS))
    assert engine.seconds > 0
    print(engine.runtime, engine.device, engine.sha256[:4], [shape.name for shape in engine.shapes])
    engine.close()
    engine.close()
    del engine"""
    seen = run(code, tmp_path, binding=binding)
    check(seen)
    assert seen.stdout.startswith(f"{builder}-fp32 cuda:0 ")
    assert not any("pageable" in call for call in seen.calls)


def classes() -> dict[str, type]:
    """The double's own, but for what is private."""
    own = vars(fake_tensorrt).items()
    return {k: v for k, v in own if isinstance(v, type) and v.__module__ == "fake_tensorrt" and not k.startswith("_")}


def members(owner: type) -> dict[str, Any]:
    """Public methods, properties and values of a class of the double."""
    if issubclass(owner, enum.Enum):
        return dict(owner.__members__)
    kept = {name: value for name, value in vars(owner).items() if not name.startswith("_")}
    attributes = (
        re.findall(r"self\.([a-z]\w*) = ", inspect.getsource(owner.__init__)) if "__init__" in vars(owner) else []
    )
    return kept | {name: None for name in attributes}


RTX_ONLY = {
    *("module.IRuntimeCache", "IRuntimeCache.serialize", "IRuntimeCache.deserialize", "module.CudaGraphStrategy"),
    *("CudaGraphStrategy.DISABLED", "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE", "IRuntimeConfig.cuda_graph_strategy"),
    *("IRuntimeConfig.create_runtime_cache", "IRuntimeConfig.set_runtime_cache", "module.IRuntimeConfig"),
    *("IRuntimeConfig.set_execution_context_allocation_strategy", "ICudaEngine.create_runtime_config"),
}
"""Behind runtime_cache and cuda_graphs, which are refused for plans of tensorrt."""
OURS = {"ILogger.started"}


def names() -> set[str]:
    found = {f"module.{name}" for name in (*classes(), "nptype")}
    found |= {f"{name}.{member}" for name, owner in classes().items() for member in members(owner)}
    return found - OURS


@pytest.mark.parametrize("release", TENSORRT_LISTS)
def test_every_name_of_the_double_exists_in_tensorrt(release: str) -> None:
    assert names() - frozen_api(release) <= RTX_ONLY


def test_every_name_and_signature_of_the_double_is_that_of_tensorrt_rtx() -> None:
    """The real module says its signatures in the first lines of its docstrings."""
    rtx = pytest.importorskip("tensorrt_rtx")
    compared = 0
    for name, owner in classes().items():
        real = getattr(rtx, name)
        for member, value in members(owner).items():
            if f"{name}.{member}" in OURS:
                continue
            assert hasattr(real, member), f"{name}.{member}"
            if not inspect.isfunction(value) or name == "ILogger":
                continue
            said = re.findall(
                rf"^(?:\d+\. )?{member}\(self: [\w.]+(.*)\) -> ", getattr(real, member).__doc__, re.MULTILINE
            )
            parameters = [re.findall(r", (\w+): ", text) for text in said]
            assert list(inspect.signature(value).parameters)[1:] in parameters, f"{name}.{member}: {said}"
            compared += 1
    assert compared >= 17
    assert callable(rtx.nptype) and issubclass(rtx.IRuntimeCache, object)
