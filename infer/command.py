"""What command modules share: a parser whose usage errors are one line with exit status 2, and common arguments."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
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


def run(main: Callable[[], int]) -> NoReturn:
    """Ends the process with `main`'s status; Ctrl-C is one line, and a reader that has seen enough is no error.

    So is SIGTERM, which would otherwise kill a process on the spot and leave its temporary files.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing left to flush into
        status = 141
    sys.exit(status)
