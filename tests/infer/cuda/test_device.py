"""CUDA's driver API on both bindings, real packages on the simulated driver: order, threads, failures, what is left."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import cudasim
import pytest
from cudasim import BINDINGS

pytestmark = pytest.mark.processes

both = pytest.mark.parametrize("binding", BINDINGS)

PROGRAM = r"""
import sys
import numpy as np
from infer.cuda.driver import CudaError; from infer.cuda.device import Device

def say(text):  # in one piece, whatever other threads say
    sys.stdout.write(text + "\n")

def program(device):
    with device.current():
        up, work, down = device.stream(), device.stream(), device.stream()
        start, uploaded, end = device.event(timing=True), device.event(), device.event(timing=True)
        source, target = device.pin(1000), device.pin(1000)
        memory = device.allocate(1000)
        source.array[:] = np.arange(1000) % 251
        target.array[:] = 7
        device.driver.record(start, up)
        device.driver.copy_in(memory.address, source.array, up)
        device.driver.record(uploaded, up)
        device.driver.wait(down, uploaded)
        device.driver.copy_out(target.array[:900], memory.address + 100, down)
        device.driver.record(end, down)
        say(f"before {(target.array == 7).all()}")
        device.driver.synchronize(end)
        say(f"equal {(target.array[:900] == source.array[100:]).all()} {device.driver.reached(end)}")
        say(f"ms {device.driver.elapsed_ms(start, end) >= 0}")

device = None
try:
    device = Device(0)
    program(device)
except CudaError as error:
    print("error:", error)
finally:
    try:
        device and device.close()
    except CudaError as error:
        print("close:", error)
