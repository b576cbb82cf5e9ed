"""The base of everything that a command refuses, a text for its user and not a traceback; packages that are missing."""

from __future__ import annotations

import importlib.util
import sys
import unicodedata


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


def need(extra: str, *modules: str) -> None:
    """Checks that a package of ours can be imported; its `__init__.py` names what it cannot do without.

    Ends a command of ours, `python -m ...`, with one line and status 1; raises MissingPackage in any other program.
    """
    missing = [module for module in modules if not _is_installed(module)]
    if not missing:
        return
    line = f"{', '.join(missing)}: not installed, expected the extra {extra!r}: pip install 'verydeep[{extra}]'"

    words = sys.orig_argv
    command = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    if command.split(".")[0] in ("infer", "trainer", "export", "evaluation"):
        sys.exit(line)
    raise MissingPackage(line)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # the package around it is missing, or kept from being imported
        return False
