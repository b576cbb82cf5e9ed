"""Other truths about scores that exist: ReaL labels, a subset of the classes, corrected labels, errors of groups.

python -m evaluation.rescore OUT|TABLE.parquet ... [--real real.json | --relabel FILE.csv] [--subset NAME|FILE]
    [--groups FILE.csv COLUMN] [--json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from infer.command import Parser, exit_with, run
from infer.errors import UsageError

from ..errors import ScoresError
from ..report.results import read_run
from ..scores import table as tables
from ..scores.metrics import TOP5_CLASSES, ErrorRate
from ..scores.table import Scores
from ..text import cell
from .count import Rates, Rescored, rescore
from .lists import SUBSETS, Objects, read_real, read_subset
from .truth import Truth, choose, from_real, group, images_of, labelled, relabelled, remarks_on

NAMES = [0, 1, 2, 3, 4]
"""Columns of the table that hold names: one that looks like a number stays as it is."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line asks for; `real` and `objects` are read once for all tables."""

    args: argparse.Namespace
    real: list[list[int]] | None
    objects: Objects | None

    @property
    def in_words(self) -> str:
        args = self.args
        words = [f"ReaL labels ({args.real})"] if args.real else []
        words += [f"labels of {args.relabel}"] if args.relabel else []
        words += [f"classes of {args.subset} alone"] if args.subset else []
        words += [f"groups by {args.groups[1]} of {args.groups[0]}"] if args.groups else []
        said = ", ".join(words)
        return said[:1].upper() + said[1:]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m evaluation.rescore",
        description="Errors of score tables that exist under other labels, with other classes masked, or by groups of "
        "images. No model is run and no image is read.",
    )
    add = parser.add_argument
    real = "ReaL labels (real.json of google-research/reassessed-imagenet), for ILSVRC-2012's validation images"
    relabel = "corrected labels: rows IMAGE,LABEL; -1: no class is right; images that it does not name keep theirs"
    subset = f"only these classes may be answered, and their images count: {', '.join(SUBSETS)}, or a file of classes"
    groups = "the error of each group of images that a column of a file names, which also has a column `image`"
    add("tables", nargs="+", type=Path, metavar="OUT|TABLE.parquet", help="OUT folders of evaluation.ilsvrc, or tables")
    add("--real", type=Path, metavar="real.json", help=real)
    add("--relabel", type=Path, metavar="FILE.csv", help=relabel)
    add("--subset", metavar="NAME|FILE", help=subset)
    add("--groups", nargs=2, metavar=("FILE.csv", "COLUMN"), help=groups)
    add("--json", action="store_true", help="everything as one JSON object")
    args = parser.parse_args(argv)
    if args.real and args.relabel:
        parser.error("--real and --relabel both say what is right: expected one of them")
    if not (args.real or args.relabel or args.subset or args.groups):
        parser.error("expected --real, --relabel, --subset or --groups")
    return run(parser, lambda: _rescore(args))


def _rescore(args: argparse.Namespace) -> int:
    asked = Asked(args, read_real(args.real) if args.real else None, read_subset(args.subset) if args.subset else None)
    paths, remarks = _find_tables(args.tables)
    rows = []
    for path in paths:
        head = tables.read_head(path)
        found, said = _rescore_table(path, head, asked)
        rows.append((path, head, found))
        remarks += [(path, one) for one in said]

    if args.json:
        print(json.dumps(_content(rows, remarks, asked)))
    else:
        print(_format(rows, remarks, asked))
    return 0


