"""Nets as feature extractors (VGG appendix B): features of dense views to Parquet, linear SVMs on them.

    python -m evaluation.features extract --engine D.onnx --data VOCdevkit/VOC2007 --scales 256,384,512 -o F.parquet
    python -m evaluation.features svm F.parquet

Engines are exported with `--outputs features`. docs/features.md says how to reproduce the paper's tables.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from infer.command import (
    Parser,
    add_data_options,
    count_argument,
    data_options,
    exit_with,
    print_notes,
    run,
    scales_argument,
    whole_argument,
)
from infer.data.own_parquet import check_replaceable
from infer.errors import one_line
from infer.processes.owned import own_file
from infer.processes.pipeline import behind

from ..run.engines import our_commit
from ..run.loop import MakerOpener, Shard
from ..run.workers import add_run_options, check_run_options, decoder_remarks, open_crew, say_interrupted
from ..scores.table import OK, decoder_metadata
from . import table as tables
from .collection import Collection
from .extract import Combine, FeatureMaker, KnownExtractors, Normalise, Regions, Settings
from .paper import rows_beside
from .readers import READERS, open_collection
from .report import COMPETITION, as_text, remarks_on_c, write_submission
from .svm import CALTECH, CS, Choices, evaluate_random, evaluate_sets, submission_scores
from .table import FORMAT, FeatureRow, UnfinishedTable


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m evaluation.features", description="Nets as feature extractors, with linear SVMs.")
    commands = parser.add_subparsers(required=True, metavar="extract|svm", parser_class=Parser)
    _add_extract(commands.add_parser("extract", help="features of a data set's images, to Parquet"))
    _add_svm(commands.add_parser("svm", help="linear SVMs on features: C chosen, trained, tested"))
    args = parser.parse_args(argv)
    return run(parser, lambda: int(args.work(parser, args)), own_file(args.out) if "out" in args else None)


def _add_extract(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    engines = "a model exported with --outputs features: .onnx or .engine; repeat to stack several"
    normalise = "L2 norm of each net's whole descriptor, or before that of each scale's too (default: %(default)s)"

    add("--engine", action="append", required=True, type=Path, help=engines)
    add("--data", required=True, type=Path, help="VOC2007, VOC2012, Caltech, ILSVRC or class folders")
    add("--kind", choices=["auto", *READERS], default="auto", help="of data set (default: by its folders)")
    add("--scales", required=True, type=scales_argument, metavar="Q[,Q...]", help="shorter sides in px")
    add("--combine", choices=get_args(Combine), default="average", help="scales (default: %(default)s)")
    add("--normalise", choices=get_args(Normalise), default="descriptor", help=normalise)
    add("--regions", choices=get_args(Regions), default="image", help="for voc-action (default: %(default)s)")
    add("-o", "--out", required=True, type=Path, metavar="F.parquet")
    add_data_options(parser)
    add_run_options(parser)
    parser.set_defaults(work=_extract)


def _add_svm(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    train = "of each class, where sets are drawn (default: 30 for Caltech-101, 60 for Caltech-256)"
    test = "of each class, at most (default: 50 for 101, else all)"

    add("tables", nargs="+", type=Path, metavar="F.parquet", help="of one data set: they are stacked")
    add("--c", type=_numbers, default=CS, metavar="C[,C...]", help="to choose from (default: 0.01 to 100 by tens)")
    add("--seed", type=whole_argument, default=0, metavar="N", help="of all that is drawn")
    add("--test", choices=("val", "test"), help="which set is tested (default: test where labelled)")
    add("--train-images", type=count_argument, metavar="N", help=train)
    add("--test-images", type=count_argument, metavar="N", help=test)
    add("--results", type=Path, metavar="DIR", help="write VOC's files for its server, of the test set")
    add("--workers", type=count_argument, default=1, metavar="N", help="SVMs at a time; changes no result")
    add("--json", action="store_true", help="everything as one JSON object")
    parser.set_defaults(work=_svm)


def _extract(parser: Parser, args: argparse.Namespace) -> int:
    started = time.monotonic()
    check_run_options(parser, args)
    check_replaceable(args.out, tables.read_head)
    settings = Settings(tuple(args.scales), args.combine, args.normalise, args.regions)
    collection = open_collection(args.data, args.kind, **data_options(args))
    pictures = collection.pictures
    if settings.regions != "image" and collection.kind != "voc-action":
        parser.error(
            f"--regions {settings.regions} needs boxes, which {collection.kind} has not: use --kind voc-action"
        )

    with contextlib.ExitStack() as stack:
        make = functools.partial(FeatureMaker, settings, args.strict)
        largest = [max(settings.scales, default=0)] * len(args.engine)
        crew = open_crew(MakerOpener(args.engine, make, args.provider, largest), args, stack)
        known: KnownExtractors = crew.known
        metadata = _metadata(known, collection, settings) | decoder_metadata(args.decoder)
        unfinished = UnfinishedTable(
            args.out, metadata, collection.listing_digest, known.width, len(pictures), resume=args.resume
        )
        print_notes([*collection.notes, *decoder_remarks(args.decoder), *unfinished.remarks])
        todo = len(pictures) - unfinished.done
        bar = stack.enter_context(tqdm(total=todo, desc="features", unit="img", disable=None))

        engine_seconds = 0.0

        def commit(shard: Shard[Sequence[FeatureRow]]) -> None:
            nonlocal engine_seconds
            engine_seconds += sum(shard.effort.engine_seconds)
            unfinished.add(shard)
            for row in shard.rows:
                if row.status != OK:
                    named = row.status.startswith(f"{row.image}: ")  # as infer.pixels.decode names what it cannot read
                    said = row.status if named else f"{row.image}: {row.status}"
                    tqdm.write(one_line(said), file=sys.stderr)

        try:
            behind(crew.make(pictures, unfinished.pending, bar.update), commit)
        except KeyboardInterrupt:
            return say_interrupted(f"what is done is kept in {unfinished.folder}")
        rows_written = unfinished.finish()

    seconds = time.monotonic() - started
    classes = f"{collection.kind}, {len(collection.classes)} classes"
    print(one_line(f"{args.out}: {rows_written} rows of {known.width} features, {classes}"))
    print(
        f"{todo} images in {seconds:.1f} s, of which engines {engine_seconds:.1f} s: "
        f"wall / engine = {seconds / max(engine_seconds, 1e-9):.2f}"
    )
    return 0


def _metadata(known: KnownExtractors, collection: Collection, settings: Settings) -> dict[str, str]:
    """Says all that the rows depend on but the data set's `dataset_id`, which is known when it has been read."""
    engines = known.engines
    return {
        "format": FORMAT,
        "kind": collection.kind,
        "classes": json.dumps(collection.classes, ensure_ascii=False),
        "specs": json.dumps([json.loads(engine.spec.to_json()) for engine in engines], ensure_ascii=False),
        "runtimes": ",".join(engine.runtime for engine in engines),
        "arithmetic": "; ".join(engine.arithmetic for engine in engines),
        "engine_sha256": ",".join(engine.sha256 for engine in engines),
        "scales": ",".join(map(str, settings.scales)),
        "combine": settings.combine,
        "normalise": settings.normalise,
        "regions": settings.regions,
        "commit": our_commit(),
    }


