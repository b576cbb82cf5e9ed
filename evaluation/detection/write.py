"""What a detection run leaves: detections.parquet, report.json and report.md."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tabulate import tabulate

from infer.boxes.detecting import Detections
from infer.data import own_parquet as parquet
from infer.data.annotations import Box
from infer.data.detection import DetectionData
from infer.files import replacing
from infer.spec import Exif

from ..published.detection import PublishedDetection, is_det, rows_beside
from ..run.engines import our_commit
from ..text import cell, code
from .intervals import Mean, difference_with_interval
from .metric import Rule
from .mistakes import KINDS
from .page_values import page_values, sum_counts
from .report.page import write_page
from .score import Measured, System
from .table import KIND

DETECTIONS = "detections.parquet"
DETECTION = pa.struct([("class", pa.int32()), ("score", pa.float32()), *((edge, pa.float32()) for edge in Box._fields)])
SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "status": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "detections": pa.list_(DETECTION),
    }
)
ROW_GROUP = 1000
RULE_IN_WORDS: dict[Rule, str] = {
    "ilsvrc": "ILSVRC's rule: overlap of min(0.5, w h / ((w + 10) (h + 10))), area under the envelope",
    "voc": "VOC's rule from 2010: overlap of 0.5, area under the envelope",
    "voc07": "VOC's rule of 2007: overlap of 0.5, 11 points",
    "coco": "COCO's rule: the mean of overlaps of 0.5 to 0.95, 101 points",
}


def write_detections(path: Path, system: System, data: DetectionData) -> None:
    """Writes what a system found, image by image, with the data set's classes by number."""
    metadata = {"nets": json.dumps(system.nets), "classes": json.dumps(data.classes)}

    def parts() -> Any:
        for first in range(0, len(system.images), ROW_GROUP):
            own = system.images[first : first + ROW_GROUP]
            counts = np.cumsum([0, *(len(one.found.classes) for one in own)], dtype=np.int32)
            values = [np.concatenate([one.found[part] for one in own]) for part in range(len(Detections._fields))]
            columns = [values[0], values[1], *values[2].T]
            structs = pa.StructArray.from_arrays(
                [pa.array(np.ascontiguousarray(column)) for column in columns], fields=list(DETECTION)
            )
            yield pa.Table.from_arrays(
                [
                    pa.array([one.image for one in own], pa.string()),
                    pa.array([one.status for one in own], pa.string()),
                    pa.array([one.size_px[0] for one in own], pa.int32()),
                    pa.array([one.size_px[1] for one in own], pa.int32()),
                    pa.ListArray.from_arrays(counts, structs),
                ],
                schema=SCHEMA.with_metadata(metadata),
            )

    parquet.write(parts(), path, ROW_GROUP)


def write_report(
    out: Path,
    data: DetectionData,
    measured: Sequence[Measured],
    rule: Rule,
    said: Mapping[str, Any],
    notes: Sequence[str],
    exif: Exif,
) -> str:
    """Writes the detections of the last system, which is the ensemble where there is one, and the report; returns its
    table. measured: each net, and all together where there are several; exif: as the nets see images."""
    out.mkdir(parents=True, exist_ok=True)
    write_detections(out / DETECTIONS, measured[-1].system, data)
    ensemble = len(measured) > 1
    gains = [difference_with_interval(one.judged, measured[-1].judged, rule) for one in measured[:-1]]

    results = []
    for one, gain in zip(measured, [*gains, None], strict=True):
        results.append(_result(one, data) | ({"ensemble_gain": _as_json(gain)} if gain else {}))
    unread = [image for image in measured[-1].system.images if image.status != "ok"]
    published = _published(measured[-1], data, rule)
    content = {
        "kind": KIND,
        **said,
        "commit": our_commit(),
        "data": {"root": str(data.root), "kind": data.kind, "split": data.split, "images": len(data.items)},
        "results": results,
        "published": [dataclasses.asdict(row) for row in published],
        "not_seen": [{"image": image.image, "why": image.status} for image in unread],
        "broken_annotations": list(data.broken),
        "notes": list(notes),
    }
    _write(out / "report.json", json.dumps(content, indent=1, allow_nan=False) + "\n")

    table = _table(measured, gains) + (f"\n\n{_beside(measured[-1], published)}" if published else "")
    words = [f"{RULE_IN_WORDS[rule]}; {said['suppression']}."]
    if unread:
        words.append(
            f"{len(unread)} images were not seen ({unread[0].image}: {unread[0].status}): nothing is found there."
        )
    words += _not_finite([one.system for one in measured])
    if any(math.isnan(ap) for ap in measured[-1].precisions.aps):
        empty = int(np.isnan(measured[-1].precisions.aps).sum())
        words.append(f"{empty} of {len(data.classes)} classes have no object here and are no part of the mean.")
    if ensemble:
        words.append("gain: all together against this net alone, in points, with the interval of the same samples.")
    text = f"# Detection\n\n{code(str(said['command']))}\n\n{table}\n\n" + "\n".join(map(cell, words)) + "\n"
    text += "\n" + _classes_table(measured[-1], data) + "\n"
    text += "".join(f"\n- {cell(note)}" for note in notes) + ("\n" if notes else "")
    _write(out / "report.md", text)
    page = page_values(
        data,
        measured,
        rule,
        RULE_IN_WORDS[rule],
        title=f"Detection: {measured[-1].system.name}",
        exif=exif,
        facts={name: str(value) for name, value in said.items() if name not in ("command", "rule")},
        remarks=[*words[1:], *notes],
        published=published,
        command=str(said["command"]),
    )
    write_page(page, out / "report.html")
    return "\n".join([table, *words])


