"""NOT TensorRT: a double of its runtime for tests, with the names and signatures of the real module.

It keeps the documented contract more strictly than the real one, on the simulated CUDA driver (tests/cudasim): every
breach ends the process. It computes by running the ONNX model that a plan names on ONNX Runtime's CPU provider, in the
stream's order, on what then lies at the addresses. No number of its is one of a GPU.

A plan of its is what `plan` returns. `install` puts it in the place of `tensorrt` or `tensorrt_rtx`.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import gc
import json
import math
import os
import sys
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnxruntime

MAGIC = b"NOT A TENSORRT PLAN, BUT ONE OF tests/support/fake_tensorrt.py\n"
ALIGNMENT = 256
SCRATCH_BYTES_PER_PIXEL = 16
"""Of activations, of the double's own choice: so much for each pixel of each view."""

FALLBACK_RUNS = 2
"""Runs of the same shapes that TensorRT-RTX does by fallback kernels where it specialises lazily. Their floats differ
in the last bit."""
HOST_CODE_REFUSED = "Cannot deserialize engine with lean runtime since IRuntime::getEngineHostCodeAllowed() is false."
"""The words of TensorRT 10.16's own library."""

IDLE = os.environ.get("FAKE_TENSORRT") == "idle"
"""Nothing is computed and outputs stay as they were: for tests that only count."""

RETURNS = dict(item.split("=") for item in os.environ.get("FAKE_TENSORRT_RETURNS", "").split(",") if item)
"""What calls return instead of what is right: IExecutionContext.infer_shapes=raise or =missing, of get_tensor_location
HOST, of a number, a shape or an object 0 and -1."""

_LIVE = {"Runtime": 0, "ICudaEngine": 0, "IExecutionContext": 0}


def live() -> dict[str, int]:
    """Objects that were not given back."""
    _driver().forget()
    gc.collect()
    return {name: count for name, count in _LIVE.items() if count}


def plan(
    onnx: Path,
    profiles: Sequence[Mapping[str, Any]],
    *,
    host_code: bool = False,
    just_in_time: bool = False,
    activation_bytes: Sequence[int | None] = (),
) -> bytes:
    """A plan of the double: `profiles` as infer.graph_inputs.profile_entries makes them.

    host_code: it is version-compatible; just_in_time: it is TensorRT-RTX's, whose kernels are compiled as it runs;
    activation_bytes: of each profile at its largest shapes, where a real builder's log says it.
    """
    content = {"onnx": str(onnx), "profiles": profiles, "host_code": host_code, "just_in_time": just_in_time}
    content["activation_bytes"] = [*activation_bytes] or [None] * len(profiles)
    return MAGIC + json.dumps(content).encode()


def install(name: str, version: str) -> types.ModuleType:
    """Puts the double in the place of `name`, as a module of that version."""
    module = types.ModuleType(name)
    values = {key: value for key, value in globals().items() if not key.startswith("_")}
    module.__dict__.update(values, __version__=version)
    sys.modules[name] = module
    return module


def breach(text: str) -> NoReturn:
    """The contract was not kept: ends the process, from whatever thread or callback."""
    traceback.print_stack()
    sys.stderr.write(f"fake_tensorrt: BREACH OF CONTRACT: {text}\n")
    sys.stderr.flush()
    os._exit(70)


