"""What command modules share: a parser whose usage errors are one line with exit status 2, and common arguments."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse without the usage text before an error: what was got and what was expected is enough."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def scales_argument(text: str) -> list[int]:
    """`256,384,512` as numbers, for argparse."""
    try:
        return [int(q) for q in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers of pixels like 256,384,512, got {text!r}") from None
