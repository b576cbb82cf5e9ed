"""TensorRT as an engine, on a double of TensorRT's runtime (fake_tensorrt.py) and the simulated CUDA driver.

The double computes with ONNX Runtime, so an engine's answers must be those of the ONNX engine, byte for byte; what is
copied, waited for and left behind is read from the driver's log.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import cudasim
import pytest
from cudasim import Seen
from helpers import Exported
from on_double import PRELUDE, check, run
from plans import RTX, TENSORRT, write_plan

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    ("interface", "binding", "builder"),
    [
        ("views", "pycuda", TENSORRT),
        ("views", "cuda-python", RTX),
        ("images", "cuda-python", TENSORRT),
        ("nchw", "pycuda", RTX),
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
    assert seen.stdout.startswith(f"{builder.split()[0]}-fp32 cuda:0 ")
    assert not any("pageable" in call for call in seen.calls)


TWICE = """
    reference = OnnxEngine(Path(ONNX))
    image, engine = noise(90, 130), None
    plan = plan_views(reference.spec, "multicrop+dense", (90, 130))
    expected = reference.run(reference.load([image]), [plan], OUTPUTS)
    for attempt in range(3):
        try:
            engine = engine or TensorRTEngine(Path(PLAN))
            same(engine.run(engine.load([image]), [plan], OUTPUTS), expected)
            print("the same")
        except EngineError as error:
            print(type(error).__name__, error)
    try:
        if engine: engine.close()
    except EngineError as error:
        print("close:", error)
    del engine
"""


ONCE = [
    ("cuStreamCreate:2=2", "cuStreamCreate failed: out of memory: close what"),
    ("cuEventCreate:2=2", "cuEventCreate failed: out of memory: close what"),
    *(
        (f"cuMemAlloc_v2:{n}=2", r"cuMemAlloc failed: out of memory \(.* MB wanted, .* MB free\): close")
        for n in (1, 2, 3)
    ),
    *((f"cuMemHostAlloc:{n}=2", "cuMemHostAlloc failed: out of memory: close what else") for n in (1, 2)),
    ("cuMemcpyHtoDAsync_v2:1=1", "cuMemcpyHtoDAsync failed: invalid argument"),
    ("cuMemcpyDtoHAsync_v2:1=1", "cuMemcpyDtoHAsync failed: invalid argument"),
    ("cuStreamWaitEvent:2=400", "cuStreamWaitEvent failed: invalid resource handle"),
    ("cuLaunchHostFunc:1=2", "PLAN: tensorrt refused a run of profile crops: launch failed"),  # to warm up
    ("cuLaunchHostFunc:3=2", "PLAN: tensorrt refused a run of profile crops: launch failed"),
]


RETURNED = [
    ("ICudaEngine.create_execution_context=0", "refused another execution context: told to fail"),
    ("ICudaEngine.create_execution_context=raise", "refused another execution context: told to fail"),
    ("ICudaEngine.get_tensor_location=HOST", "wants .* on the host, expected all tensors on the GPU: python -m"),
    ("IExecutionContext.set_optimization_profile_async=0", "refused profile 0: told to fail"),
    ("IExecutionContext.set_input_shape=0", r"refused image of shape \(90, 130, 3\): told to fail"),
    ("IExecutionContext.infer_shapes=missing", "refused inputs without rows: told to fail"),
    ("IExecutionContext.infer_shapes=raise", "refused the inputs' shapes, which do not go together: told to fail"),
    ("IExecutionContext.get_tensor_shape=-1", r"refused to say the shape of posterior, only \(-1, 10\): told to fail"),
    ("IExecutionContext.get_tensor_shape=raise", "refused the shape of posterior: told to fail"),
    ("IExecutionContext.update_device_memory_size_for_shapes=0", "refused to say how much memory a run needs: told"),
    (
        "IExecutionContext.update_device_memory_size_for_shapes=raise",
        "refused to say how much memory a run needs: told",
    ),
    ("IExecutionContext.set_device_memory=raise", "refused memory for a run: told to fail"),
    ("IExecutionContext.set_tensor_address=0", "refused an address for image: told to fail"),
    ("IExecutionContext.execute_async_v3=0", "refused a run of profile .*: told to fail"),
    ("IExecutionContext.execute_async_v3=raise", "refused a run of profile .*: told to fail"),
]


@pytest.mark.parametrize(("returns", "message"), RETURNED, ids=[returns for returns, _ in RETURNED])
def test_whatever_a_call_returns_is_looked_at(returns: str, message: str, exported: Exported, tmp_path: Path) -> None:
    """An error of one line with the library's own words, and nothing is left behind."""
    plan = write_plan(exported("A"), tmp_path)
    code = f"""
    try:
        engine = None
        engine = TensorRTEngine(Path({str(plan)!r}))
        engine.run(engine.load([noise(90, 130)]), [plan_views(engine.spec, "ten-crop", (90, 130))])
    except EngineError as error:
        print(error)
    if engine: engine.close()
    del engine
    """
    seen = run(code, tmp_path, settings={"FAKE_TENSORRT_RETURNS": returns})
    check(seen)
    assert re.match(f"{plan}: (tensorrt )?{message}", seen.stdout) and seen.stdout.count("\n") == 1, seen.stdout


