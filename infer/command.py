"""Common parts of the command modules: a parser of one-line usage errors, shared arguments, and exit statuses."""

from __future__ import annotations

import argparse
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, get_args

from .engine import Provider
from .errors import Refused, UsageError, is_out_of_memory, one_line, say_out_of_memory
from .files import NO_ROOM
from .processes.owned import PARENT, end_with_parent

MOST_DIGITS = 9
"""Digits of a number on a command line."""


class Parser(argparse.ArgumentParser):
    """argparse without the usage text before an error: what was got and what was expected is enough."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message)}\n")


def scales_argument(text: str) -> list[int]:
    """`256,384,512` as numbers, for argparse."""
    words = text.split(",")
    try:
        if any(len(word) > MOST_DIGITS for word in words):
            raise ValueError
        return [int(q) for q in words]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers of pixels like 256,384,512, got {text[:80]!r}"
        ) from None


def whole_argument(text: str, expected: str = "a whole number") -> int:
    """A whole number from 0 on, for argparse."""
    if not text.isascii() or not text.isdecimal() or len(text) > MOST_DIGITS:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text[:80]!r}")
    return int(text)


def count_argument(text: str) -> int:
    """A whole number above 0, for argparse."""
    if whole_argument(text, "a positive whole number") == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def positive_argument(text: str) -> float:
    """A finite number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def rgb_argument(text: str) -> tuple[float, float, float]:
    """`123.68,116.779,103.939` as numbers for red, green and blue, for argparse."""
    try:
        r, g, b = (float(value) for value in text.split(","))
    except ValueError:
        r = g = b = math.nan
    if not all(map(math.isfinite, (r, g, b))):
        raise argparse.ArgumentTypeError(f"expected three numbers like 123.68,116.779,103.939, got {text!r}")
    return r, g, b


def columns_argument(text: str) -> dict[str, str]:
    """`image=img,label=fine_label` as names of columns, for argparse."""
    pairs = dict(pair.partition("=")[::2] for pair in text.split(","))
    if not set(pairs) <= {"image", "label"} or not all(pairs.values()):
        raise argparse.ArgumentTypeError(f"expected image=NAME,label=NAME, got {text!r}")
    return pairs


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `infer.data.dataset.open_dataset` that a user may choose."""
    labels = "a list of the labels, for images in no class folders: rows IMAGE,LABEL, with a header or none"
    columns = "columns of Parquet files, where they have other names"
    only = "a list of the images to take, a name a line"
    limit = "only N images, evenly spaced over all classes, always the same"
    parser.add_argument("--labels", type=Path, metavar="FILE.csv", help=labels)
    parser.add_argument("--columns", type=columns_argument, metavar="image=NAME,label=NAME", help=columns)
    parser.add_argument("--only", type=Path, metavar="FILE.txt", help=only)
    parser.add_argument("--limit", type=count_argument, metavar="N", help=limit)


def data_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `open_dataset`, from what `add_data_options` added."""
    return {name: getattr(args, name) for name in ("labels", "columns", "only", "limit")}


def print_notes(notes: Iterable[str]) -> None:
    """Says on stderr what a reader has to say of its data."""
    for note in notes:
        print(one_line(note), file=sys.stderr, flush=True)


def _gpu_argument(text: str) -> int:
    return whole_argument(text, "a GPU's number like 0 (nvidia-smi -L lists them)")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `open_engine` that a user may choose."""
    parser.add_argument("--provider", choices=get_args(Provider), default="cpu", help="of ONNX Runtime, for .onnx")
    parser.add_argument("--device", type=_gpu_argument, default=0, metavar="N", help="which GPU (default: %(default)s)")
    parser.add_argument(
        "--runtime-cache", type=Path, metavar="FILE", help="where TensorRT-RTX keeps kernels it compiled, for .engine"
    )
    parser.add_argument(
        "--cuda-graphs", action="store_true", help="launch the kernels of a call at once where shapes stay, for .engine"
    )


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `open_engine`, from what `add_engine_options` added."""
    return {name: getattr(args, name) for name in ("provider", "device", "runtime_cache", "cuda_graphs")}


def run(parser: Parser, work: Callable[[], int], owning: AbstractContextManager[None] | None = None) -> int:
    """The status of a command: `work`'s own, or 2 or 1 for what it refused, which is printed as one line.

    3 is `work`'s own where a limit of --fail-above is passed (evaluation/report/gate.py), and nothing else's.

    owning: what keeps other runs from what this one writes (infer/processes/owned.py).
    """
    try:
        with owning or nullcontext():
            return work()
    except UsageError as error:
        parser.error(str(error))
    except BrokenPipeError:  # no failure, see exit_with
        raise
    except (Refused, OSError) as error:
        said = str(error)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            said = _say_no_room(parser, error)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        said = say_out_of_memory(error)
    print(one_line(said), file=sys.stderr)
    return 1


def _say_no_room(parser: Parser, error: OSError) -> str:
    """An error of a full disk: what was to be written, and how a run that keeps what it did goes on."""
    resumes = "--resume" in parser._option_string_actions
    then = "go on with --resume: what was done is kept" if resumes else "begin again"
    return f"{error.filename or 'a file'}: {error.strerror}: make room, then {then}"


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Ends the process with `main`'s status; Ctrl-C is one line, and a reader that has seen enough is no error.

    SIGTERM is like Ctrl-C: it would otherwise kill the process on the spot and leave its temporary files.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if parent := os.environ.pop(PARENT, ""):
        end_with_parent(int(parent))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or pipe that is not UTF-8 gets escapes, not a traceback
            stream.reconfigure(errors="backslashreplace")
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
