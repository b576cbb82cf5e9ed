"""open_engine: from here on nobody knows which runtime runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import self_test as self_tests
from .engine import Engine, EngineError, Provider

if TYPE_CHECKING:
    from .onnx_engine import OnnxEngine
    from .tensorrt.engine import TensorRTEngine


def open_engine(
    path: str | os.PathLike[str],
    *,
    provider: Provider = "cpu",
    device: int = 0,
    threads: int = 0,
    self_test: bool = False,
    largest_short_px: int = 0,
    runtime_cache: Path | None = None,
    cuda_graphs: bool = False,
) -> Engine:
    """The engine in a model.onnx or model.engine, proven by its self-test on request. Raises EngineError.

    device: ordinal of a GPU; threads: of ONNX Runtime on a CPU, 0 for all. Of plans: runtime_cache, a file in which
    TensorRT-RTX keeps the kernels that it compiled; cuda_graphs: a call of known shapes is launched as a whole.
    """
    path = Path(path)
    if not path.is_file():
        raise EngineError(f"{path}: no such file, expected an engine (.onnx, .engine)")
    if path.suffix == ".pt":
        raise EngineError(f"{path}: a checkpoint is not an engine: run python -m export.to_onnx {path}")
    if path.suffix not in (".onnx", ".engine"):
        raise EngineError(f"{path}: unknown kind of engine {path.suffix!r}, expected .onnx or .engine")

    engine: OnnxEngine | TensorRTEngine
    if path.suffix == ".engine":
        engine = _open_plan(path, device, runtime_cache, cuda_graphs)
    elif runtime_cache or cuda_graphs:
        raise EngineError(f"{path}: runtime_cache and cuda_graphs are of plans (.engine): build one with export.to_trt")
    else:
        engine = _open_onnx(path, provider, device, threads, largest_short_px)

    if self_test:
        try:
            self_tests.check(engine, engine.self_test)
        except EngineError:
            engine.close()
            raise
    return engine


def _open_onnx(path: Path, provider: Provider, device: int, threads: int, largest_short_px: int) -> OnnxEngine:
    try:
        from .onnx_engine import OnnxEngine
    except ImportError as error:
        raise EngineError(f"ONNX Runtime is not installed ({error}): pip install 'verydeep[onnx]'") from None
    return OnnxEngine(path, provider=provider, device=device, threads=threads, largest_short_px=largest_short_px)


def _open_plan(path: Path, device: int, runtime_cache: Path | None, cuda_graphs: bool) -> TensorRTEngine:
    from .cuda.driver import CudaError
    from .tensorrt.engine import TensorRTEngine

    try:
        return TensorRTEngine(path, device=device, runtime_cache=runtime_cache, cuda_graphs=cuda_graphs)
    except CudaError as error:
        raise EngineError(
            f"{path}: {error}; without an NVIDIA GPU use the ONNX model it was built from, {path.with_suffix('.onnx')}"
        ) from None