LOST = [
    ("cuMemcpyHtoDAsync_v2:1=719", "cuMemcpyHtoDAsync failed: unspecified launch failure: what this process had"),
    ("cuEventSynchronize:1=700", "cuEventSynchronize failed: an illegal memory access was encountered: what"),
    ("cuLaunchHostFunc:4=700", "PLAN: tensorrt refused a run of profile crops: launch failed"),
]


def interrupted(fail: str, exported: Exported, folder: Path) -> tuple[Seen, list[str]]:
    onnx = exported("A")
    plan = write_plan(onnx, folder)
    code = textwrap.dedent(f"ONNX, PLAN = {str(onnx)!r}, {str(plan)!r}") + textwrap.dedent(TWICE)
    seen = run(code, folder, fail=fail)
    check(seen)
    assert seen.stderr == ""
    return seen, [line.replace(str(plan), "PLAN") for line in seen.stdout.splitlines()]


@pytest.mark.parametrize(("fail", "message"), ONCE, ids=[fail for fail, _ in ONCE])
def test_a_failure_is_told_and_the_next_image_runs(fail: str, message: str, exported: Exported, tmp_path: Path) -> None:
    _, (failed, *others) = interrupted(fail, exported, tmp_path)
    assert re.match(f"(CudaError|EngineError) {message}", failed) and others == ["the same", "the same"]


@pytest.mark.parametrize(("fail", "message"), LOST, ids=[fail for fail, _ in LOST])
def test_a_lost_device_is_told_each_time(fail: str, message: str, exported: Exported, tmp_path: Path) -> None:
    _, (failed, *others) = interrupted(fail, exported, tmp_path)
    assert re.match(f"(CudaError|EngineError) {message}", failed) and len(others) == 3
    assert all("what this process had on the GPU is lost" in line for line in others)
    assert others[-1].startswith("close: ")


def test_threads_share_an_engine(exported: Exported, tmp_path: Path) -> None:
    onnx = exported("A")
    code = f"""
    from concurrent.futures import ThreadPoolExecutor
    reference, engine = OnnxEngine(Path({str(onnx)!r})), TensorRTEngine(Path({str(write_plan(onnx, tmp_path))!r}))
    sizes = [(90, 130), (140, 80), (100, 100)]
    def one(number):
        image, size = noise(*sizes[number % 3], number), sizes[number % 3]
        plan = plan_views(reference.spec, "multicrop+dense", size)
        same(engine.run(engine.load([image]), [plan]), reference.run(reference.load([image]), [plan]))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, range(9)))
    engine.close()
    del engine, one
    """
    check(run(code, tmp_path))


def test_buffers_that_nobody_uses_make_room(tmp_path: Path) -> None:
    code = """
    from infer.cuda.driver import CudaError
    from infer.tensorrt.gpu import close_gpu, open_gpu
    gpu, mega = open_gpu(0), 1 << 20
    assert open_gpu(0) is gpu
    with gpu.lock, gpu.device.current():
        small, large = gpu.memory(100), gpu.memory(40 * mega)
        gpu.reuse([large])
        assert gpu.memory(35 * mega) is large and gpu.memory(99).nbytes == small.nbytes == 1 << 16
        gpu.reuse([large])
        other = gpu.memory(60 * mega)
        assert gpu.activations(3 * mega).nbytes == gpu.activations(4 * mega).nbytes == 4 * mega
        try:
            gpu.memory(60 * mega)
        except CudaError as error:
            print(error)
        print(large.handle)
    for _ in range(2): close_gpu(gpu)
    """
    seen = run(code, tmp_path, settings={"CUSIM_MEM_MB": "100"})
    check(seen)
    error, large = seen.stdout.splitlines()
    assert "out of memory (67.1 MB wanted, 33 of 105 MB free): close" in error and large == "None"


