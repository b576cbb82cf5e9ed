"""What the command line asks of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infer.spec import Interface, Precision


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks of the graph; interface None: the ONNX model's own, `views` from a checkpoint."""

    precision: Precision = "fp16"
    interface: Interface | None = None
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """What is to be shown of an FP16 graph before it is built, on which images: see proof.py."""

    calibrate: Path | None = None
    verify: Path | None = None
    protocol: str = "center"
    limit: int = 200  # images of either; 0: all
    tolerance: float = 0.02  # largest difference of a posterior