class _Driver:
    """What the double asks of the driver, under the bindings that are tested."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._library.cusim_host_address.restype = ctypes.c_void_p
        self._library.cusim_host_address.argtypes = (ctypes.c_uint64, ctypes.c_size_t, ctypes.c_char_p)
        self._waiting: list[Any] = []
        self._finished: list[Any] = []

        self._library.cuDevicePrimaryCtxRetain(ctypes.byref(ctypes.c_void_p()), 0)  # as the CUDA runtime does, for good

    def current_context(self) -> int | None:
        context = ctypes.c_void_p()
        return None if self._library.cuCtxGetCurrent(ctypes.byref(context)) else context.value

    def is_lost(self) -> bool:
        return bool(self._library.cuDriverGetVersion(ctypes.byref(ctypes.c_int())))

    def bytes_from(self, address: int) -> int:
        """How many bytes of one allocation lie from an address on; 0 where there is none."""
        base, size = ctypes.c_uint64(), ctypes.c_size_t()
        if self._library.cuMemGetAddressRange_v2(ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(address)):
            return 0
        return base.value + size.value - address

    def view(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> np.ndarray[Any, Any]:
        """Device memory as a host array."""
        nbytes = math.prod(shape) * dtype.itemsize
        host = self._library.cusim_host_address(address, nbytes, what.encode())
        if host is None:
            breach(f"{what}: {nbytes} bytes at {address:#x} are no device memory when the run reaches them")
        return np.frombuffer((ctypes.c_char * nbytes).from_address(host), dtype).reshape(shape)

    def forget(self) -> None:
        while self._finished:
            self._waiting.remove(self._finished.pop())

    def captures(self, stream: int) -> bool:
        status = ctypes.c_int()
        self._library.cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(status))
        return status.value == 1

    def launch(self, stream: int, work: Callable[[], None], captures: list[Any]) -> bool:
        """Puts `work` into the stream. `captures` keeps what a graph may run again and again."""
        captured = self.captures(stream)

        def run(_: Any) -> None:
            try:
                work()
            except BaseException as error:
                breach(f"the model failed: {error!r}")
            finally:
                if not captured:
                    self._finished.append(callback)  # not dropped here, where it still runs

        self.forget()
        callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(run)
        kept = captures if captured else self._waiting
        kept.append(callback)
        launched = not self._library.cuLaunchHostFunc(ctypes.c_void_p(stream), callback, None)
        if not launched:
            kept.remove(callback)
        return launched


_drivers: list[_Driver] = []


def _driver() -> _Driver:
    if not _drivers:
        _drivers.append(_Driver())
    return _drivers[0]


def _check_context(what: str) -> None:
    if _driver().current_context() is None:
        breach(f"{what} without a current CUDA context")


def _may_fail(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that returns what RETURNS says of it."""

    @functools.wraps(method)
    def call(self: Any, *arguments: Any) -> Any:
        told = RETURNS.get(method.__qualname__)
        if told is None:
            return method(self, *arguments)
        _LOGGERS[0].log(ILogger.Severity.ERROR, f"told to fail: {method.__name__}={told}")
        if told == "raise":
            raise RuntimeError(f"{method.__name__} failed")
        if told == "missing":
            return ["rows"]
        if told == "HOST":
            return TensorLocation.HOST
        if method.__name__ == "get_tensor_shape":
            return (int(told), *method(self, *arguments)[1:])
        return None if method.__name__.startswith("create") else int(told)

    return call


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT32 = 3
    UINT8 = 5


_TYPES = {
    "tensor(float)": DataType.FLOAT,
    "tensor(float16)": DataType.HALF,
    "tensor(int32)": DataType.INT32,
    "tensor(uint8)": DataType.UINT8,
}
_NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT32: np.int32,
    DataType.UINT8: np.uint8,
}


def nptype(trt_type: DataType) -> Any:
    return _NUMPY[trt_type]


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY = 0
    EAGER = 1
    NONE = 2


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        self.started = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


_LOGGERS: list[ILogger] = []
"""The first is kept for good, and others are ignored."""


class _Counted:
    def __init__(self) -> None:
        _LIVE[type(self).__name__] += 1

    def __del__(self) -> None:
        _LIVE[type(self).__name__] -= 1


class Runtime(_Counted):
    def __init__(self, logger: ILogger) -> None:
        super().__init__()
        if not isinstance(logger, ILogger) or not getattr(logger, "started", False):
            raise TypeError("a logger that did not call ILogger.__init__")
        _LOGGERS.append(logger)
        self._logger = _LOGGERS[0]
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        _check_context("deserialize_cuda_engine")
        if not serialized_engine.startswith(MAGIC):
            self._logger.log(ILogger.Severity.ERROR, "Serialization assertion failed.\nMagic tag does not match")
            return None
        content = json.loads(serialized_engine.removeprefix(MAGIC))
        if content["host_code"] and not self.engine_host_code_allowed:
            self._logger.log(ILogger.Severity.ERROR, HOST_CODE_REFUSED)
            return None
        if self.engine_host_code_allowed and not content["host_code"]:
            breach("host code allowed for a plan that has none")
        return ICudaEngine(self, content)


