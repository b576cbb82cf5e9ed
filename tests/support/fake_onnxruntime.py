"""NOT a GPU: a double of ONNX Runtime's CUDA and TensorRT providers for tests, over the real CPU provider.

It keeps what ONNX Runtime documents of these providers. FP32 is TF32 unless it is told not to be, and shows it by a
difference of 2e-3. A call outside the TensorRT provider's profile is an error, and so is an option that is none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
OPTIONS = {
    CUDA: {"device_id", "use_tf32", "cudnn_conv_algo_search", "prefer_nhwc", "gpu_mem_limit"},
    TENSORRT: {
        *("device_id", "trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes"),
        *("trt_engine_cache_enable", "trt_engine_cache_path", "trt_fp16_enable", "trt_int8_enable"),
    },
    "CPUExecutionProvider": set[str](),
}
TF32_DIFFERENCE = 2e-3
"""Within what simulated TF32 changed in a posterior."""

_Session, _OrtValue = onnxruntime.InferenceSession, onnxruntime.OrtValue


@dataclass(slots=True)
class OnDevice:
    """An array that was copied to the device."""

    array: np.ndarray[Any, Any]


class OrtValue:
    copies: int = 0

    @staticmethod
    def ortvalue_from_numpy(array: np.ndarray[Any, Any], device_type: str = "cpu", device_id: int = 0) -> Any:
        if device_type == "cpu":
            return _OrtValue.ortvalue_from_numpy(array)
        OrtValue.copies += 1
        return OnDevice(array.copy())


@dataclass(slots=True)
class Binding:
    inputs: dict[str, OnDevice] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    results: list[np.ndarray[Any, Any]] = field(default_factory=list)

    def bind_ortvalue_input(self, name: str, value: OnDevice) -> None:
        self.inputs[name] = value

    def bind_output(self, name: str, device_type: str, device_id: int) -> None:
        self.names.append(name)

    def copy_outputs_to_cpu(self) -> list[np.ndarray[Any, Any]]:
        return self.results


OPENED: list[InferenceSession] = []


class InferenceSession:
    def __init__(self, path: str, options: Any = None, providers: Sequence[Any] = ()) -> None:
        self.providers: dict[str, Mapping[str, str]] = {}
        for entry in providers:
            name, given = entry if isinstance(entry, tuple) else (entry, {})
            unknown = set(given) - OPTIONS[name]
            if unknown:
                raise RuntimeError(f"Unknown provider option: {sorted(unknown)[0]}")
            self.providers[name] = dict(given)
        self._session = _Session(path, options, providers=["CPUExecutionProvider"])
        self._calm = os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"
        OPENED.append(self)

    def get_providers(self) -> list[str]:
        return [*self.providers, "CPUExecutionProvider"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: Sequence[str], feed: Mapping[str, Any]) -> list[np.ndarray[Any, Any]]:
        if TENSORRT in self.providers:
            self._check_profile(feed)
        results = self._session.run(outputs, feed)
        exact = self._calm if TENSORRT in self.providers else self.providers.get(CUDA, {}).get("use_tf32", "1") == "0"
        if exact or not self.providers.keys() & {CUDA, TENSORRT}:
            return results
        return [value + np.float32(TF32_DIFFERENCE) if value.dtype.kind == "f" else value for value in results]

    def _check_profile(self, feed: Mapping[str, Any]) -> None:
        options = self.providers[TENSORRT]
        low, high = (shapes(options.get(f"trt_profile_{bound}_shapes", "")) for bound in ("min", "max"))
        for name, array in feed.items():
            if not all(a <= n <= b for a, n, b in zip(low[name], array.shape, high[name], strict=True)):
                raise RuntimeError(f"{name} of {array.shape} is outside of the profile: {low[name]} to {high[name]}")

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding) -> None:
        binding.results = self.run(binding.names, {name: value.array for name, value in binding.inputs.items()})


def shapes(text: str) -> dict[str, tuple[int, ...]]:
    """`image:32x32x3,rows:1x224` as shapes by name."""
    pairs = (item.split(":") for item in text.split(",") if item)
    return {name: tuple(map(int, sizes.split("x"))) for name, sizes in pairs}


def install(monkeypatch: pytest.MonkeyPatch) -> list[InferenceSession]:
    """Puts the double into onnxruntime's place; returns the list of the sessions that are opened."""
    OPENED.clear()
    monkeypatch.setattr(onnxruntime, "InferenceSession", InferenceSession)
    monkeypatch.setattr(onnxruntime, "OrtValue", OrtValue)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, "CPUExecutionProvider"])
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    return OPENED
