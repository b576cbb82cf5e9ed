"""model.engine.json, read and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine import EngineError
from ..files import file_sha256
from ..shapes import Extent, ShapeRange
from ..spec import ModelSpec, SpecError


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
    except (SpecError, KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, SpecError) else repr(error)
        raise EngineError(
            f"{path}.json: cannot be understood ({reason}), written by another version? Build the engine again with "
            "export.to_trt"
        ) from None


def _shape(profile: dict[str, Any]) -> ShapeRange:
    extents = ("views", "height_px", "width_px", "rescaled_px", "source_px", "taps")
    return ShapeRange(str(profile["name"]), **{name: Extent(**profile[name]) for name in extents})
