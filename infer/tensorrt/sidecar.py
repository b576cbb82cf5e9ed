"""model.engine.json: one description of its content, by which export.to_trt writes it and engines read it.

JSON itself is read and written by the standard library, since measurements in a sidecar may be NaN.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ..engine import EngineError
from ..files import file_sha256
from ..shapes import ShapeRange
from ..spec import ModelSpec, SpecError

Entry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, tuned and largest shape of one input."""


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
    ranges: dict[str, Any] | UnsetType = UNSET  # of --calibrate
    verify: dict[str, Any] | UnsetType = UNSET  # of --verify, for the graph and for the engine itself
    verify_engine: dict[str, Any] | UnsetType = UNSET

    def as_json(self) -> dict[str, Any]:
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The sidecar of the plan `path`, understood."""

    path: Path
    spec: ModelSpec
    shapes: tuple[ShapeRange, ...]
    content: SidecarContent

    @property
    def sha256(self) -> str:
        return self.content.sha256

    @property
    def library(self) -> str:
        return self.content.builder.partition(" ")[0]

    @property
    def version(self) -> str:
        return self.content.builder.partition(" ")[2]

    @property
    def self_test(self) -> Any:
        return self.content.self_test

    @property
    def rebuild(self) -> str:
        """The command that builds the plan again, here."""
        return f"python -m export.to_trt {self.path.with_suffix('.onnx')} -o {self.path} --builder {self.library}"


def check_sidecar(path: Path) -> dict[str, Any]:
    """The JSON beside a plan. Raises EngineError unless it belongs to this very plan.

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


def content_from_json(values: dict[str, Any]) -> SidecarContent:
    """Raises msgspec.ValidationError or SpecError, naming the field that is missing or untrue."""
    return msgspec.convert(values, SidecarContent)


def read_sidecar(path: Path) -> Sidecar:
    """The sidecar of a plan. Raises EngineError where it is not this plan's or cannot be understood."""
    values = check_sidecar(path)
    try:
        content = content_from_json(values)
        spec = ModelSpec.from_json(json.dumps(content.spec))
        return Sidecar(path, spec, tuple(profile.shape for profile in content.profiles), content)
    except (SpecError, msgspec.ValidationError) as error:
        raise EngineError(
            f"{path}.json: cannot be understood ({error}), written by another version? Build the engine again with "
            "export.to_trt"
        ) from None
