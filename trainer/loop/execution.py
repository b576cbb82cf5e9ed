"""Choices of where and how the steps are computed: device, precision, pieces. What is computed, the recipe says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16", "fp64"]
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Execution:
    """Choices that change a run's speed and, in the last digits, its numbers; and how often it is saved.

    precision: of the products: fp32, autocast to bf16 or fp16 (which scales its loss), or all in fp64, to compare.
    parts: a process computes its share of a batch in so many pieces and adds up the gradients.
    """

    device: str = "auto"
    precision: Precision = "fp32"
    parts: int = 1
    channels_last: bool = True
    compile: bool = False
    save_minutes: float = 10.0

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context of a forward pass."""
        if self.precision not in AUTOCAST:
            return nullcontext()
        return torch.autocast(device.type, AUTOCAST[self.precision])
