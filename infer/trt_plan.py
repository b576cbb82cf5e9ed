"""Opening a TensorRT plan: what its sidecar says, the library that runs it, and the engine in it.

A plan belongs to one version of one library and to some GPUs, and loading it runs native code from it: all that can be
told from the sidecar is checked before. The libraries have the same Python module but for what LIBRARIES says.
"""

from __future__ import annotations

import importlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .engine import EngineError, check_sidecar
from .spec import Extent, ModelSpec, ShapeRange, SpecError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Library:
    """A library that runs plans. `just_in_time`: it compiles kernels on the GPU, which a runtime cache can keep."""

    module: str
    just_in_time: bool


LIBRARIES = {"tensorrt": Library("tensorrt", False), "tensorrt-rtx": Library("tensorrt_rtx", True)}
"""By the name that export.to_trt writes as the builder. TensorRT from 10.9 on; TensorRT-RTX from 1.7 on."""


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What model.engine.json says of the plan `path`."""

    path: Path
    spec: ModelSpec
    shapes: tuple[ShapeRange, ...]
    sha256: str
    library: str
    version: str
    targets: tuple[str, ...]
    version_compatible: bool
    hardware_compatible: bool
    self_test: Any

    @property
    def rebuild(self) -> str:
        """The command that builds the plan again, here."""
        return f"python -m export.to_trt {self.path.with_suffix('.onnx')} -o {self.path} --builder {self.library}"


def read_sidecar(path: Path) -> Sidecar:
    """Raises EngineError where the sidecar is not of this plan or cannot be understood."""
    content = check_sidecar(path)
    try:
        library, _, version = str(content["builder"]).partition(" ")
        options = content.get("options", {})
        return Sidecar(
            path=path,
            spec=ModelSpec.from_json(json.dumps(content["spec"])),
            shapes=tuple(_shape(profile) for profile in content["profiles"]),
            sha256=str(content["sha256"]),
            library=library,
            version=version,
            targets=tuple(content["targets"]),
            version_compatible=bool(options.get("version_compatible")),
            hardware_compatible=bool(options.get("hardware_compatible")),
            self_test=content.get("self_test"),
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, SpecError) else repr(error)
        raise EngineError(
            f"{path}.json: cannot be understood ({reason}), written by another version? Build the engine again with "
            "export.to_trt"
        ) from None


def import_library(sidecar: Sidecar) -> Any:
    """The module that runs the plan. Raises EngineError unless its version is the plan's."""
    if sidecar.library not in LIBRARIES:
        known = " or ".join(LIBRARIES)
        raise EngineError(
            f"{sidecar.path}: built by {sidecar.library!r}, expected {known}: build it with export.to_trt"
        )
    try:
        trt = importlib.import_module(LIBRARIES[sidecar.library].module)
    except ImportError as error:
        raise EngineError(
            f"{sidecar.path}: built by {sidecar.library} {sidecar.version}, which cannot be imported ({error}): "
            f"pip install {sidecar.library}=={sidecar.version}"
        ) from None
    found = str(trt.__version__)
    if found != sidecar.version and not (sidecar.version_compatible and _numbers(found) >= _numbers(sidecar.version)):
        raise EngineError(
            f"{sidecar.path}: built by {sidecar.library} {sidecar.version}, but here is {found}, and a plan belongs to "
            f"one version: {sidecar.rebuild}"
        )
    return trt


def check_target(sidecar: Sidecar, target: str, name: str) -> None:
    """Raises EngineError unless the plan is for a GPU like this one: compute capability (`sm86`) and name."""
    if target not in sidecar.targets and not sidecar.hardware_compatible:
        asked = f" --target {target}" if LIBRARIES[sidecar.library].just_in_time else " (on this machine)"
        raise EngineError(
            f"{sidecar.path}: built for {', '.join(sidecar.targets)}, but {name} is {target}: {sidecar.rebuild}{asked}"
        )


class Messages:
    """What a library said since this was asked last, for error messages."""

    def __init__(self, trt: Any) -> None:
        said: list[str] = []

        def start(self: Any) -> None:
            trt.ILogger.__init__(self)

        def take(_: Any, severity: Any, message: str) -> None:
            if severity.name.endswith("ERROR"):
                said.append(" ".join(message.split()))
            elif severity.name == "WARNING":
                log.warning(message)

        self._said = said
        self.logger = type("Logger", (trt.ILogger,), {"__init__": start, "log": take})()

    def errors(self) -> str:
        text = "; ".join(self._said) or "it does not say why"
        self._said.clear()
        return text


_MESSAGES: dict[str, Messages] = {}


def messages(trt: Any) -> Messages:
    """The library keeps the logger of its first object for good, so there is one for the process."""
    if trt.__name__ not in _MESSAGES:
        _MESSAGES[trt.__name__] = Messages(trt)
    return _MESSAGES[trt.__name__]


def load_plan(trt: Any, sidecar: Sidecar) -> tuple[Any, Any]:
    """(runtime, engine): the second must go before the first. Raises EngineError with the library's words."""
    said = messages(trt)
    said.errors()
    try:
        runtime = trt.Runtime(said.logger)
        engine = runtime.deserialize_cuda_engine(sidecar.path.read_bytes())
    except (TypeError, RuntimeError) as error:  # what the bindings make of a null pointer
        raise EngineError(f"{sidecar.path}: {sidecar.library} cannot start: {said.errors()} ({error})") from None
    if engine is None:
        raise EngineError(f"{sidecar.path}: {sidecar.library} cannot load it: {said.errors()}: {sidecar.rebuild}")
    if engine.num_optimization_profiles != len(sidecar.shapes):
        raise EngineError(
            f"{sidecar.path}: has {engine.num_optimization_profiles} profiles, but its sidecar names "
            f"{len(sidecar.shapes)}: {sidecar.rebuild}"
        )
    return runtime, engine


def _shape(profile: dict[str, Any]) -> ShapeRange:
    extents = ("views", "height_px", "width_px", "rescaled_px", "source_px", "taps")
    return ShapeRange(str(profile["name"]), **{name: Extent(**profile[name]) for name in extents})


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
