"""A callable and its arguments as a command line names them, read without running anything."""

from __future__ import annotations

import ast
import re
from typing import Any, NamedTuple


class Call(NamedTuple):
    """A callable and its arguments, as they are named: `timm:create_model('resnet10t')`."""

    module: str
    name: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


def parse_call(text: str) -> Call | None:
    """`MODULE:CALLABLE` or `MODULE:CALLABLE(LITERAL, NAME=LITERAL, ...)`; None for anything else. Runs nothing."""
    found = re.fullmatch(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)(\(.*\))?", text.strip(), re.DOTALL)
    if found is None:
        return None
    try:
        call = ast.parse(f"f{found[3] or '()'}", mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            return None
        if any(word.arg is None for word in call.keywords):  # **{...}
            return None
        arguments = tuple(ast.literal_eval(one) for one in call.args)
        options = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return Call(found[1], found[2], arguments, options)
