"""The pictures of docs/evaluation.md are those of today's view plans."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest
from paths import ROOT
from PIL import Image

from infer.views import PROTOCOLS

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("draw_protocols", DOCS / "draw_protocols.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_picture_shows_the_plan(protocol: str, script: Any) -> None:
    from skimage import data

    drawn, views = script.draw(protocol, data.coffee())
    with Image.open(DOCS / "pictures" / f"{protocol}.png") as picture:
        picture.load()
        assert json.loads(picture.text["views"]) == json.loads(script.plan_text(views))
        assert picture.size == drawn.size
    assert sum(view[-1] for view in json.loads(script.plan_text(views))) == len(views)
    assert f"(pictures/{protocol}.png)" in (DOCS / "evaluation.md").read_text()
