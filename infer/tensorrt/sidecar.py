"""A plan and model.engine.json beside it, which export.to_trt writes and engines read: one description of its content.

A plan belongs to one version of one library and to some GPUs, and loading it runs native code from it: all that can be
told from the sidecar is checked before. JSON itself is read and written by the standard library, since measurements in
a sidecar may be NaN.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ..engine import EngineError, version_numbers
from ..files import file_sha256, read_file
from ..graph_inputs import Entry
from ..spec import ModelSpec, SpecError
from ..views import ShapeRange
from .library import LIBRARIES
from .log import messages

LARGEST_BYTES = 1 << 24
"""Bytes of a sidecar at most; one of 1,000 classes has 60,000."""


@dataclass(frozen=True, slots=True)
class Profile(ShapeRange):
    """An optimisation profile: the entry of each input follows from the range."""

    inputs: dict[str, Entry] = field(default_factory=dict)
    activation_bytes: int | None = None  # None: the builder's log does not say it

    @property
    def shape(self) -> ShapeRange:
        """The range alone, which engines use as a key."""
        return ShapeRange(*(getattr(self, one.name) for one in fields(ShapeRange)))


class SidecarContent(msgspec.Struct, frozen=True, kw_only=True):
    """The content of model.engine.json, in the order of its keys. Only those without a default are needed to run."""

    spec: dict[str, Any]
    sha256: str
    builder: str  # "tensorrt-rtx 1.7.1.116"
    targets: tuple[str, ...]
    options: dict[str, Any] = {}
    profiles: tuple[Profile, ...]
    half_tensors: int = 0
    float_tensors: int = 0
    onnx_sha256: str = ""
    self_test: Any = None
    keep_single: tuple[str, ...] | UnsetType = UNSET  # layers in FP32 within a half engine
    ranges: dict[str, Any] | UnsetType = UNSET  # of --calibrate
    int8: dict[str, Any] | UnsetType = UNSET  # how it was quantised, and which layers are back in half
    verify: dict[str, Any] | UnsetType = UNSET  # of --verify, for the graph and for the engine itself
    verify_engine: dict[str, Any] | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The sidecar of the plan `path`, understood."""

    path: Path
    spec: ModelSpec
    shapes: tuple[ShapeRange, ...]
    content: SidecarContent

    @property
    def library(self) -> str:
        return self.content.builder.partition(" ")[0]

    @property
    def version(self) -> str:
        return self.content.builder.partition(" ")[2]

    @property
    def version_compatible(self) -> bool:
        """Whether the plan carries the runtime that it needs, as code, and so runs on newer versions of the library."""
        return self.content.options.get("version_compatible") is True

    @property
    def identity(self) -> str:
        """Digest of the plan, and of what decides its answers beside it: the spec and the shapes."""
        shapes = [_said(shape) for shape in self.shapes]
        said = json.dumps([self.content.sha256, msgspec.to_builtins(self.content.spec), shapes], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    @property
    def rebuild(self) -> str:
        """The command that builds the plan again, here."""
        return f"python -m export.to_trt {self.path.with_suffix('.onnx')} -o {self.path} --builder {self.library}"


def _said(shape: ShapeRange) -> dict[str, Any]:
    """What a profile's sidecar says of it, as engines without regions always did."""
    values: dict[str, Any] = msgspec.to_builtins(shape)
    return {name: value for name, value in values.items() if value is not None}


def check_sidecar(path: Path) -> dict[str, Any]:
    """The JSON beside a plan. Raises EngineError unless it belongs to this very plan.

    Loading a plan runs native code from it, so nothing of it is loaded before.
    """
    sidecar = path.with_name(path.name + ".json")
    try:
        content: dict[str, Any] = json.loads(read_file(sidecar, LARGEST_BYTES, EngineError))
        expected = str(content["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineError(
            f"{sidecar}: missing or damaged ({error!r}): build the engine again with export.to_trt"
        ) from None

    _check_digest(path, file_sha256(path), expected)
    return content


def _check_digest(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise EngineError(
            f"{path}: sha256 {found[:12]}..., but its sidecar says {expected[:12]}...: the plan was changed or the "
            "sidecar belongs to another; build it again with export.to_trt"
        )


def read_sidecar(path: Path) -> Sidecar:
    """The sidecar of a plan. Raises EngineError where it is not this plan's or cannot be understood."""
    values = check_sidecar(path)
    try:
        content = msgspec.convert(values, SidecarContent)
        spec = ModelSpec.from_json(json.dumps(content.spec))
        return Sidecar(path, spec, tuple(profile.shape for profile in content.profiles), content)
    except (SpecError, msgspec.ValidationError, RecursionError) as error:
        raise EngineError(
            f"{path}.json: cannot be understood ({error}), written by another version? Build the engine again with "
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
    here, needed = version_numbers(found), version_numbers(sidecar.version)
    fits = bool(needed) and (here == needed or (here > needed and sidecar.version_compatible))
    if not fits:
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

    # these very bytes are the sidecar's: the file may have been exchanged since it was read
    plan = sidecar.path.read_bytes()
    _check_digest(sidecar.path, hashlib.sha256(plan).hexdigest(), sidecar.content.sha256)
    try:
        runtime = trt.Runtime(log.logger)
        if sidecar.version_compatible:
            runtime.engine_host_code_allowed = True  # it carries its own runtime, which is refused by default
        engine = runtime.deserialize_cuda_engine(plan)
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