"""


@both
def test_what_is_copied_comes_back_and_nothing_is_left(binding: str, tmp_path: Path) -> None:
    code = PROGRAM + "print(device.name, device.target, device.driver.binding)"
    seen = cudasim.run(code, tmp_path, binding=binding)
    seen.check()
    name = f"cudasim host-memory simulator sm_86 (NOT A GPU) sm86 {binding}"
    assert seen.stdout.splitlines() == ["before True", "equal True True", "ms True", name]
    assert seen.count("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync") == 2 and seen.count("cuEventSynchronize") == 1
    assert not any("pageable" in call for call in seen.calls)
    assert (seen.count("cuDevicePrimaryCtxRetain"), seen.count("cuDevicePrimaryCtxRelease")) == (1, 0)
    assert seen.count("cuCtxCreate", "cuCtxCreate_v4") == 0
    assert seen.calls.count("cuStreamCreate(1)") == 3  # not blocking: the default stream may be somebody else's


@both
@pytest.mark.parametrize("missing", ["device.driver.wait(down, uploaded)", "device.driver.synchronize(end)"])
def test_a_missing_wait_shows(binding: str, missing: str, tmp_path: Path) -> None:
    """So the simulated driver would find one in our own code."""
    seen = cudasim.run(PROGRAM.replace(missing, "pass"), tmp_path, binding=binding)
    assert "equal False" in seen.stdout or "error: " in seen.stdout


FAILURES = [
    ("cuInit:1=100", r"cuInit failed: no CUDA-capable device is detected: check nvidia-smi and CUDA_VISIBLE_DEVICES"),
    ("cuDevicePrimaryCtxRetain:1=2", r"cuDevicePrimaryCtxRetain failed: out of memory: close what else runs"),
    ("cuStreamCreate:2=2", r"cuStreamCreate failed: out of memory"),
    ("cuEventCreate:3=2", r"cuEventCreate failed: out of memory"),
    (
        "cuMemAlloc_v2:1+=2",
        r"cuMemAlloc failed: out of memory \(0.0 MB wanted, 8590 of 8590 MB free\): close .* smaller --profile",
    ),
    ("cuMemHostAlloc:2+=2", r"cuMemHostAlloc failed: out of memory"),
    ("cuMemcpyHtoDAsync_v2:1=1", r"cuMemcpyHtoDAsync failed: invalid argument: nvidia-smi shows"),
    ("cuMemcpyDtoHAsync_v2:1=719", r"cuMemcpyDtoHAsync failed: unspecified launch failure: what this process had"),
    ("cuEventSynchronize:1=700", r"cuEventSynchronize failed: an illegal memory access .*: start it again"),
    ("cuStreamWaitEvent:1=999", r"cuStreamWaitEvent failed: unknown error: what this process had"),
]


@both
@pytest.mark.parametrize(("fail", "message"), FAILURES, ids=[fail for fail, _ in FAILURES])
def test_a_failing_call_is_named_and_everything_given_back(
    binding: str, fail: str, message: str, tmp_path: Path
) -> None:
    seen = cudasim.run(PROGRAM, tmp_path, binding=binding, fail=fail)
    errors = [line for line in seen.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and re.match("error: " + message, errors[0]), (seen.stdout, seen.stderr)
    seen.check()


def test_a_lost_device_is_said_once_more_by_close(tmp_path: Path) -> None:
    seen = cudasim.run(PROGRAM, tmp_path, fail="cuMemcpyHtoDAsync_v2:1=719")
    assert re.search(r"^close: cu\w+ failed: unspecified launch failure: what this process had", seen.stdout, re.M)
    seen.check()


def test_the_first_failure_is_told_where_even_the_context_cannot_be_popped(tmp_path: Path) -> None:
    seen = cudasim.run(PROGRAM, tmp_path, fail="cuMemcpyHtoDAsync_v2:1=719,cuCtxPopCurrent_v2:1+=719")
    assert seen.stdout.startswith("error: cuMemcpyHtoDAsync failed: unspecified launch failure")
    seen.check()


@both
def test_no_such_gpu(binding: str, tmp_path: Path) -> None:
    seen = cudasim.run(PROGRAM.replace("Device(0)", "Device(3)"), tmp_path, binding=binding)
    assert seen.stdout == "error: cuDeviceGet failed: invalid device ordinal: nvidia-smi -L lists the GPUs there are\n"
    seen.check()


@both
def test_threads_share_a_device_that_one_of_them_closes(binding: str, tmp_path: Path) -> None:
    code = PROGRAM.partition("device = None")[0] + textwrap.dedent("""
        import threading
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(1) as opener:
            device = opener.submit(Device, 0).result()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(program, [device] * 8))
        thread = threading.Thread(target=device.close)
        thread.start()
        thread.join()
        device.close()
        try:
            program(device)
        except CudaError as error:
            print(error)
    """)
    seen = cudasim.run(code, tmp_path, binding=binding)
    seen.check()
    assert seen.stdout.count("equal True True") == 8
    assert seen.stdout.splitlines()[-1] == "GPU 0 was closed: open the engine again"


@both
def test_another_user_of_the_primary_context_notices_nothing(binding: str, tmp_path: Path) -> None:
    """As torch uses it: retained and current before we come, and after we went."""
    code = PROGRAM.partition("device = None")[0] + textwrap.dedent("""
        import ctypes
        cuda = ctypes.CDLL("libcuda.so.1")
        theirs, memory, now = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_void_p()
        assert not cuda.cuInit(0) and not cuda.cuDevicePrimaryCtxRetain(ctypes.byref(theirs), 0)
        assert not cuda.cuCtxSetCurrent(theirs) and not cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(64))
        device = Device(0)
        program(device)
        try:
            with device.current():
                raise KeyError
        except KeyError:
            pass
        device.close()
        assert not cuda.cuCtxGetCurrent(ctypes.byref(now)) and now.value == theirs.value
        assert not cuda.cuMemFree_v2(memory)
        assert not cuda.cuCtxPopCurrent_v2(ctypes.byref(now))
        print("left on the stack:", cuda.cuCtxPopCurrent_v2(ctypes.byref(now)))
        assert not cuda.cuDevicePrimaryCtxRelease_v2(0)
    """)
    seen = cudasim.run(code, tmp_path, binding=binding)
    seen.check()
    assert seen.stdout.splitlines()[-1] == "left on the stack: 201"  # CUDA_ERROR_INVALID_CONTEXT: nothing


@both
def test_the_primary_context_stays_until_the_process_ends(binding: str, tmp_path: Path) -> None:
    """TensorRT's library keeps things in it between two engines, and does not look whether it is another one."""
    code = textwrap.dedent("""
        import ctypes
        from infer.cuda.device import Device
        cuda, flags, active = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint(), ctypes.c_int()
        for _ in range(3):
            device = Device()
            with device.current():
                device.allocate(64)
            device.close()
            assert not cuda.cuDevicePrimaryCtxGetState(0, ctypes.byref(flags), ctypes.byref(active))
            print(active.value)
    """)
    seen = cudasim.run(code, tmp_path, binding=binding)
    seen.check()
    assert seen.stdout.split() == ["1", "1", "1"] and seen.count("cuDevicePrimaryCtxRetain") == 1
    assert seen.stderr == ""


