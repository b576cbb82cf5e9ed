"""Writes the page: one file that holds all it shows."""

from __future__ import annotations

import base64
import hashlib
import math
from pathlib import Path

from infer.drawing.page import page_environment
from infer.files import replacing

from ...report.page import SCRIPT
from ..mistakes import KINDS
from .figures import outcomes, precision_recall
from .values import PageValues, Picture


def write_page(values: PageValues, path: Path) -> None:
    """Writes the page to a file, whole or not at all. The same values give the same bytes."""
    script = SCRIPT.read_text(encoding="utf-8")
    environment = page_environment(__package__)
    environment.filters["data_url"] = _data_url
    known = [one for one in values.classes if not math.isnan(one.ap)]
    page = environment.get_template("page.html.jinja").render(
        values=values,
        classes=sorted(known, key=lambda one: (one.ap, one.name)),
        without=[one for one in values.classes if math.isnan(one.ap)],
        kinds=("right", *KINDS, "missed"),
        curves=precision_recall(values.classes),
        bars=outcomes(values.systems),
        script=script,
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    with replacing(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")


def _data_url(picture: Picture) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode()
