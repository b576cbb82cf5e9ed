"""The evaluation command: engines over a labelled data set, by the papers' protocols.

    python -m evaluation.ilsvrc --engine ckpt.pt --data DIR --protocol multicrop+dense

Writes OUT/scores/*.parquet, OUT/report.json, report.md and report.html, and prints the table.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import time
from pathlib import Path

from infer.command import exit_with, run
from infer.data.dataset import Dataset, open_dataset

from .arguments import check_together, make_parser, say_interrupted
from .published.beside import Entry
from .report.write import result_from_scores, unreadable_images, write_report
from .run.engines import our_commit
from .run.mistakes import write_mistakes
from .run.progress import Watch
from .run.score import KnownEngines, score_opener, shard_images, table_metadata
from .run.store import UnfinishedScores
from .run.submission import RunPlan, plan_every_engine, plan_submission, read_submission
from .run.workers import open_crew
from .scores import table as tables
from .scores.class_order import explain_order
from .scores.fusion import fuse_files


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    args = parser.parse_args(argv)
    check_together(parser, args)
    command = shlex.join(["python", "-m", "evaluation.ilsvrc", *argv])
    return run(parser, lambda: _evaluate(args, command))


def _evaluate(args: argparse.Namespace, command: str) -> int:
    started = time.monotonic()
    plan = _plan(args)
    dataset = open_dataset(args.data, "val", limit=args.limit)
    commit = our_commit()
    opener = score_opener(plan, dataset, args.provider, commit=commit, strict=args.strict, mistakes=args.mistakes)

    with contextlib.ExitStack() as stack:
        crew = open_crew(opener, args, stack)
        unfinished = UnfinishedScores(
            args.out,
            table_metadata(crew.known, plan.pooling, commit),
            dataset.listing_digest,
            len(dataset.items),
            shard_images(crew.known),
            mistakes=args.mistakes,
            started=started,
            resume=args.resume,
        )
        watch = stack.enter_context(Watch(len(dataset.items), unfinished.done, log_json=args.log_json))

        try:
            unfinished.fill(crew.make(dataset.items, unfinished.pending, watch.images), watch)
            table = _report(args.out, crew.known, dataset, unfinished, plan, command)
        except KeyboardInterrupt:
            return say_interrupted(f"{unfinished.done} of {len(dataset.items)} images are kept in {args.out}")
        unfinished.discard()
        watch.say("end", images=unfinished.done, of=len(dataset.items), report=str(args.out / "report.json"))

    if not args.log_json:
        print(table)
        seconds = unfinished.progress.wall_seconds
        print(f"{len(dataset.items)} images of {args.data} in {seconds:.1f} s; scores and report in {args.out}")
    return 0


def _plan(args: argparse.Namespace) -> RunPlan:
    """Plans a run by --submission, or by --engine, --protocol and --scales. Raises SubmissionError."""
    if args.submission is not None:
        return plan_submission(read_submission(args.submission))
    scales = tuple(args.scales) if args.scales else None
    return plan_every_engine(args.engine, args.protocol, scales, args.pooling or "scores")


def _report(
    out: Path, known: KnownEngines, dataset: Dataset, unfinished: UnfinishedScores, plan: RunPlan, command: str
) -> str:
    """Writes the score tables and the report of a run whose shards are all there; returns the table to print."""
    written, is_ilsvrc, progress = unfinished.finish(), dataset.is_ilsvrc2012_val, unfinished.progress
    entries = [
        [Entry(engine.spec, protocol.name, protocol.scales) for protocol in own]
        for engine, own in zip(known.engines, known.protocols, strict=True)
    ]
    results = []
    for own, paths, seconds, of_tables in zip(entries, written, progress.engine_seconds, progress.tables, strict=True):
        pixels = sum(table.view_pixels for table in of_tables)
        results += [
            result_from_scores(
                tables.parts(path),
                [one],
                is_ilsvrc2012_val=is_ilsvrc,
                engine_seconds=round(seconds, 3),
                wall_seconds=round(progress.wall_seconds, 3),
                protocol_engine_seconds=round(seconds * table.view_pixels / pixels, 3) if pixels else None,
            )
            for one, path, table in zip(own, paths, of_tables, strict=True)
        ]
    for name, places in plan.fusions:
        fused = fuse_files([written[i][j] for i, j in places], name)
        results.append(result_from_scores(fused, [entries[i][j] for i, j in places], is_ilsvrc2012_val=is_ilsvrc))

    every = [path for paths in written for path in paths]
    orders = (explain_order(tables.parts(path), dataset.class_names, dataset.devkit_order) for path in every)
    remarks = list(dict.fromkeys(remark for remark in orders if remark))
    for remark in remarks:
        print(remark, file=sys.stderr)

    mistakes = [table.mistakes for own in progress.tables for table in own]
    metadata = [metadata for own in unfinished.metadata for metadata in own]
    write_mistakes(out, dataset, list(zip(metadata, mistakes, strict=True)))
    return write_report(
        out,
        results,
        unreadable_images(tables.parts(path) for path in every),
        remarks,
        classes=dataset.classes,
        class_names=dataset.class_names,
        dataset_id=unfinished.dataset_id,
        is_ilsvrc2012_val=is_ilsvrc,
        command=command,
        commit=metadata[0]["commit"],
    )


if __name__ == "__main__":
    exit_with(main)
