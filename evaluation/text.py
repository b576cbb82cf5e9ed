"""Names of others in what we print and write as Markdown and CSV: there they stay text, on their line."""

from __future__ import annotations

import re

from infer.errors import one_line

MARKUP = re.compile(r"[\\`*\[\]<>|~]")
"""Characters with which Markdown begins something, or ends a table's cell; a backslash before one makes it text."""
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def cell(text: object) -> str:
    """A text in Markdown, as a cell of a table or within a line."""
    return MARKUP.sub(r"\\\g<0>", one_line(str(text)))


def csv_field(text: str) -> str:
    """A text as a field of CSV: no formula in a spreadsheet (owasp.org, CSV Injection); a number stays one."""
    text = one_line(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) and not NUMBER.fullmatch(text) else text


def code(text: str) -> str:
    """A text as code in Markdown, between more backticks than it has in a row itself."""
    text = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in (text[:1], text[-1:]) else ""
    return f"{fence}{pad}{text}{pad}{fence}"
