"""What every runtime offers, and `open_engine`: from here on nobody knows which runtime runs.

An engine loads decoded images once and runs plans of views on them; rescaling, cropping, mirroring and averaging over
positions are its business, averaging over views is its caller's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from .files import file_sha256
from .image import Pixels
from .render import Cache
from .spec import ModelSpec, ShapeRange
from .views import ViewPlan

Provider = Literal["cpu", "cuda", "tensorrt"]
"""Execution providers of ONNX Runtime."""


HOST = "host"
"""Engine.device of one that computes in `result`."""


class EngineError(RuntimeError):
    """An engine that cannot be opened or run; one line: got, expected, what to do."""


@dataclass(frozen=True, slots=True)
class DeviceImage:
    """Decoded images as an engine holds them, with their rescaled versions; engines of one process share it."""

    images: tuple[Pixels, ...]
    rescaled: tuple[Cache, ...]
    uploads: dict[Any, Any] = field(default_factory=dict)
    """What lies on devices already, by whatever an engine calls it; it goes with the image."""


def load_on_host(images: Sequence[Pixels]) -> DeviceImage:
    """Images for an engine whose device is the host."""
    return DeviceImage(tuple(images), tuple({} for _ in images))


class Started(Protocol):
    """Work that an engine was given."""

    def result(self) -> dict[str, NDArray[Any]]:
        """Waits for it, once; as Engine.run."""
        ...


@dataclass(frozen=True, slots=True)
class Deferred:
    """What an engine whose device is the host makes of `start`: work that is done when it is asked for."""

    work: Callable[[], dict[str, NDArray[Any]]]

    def result(self) -> dict[str, NDArray[Any]]:
        return self.work()


class Engine(Protocol):
    """A compiled network.

    Outputs: `posterior` and `posterior_positions` f32 [views, classes], `pixel_sums` i32 [views, 6] (see render.py);
    where exported `score_map` f32 [views, classes, h', w'], which takes plans of one size of views at a time, and
    `features` f32 [views, width of the last hidden layer]. A box net has `box_map` in place of posteriors (boxes.py).
    """

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def shapes(self) -> tuple[ShapeRange, ...]: ...

    @property
    def runtime(self) -> str:
        """Runtime and precision, as in the names of score files: `torch-fp32`."""
        ...

    @property
    def device(self) -> str:
        """Where `load` puts images; engines of one device share what either has loaded."""
        ...

    @property
    def sha256(self) -> str:
        """Digest of the file that was opened."""
        ...

    @property
    def seconds(self) -> float:
        """Time spent inside the runtime's own run calls so far."""
        ...

    def load(self, images: Sequence[Pixels]) -> DeviceImage:
        """Takes decoded images, u8 RGB [h, w, 3] each."""
        ...

    def run(
        self, image: DeviceImage, plans: Sequence[ViewPlan], outputs: Sequence[str] = ("posterior",)
    ) -> dict[str, NDArray[Any]]:
        """Each output of all views, those of the first image's plan first. One plan for each loaded image."""
        ...

    def start(self, image: DeviceImage, plans: Sequence[ViewPlan], outputs: Sequence[str] = ("posterior",)) -> Started:
        """The same, to be waited for later: a GPU computes while the host makes the next image ready."""
        ...

    def close(self) -> None: ...


def check_outputs(spec: ModelSpec, outputs: Sequence[str]) -> None:
    """Raises EngineError for an output that the engine was not exported with."""
    for name in outputs:
        if name not in spec.outputs and spec.task != "classify" and name != "features":
            raise EngineError(
                f"{spec.name} is a box net, which has no {name}, only {', '.join(spec.outputs)}: it is for --boxes of "
                "evaluation.localization and infer"
            )
        if name == "box_map" and name not in spec.outputs:
            raise EngineError(
                f"{spec.name} is a classifier, which has no box_map: expected a box net, of a recipe like vgg-d-loc-pcr"
            )
        if name not in spec.outputs:
            raise EngineError(
                f"{spec.name} has no output {name!r}, only {', '.join(spec.outputs)}: export it again, python -m "
                f"export.to_onnx ckpt.pt --outputs {name}"
            )


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
    from . import self_test as self_tests

    path = Path(path)
    if not path.is_file():
        raise EngineError(f"{path}: no such file, expected an engine (.onnx, .engine)")
    if path.suffix == ".pt":
        raise EngineError(f"{path}: a checkpoint is not an engine: run python -m export.to_onnx {path}")
    if path.suffix == ".engine":
        return _open_plan(path, device, self_test, runtime_cache, cuda_graphs)
    if path.suffix != ".onnx":
        raise EngineError(f"{path}: unknown kind of engine {path.suffix!r}, expected .onnx or .engine")
    if runtime_cache or cuda_graphs:
        raise EngineError(f"{path}: runtime_cache and cuda_graphs are of plans (.engine): build one with export.to_trt")
    try:
        from .onnx_engine import OnnxEngine
    except ImportError as error:
        raise EngineError(f"ONNX Runtime is not installed ({error}): pip install 'verydeep[onnx]'") from None
    engine = OnnxEngine(path, provider=provider, device=device, threads=threads, largest_short_px=largest_short_px)
    if self_test:
        self_tests.check(engine, json.loads(engine.metadata.get("self_test", "null")))
    return engine


def _open_plan(path: Path, device: int, self_test: bool, runtime_cache: Path | None, cuda_graphs: bool) -> Engine:
    from . import self_test as self_tests
    from .cuda import CudaError
    from .tensorrt_engine import TensorRTEngine

    try:
        engine = TensorRTEngine(path, device=device, runtime_cache=runtime_cache, cuda_graphs=cuda_graphs)
    except CudaError as error:
        raise EngineError(
            f"{path}: {error}; without an NVIDIA GPU use the ONNX model it was built from, {path.with_suffix('.onnx')}"
        ) from None
    try:
        if self_test:
            self_tests.check(engine, engine.self_test)
    except EngineError:
        engine.close()
        raise
    return engine


def check_sidecar(path: Path) -> dict[str, Any]:
    """What model.engine.json says of a plan. Raises EngineError unless it belongs to this very plan.

    Loading a plan runs native code from it, so nothing of it is loaded before.
    """
    sidecar = path.with_name(path.name + ".json")
    try:
        content: dict[str, Any] = json.loads(sidecar.read_text())
        expected = str(content["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{sidecar}: missing or damaged ({error!r}): build the engine again with export.to_trt"
        ) from None
    found = file_sha256(path)
    if found != expected:
        raise EngineError(
            f"{path}: sha256 {found[:12]}..., but its sidecar says {expected[:12]}...: the plan was changed or the "
            "sidecar belongs to another; build it again with export.to_trt"
        )
    return content
