"""Wrong host programs, one for each rule of CUDA and TensorRT that a double keeps: each is caught.

PROGRAM is right: it runs one image through a plan, twice, then as a CUDA graph, and compares with ONNX Runtime. Every
fault is a change of one place in it. It is caught where the double ends the process, the simulated driver reports a
fault, a call is refused, or the answer is not the right one: what a user would see late, or never.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import NamedTuple

import cudasim
import pytest
from helpers import Exported
from plans import RTX, TENSORRT, write_plan

from export.tensorrt.build import BuildOptions

pytestmark = pytest.mark.processes

PROGRAM = r"""
import sys
from pathlib import Path
import numpy as np
import fake_tensorrt
from infer.cuda.device import Device
from infer.graph_inputs import feed_taps
from infer.onnx_engine import OnnxEngine
from infer.tensorrt.log import messages
from infer.views import ViewPlan, View

trt = fake_tensorrt.install("tensorrt", "11.4.0.106")
reference = OnnxEngine(Path(ONNX), rescale="graph")
REGIONS = ("rows", "cols", "region_col_taps", "region_row_first", "region_row_taps")
image = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
view = View(72, (0, 0, 64, 64))
feed = feed_taps(image, (72, 104), reference.spec.preprocessing.filter, [(view.cut, False)], regions=True)
right = reference.run(reference.load([image]), [ViewPlan("one", (90, 130), (view,))])["posterior"]

