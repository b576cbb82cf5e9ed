"""OUT folders as runs leave them, made without an engine, and their pages read back without a browser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from helpers import encode, make_scores, noise, summary_of
from msgspec.structs import replace

from evaluation.report.page import HTML, write_html
from evaluation.report.pairs import pairs_by_runtime
from evaluation.report.results import EvaluatedImages
from evaluation.report.write import write_report
from evaluation.scores import table as tables
from evaluation.scores.table import Scores, fuse

CLASSES = 10
VOID = ("meta", "link", "img", "image", "line", "circle", "rect", "use", "wbr", "path")


def scores_of(
    model: str = "one", *, images: int = 120, right: float = 0.7, seed: int = 0, unreadable: int = 0, **metadata: str
) -> Scores:
    """Random posteriors, of which a share of about `right` names the label; the last `unreadable` have none."""
    chance = np.random.default_rng(seed)
    labels = np.random.default_rng(99).integers(0, CLASSES, images)
    answers = np.where(chance.random(images) < right, labels, chance.integers(0, CLASSES, images))
    posterior = chance.random((images, CLASSES)) * 0.1
    posterior[np.arange(images), answers] += 0.2 + chance.random(images)
    posterior /= posterior.sum(1, keepdims=True)
    readable = images - unreadable
    posterior[readable:] = 0
    statuses = ("ok",) * readable + ("cannot be decoded",) * unreadable
    scores = make_scores(posterior, labels, statuses, model=model, **metadata)
    pixels = tuple(f"{i:032x}" if i < readable else "" for i in range(images))
    return Scores(scores.images, scores.labels, statuses, pixels, scores.posterior, scores.metadata)


def write_run(
    out: Path,
    members: Sequence[Scores],
    *,
    mistakes: int = 3,
    fused: bool = False,
    seconds: float | None = 2.4,
    names: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> Any:
    """Scores, thumbnails and the report; returns report.json. Every table took twice as long as the one before it."""
    index, results = [], []
    for place, scores in enumerate(members):
        tables.write([scores], out / "scores" / tables.file_name(scores.metadata))
        index += list(_mistakes(out, scores, mistakes))
        share = None if seconds is None else seconds * 2**place
        row = summary_of([scores]).result([], is_ilsvrc2012_val=False)
        results.append(replace(row, engine_seconds=9.0, wall_seconds=10.0, protocol_engine_seconds=share))
    if fused:
        results.append(summary_of([fuse(members)]).result([], is_ilsvrc2012_val=False))
    if index:
        (out / "mistakes" / "index.json").write_text(json.dumps(index))
    unreadable = {name: status for scores in members for name, status in summary_of([scores]).unreadable.items()}
    words = dict(zip(members[0].classes, names, strict=True)) if names else {}
    dataset = EvaluatedImages(
        members[0].metadata["dataset_id"], False, results[0].images, len(unreadable), unreadable, words
    )
    command = f"python -m evaluation.ilsvrc --out {out.name}"
    pairs = pairs_by_runtime([summary_of([scores]).wrong for scores in members])
    reported = write_report(out, dataset, results, remarks, pairs, command=command, commit="abc")
    write_html([reported], out / HTML)
    return json.loads((out / "report.json").read_text())


def _mistakes(out: Path, scores: Scores, count: int) -> Any:
    answers = scores.posterior.argmax(1)
    wrong = [i for i in np.flatnonzero(answers != scores.labels) if scores.statuses[i] == "ok"]
    for i in sorted(wrong, key=lambda i: -scores.posterior[i].max())[:count]:
        thumbnail = out / "mistakes" / f"{i}.jpg"
        thumbnail.parent.mkdir(parents=True, exist_ok=True)
        thumbnail.write_bytes(encode(noise((60, 80), int(i)), "JPEG"))
        views = [
            {
                "short_side_px": 88,
                "rescaled_px": [88, 117],
                "box": [12, left, 64, 64],
                "resize_px": None,
                "mirrored": mirrored,
                "weight": 0.5,
                "answer_probability": 0.9 - left / 1000,
                "label_probability": 0.05,
            }
            for left, mirrored in ((0, False), (26, True), (53, False))
        ]
        yield {
            "model": scores.model,
            "runtime": scores.metadata["runtime"],
            "protocol": scores.metadata["protocol"],
            "scales": [int(q) for q in scores.metadata["scales"].split(",")],
            "pooling": scores.metadata["pooling"],
            "image": scores.images[i],
            "label": scores.classes[scores.labels[i]],
            "answer": scores.classes[answers[i]],
            "probability": float(scores.posterior[i].max()),
            "label_probability": float(scores.posterior[i, scores.labels[i]]),
            "size": [60, 80],
            "views_total": 10,
            "views_agreeing": 7,
            "views": views,
            "thumbnail": thumbnail.name,
        }


class Page(HTMLParser):
    """`text` and `tables` (rows of cells) of each section by its id; the tags in order; the attributes of images."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text: dict[str, str] = {}
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self._section, self._cell, self._open = "", False, []  # type: tuple[str, bool, list[str]]
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == [], "tags that are never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes += found.items()
        if tag == "section":
            self._section = found["id"]
        if tag == "table":
            self.tables.setdefault(self._section, []).append([])
        if tag == "tr":
            self.tables[self._section][-1].append([])
        if tag in ("td", "th"):
            self.tables[self._section][-1][-1].append("")
            self._cell = True
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "section":
            self._section = ""
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        data = data.replace("\xa0", " ")
        self.text[self._section] = " ".join(f"{self.text.get(self._section, '')} {data}".split())
        if self._cell:
            row = self.tables[self._section][-1][-1]
            row[-1] = " ".join(f"{row[-1]} {data}".split())