@pytest.mark.parametrize(
    ("end", "binding"),
    [
        ("", "pycuda"),
        ("", "cuda-python"),
        ("del engine, other", "cuda-python"),
        ("sys.exit(3)", "pycuda"),
        ("raise KeyError('a bug elsewhere')", "pycuda"),
    ],
)
def test_what_nobody_closes_is_given_back_in_the_end(
    end: str, binding: str, exported: Exported, tmp_path: Path
) -> None:
    code = f"""
    import sys
    engine, other = (TensorRTEngine(Path({str(write_plan(exported("A"), tmp_path))!r})) for _ in range(2))
    image, plan = noise(90, 130), plan_views(engine.spec, "center", (90, 130))
    loaded = engine.load([image])
    pending = engine.start(loaded, [plan])
    same(other.run(loaded, [plan]), pending.result())
    del pending
    """
    code = PRELUDE + textwrap.dedent(code) + end
    seen = cudasim.run(code, tmp_path, binding=binding)
    assert seen.code == {"s": 3, "r": 1}.get(end[:1], 0) and seen.stderr.count("Error") == end.count("Error")
    assert seen.left().pop("peak") and sum(seen.left().values()) == seen.left()["peak"], seen.report


def test_what_is_not_collected_is_waited_for_before_its_memory_is_used_again(
    exported: Exported, tmp_path: Path
) -> None:
    onnx = exported("A")
    code = f"""
    reference, engine = OnnxEngine(Path({str(onnx)!r})), TensorRTEngine(Path({str(write_plan(onnx, tmp_path))!r}))
    small, large = noise(90, 130), noise(1500, 1500)  # whose pixels, out of and into the GPU, need 8 MB
    out = plan_views(reference.spec, "multicrop", (90, 130))
    plan = plan_views(reference.spec, "multicrop", (1500, 1500), [160])
    for attempt in range(2):
        engine.start(engine.load([small]), [out], ("pixels",))
        same(engine.run(engine.load([large]), [plan]), reference.run(reference.load([large]), [plan]))
    pending = engine.start(engine.load([large]), [plan])
    engine.close()
    try:
        pending.result()
    except EngineError as error:
        print(error)
    del engine, pending
    """
    seen = run(code, tmp_path)
    check(seen)
    assert seen.stdout == "GPU 0 was closed: open the engine again\n"


def test_an_image_outlives_the_engines_that_loaded_it(exported: Exported, tmp_path: Path) -> None:
    """What the last engine of a GPU gave back is uploaded anew for the next one."""
    code = f"""
    path, expected = Path({str(write_plan(exported("A"), tmp_path))!r}), None
    for attempt in range(3):
        engine = TensorRTEngine(path)
        if expected is None:
            plan = plan_views(engine.spec, "dense", (90, 130))
            loaded = engine.load([noise(90, 130)])
            expected = engine.run(loaded, [plan], OUTPUTS)
        same(engine.run(loaded, [plan], OUTPUTS), expected)
        engine.close()
        del engine
    """
    check(run(code, tmp_path))


def test_an_image_keeps_its_tables_whose_ids_it_knows(tmp_path: Path) -> None:
    """Also where calls go, as one of two threads' do, and where tables of others have taken the room."""
    code = """
    import weakref
    import infer.tensorrt.gpu as gpus
    gpus.TABLES_BYTES = 0
    gpu = gpus.open_gpu(0)
    def table(value):
        array = np.full(100, value, np.int32)
        array.flags.writeable = False
        return array
    with gpu.lock, gpu.device.current():
        first, second, array = gpus.Resident(gpu), gpus.Resident(gpu), table(1)
        alive = weakref.ref(array)
        first.put([{"rows": array}])
        second.put([{"rows": table(2)}])
        del array
        assert alive() is not None
        del first
        assert alive() is None
        del second
    gpus.close_gpu(gpu)
    """
    check(run(code, tmp_path))


def test_the_self_test_is_asked_for_by_open_engine(exported: Exported, tmp_path: Path) -> None:
    wrong = {"pixel_sums": [[0] * 6] * 16, "log_posterior": [[0.0] * 10] * 16}
    code = f"""
    from infer.open import open_engine
    open_engine({str(write_plan(exported("A"), tmp_path))!r}, self_test=True).close()
    try:
        open_engine({str(write_plan(exported("B"), tmp_path, self_test=wrong))!r}, self_test=True)
    except EngineError as error:
        print(error)
    """
    seen = run(code, tmp_path)
    check(seen)
    assert "self-test of slim-b on tensorrt-fp32: image 0 gave pixel sums" in seen.stdout