@both
def test_what_is_freed_early_is_freed_once(binding: str, tmp_path: Path) -> None:
    code = textwrap.dedent("""
        from infer.cuda.device import Device
        device = Device()
        with device.current():
            things = [device.allocate(64), device.pin(64), device.stream(), device.event()]
            before = device.driver.memory_info()
            for thing in things + things:
                device.free(thing)
            assert device.driver.memory_info().free_bytes == before.free_bytes + 512
        device.close()
    """)
    seen = cudasim.run(code, tmp_path, binding=binding)
    seen.check()
    assert seen.count("cuMemFree") == seen.count("cuMemFreeHost") == seen.count("cuEventDestroy") == 1


def test_cuda_python_is_preferred(tmp_path: Path) -> None:
    cudasim.require("pycuda")
    code = f"""
import sys; sys.path.append({str(cudasim.PYCUDA)!r})
import pycuda
from infer.cuda.device import Device
device = Device()
print(device.driver.binding)
device.close()
"""
    seen = cudasim.run(code, tmp_path, binding="cuda-python")
    seen.check()
    assert seen.stdout == "cuda-python\n"


OLD_BINDINGS = """
import importlib.metadata, sys
real = importlib.metadata.version
importlib.metadata.version = lambda name: "12.9.0" if name == "cuda-bindings" else real(name)
import cuda.bindings.driver
sys.modules["cuda.bindings.utils"] = None
"""


def test_bindings_that_would_stop_all_threads_are_asked_again_and_again(tmp_path: Path) -> None:
    """The wait for an event, and the handles, of cuda-bindings before 12.9.1."""
    seen = cudasim.run(OLD_BINDINGS + PROGRAM, tmp_path)
    seen.check()
    assert seen.stdout.splitlines() == ["before True", "equal True True", "ms True"]
    assert seen.count("cuEventSynchronize") == 0 and seen.count("cuEventQuery") > 1


@pytest.mark.parametrize(
    ("version", "holds"),
    [("12.6.2.post1", True), ("12.9.0", True), ("12.9.1", False), ("12.10.0", False), ("13.0.0", False)],
)
def test_which_bindings_keep_pythons_lock(version: str, holds: bool) -> None:
    cudasim.require("cuda-python")
    from infer.cuda.cuda_python import waiting_holds_the_lock

    assert waiting_holds_the_lock(version) == holds


@both
def test_importing_starts_nothing(binding: str, tmp_path: Path) -> None:
    module = {"pycuda": "pycuda", "cuda-python": "cuda_python"}[binding]
    seen = cudasim.run(f"import infer.cuda.device, infer.cuda.{module}", tmp_path, binding=binding)
    assert seen.code == 0 and seen.count("cuInit", "cuDevicePrimaryCtxRetain", "cuCtxCreate") == 0, seen.stderr


def _error(before: str) -> str:
    """What opening a device says, without the simulated driver."""
    imports = "from infer.cuda.driver import CudaError\nfrom infer.cuda.device import Device"
    code = f"{before}\n{imports}\ntry: Device()\nexcept CudaError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.removesuffix("\n")


def test_a_machine_without_bindings_or_driver() -> None:
    error = _error("import sys; sys.modules['pycuda'] = sys.modules['cuda'] = None")
    assert re.fullmatch(r"no way to the GPU \(.*pycuda.*\): pip install 'verydeep\[cuda-python\]'.*driver", error)
    cudasim.require("cuda-python")
    assert re.fullmatch(r"cuInit failed: [^\n]*", _error("import sys; sys.modules['pycuda'] = None"))


@both
def test_captured_work_runs_when_it_is_launched(binding: str, tmp_path: Path) -> None:
    code = r"""
from infer.cuda.driver import CudaError; from infer.cuda.device import Device
device = Device(0)
with device.current():
    stream, end = device.stream(), device.event()
    source, target, memory = device.pin(8), device.pin(8), device.allocate(8)
    source.array[:], target.array[:] = 5, 7
    def work():
        device.driver.copy_in(memory.address, source.array, stream)
        device.driver.copy_out(target.array, memory.address, stream)
    graph = device.capture(stream, work)
    def wait():
        device.driver.record(end, stream)
        device.driver.synchronize(end)
    wait()
    print("captured", target.array.tolist())
    for value in (1, 2):
        source.array[:] = value
        device.driver.launch(graph, stream)
        wait()
        print("launched", target.array.tolist())
    device.free(graph)
    def broken():
        work()
        raise ValueError("broken")
    try:
        device.capture(stream, broken)
    except ValueError as error:
        print(error)
    left = device.capture(stream, work)
    wait()
device.close()
"""
    seen = cudasim.run(code, tmp_path, binding=binding)
    seen.check()
    assert seen.stdout.splitlines() == [
        f"captured {[7] * 8}",
        f"launched {[1] * 8}",
        f"launched {[2] * 8}",
        "broken",
    ]
