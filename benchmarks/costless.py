"""NOT TensorRT: a runtime that answers at once, for benchmarks/host.py, on the simulated CUDA driver (tests/cudasim).

It takes every call that infer/tensorrt/engine.py makes and computes nothing: outputs are zeros. What is left of a run's
time is the host's. Plans are those of tests/support/fake_tensorrt.py.
"""

from __future__ import annotations

import ctypes
import json
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from fake_tensorrt import ExecutionContextAllocationStrategy, ILogger, TensorIOMode, TensorLocation

SCRATCH_BYTES = 1 << 20
_DRIVER: list[Any] = []


def install(name: str, version: str) -> None:
    """Puts this in the place of the module `name`, of that version."""
    module = types.ModuleType(name)
    module.__dict__.update({key: value for key, value in globals().items() if not key.startswith("_")})
    module.__dict__["__version__"] = version
    sys.modules[name] = module


def nptype(kind: int) -> Any:
    """A tensor's type, which is its number in ONNX here."""
    return onnx.helper.tensor_dtype_to_np_dtype(kind)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.engine_host_code_allowed = False
        ctypes.CDLL("libcuda.so.1").cuDevicePrimaryCtxRetain(ctypes.byref(ctypes.c_void_p()), 0)

    def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine:
        return ICudaEngine(json.loads(plan.partition(b"\n")[2]))


class ICudaEngine:
    def __init__(self, content: Mapping[str, Any]) -> None:
        graph = onnx.load(content["onnx"], load_external_data=False).graph
        weights = {weight.name for weight in graph.initializer}
        self.inputs = {value.name: value for value in graph.input if value.name not in weights}
        self.outputs = {value.name: value for value in graph.output}
        self.num_optimization_profiles = len(content["profiles"])
        self.num_io_tensors = len(self.inputs) + len(self.outputs)
        self.dims = {name: _dims(value) for name, value in (self.inputs | self.outputs).items()}

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> int:
        return int((self.inputs | self.outputs)[name].type.tensor_type.elem_type)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(dim if isinstance(dim, int) else -1 for dim in self.dims[name])

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> IExecutionContext:
        return IExecutionContext(self)


def _dims(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(dim.dim_param or int(dim.dim_value) for dim in value.type.tensor_type.shape.dim)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._sizes: dict[int | str, int] = {}
        self._places: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        self._sizes.update(zip(self._engine.dims[name], shape, strict=True))
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(dim if isinstance(dim, int) else self._sizes[dim] for dim in self._engine.dims[name])

    def update_device_memory_size_for_shapes(self) -> int:
        return SCRATCH_BYTES

    def set_device_memory(self, memory: int, size: int) -> None:
        pass

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._places[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        sizes = self._sizes
        for name in self._engine.outputs:
            nbytes = 4  # of f32 or i32
            for dim in self._engine.dims[name]:
                nbytes *= sizes.get(dim, dim)  # type: ignore[operator]
            ctypes.memset(_host_address(self._places[name], nbytes), 0, nbytes)
        return True


def _host_address(address: int, nbytes: int) -> int:
    """Where the simulated driver keeps device memory."""
    if not _DRIVER:
        _DRIVER.append(ctypes.CDLL("libcuda.so.1"))
        _DRIVER[0].cusim_host_address.restype = ctypes.c_void_p
        _DRIVER[0].cusim_host_address.argtypes = (ctypes.c_uint64, ctypes.c_size_t, ctypes.c_char_p)
    found: int = _DRIVER[0].cusim_host_address(address, nbytes, b"an output")
    return found