def _find_tables(given: Sequence[Path]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Paths of all tables, and what is to be said of a path. Raises Refused, and UsageError for one named twice."""
    paths: list[Path] = []
    remarks = []
    for path in given:
        if not path.is_dir():
            paths.append(path)
            continue
        run_of = read_run(path)
        found = [run_of.table(result) for result in run_of.report.results]
        for result, table in zip(run_of.report.results, found, strict=True):
            if table is not None:
                run_of.check(tables.read_head(table), result, table)
                paths.append(table)
        if None in found:
            remarks.append((path, f"{found.count(None)} fusions have no score table: evaluation.fuse makes one"))
        if not any(found):
            raise ScoresError(f"{path}: no score table to rescore, expected those of evaluation.ilsvrc")

    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("a table is named twice: expected different ones")
    return paths, remarks


def _rescore_table(path: Path, head: Scores, asked: Asked) -> tuple[Rescored, list[str]]:
    """The errors of one table and what is to be said of them. Raises Refused."""
    args = asked.args
    images = images_of(head, *tables.read_labels(path))
    truth: Truth = labelled(images.labels)
    if asked.real is not None:
        truth = from_real(images, asked.real, args.real)
    elif args.relabel:
        truth = relabelled(images, args.relabel)
    subset = choose(asked.objects, images, args.subset) if asked.objects else None
    groups = group(images, Path(args.groups[0]), args.groups[1]) if args.groups else None

    found = rescore(tables.parts(path), truth, subset, groups)
    if not found.images:
        raise ScoresError(
            f"{path}: no image is left: {found.unlabelled} of {len(images.names)} have no right class, "
            f"{found.other_classes} only classes that are masked"
        )
    remarks = [*remarks_on(images), *truth.remarks, *(groups.remarks if groups else ())]
    if head.unrounded:
        remarks.append(f"this is {tables.WHY_UNROUNDED}")
    if found.unlabelled and asked.real is None:
        remarks.append(f"{found.unlabelled} images have no right class and are left out")
    if subset is not None:
        remarks.append(
            f"{found.answers} of {len(images.classes)} classes may be answered; {found.other_classes} images of other "
            "classes are left out"
        )
    return found, remarks


Rows = Sequence[tuple[Path, Scores, Rescored]]
Remarks = Sequence[tuple[Path, str]]


def _format(rows: Rows, remarks: Remarks, asked: Asked) -> str:
    """The errors to read, beside those that the tables had."""
    has_top5 = any(found.answers >= TOP5_CLASSES for _, _, found in rows)
    had_top5 = any(len(head.classes) >= TOP5_CLASSES for _, head, _ in rows)
    headers = ["model", "runtime", "protocol", "Q", "pooling", "images", "top-1 error %"]
    headers += ["top-5 error %"] * has_top5 + ["images before", "top-1 before %"] + ["top-5 before %"] * had_top5
    lines = []
    for _, head, found in rows:
        new, before = [_error(one) for one in found.errors], [_error(one) for one in found.errors_before]
        if found.answers < TOP5_CLASSES:
            new[1] = "-"  # one of five is always right
        if len(head.classes) < TOP5_CLASSES:
            before[1] = "-"
        cells = [*_names(head), found.images, *new[: 1 + has_top5], found.images_before, *before[: 1 + had_top5]]
        lines.append(cells)
    said = [
        f"{cell(asked.in_words)}. Errors in percent with 95 % intervals (Wilson); before: by the table's own labels.",
        "",
    ]
    said += [tabulate(lines, headers, tablefmt="pipe", disable_numparse=NAMES)]

    if asked.args.groups:
        members = [(head, found, one) for _, head, found in rows for one in found.groups]
        table = [
            (*_names(head), cell(name), images, *map(_error, errors[: 1 + (found.answers >= TOP5_CLASSES)]))
            for head, found, (name, images, errors) in members
        ]
        headers = [
            "model",
            "runtime",
            "protocol",
            "Q",
            "pooling",
            cell(asked.args.groups[1]),
            "images",
            "top-1 error %",
        ]
        headers += ["top-5 error %"] * has_top5
        said += ["", tabulate(table, headers, tablefmt="pipe", disable_numparse=[*NAMES, 5])]

    # what is true of all tables is said once
    by_text: dict[str, list[Path]] = {}
    for path, text in remarks:
        by_text.setdefault(text, []).append(path)
    for text, paths in by_text.items():
        of_all = len(paths) == len(rows)
        said += ["", f"Remark{'' if of_all else f' on {cell(paths[0])}'}: {cell(text)}"]
    return "\n".join(said)


def _names(head: Scores) -> tuple[str, ...]:
    values = (head.model, *(head.metadata[key] for key in ("runtime", "protocol", "scales", "pooling")))
    return tuple(cell(value) for value in values)


def _error(rate: ErrorRate | None) -> str:
    if rate is None:
        return "unknown"
    low, high = rate.interval95_percent
    return f"{rate.percent:.2f} [{low:.1f}, {high:.1f}]"


def _content(rows: Rows, remarks: Remarks, asked: Asked) -> dict[str, object]:
    """Everything, for --json."""
    args = asked.args
    given = {key: str(getattr(args, key)) for key in ("real", "relabel", "subset") if getattr(args, key)}
    if args.groups:
        given["groups"] = list(args.groups)  # type: ignore[assignment]
    return {
        "truth": given,
        "tables": [dict(_of_table(path, head, found)) for path, head, found in rows],
        "remarks": [{"table": str(path), "remark": text} for path, text in remarks],
    }


def _of_table(path: Path, head: Scores, found: Rescored) -> Iterator[tuple[str, object]]:
    yield "table", str(path)
    yield "model", head.model
    for key in ("runtime", "protocol", "pooling", "dataset_id"):
        yield key, head.metadata[key]
    yield "scales", list(head.scales)
    yield "images", found.images
    yield from _keys(found.errors)
    yield "answers", found.answers
    yield "unlabelled", found.unlabelled
    yield "other_classes", found.other_classes
    yield "before", {"images": found.images_before, **dict(_keys(found.errors_before))}
    yield "groups", [{"group": name, "images": images, **dict(_keys(own))} for name, images, own in found.groups]


def _keys(errors: Rates) -> Iterator[tuple[str, object]]:
    """Errors by the keys of report.json."""
    for k, rate in zip((1, 5), errors, strict=True):
        yield f"top{k}_error_percent", rate.percent if rate else None
        yield f"top{k}_interval95_percent", rate.interval95_percent if rate else None


if __name__ == "__main__":
    exit_with(main)