def _svm(parser: Parser, args: argparse.Namespace) -> int:
    # --results stands alone
    if args.results is not None:
        for option in ("--test", "--json", "--train-images", "--test-images"):
            if getattr(args, option[2:].replace("-", "_")):
                parser.error(
                    f"{option} does not go with --results, which trains on train and val and writes the scores of "
                    "test: leave one out"
                )

    table = tables.read(args.tables)
    choices = Choices(tuple(args.c), args.seed, args.workers)
    if args.results is not None:
        if table.kind not in COMPETITION:
            parser.error(f"--results is for VOC, the table is of {table.kind}: leave it out")
        return _write_results(table, choices, args.results)

    # by the sets of the data set, or by random ones
    if (table.splits != "").any():
        found = evaluate_sets(table, args.test, choices)
    else:
        train, test = CALTECH.get(table.kind, (0, None))
        train, test = args.train_images or train, args.test_images or test
        if not train:
            parser.error("the data set has no train and val: say by --train-images how many of each class train")
        found = evaluate_random(table, train, test, choices)

    failed = {name: s for name, s in zip(table.images, table.statuses, strict=True) if s != OK}
    paper, not_shown = rows_beside(
        table.kind, table.classes, found.get("train_images_per_class"), found.get("test_images_per_class")
    )
    keys = ("scales", "combine", "normalise", "regions", "dataset_id", "engine_sha256", "commit")
    report = {
        "kind": table.kind,
        "models": [spec["name"] for metadata in table.metadata for spec in json.loads(metadata["specs"])],
        "tables": [
            {**{key: metadata[key] for key in keys}, "file": str(path)}
            for path, metadata in zip(args.tables, table.metadata, strict=True)
        ],
        "classes": len(table.classes),
        "seed": args.seed,
        "without_features": failed,
        **found,
        "paper": [row._asdict() for row in paper],
        "paper_not_shown": not_shown,
    }
    print(json.dumps(report, indent=2) if args.json else as_text(report))
    return 0


def _write_results(table: tables.Table, choices: Choices, folder: Path) -> int:
    places, scores, said = submission_scores(table, choices)
    write_submission(table, places, scores, folder)

    what = "people" if table.kind == "voc-action" else "images"
    unknown = int((~table.readable[places]).sum())
    if unknown:
        print(
            f"{unknown} of {len(places)} test {what} have no features: in each file they stand last, 1 below the "
            "lowest score",
            file=sys.stderr,
        )
    done = f"{folder}: scores of {len(places)} test {what} for {len(table.classes)} classes; C = {said['c']:g}"
    print(one_line(done))
    for remark in remarks_on_c([said]):
        print(remark)
    return 0


def _numbers(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value < float("inf") for value in values) or len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f"expected different positive numbers like 0.1,1,10, got {text!r}")
    return values


if __name__ == "__main__":
    exit_with(main)
