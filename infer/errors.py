"""The base of everything that a command refuses, a text for its user and not a traceback; packages that are missing."""

from __future__ import annotations

import errno
import importlib.util
import re
import sys
import unicodedata
from types import TracebackType


class Refused(Exception):
    """Input or a request that cannot be used. Its text is one line: what was got, what was expected, what to do."""


class UsageError(Refused):
    """A command line that asks for what cannot be: exit status 2, where every other refusal has 1."""


class MissingPackage(Refused, ImportError):
    """Packages of an extra that are not installed."""


ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's control and formatting characters, line ends, and the surrogates that stand for bytes that are no UTF-8."""


def one_line(text: str) -> str:
    """The text with line ends and control characters escaped as Python would: no file's name moves the cursor."""
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in ESCAPED else c for c in text)


NO_MEMORY = re.compile(
    "bad_alloc|can't allocate memory|out of memory|Insufficient memory|Failed to allocate memory|failed to map segment"
)
"""How libraries say it who raise no MemoryError: C++, torch, CUDA, OpenCV, ONNX Runtime's arena, the dynamic loader."""
NO_THREADS = re.compile(r"can't start new thread|Resource temporarily unavailable")
"""The same of threads, whose stacks are memory: Python, and C++ (EAGAIN)."""


def is_out_of_memory(error: BaseException) -> bool:
    """True for a failure to get memory, or a thread, in whatever words a library has; nothing else that goes wrong."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError) and NO_THREADS.search(str(error)):
        return True
    return isinstance(error, MemoryError) or bool(NO_MEMORY.search(str(error)))


def say_out_of_memory(error: BaseException) -> str:
    """The line for such a failure."""
    cause = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return f"out of memory ({cause}): give the process more (ulimit -v, the container's limit)"


def need(extra: str, *modules: str) -> None:
    """Checks that a package of ours can be imported; its `__init__.py` names what it cannot do without.

    Ends a command of ours, `python -m ...`, with one line and status 1; raises MissingPackage in any other program.
    Where memory is too little to load the packages, such a command ends with a line, too.
    """
    if _is_command():
        sys.excepthook = _say_uncaught
    missing = [module for module in modules if not _is_installed(module)]
    if not missing:
        return
    line = _say_missing(missing, extra)
    if _is_command():
        sys.exit(line)
    raise MissingPackage(line)


def _say_missing(modules: list[str], extra: str) -> str:
    return f"{', '.join(modules)}: not installed, expected the extra {extra!r}: pip install 'verydeep[{extra}]'"


def _is_command() -> bool:
    words = sys.orig_argv
    command = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return command.split(".")[0] in ("infer", "trainer", "export", "evaluation")


EXTRAS = {"torch": "trainer", "safetensors": "export", "tensorboard": "trainer", "sklearn": "evaluation"}
"""Packages that only some commands of a package of ours need, and the extras that install them."""


def _say_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Says in a line what kept a command from beginning: Ctrl-C, memory, what is missing; all else as Python does."""
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    elif is_out_of_memory(error):
        print(one_line(say_out_of_memory(error)), file=sys.stderr)
    elif isinstance(error, ImportError) and (error.name or "").partition(".")[0] in EXTRAS:
        module = (error.name or "").partition(".")[0]
        print(_say_missing([module], EXTRAS[module]), file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # the package around it is missing, or kept from being imported
        return False
