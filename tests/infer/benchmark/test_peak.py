"""What a device could compute at most, and what it is called."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import slim_spec

from infer.benchmark import measure
from infer.cuda.driver import CudaError


def engine(device: str, **changes: Any) -> Any:
    return SimpleNamespace(device=device, spec=slim_spec("A", **changes))


def test_a_cpu_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a product of matrices takes 0.25 s, the one after the warm-up 0.125."""
    measure._matrix_product.cache_clear()
    monkeypatch.setattr(measure, "MATRIX", 64)
    clock, products = [0.0], []

    def multiply(a: Any, b: Any, out: Any) -> None:
        products.append((a @ b == 64).all())
        clock[0] += 0.125 if len(products) == 1 else 0.25

    monkeypatch.setattr(np, "matmul", multiply)
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    name = measure.device_name(engine("host"))
    assert name.endswith(" CPUs")
    found = measure.device_peak(engine("host", precision="fp16"), name)
    assert found is not None
    assert found.flops_per_second == 2 * 64**3 / 0.125
    assert found.name.startswith("float32 matrix product by NumPy, ") and found.name.endswith(" CPUs, measured")
    assert len(products) == 3
    assert measure.device_peak(engine("host"), name) == found
    assert len(products) == 3
    measure._matrix_product.cache_clear()


@pytest.mark.parametrize(
    ("gpu", "precision", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "fp16", 312),
        ("NVIDIA H200", "fp16", 989),
        ("NVIDIA H200", "fp32", None),
        ("NVIDIA H200 NVL", "fp16", None),
    ],
)
def test_a_gpu_is_looked_up(gpu: str, precision: str, tflops: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Device:
        name = gpu

        def __init__(self, ordinal: int) -> None:
            assert ordinal == 3

        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr(measure, "Device", Device)
    given = engine("cuda:3", precision=precision)
    name = measure.device_name(given)
    assert (name, closed) == (gpu, [True])
    found = measure.device_peak(given, name)
    assert (found and found.flops_per_second) == (tflops and tflops * 1e12)


@pytest.mark.parametrize(
    ("name", "in_half", "in_single"),
    [
        ("NVIDIA GeForce RTX 3090", 142, 71),
        ("NVIDIA GeForce RTX 4090", 330.3, 165.2),
        ("NVIDIA GeForce RTX 5090", 419, 209.5),
    ],
)
def test_a_peak_of_a_geforce_names_its_sums(name: str, in_half: float, in_single: float) -> None:
    """The figures of the white papers, of which the second is half the first: a share without the word says nothing."""
    found = measure.device_peak(engine("cuda:0", precision="fp16"), name)
    assert found is not None and found.flops_per_second == pytest.approx(in_half * 1e12, rel=2e-3)
    assert in_single == pytest.approx(in_half / 2, rel=2e-3)
    assert " summed in FP16 (in FP32: half of it), " in found.name


def test_a_peak_of_a_data_centre_gpu_is_the_same_for_both_sums() -> None:
    found = measure.device_peak(engine("cuda:0", precision="fp16"), "NVIDIA H200")
    assert found is not None and " summed in FP16 or FP32, " in found.name


def test_a_gpu_without_a_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(ordinal: int) -> None:
        raise CudaError("no way to the GPU")

    monkeypatch.setattr(measure, "Device", refuse)
    given = engine("cuda:0", precision="fp16")
    assert measure.device_name(given) == "cuda:0"
    assert measure.device_peak(given, "cuda:0") is None
