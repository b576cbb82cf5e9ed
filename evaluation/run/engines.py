"""The engines of a run, opened: whatever kind of file each is, and whether they can take part together."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infer.engine import Engine, EngineError, Provider
from infer.errors import Refused
from infer.open import open_engine
from infer.spec import ModelSpec
from infer.views import check_scales

from ..errors import RunError
from .protocol import Protocol, resolve
from .submission import Plan


@dataclass(frozen=True, slots=True)
class Members:
    """Engines with the protocols of each."""

    engines: tuple[Engine, ...]
    protocols: tuple[tuple[Protocol, ...], ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """What an engine is, for those who do not run it themselves."""

    spec: ModelSpec
    runtime: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Identities:
    """`Members` without the engines themselves."""

    engines: tuple[Identity, ...]
    protocols: tuple[tuple[Protocol, ...], ...]


def identify(plan: Plan, provider: Provider, device: int = 0) -> Identities:
    """Opens what `plan` asks for and closes it again. Raises EngineError, PlanError or RunError."""
    with contextlib.ExitStack() as soon:
        return identities_of(open_members(plan, provider, soon, device=device))


def identities_of(members: Members) -> Identities:
    engines = (Identity(engine.spec, engine.runtime, engine.sha256) for engine in members.engines)
    return Identities(tuple(engines), members.protocols)


def open_members(
    plan: Plan, provider: Provider, stack: contextlib.ExitStack, *, device: int = 0, threads: int = 0
) -> Members:
    """What `plan` asks for, closed by `stack`. Raises EngineError, PlanError or RunError.

    device: ordinal of a GPU; threads: of a CPU, 0 for all.
    """
    engines: list[Engine] = []
    protocols: list[tuple[Protocol, ...]] = []
    for path, asked in plan.asked:
        largest = max((q for _, scales in asked for q in scales or ()), default=0)
        engine = open_any(path, provider=provider, device=device, threads=threads, largest_short_px=largest)
        stack.callback(engine.close)
        own = tuple(protocol for name, scales in asked for protocol in resolve([name], engine.spec, scales))
        for protocol in own:
            check_scales(engine.spec, protocol.scales)
        if len(set(own)) < len(own):
            raise RunError(f"{path} takes part twice by the same protocol and scales, expected each once")
        engines.append(engine)
        protocols.append(own)
    _check_together(engines, [path for path, _ in plan.asked])
    return Members(tuple(engines), tuple(protocols))


def open_any(
    path: Path, *, provider: Provider = "cpu", device: int = 0, threads: int = 0, largest_short_px: int = 0
) -> Engine:
    """An engine for a .pt, .onnx or .engine file. Raises EngineError."""
    if path.suffix == ".pt":
        from trainer.torch_engine import TorchEngine

        try:
            place = f"cuda:{device}" if provider == "cuda" else "cpu"
            return TorchEngine.open(path, largest_short_px=largest_short_px, place=place)
        except (Refused, RuntimeError) as error:  # the second of a GPU that is not there
            raise EngineError(f"{path}: {str(error).splitlines()[0].removeprefix(f'{path}: ')}") from None
    return open_engine(path, provider=provider, device=device, threads=threads, largest_short_px=largest_short_px)


def _check_together(engines: Sequence[Engine], paths: Sequence[Path]) -> None:
    """Raises RunError where two engines would write the same files, or could not be fused in the end."""
    seen: dict[tuple[str, str], Path] = {}
    for engine, path in zip(engines, paths, strict=True):
        other = seen.setdefault((engine.spec.name, engine.runtime), path)
        if other is not path:
            raise RunError(
                f"{other} and {path} are both {engine.spec.name} on {engine.runtime}: their scores would have the same "
                "file name; train or import them under different names"
            )
        if engine.spec.classes != engines[0].spec.classes:
            raise RunError(
                f"{paths[0]} and {path} have different classes: they cannot be fused, so evaluate them one by one"
            )