def _not_finite(systems: Sequence[System]) -> list[str]:
    """A line for each system some of whose answers are no numbers."""
    return [
        f"{one.name}: its answers to {one.not_finite} of {one.regions} regions are not finite (NaN or infinite): "
        "nothing is found there; the net is damaged, or overflows in half precision."
        for one in systems
        if one.not_finite
    ]


def _result(one: Measured, data: DetectionData) -> dict[str, Any]:
    aps = zip(data.classes, one.precisions.aps.tolist(), one.precisions.objects.tolist(), strict=True)
    return {
        "system": one.system.name,
        "nets": list(one.system.nets),
        "rule": one.precisions.rule,
        "map_percent": _number(one.mean.percent),
        "interval95_percent": [_number(end) for end in one.mean.interval95_percent],
        "map50_percent": _at(one, 0),
        "regions": one.system.regions,
        "not_finite_regions": one.system.not_finite,
        "mistakes": sum_counts(one.mistakes),
        "classes": [{"class": name, "ap_percent": _number(100 * ap), "objects": objects} for name, ap, objects in aps],
    }


def _at(one: Measured, threshold: int) -> float | None:
    """The mean at one threshold of overlap, in percent."""
    aps = one.precisions.aps_by_overlap[threshold]
    known = aps[~np.isnan(aps)]
    return _number(100 * float(known.mean())) if known.size else None


def _as_json(gain: Mean) -> dict[str, Any]:
    return {"points": _number(gain.percent), "interval95": [_number(end) for end in gain.interval95_percent]}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _table(measured: Sequence[Measured], gains: Sequence[Mean]) -> str:
    """The table to print: a row for each system."""
    rows = []
    for one, gain in zip(measured, [*gains, None], strict=True):
        objects = int(one.precisions.objects.sum())
        counts = [sum_counts(one.mistakes)[kind] for kind in (*KINDS, "missed")]
        row = [one.system.name, len(one.system.nets), _with_interval(one.mean), *counts, objects]
        rows.append(row + ([_with_interval(gain) if gain else ""] if gains else []))
    heads = ["system", "nets", "mAP % (95 %)", *KINDS, "missed", "objects", *(["gain"] if gains else [])]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def _published(one: Measured, data: DetectionData, rule: Rule) -> tuple[PublishedDetection, ...]:
    """GoogLeNet's table that a system stands beside, where data and rule are the paper's."""
    theirs = is_det(data.kind, len(data.classes)) and rule == "ilsvrc"
    return rows_beside(len(one.system.nets)) if theirs else ()


def _beside(one: Measured, published: Sequence[PublishedDetection]) -> str:
    """The paper's table beside a system."""
    rows = [[row.team, row.year, row.nets or "", row.mean_percent] for row in published]
    rows.append([f"here: {one.system.name}", "", len(one.system.nets), f"{one.mean.percent:.2f}"])
    heads = [f"{published[0].source}, as published", "year", "nets", "mAP %"]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def _with_interval(mean: Mean) -> str:
    low, high = mean.interval95_percent
    return f"{mean.percent:.2f} [{low:.2f}, {high:.2f}]"


def _classes_table(one: Measured, data: DetectionData) -> str:
    names = data.class_names or data.classes
    rows = []
    for name, words, ap, objects in zip(
        data.classes, names, one.precisions.aps, one.precisions.objects.tolist(), strict=True
    ):
        rows.append([cell(name), cell(words), "-" if math.isnan(ap) else f"{100 * ap:.2f}", objects])
    return tabulate(rows, ["class", "name", "AP %", "objects"], tablefmt="github", disable_numparse=True)


def _write(path: Path, text: str) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
