"""CUDA graphs and TensorRT-RTX's runtime cache, on the double and the simulated driver."""

from __future__ import annotations

import re
from pathlib import Path

import cudasim
import pytest
from helpers import Exported
from on_double import check, run
from plans import RTX, write_plan

from export.model.source import read_source
from infer.views import default_shapes

pytestmark = pytest.mark.processes


def test_runtime_cache_and_cuda_graphs_of_tensorrt_rtx(exported: Exported, tmp_path: Path) -> None:
    onnx, cache = exported("A"), tmp_path / "kernels.cache"
    code = f"""
    reference = OnnxEngine(Path({str(onnx)!r}))
    path = Path({str(write_plan(onnx, tmp_path, builder=RTX))!r})
    image, plan = noise(90, 130), plan_views(reference.spec, "ten-crop", (90, 130))
    for content in (None, b"of another GPU", b"cache kept"):
        if content: Path({str(cache)!r}).write_bytes(content)
        engine = TensorRTEngine(path, runtime_cache=Path({str(cache)!r}), cuda_graphs=True)
        same(engine.run(engine.load([image]), [plan]), reference.run(reference.load([image]), [plan]))
        engine.close()
        print(Path({str(cache)!r}).read_bytes())
    del engine
    """
    seen = run(code, tmp_path)
    check(seen)
    assert seen.stdout.splitlines() == ["b'cache of the double'", "b'cache of the double'", "b'cache kept'"]


def test_kernels_of_tensorrt_rtx_are_compiled_first_unless_asked_otherwise(exported: Exported, tmp_path: Path) -> None:
    """By default the first answer is the last one; a lazy engine's changes in its last bit, and its runtime says so."""
    onnx = exported("A")
    code = f"""
    from infer.open import open_engine
    reference = OnnxEngine(Path({str(onnx)!r}))
    path = Path({str(write_plan(onnx, tmp_path, builder=RTX))!r})
    image, plan = noise(90, 130), plan_views(reference.spec, "center", (90, 130))
    expected = reference.run(reference.load([image]), [plan], OUTPUTS)
    for lazy in (False, True):
        engine = open_engine(path, lazy_kernels=lazy, self_test=not lazy)
        if lazy:
            engine._warm_up = lambda *_: None  # so that the first run is the first
        found = [engine.run(engine.load([image]), [plan], OUTPUTS) for _ in range(3)]
        differing = [name for name in OUTPUTS if found[0][name].tobytes() != expected[name].tobytes()]
        assert np.allclose(found[0]["posterior"], expected["posterior"], rtol=1e-6)
        same(found[2], expected)
        print(engine.runtime, *differing)
        engine.close()
    try:
        open_engine(path, lazy_kernels=True, self_test=True)
    except EngineError as error:
        print(error)
    del engine
    """
    seen = run(code, tmp_path)
    check(seen)
    eager, lazy, refused = seen.stdout.splitlines()
    assert (eager, lazy) == ("tensorrt-rtx-fp32", "tensorrt-rtx-lazy-fp32 posterior posterior_positions")
    assert refused.endswith("a self-test proves the kernels that stay: leave lazy_kernels out")


@pytest.mark.parametrize("binding", cudasim.BINDINGS)
def test_cuda_graphs_of_tensorrt(binding: str, exported: Exported, tmp_path: Path) -> None:
    """A call whose shapes stay is launched as a graph from the third time on; other shapes in between end that.

    The engine has no profile of few crops, as those of earlier versions.
    """
    onnx = exported("A", interface="images")
    shapes = default_shapes(read_source(onnx).spec)
    code = f"""
    from cudasim import mark
    path = Path({str(write_plan(onnx, tmp_path, shapes))!r})
    reference, engine = OnnxEngine(Path({str(onnx)!r})), TensorRTEngine(path, cuda_graphs=True)
    ten, one = (plan_views(engine.spec, name, (90, 130)) for name in ("ten-crop", "center"))
    for plan in (ten, ten, ten, ten, one, ten, one, one, one):
        image = noise(90, 130, len(plan))
        mark()
        same(engine.run(engine.load([image]), [plan], OUTPUTS), reference.run(reference.load([image]), [plan], OUTPUTS))
    mark()
    engine.close()
    del engine
    """
    seen = run(code, tmp_path, binding=binding)
    check(seen)
    kinds = [[call.partition("(")[0] for call in calls] for calls in seen.between_marks()]
    assert [kind.count("cuGraphLaunch") for kind in kinds] == [0, 1, 1, 1, 0, 0, 0, 0, 1]
    assert sum(kind.count("cuStreamBeginCapture_v2") for kind in kinds) == 2


LEFT_OUT = "CUDA graphs are left out, kernels are launched one by one: "


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("cuStreamBeginCapture_v2:1=2", LEFT_OUT + "cuStreamBeginCapture failed: out of memory"),
        ("cuLaunchHostFunc:3=900", LEFT_OUT + ".*: tensorrt refused a run of profile few crops"),  # in the capture
        ("cuStreamEndCapture:1=901", LEFT_OUT + "cuStreamEndCapture failed: "),
        ("cuGraphInstantiateWithFlags:1=2", LEFT_OUT + "cuGraphInstantiate(WithFlags)? failed: out of memory"),
    ],
)
@pytest.mark.parametrize("binding", cudasim.BINDINGS)
def test_without_a_capture_calls_go_on(
    binding: str, fail: str, message: str, exported: Exported, tmp_path: Path
) -> None:
    """The call has run before it is captured, so nothing is lost; it is said once, and not tried again."""
    onnx = exported("A", interface="images")
    code = f"""
    import logging
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    path = Path({str(write_plan(onnx, tmp_path))!r})
    reference, engine = OnnxEngine(Path({str(onnx)!r})), TensorRTEngine(path, cuda_graphs=True)
    plan = plan_views(engine.spec, "center", (90, 130))
    for seed in range(5):
        image = noise(90, 130, seed)
        same(engine.run(engine.load([image]), [plan], OUTPUTS), reference.run(reference.load([image]), [plan], OUTPUTS))
    engine.close()
    del engine
    """
    seen = run(code, tmp_path, binding=binding, fail=fail)
    check(seen)
    (line,) = seen.stderr.splitlines()
    assert re.match(message, line)
    assert seen.count("cuStreamBeginCapture") == 1 and seen.count("cuGraphLaunch") == 0


@pytest.mark.parametrize("binding", cudasim.BINDINGS)
def test_a_graph_that_cannot_be_launched_is_told(binding: str, exported: Exported, tmp_path: Path) -> None:
    code = f"""
    engine = TensorRTEngine(Path({str(write_plan(exported("A", interface="images"), tmp_path))!r}), cuda_graphs=True)
    plan = plan_views(engine.spec, "center", (90, 130))
    for attempt in range(5):
        try:
            engine.run(engine.load([noise(90, 130)]), [plan])
            print("ran")
        except EngineError as error:
            print(error)
    engine.close()
    del engine
    """
    seen = run(code, tmp_path, binding=binding, fail="cuGraphLaunch:1=2")
    assert len(re.findall("cuGraphLaunch failed: out of memory", seen.stdout)) == 1 and seen.stdout.count("ran") == 4, (
        seen.stdout,
        seen.stderr,
    )
    check(seen)
