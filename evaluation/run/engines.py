"""The engines of a run: opened, whatever kind of file each is, identified, and checked to be of one data set."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from infer.engine import UNROUNDED, Engine, EngineError
from infer.errors import Refused
from infer.model_file import CHECK
from infer.open import open_engine
from infer.spec import ModelSpec

from ..errors import RunError


@dataclass(frozen=True, slots=True)
class KnownEngine:
    """An engine's identity, for those who do not run it themselves."""

    spec: ModelSpec
    runtime: str
    arithmetic: str
    sha256: str


def known_engine(engine: Engine) -> KnownEngine:
    return KnownEngine(engine.spec, engine.runtime, engine.arithmetic, engine.sha256)


def our_commit() -> str:
    """The commit of this checkout, or the installed version."""
    here = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        try:
            return f"verydeep {metadata.version('verydeep')}"
        except metadata.PackageNotFoundError:
            return "unknown"


def open_any(path: Path, *, checkpoints: bool = True, **options: Any) -> Engine:
    """Opens a .onnx or .engine file, or a .pt where `checkpoints` may take part, as an engine.

    Raises EngineError, also for one whose answers do not show what its precision costs or which pixels it saw.

    options: of infer.open.open_engine; a checkpoint only looks at provider, device, largest_short_px and exif.
    """
    if path.suffix != ".pt" or not checkpoints:
        engine = open_engine(path, **options)
        if engine.arithmetic == UNROUNDED:
            engine.close()
            raise EngineError(
                f"{path}: an FP16 model, which ONNX Runtime does not round on a CPU, so that half precision would seem "
                f"to cost nothing; there is no {path.with_suffix(CHECK).name} beside it, which does: make it by "
                f"python -m export.to_check {path}"
            )
        if "pixel_sums" not in engine.spec.outputs:
            engine.close()
            raise EngineError(
                f"{path}: a model for apps, without the pixel_sums by which tables say what an engine saw: evaluate "
                "one that was exported without --outputs posterior"
            )
        return engine

    from trainer.torch_engine import TorchEngine

    try:
        place = f"cuda:{options.get('device', 0)}" if options.get("provider") == "cuda" else "cpu"
        own = {name: options[name] for name in ("largest_short_px", "exif") if name in options}
        return TorchEngine.open(path, place=place, **own)
    except (Refused, RuntimeError) as error:  # the second of a GPU that is not there
        raise EngineError(f"{path}: {str(error).splitlines()[0].removeprefix(f'{path}: ')}") from None


def check_together(engines: Sequence[Engine], paths: Sequence[Path]) -> None:
    """Raises RunError where two engines would write the same files, or could not be fused in the end."""
    seen: dict[tuple[str, str], Path] = {}
    for engine, path in zip(engines, paths, strict=True):
        other = seen.setdefault((engine.spec.name, engine.runtime), path)
        if other is not path:
            raise RunError(
                f"{other} and {path} are both {engine.spec.name} on {engine.runtime}: their scores would have the same "
                "file name; train or import them under different names"
            )
    check_classes(engines, paths)


def check_classes(engines: Sequence[Engine], paths: Sequence[Path]) -> None:
    """Raises RunError where two engines have different classes, so that they cannot be fused."""
    for engine, path in zip(engines, paths, strict=True):
        if engine.spec.classes != engines[0].spec.classes:
            raise RunError(
                f"{paths[0]} and {path} have different classes: they cannot be fused, so evaluate them one by one"
            )
