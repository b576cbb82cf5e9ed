"""What every runtime offers, and `open_engine`: from here on nobody knows which runtime runs.

An engine loads decoded images once and runs plans of views on them; rescaling, cropping, mirroring and averaging over
positions are its business, averaging over views is its caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from .errors import Refused
from .pixels.decode import Pixels
from .pixels.render import Cache
from .shapes import ShapeRange
from .spec import ModelSpec
from .views import ViewPlan

Provider = Literal["cpu", "cuda", "tensorrt"]
"""Execution providers of ONNX Runtime."""


HOST = "host"
"""Engine.device of one that computes in `result`."""


class EngineError(Refused):
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
