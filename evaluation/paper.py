"""The papers' numbers beside ours: which row of which table a result may stand beside, and all of them to read.

python -m evaluation.paper [OUT ...] [--released] [--json]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from infer.command import Parser, run
from infer.spec import ModelSpec

from .paper_tables import LITERATURE, ROWS, Member, PaperRow
from .released import LEDGER


def is_papers_own(spec: ModelSpec) -> bool:
    """Whether a net has the paper's widths, crop and number of classes, and was not trained in another way.

    torchvision and timm trained VGG on random crops of varying area, so no S of the paper is theirs.
    """
    fc_width = 1024 if spec.net == "googlenet" else 4096
    size = (spec.width, spec.fc_width, spec.crop_px, len(spec.classes))
    theirs = spec.source.get("importer") == "export.from_torchvision"
    known = any(member.net == spec.net for row in ROWS for member in row.members)
    return known and size == (1.0, fc_width, 224, 1000) and not theirs


def find(specs: Sequence[ModelSpec], protocol: str, scales: Sequence[Sequence[int]]) -> PaperRow | None:
    """The paper's result for these nets (one, or several fused), each at its own `scales`, or None."""
    if not all(is_papers_own(spec) for spec in specs):
        return None
    # GoogLeNet's paper tells nothing of S
    members = sorted(
        (
            Member(spec.net, 256 if spec.net == "googlenet" else spec.train_short_px, tuple(own))
            for spec, own in zip(specs, scales, strict=True)
        ),
        key=repr,
    )
    for row in ROWS:
        if row.protocol == protocol and sorted(row.members, key=repr) == members:
            return row
    return None


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m evaluation.paper", description="The papers' results, and ours beside them.")
    parser.add_argument("out", nargs="*", type=Path, metavar="OUT", help="folders of evaluation.ilsvrc to stand beside")
    parser.add_argument("--released", action="store_true", help="what released weights are known to score instead")
    parser.add_argument("--json", action="store_true", help="one JSON array instead of tables")
    args = parser.parse_args(argv)
    try:
        ours = [result for out in args.out for result in read_results(out)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{error}: expected the OUT folder of an evaluation, with its report.json", file=sys.stderr)
        return 1
    rows = released_rows(ours) if args.released else paper_rows(ours)
    print(json.dumps(rows) if args.json else as_tables(rows))
    return 0


def read_results(out: Path) -> list[dict[str, Any]]:
    """The results of a report. Raises OSError, ValueError, KeyError or TypeError."""
    content = json.loads((out / "report.json").read_text())
    return [dict(result) for result in content["results"]]


def paper_rows(ours: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every row of the papers; `ours` are the results that stand beside it, which only whole runs on ILSVRC do."""
    beside = {(result["paper"]["source"], result["paper"].get("label")): result for result in ours if result["paper"]}
    measured = [
        {
            "source": row.source,
            "label": row.label,
            **_errors(row.top1_error_percent, row.top5_error_percent, row.test_top5_error_percent),
            "ours": _ours(beside.get((row.source, row.label))),
        }
        for row in ROWS
    ]
    read = [{"source": row.source, "label": row.method, **_errors(*row[1:4]), "ours": None} for row in LITERATURE]
    return [*measured, *read]


def released_rows(ours: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ledger, with our results for the same net, protocol and scales: of which weights, their names must say."""
    return [
        {
            "source": row.source,
            "label": f"{row.weights} ({row.net}), {row.protocol} at {','.join(map(str, row.scales))}",
            **_errors(row.top1_error_percent, row.top5_error_percent, None),
            "ours": next(
                (
                    _ours(result)
                    for result in ours
                    if (result.get("net"), result["protocol"], tuple(result["scales"]))
                    == (row.net, row.protocol, row.scales)
                ),
                None,
            ),
        }
        for row in LEDGER
    ]


def _errors(top1: float | None, top5: float | None, test_top5: float | None) -> dict[str, Any]:
    return {"top1_error_percent": top1, "top5_error_percent": top5, "test_top5_error_percent": test_top5}


def _ours(result: dict[str, Any] | None) -> dict[str, Any] | None:
    keys = ("model", "runtime", "pooling", "images", "top1_error_percent", "top5_error_percent")
    return result and {key: result[key] for key in keys}


def as_tables(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table for each source."""
    parts = []
    for source in dict.fromkeys(row["source"] for row in rows):
        lines = [
            (
                row["label"],
                *("-" if row[key] is None else row[key] for key in _errors(None, None, None)),
                _said(row["ours"]),
            )
            for row in rows
            if row["source"] == source
        ]
        headers = [source, "top-1 %", "top-5 %", "test top-5 %", "ours"]
        parts.append(tabulate(lines, headers=headers, tablefmt="pipe", disable_numparse=True))
    return "\n\n".join(parts)


def _said(ours: dict[str, Any] | None) -> str:
    if ours is None:
        return ""
    errors = " / ".join(
        "-" if ours[f"top{k}_error_percent"] is None else f"{ours[f'top{k}_error_percent']:.2f}" for k in (1, 5)
    )
    return f"{errors} ({ours['model']}, {ours['runtime']}, {ours['pooling']}, {ours['images']} images)"


if __name__ == "__main__":
    run(main)