class IHostMemory:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bytes__(self) -> bytes:
        return self._data


class IRuntimeCache:
    def __init__(self) -> None:
        self._content = b""

    def deserialize(self, blob: bytes) -> bool:
        if not bytes(blob).startswith(b"cache"):
            return False
        self._content = bytes(blob)
        return True

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._content or b"cache of the double")


class IRuntimeConfig:
    def __init__(self) -> None:
        self._strategy = ExecutionContextAllocationStrategy.STATIC
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        return isinstance(cache, IRuntimeCache)


class IProfiler:
    def __init__(self) -> None:
        self.started = True

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class LayerInformationFormat(enum.Enum):
    ONELINE = 0
    JSON = 1


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self.execution_context: IExecutionContext | None = None

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        """The outputs in place of layers."""
        layers = [{"Name": name, "LayerType": "double"} for name in self._engine._outputs]
        return json.dumps({"Layers": layers}) if format == LayerInformationFormat.JSON else str(layers)


class ICudaEngine(_Counted):
    def __init__(self, runtime: Runtime, content: Mapping[str, Any]) -> None:
        super().__init__()
        self._just_in_time, self._activation_bytes = content["just_in_time"], content["activation_bytes"]
        self._runs: dict[Any, int] = {}  # by shapes, of contexts that specialise lazily
        self._logger, self._profiles = runtime._logger, content["profiles"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(content["onnx"], options, providers=["CPUExecutionProvider"])
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self._outputs = {value.name: value for value in self._session.get_outputs()}
        self._profiles_taken: set[int] = set()
        self._shapes: dict[Any, dict[str, tuple[int, ...]]] = {}

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return (
            TensorIOMode.INPUT
            if name in self._inputs
            else TensorIOMode.OUTPUT
            if name in self._outputs
            else TensorIOMode.NONE
        )

    def get_tensor_dtype(self, name: str) -> DataType:
        return _TYPES[(self._inputs | self._outputs)[name].type]

    @_may_fail
    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """-1 where a dimension is not fixed."""
        shape = (self._inputs | self._outputs)[name].shape
        return tuple(size if isinstance(size, int) else -1 for size in shape)

    @_may_fail
    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    @_may_fail
    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    @_may_fail
    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy | IRuntimeConfig = ExecutionContextAllocationStrategy.STATIC,
    ) -> IExecutionContext:
        _check_context("create_execution_context")
        config = strategy if isinstance(strategy, IRuntimeConfig) else IRuntimeConfig()
        own = config._strategy if strategy is config else strategy
        if own != ExecutionContextAllocationStrategy.USER_MANAGED:
            breach(f"a context that allocates by itself ({own}): for the largest shapes of all profiles, or in a run")
        lazy = DynamicShapesKernelSpecializationStrategy.LAZY
        return IExecutionContext(
            self, self._just_in_time and config.dynamic_shapes_kernel_specialization_strategy == lazy
        )

    def _output_shapes(self, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """From the names of the model's dimensions; where they do not tell, from the model itself, run on zeros."""
        key = tuple(inputs.items())
        if key not in self._shapes:
            sizes = {
                dim: size
                for name, shape in inputs.items()
                for dim, size in zip(self._inputs[name].shape, shape, strict=True)
            }
            shapes = {name: tuple(sizes.get(dim, dim) for dim in value.shape) for name, value in self._outputs.items()}
            if any(isinstance(size, str) for shape in shapes.values() for size in shape):
                zeros = {name: np.zeros(shape, self._dtype(name)) for name, shape in inputs.items()}
                values = self._session.run(list(self._outputs), zeros)
                shapes = {name: value.shape for name, value in zip(self._outputs, values, strict=True)}
            self._shapes[key] = shapes
        return self._shapes[key]

    def _check_names(self, inputs: Mapping[str, tuple[int, ...]]) -> None:
        """Dimensions of one name are one size: TensorRT refuses others, or reads beyond the smaller."""
        sizes: dict[str, int] = {}
        for name, shape in inputs.items():
            for dim, size in zip(self._inputs[name].shape, shape, strict=True):
                if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
                    breach(f"{dim} is {size} in {name} and {sizes[dim]} in another input")

    def _dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(nptype(self.get_tensor_dtype(name)))

    def _refuse(self, text: str) -> bool:
        self._logger.log(ILogger.Severity.ERROR, text)
        return False


_SCRATCH_STREAM: dict[int, int] = {}
"""The stream on which each block of activations is used."""


class IExecutionContext(_Counted):
    def __init__(self, engine: ICudaEngine, lazy: bool = False) -> None:
        super().__init__()
        self._engine, self._lazy = engine, lazy
        self._profile: int | None = None
        self._stream = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._partitioned = False
        self._scratch = (0, 0)
        self._in_flight = [0]
        self._captures: list[Any] = []
        self._last_run: list[dict[str, tuple[int, ...]]] = [{}]
        self._last_addresses: dict[str, int] = {}
        self.profiler: IProfiler | None = None
        self.enqueue_emits_profile = True

    def __del__(self) -> None:
        if self._in_flight[0] and not _driver().is_lost():
            breach("a context destroyed while its work is on the device")
        self._engine._profiles_taken.discard(-1 if self._profile is None else self._profile)
        super().__del__()

    @_may_fail
    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._outside_of_capture("set_optimization_profile_async")
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return self._engine._refuse(f"no profile {profile_index}")
        if profile_index in self._engine._profiles_taken:
            breach(f"two contexts with profile {profile_index} at the same time")
        self._engine._profiles_taken.discard(-1 if self._profile is None else self._profile)
        self._engine._profiles_taken.add(profile_index)
        self._profile, self._stream = profile_index, stream_handle
        self._shapes.clear()
        self._partitioned = False
        return True

    @_may_fail
    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        self._outside_of_capture("set_input_shape")
        if self._profile is None:
            breach("an input's shape before a profile is chosen")
        if name not in self._engine._inputs:
            return self._engine._refuse(f"no input {name}")
        low, _, high = self._engine._profiles[self._profile][name]
        shape = tuple(shape)
        if len(shape) != len(low) or not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            return self._engine._refuse(
                f"setInputShape: {name} of {shape} does not satisfy profile {self._profile}: {low} to {high}"
            )
        if self._shapes.get(name) != shape:
            self._shapes[name] = shape
            self._partitioned = False
        return True

    @_may_fail
    def infer_shapes(self) -> list[str]:
        self._outside_of_capture("infer_shapes")
        self._engine._check_names(self._shapes)
        return self._shapeless()

    def _shapeless(self) -> list[str]:
        return [name for name in self._engine._inputs if name not in self._shapes]

    def _outside_of_capture(self, what: str) -> None:
        """A capture is to hold the enqueue alone; TensorRT may do anything in any other call."""
        if self._stream and _driver().captures(self._stream):
            breach(f"{what} while the stream is captured, which is for execute_async_v3 alone")

    @_may_fail
    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        self._outside_of_capture("get_tensor_shape")
        if name in self._engine._inputs:
            return self._shapes[name]
        if self._shapeless():
            breach(f"the shape of {name} before all inputs have theirs")
        return self._engine._output_shapes(self._shapes)[name]

    @_may_fail
    def update_device_memory_size_for_shapes(self) -> int:
        self._outside_of_capture("update_device_memory_size_for_shapes")
        if self._shapeless():
            breach("the size of activations before all inputs have their shapes")
        self._partitioned = True
        return self._scratch_bytes()

    @_may_fail
    def set_device_memory(self, memory: int, size: int) -> None:
        self._outside_of_capture("set_device_memory")
        if memory % ALIGNMENT:
            breach(f"activations at {memory:#x}, which is not aligned to {ALIGNMENT} bytes")
        if _driver().bytes_from(memory) < size:
            breach(f"activations of {size} bytes, but the driver knows {_driver().bytes_from(memory)} at {memory:#x}")
        self._scratch = (memory, size)

    @_may_fail
    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._outside_of_capture("set_tensor_address")
        if name not in (*self._engine._inputs, *self._engine._outputs):
            return self._engine._refuse(f"no tensor {name}")
        if memory % ALIGNMENT:
            breach(f"{name} at {memory:#x}, which is not aligned to {ALIGNMENT} bytes")
        self._addresses[name] = memory
        return True

    @_may_fail
    def execute_async_v3(self, stream_handle: int) -> bool:
        """What is read and written when the stream gets here is where addresses and shapes say now."""
        engine = self._engine
        _check_context("execute_async_v3")
        if not stream_handle:
            breach("a run on the default stream")
        if stream_handle != self._stream:
            breach("a run on another stream than that on which the profile was chosen, which nothing waited for")
        if self._shapeless():
            breach(f"a run without shapes of {self._shapeless()}")
        engine._check_names(self._shapes)
        if not self._partitioned or self._scratch[1] < self._scratch_bytes():
            breach(f"a run with {self._scratch[1]} bytes of activations, needed are {self._scratch_bytes()}")
        if _SCRATCH_STREAM.setdefault(self._scratch[0], stream_handle) != stream_handle:
            breach("one block of activations on two streams")
        shapes = self._shapes | engine._output_shapes(self._shapes)
        places = {}
        for name, shape in shapes.items():
            if name not in self._addresses:
                breach(f"a run without an address for {name}")
            address, nbytes = self._addresses[name], math.prod(shape) * engine._dtype(name).itemsize
            if _driver().bytes_from(address) < nbytes:
                breach(f"{name} {shape} needs {nbytes} bytes, the driver knows {_driver().bytes_from(address)} there")
            places[name] = (address, shape, engine._dtype(name), name)
        scratch = (self._scratch[0], (self._scratch_bytes(),), np.dtype(np.uint8), "activations")
        captured = _driver().captures(stream_handle)
        if captured and (self._last_run[0] != self._shapes or self._last_addresses != self._addresses):
            breach("a capture without a run of the same shapes and addresses, in which TensorRT makes itself ready")
        self._last_run[0], self._last_addresses = dict(self._shapes), dict(self._addresses)
        in_flight, last_run, own_shapes, lazy = self._in_flight, self._last_run, dict(self._shapes), self._lazy

        def work() -> None:
            driver = _driver()
            if not captured:
                in_flight[0] -= 1
            elif last_run[0] != own_shapes:
                breach("a graph of a context that has had other shapes since")
            driver.view(*scratch)[:] = 0xFF
            if IDLE:
                return
            feed = {name: driver.view(*places[name]).copy() for name in engine._inputs}
            values = engine._session.run(list(engine._outputs), feed)
            key = tuple(own_shapes.items())
            engine._runs[key] = engine._runs.get(key, 0) + lazy
            for name, value in zip(engine._outputs, values, strict=True):
                if 0 < engine._runs[key] <= FALLBACK_RUNS and value.dtype.kind == "f":
                    value = np.nextafter(value, np.inf)
                driver.view(*places[name])[...] = value

        in_flight[0] += not captured
        if not _driver().launch(stream_handle, work, self._captures):
            in_flight[0] -= not captured
            return engine._refuse("launch failed")
        if self.profiler is not None and self.enqueue_emits_profile:
            if not isinstance(self.profiler, IProfiler) or not getattr(self.profiler, "started", False):
                raise TypeError("a profiler that did not call IProfiler.__init__")
            for name in engine._outputs:
                self.profiler.report_layer_time(name, 0.5)  # in place of layers; no time at all
        return True

    def _scratch_bytes(self) -> int:
        """By the real builder's log where the plan has it, in the share that these shapes are of the largest."""
        assert self._profile is not None
        known = self._engine._activation_bytes[self._profile]
        largest = {name: entry[2] for name, entry in self._engine._profiles[self._profile].items()}
        pixels = self._pixels(self._shapes)
        if known is None:
            return pixels * SCRATCH_BYTES_PER_PIXEL
        return math.ceil(known * pixels / self._pixels(largest))

    def _pixels(self, shapes: Mapping[str, Sequence[int]]) -> int:
        rows = shapes.get("rows", (1, 1))
        pixels = math.prod(rows) * shapes.get("cols", (1, 1))[1]
        for name in ("images", "input"):
            pixels = math.prod(shapes.get(name, (pixels,)))
        return pixels
