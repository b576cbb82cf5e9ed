"""What every runtime offers, and `open_engine`: from here on nobody knows which runtime runs.

An engine loads decoded images once and runs plans of views on them; rescaling, cropping, mirroring and averaging over
positions are its business, averaging over views is its caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from .image import Pixels
from .render import Cache
from .spec import ModelSpec, ShapeRange
from .views import ViewPlan


class EngineError(RuntimeError):
    """An engine that cannot be opened or run; one line: got, expected, what to do."""


@dataclass(frozen=True, slots=True)
class DeviceImage:
    """Decoded images as an engine holds them, with their rescaled versions; engines of one process share it."""

    images: tuple[Pixels, ...]
    rescaled: tuple[Cache, ...]


def load_on_host(images: Sequence[Pixels]) -> DeviceImage:
    """Images for an engine whose device is the host."""
    return DeviceImage(tuple(images), tuple({} for _ in images))


class Engine(Protocol):
    """A compiled network.

    Outputs: `posterior` and `posterior_positions` f32 [views, classes], `pixel_sums` i32 [views, 6] (see render.py).
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

    def close(self) -> None: ...


def check_outputs(spec: ModelSpec, outputs: Sequence[str]) -> None:
    """Raises EngineError for an output that the engine was not exported with."""
    for name in outputs:
        if name not in spec.outputs:
            raise EngineError(
                f"{spec.name} has no output {name!r}, only {', '.join(spec.outputs)}: export it with --outputs"
            )