device = Device()
with device.current():
    stream, other = device.stream(), device.stream()
    done, early = device.event(), device.event()

    log = messages(trt)
    runtime = trt.Runtime(log.logger)
    engine = runtime.deserialize_cuda_engine(Path(PLAN).read_bytes())
    if engine is None:
        sys.exit("refused: " + log.said())
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    chosen = context.set_optimization_profile_async(0, stream.address)
    if not chosen:
        sys.exit("refused: " + log.said())

    # shapes, memory for activations, inputs, outputs
    for name, array in feed.items():
        if not context.set_input_shape(name, array.shape):
            sys.exit("refused: " + log.said())
    missing = context.infer_shapes()
    needed = context.update_device_memory_size_for_shapes()
    scratch = device.allocate(needed + 256)
    context.set_device_memory(scratch.address, needed)
    sources, inputs = {}, {}
    for name, array in feed.items():
        sources[name], inputs[name] = device.pin(array.nbytes), device.allocate(array.nbytes)
        sources[name].array[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        context.set_tensor_address(name, inputs[name].address)
    outputs = {}
    for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
        if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
            nbytes = int(np.prod(context.get_tensor_shape(name))) * 4
            outputs[name] = device.allocate(nbytes)
            context.set_tensor_address(name, outputs[name].address)

    def upload():
        for name, source in sources.items():
            device.driver.copy_in(inputs[name].address, source.array, stream)
        device.driver.record(early, stream)

    def enqueue():
        if not context.execute_async_v3(stream.address):
            sys.exit("refused: " + log.said())

    def result():
        posterior = device.pin(right.nbytes)
        device.driver.copy_out(posterior.array, outputs["posterior"].address, stream)
        device.driver.record(done, stream)
        device.driver.synchronize(done)
        return posterior.array.view(np.float32).reshape(right.shape).copy()

    upload()
    enqueue()
    first = result()
    enqueue()
    second = result()
    graph = device.capture(stream, enqueue)
    device.driver.launch(graph, stream)
    third = result()
    answers = [first, second, third]
    same = all(answer.tobytes() == right.tobytes() for answer in answers)
    print("right" if same else "wrong", device.driver.reached(done))
    device.free(graph)
    del context, engine, runtime
device.close()
"""


class Fault(NamedTuple):
    """A change of PROGRAM, and what is said of it; `plan` in place of the ordinary one."""

    rule: str
    old: str
    new: str
    said: str
    plan: str = "plain"
    settings: tuple[tuple[str, str], ...] = ()


BREACH = "BREACH OF CONTRACT: "
OUTPUT = "    outputs = {}\n"

FAULTS = [
    # the runtime
    Fault("a plan with code is loaded without a word", "", "", "refused: Cannot deserialize engine with lean", "code"),
    Fault(
        "code is allowed to every plan",
        "    engine = runtime",
        "    runtime.engine_host_code_allowed = True\n    engine = runtime",
        BREACH + "host code allowed for a plan that has none",
    ),
    Fault("a logger that is none", "trt.Runtime(log.logger)", "trt.Runtime(object())", "TypeError"),
    Fault("a file that is no plan", "Path(PLAN)", "Path(ONNX)", "refused: Serialization assertion failed"),
    Fault(
        "loading without a context",
        "    engine = runtime",
        "    device.driver.pop()\n    engine = runtime",
        BREACH + "deserialize_cuda_engine without a current CUDA context",
    ),
    # contexts and profiles
    Fault(
        "a context that allocates for all profiles",
        "Strategy.USER_MANAGED",
        "Strategy.STATIC",
        BREACH + "a context that allocates by itself",
    ),
    Fault(
        "a context without a current CUDA context",
        "    context = engine.create",
        "    device.driver.pop()\n    context = engine.create",
        BREACH + "create_execution_context without a current CUDA context",
    ),
    Fault(
        "shapes before a profile",
        "    chosen = context.set_optimization_profile_async(0, stream.address)",
        "    chosen = True",
        BREACH + "an input's shape before a profile is chosen",
    ),
    Fault("a profile that is none", "async(0, stream", "async(9, stream", "refused: no profile 9"),
    Fault(
        "two contexts of one profile",
        "    # shapes,",
        "    twin = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)\n"
        "    twin.set_optimization_profile_async(0, stream.address)\n    # shapes,",
        BREACH + "two contexts with profile 0",
    ),
    Fault(
        "the profile changes after the shapes",
        OUTPUT,
        "    context.set_optimization_profile_async(1, stream.address)\n" + OUTPUT,
        BREACH + "the shape of posterior before all inputs have theirs",
    ),
    # shapes
    Fault(
        "a shape beyond the profile",
        "    missing =",
        "    if not context.set_input_shape('rows', (99, 64)): sys.exit('refused: ' + log.said())\n    missing =",
        "refused: setInputShape: rows of (99, 64) does not satisfy profile 0",
    ),
    Fault(
        "an input without a shape",
        "    for name, array in feed.items():\n        if not",
        "    for name, array in list(feed.items())[:-1]:\n        if not",
        BREACH + "the size of activations before all inputs have their shapes",
    ),
    Fault(
        "one dimension with two sizes",
        "    missing =",
        "    context.set_input_shape('col_first', (103,))\n    missing =",
        BREACH + "width is 104 in col_taps and 103 in another input",
    ),
    # memory for activations
    Fault(
        "activations of other shapes",
        "    enqueue()\n    first",
        "    for name, array in feed.items():\n"
        "        shape = (*array.shape[:-2], 2, 64) if name in REGIONS else array.shape\n"
        "        context.set_input_shape(name, shape)\n"
        "    enqueue()\n    first",
        BREACH + "a run with",
    ),
    Fault(
        "activations that nobody sized",
        "    needed = context.update_device_memory_size_for_shapes()",
        "    needed = 1 << 20",
        BREACH + "a run with 1048576 bytes of activations",
    ),
    Fault(
        "activations that are too small",
        "set_device_memory(scratch.address, needed)",
        "set_device_memory(scratch.address, needed - 1)",
        BREACH + "a run with",
    ),
    Fault(
        "activations off the grid of 256 bytes",
        "set_device_memory(scratch.address, needed)",
        "set_device_memory(scratch.address + 8, needed)",
        "which is not aligned to 256 bytes",
    ),
    Fault(
        "activations beyond their block",
        "set_device_memory(scratch.address, needed)",
        "set_device_memory(scratch.address + 256, needed + 256)",
        BREACH + "activations of",
    ),
    Fault(
        "activations that were given back",
        "    enqueue()\n    second",
        "    device.free(scratch)\n    enqueue()\n    second",
        "activations: device memory",
    ),
    Fault(
        "one block of activations on two streams",
        "    upload()\n",
        "    second_context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)\n"
        "    second_context.set_optimization_profile_async(1, other.address)\n"
        "    for name, array in feed.items():\n"
        "        size = 96 if 'col' in name else 72\n"
        "        shape = (*array.shape[:-1], size) if name in REGIONS else array.shape\n"
        "        assert second_context.set_input_shape(name, shape), log.said()\n"
        "    size = second_context.update_device_memory_size_for_shapes()\n"
        "    block = device.allocate(size + needed)\n"
        "    for one in (context, second_context): one.set_device_memory(block.address, size + needed)\n"
        "    for name, memory in {**inputs, **{n: device.allocate(1 << 20) for n in outputs}}.items():\n"
        "        second_context.set_tensor_address(name, memory.address)\n"
        "    big = device.allocate(1 << 20)\n"
        "    for name in REGIONS: second_context.set_tensor_address(name, big.address)\n"
        "    context.execute_async_v3(stream.address)\n"
        "    second_context.execute_async_v3(other.address)\n"
        "    upload()\n",
        BREACH + "one block of activations on two streams",
    ),
    # addresses
    Fault(
        "an input without an address",
        "        context.set_tensor_address(name, inputs[name].address)",
        "        name == 'cols' or context.set_tensor_address(name, inputs[name].address)",
        BREACH + "a run without an address for cols",
    ),
    Fault(
        "an output without an address",
        "            context.set_tensor_address(name, outputs[name].address)",
        "            name == 'posterior' and context.set_tensor_address(name, outputs[name].address)",
        BREACH + "a run without an address for",
    ),
    Fault(
        "an address off the grid of 256 bytes",
        "context.set_tensor_address(name, inputs[name].address)",
        "context.set_tensor_address(name, inputs[name].address + 4)",
        "which is not aligned to 256 bytes",
    ),
    Fault(
        "an output that does not fit",
        "outputs[name] = device.allocate(nbytes)",
        "outputs[name] = device.allocate(nbytes - 1)",
        "bytes, the driver knows",
    ),
    Fault(
        "an address of the host",
        "context.set_tensor_address(name, inputs[name].address)",
        "context.set_tensor_address(name, sources[name].address & ~255)",
        "bytes, the driver knows 0 there",
    ),
    Fault(
        "an input that was given back",
        "    upload()\n    enqueue()\n    first",
        "    upload()\n    device.driver.record(done, stream); device.driver.synchronize(done)\n"
        "    device.free(inputs['image'])\n    enqueue()\n    first",
        "bytes, the driver knows 0 there",
    ),
    # streams
    Fault(
        "the default stream", "execute_async_v3(stream.address)", "execute_async_v3(0)", BREACH + "a run on the default"
    ),
    Fault(
        "another stream than the profile's",
        "execute_async_v3(stream.address)",
        "execute_async_v3(other.address)",
        BREACH + "a run on another stream",
    ),
    Fault(
        "a run without a context",
        "    upload()\n    enqueue()\n    first",
        "    upload()\n    device.driver.pop()\n    enqueue()\n    first",
        BREACH + "execute_async_v3 without a current CUDA context",
    ),
    Fault("an upload on another stream", "source.array, stream)", "source.array, other)", "wrong"),
    Fault(
        "a read-back on another stream",
        'outputs["posterior"].address, stream)',
        'outputs["posterior"].address, other)',
        "wrong",
    ),
    Fault("a result that nobody waits for", "        device.driver.synchronize(done)\n", "", "wrong"),
    Fault(
        "a wait for the wrong event", "synchronize(done)\n        return", "synchronize(early)\n        return", "wrong"
    ),
    Fault(
        "pinned memory that is used again too early",
        "    upload()\n    enqueue()\n    first",
        "    upload()\n    sources['image'].array[:] = 0\n    enqueue()\n    first",
        "wrong",
    ),
    Fault(
        "a context that goes while its work is on the GPU",
        "    enqueue()\n    first",
        "    enqueue()\n    del context, enqueue\n    first",
        BREACH + "a context destroyed while its work is on the device",
    ),
    # graphs
    Fault(
        "a capture of more than the enqueue",
        "    graph = device.capture(stream, enqueue)",
        "    def all_of_it():\n        context.set_tensor_address('image', inputs['image'].address)\n"
        "        enqueue()\n"
        "    graph = device.capture(stream, all_of_it)",
        BREACH + "set_tensor_address while the stream is captured",
    ),
    Fault(
        "a capture that asks for shapes",
        "    graph = device.capture(stream, enqueue)",
        "    graph = device.capture(stream, lambda: (context.infer_shapes(), enqueue()))",
        BREACH + "infer_shapes while the stream is captured",
    ),
    Fault(
        "a capture without a run before",
        "    upload()\n    enqueue()\n    first = result()\n    enqueue()\n    second = result()\n",
        "    upload()\n    first = second = right\n",
        BREACH + "a capture without a run of the same shapes and addresses",
    ),
    Fault(
        "a capture after an address changed",
        "    graph = device.capture",
        "    moved = device.allocate(1 << 20)\n    context.set_tensor_address('posterior', moved.address)\n"
        "    graph = device.capture",
        BREACH + "a capture without a run of the same shapes and addresses",
    ),
    Fault(
        "a graph of shapes that are no more",
        "    device.driver.launch(graph, stream)",
        "    context.set_input_shape('row_taps', (feed['row_taps'].shape[0] + 1, 72))\n"
        "    more = device.allocate(1 << 20)\n    context.set_tensor_address('row_taps', more.address)\n"
        "    size = context.update_device_memory_size_for_shapes()\n"
        "    context.set_device_memory(device.allocate(size).address, size)\n    enqueue()\n"
        "    device.driver.launch(graph, stream)",
        BREACH + "a graph of a context that has had other shapes since",
    ),
    Fault(
        "waiting inside a capture",
        "    graph = device.capture(stream, enqueue)",
        "    graph = device.capture(stream, lambda: (enqueue(), device.driver.synchronize(done)))",
        "FAULT: cuEventSynchronize while this thread captures a stream",
    ),
    Fault(
        "allocating inside a capture",
        "    graph = device.capture(stream, enqueue)",
        "    graph = device.capture(stream, lambda: (enqueue(), device.allocate(64)))",
        "while this thread captures a stream",
    ),
    # answers
    Fault("kernels that are not compiled yet", "", "", "wrong", "lazy"),
    Fault(
        "a failure that is not looked at",
        "        if not context.execute_async_v3(stream.address):\n            sys.exit(",
        "        if not context.execute_async_v3(stream.address) and False:\n            sys.exit(",
        "wrong",
        settings=(("FAKE_TENSORRT_RETURNS", "IExecutionContext.execute_async_v3=0"),),
    ),
    Fault(
        "a size of nothing",
        "",
        "",
        BREACH + "a run with 0 bytes of activations",
        settings=(("FAKE_TENSORRT_RETURNS", "IExecutionContext.update_device_memory_size_for_shapes=0"),),
    ),
    # what is left
    Fault("memory that is not given back", "device.close()", "", "live device blocks 1"),  # a number that begins so
    Fault(
        "memory that is given back twice",
        "    device.free(graph)\n",
        "    device.free(graph)\n    import ctypes\n    twice = ctypes.c_uint64(scratch.address)\n"
        "    device.free(scratch)\n    ctypes.CDLL('libcuda.so.1').cuMemFree_v2(twice)\n",
        "FAULT: double free",
    ),
    Fault(
        "a stream that stays",
        "    stream, other =",
        "    device.driver.stream()\n    stream, other =",
        "live streams 1",
    ),
]
"""At least one for each rule; what is said tells that it is this rule that caught it."""


@pytest.fixture(scope="module")
def plans(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, onnx = tmp_path_factory.mktemp("plans"), exported("A")
    made = {}
    for name, builder, options in (
        ("plain", TENSORRT, BuildOptions()),
        ("code", TENSORRT, BuildOptions(version_compatible=True)),
        ("lazy", RTX, BuildOptions()),
    ):
        (folder / name).mkdir()
        made[name] = write_plan(onnx, folder / name, builder=builder, build_options=options)
    return made


def run(program: str, plan: Path, onnx: Path, folder: Path, **settings: str) -> cudasim.Seen:
    code = f"ONNX, PLAN = {str(onnx)!r}, {str(plan)!r}\n{textwrap.dedent(program)}"
    return cudasim.run(code, folder, settings=settings)


@pytest.mark.parametrize("reuse", ["0", "1"])
def test_the_program_is_right(reuse: str, plans: dict[str, Path], exported: Exported, tmp_path: Path) -> None:
    """Where addresses are used again, as by a real driver, too."""
    seen = run(PROGRAM, plans["plain"], exported("A"), tmp_path, CUSIM_REUSE=reuse)
    assert seen.stdout == "right True\n", seen.stderr
    seen.check()


def test_there_is_one_for_each_rule() -> None:
    assert len({fault.rule for fault in FAULTS}) == len(FAULTS) >= 25


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.rule.replace(" ", "-") for fault in FAULTS])
def test_a_wrong_program_is_caught(fault: Fault, plans: dict[str, Path], exported: Exported, tmp_path: Path) -> None:
    assert PROGRAM.count(fault.old) == 1 or not fault.old, "one place is changed"
    program = PROGRAM.replace(fault.old, fault.new) if fault.old else PROGRAM
    seen = run(program, plans[fault.plan], exported("A"), tmp_path, **dict(fault.settings))
    if fault.said == "wrong":
        assert seen.stdout.startswith("wrong "), (seen.stdout, seen.stderr)
    else:
        assert fault.said in seen.stderr + seen.report, (seen.stdout, seen.stderr, seen.report)
