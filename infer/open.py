"""open_engine: from here on nobody knows which runtime runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import self_test as self_tests
from .engine import Engine, EngineError, Provider
from .files import refuse_pointer
from .spec import Exif

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
    lazy_kernels: bool = False,
    exif: Exif | None = None,
) -> Engine:
    """The engine in a model.onnx or model.engine, proven by its self-test on request. Raises EngineError.

    device: ordinal of a GPU; threads: of ONNX Runtime on a CPU, 0 for all. Of plans: runtime_cache, a file in which
    TensorRT-RTX keeps the kernels that it compiled; cuda_graphs: a call of known shapes is launched as a whole;
    lazy_kernels: TensorRT-RTX answers before its kernels are compiled, with last bits that change.
    exif: what is done with the rotation that a camera noted, in place of the model's own.
    """
    path = Path(path)
    if not path.is_file():
        raise EngineError(f"{path}: no such file, expected an engine (.onnx, .engine)")
    refuse_pointer(path, EngineError)
    if path.suffix == ".pt":
        raise EngineError(f"{path}: a checkpoint is not an engine: run python -m export.to_onnx {path}")
    if path.suffix not in (".onnx", ".engine"):
        raise EngineError(f"{path}: unknown kind of engine {path.suffix!r}, expected .onnx or .engine")

    if self_test and lazy_kernels:
        raise EngineError(f"{path}: a self-test proves the kernels that stay: leave lazy_kernels out")

    # a plan, by CUDA
    engine: OnnxEngine | TensorRTEngine
    if path.suffix == ".engine":
        from .cuda.driver import CudaError
        from .tensorrt.engine import TensorRTEngine

        try:
            engine = TensorRTEngine(
                path,
                device=device,
                runtime_cache=runtime_cache,
                cuda_graphs=cuda_graphs,
                lazy_kernels=lazy_kernels,
            )
        except CudaError as error:
            instead = f"without an NVIDIA GPU use the ONNX model it was built from, {path.with_suffix('.onnx')}"
            raise EngineError(f"{path}: {error}; {instead}") from None

    # a model, by ONNX Runtime
    else:
        if runtime_cache or cuda_graphs or lazy_kernels:
            raise EngineError(
                f"{path}: runtime_cache, cuda_graphs and lazy_kernels are of plans (.engine): build one with "
                "export.to_trt"
            )
        try:
            from .onnx_engine import OnnxEngine
        except ImportError as error:
            raise EngineError(f"ONNX Runtime is not installed ({error}): pip install 'verydeep[onnx]'") from None
        engine = OnnxEngine(path, provider=provider, device=device, threads=threads, largest_short_px=largest_short_px)

    engine.spec = engine.spec.with_exif(exif)
    if self_test:
        try:
            self_tests.check(engine, engine.self_test)
        except EngineError:
            engine.close()
            raise
    return engine
