"""Opening a TensorRT plan: what its sidecar says, the library that runs it, and the engine in it.

A plan belongs to one version of one library and to some GPUs, and loading it runs native code from it: all that can be
told from the sidecar is checked before. The libraries have the same Python module but for what LIBRARIES says.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..engine import EngineError
from .library import LIBRARIES
from .log import messages
from .sidecar import Sidecar


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
    newer = _numbers(found) >= _numbers(sidecar.version)
    if found != sidecar.version and not (newer and sidecar.content.options.get("version_compatible")):
        raise EngineError(
            f"{sidecar.path}: built by {sidecar.library} {sidecar.version}, but here is {found}, and a plan belongs to "
            f"one version: {sidecar.rebuild}"
        )
    return trt


def check_target(sidecar: Sidecar, target: str, name: str) -> None:
    """Refuses, by EngineError, a GPU that the plan is not for, by its compute capability (`sm86`) and name."""
    targets = sidecar.content.targets
    if target not in targets and not sidecar.content.options.get("hardware_compatible"):
        asked = f" --target {target}" if LIBRARIES[sidecar.library].just_in_time else " (on this machine)"
        raise EngineError(
            f"{sidecar.path}: built for {', '.join(targets)}, but {name} is {target}: {sidecar.rebuild}{asked}"
        )


def load_plan(trt: Any, sidecar: Sidecar) -> tuple[Any, Any]:
    """(runtime, engine): the second must go before the first. Raises EngineError with the library's words."""
    log = messages(trt)
    log.said()  # nothing of what failed before
    try:
        runtime = trt.Runtime(log.logger)
        engine = runtime.deserialize_cuda_engine(sidecar.path.read_bytes())
    except (TypeError, RuntimeError) as error:  # what the bindings make of a null pointer
        raise EngineError(f"{sidecar.path}: {sidecar.library} cannot start: {log.errors()} ({error})") from None
    if engine is None:
        raise EngineError(f"{sidecar.path}: {sidecar.library} cannot load it: {log.errors()}: {sidecar.rebuild}")

    if engine.num_optimization_profiles != len(sidecar.shapes):
        raise EngineError(
            f"{sidecar.path}: has {engine.num_optimization_profiles} profiles, but its sidecar names "
            f"{len(sidecar.shapes)}: {sidecar.rebuild}"
        )
    return runtime, engine


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
