"""The 1,000 classes of ILSVRC-2012: WNIDs in sorted order, with WordNet's words (imagenet_1k.txt names its source)."""

from __future__ import annotations

import functools
import re
from pathlib import Path

WNID = re.compile(r"n\d{8}")


@functools.cache
def words_of_wnids() -> dict[str, str]:
    """WordNet's words of each WNID."""
    lines = Path(__file__).with_name("imagenet_1k.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(" ") for line in lines if not line.startswith("#"))
    return {wnid: words for wnid, _, words in pairs}
