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
from .published.papers import EvaluatedNet
from .report.page import HTML, write_html
from .report.results import EvaluatedImages, Seconds, format_table, summarise, write_report
from .run.engines import our_commit
from .run.mistakes import write_mistakes
from .run.progress import Watch
from .run.score import KnownEngines, score_opener, shard_images, table_metadata
from .run.store import UnfinishedScores
from .run.submission import RunPlan, plan_every_engine, plan_submission, read_submission
from .run.workers import open_crew
from .scores.metrics import explain_order


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
    nets = [
        [EvaluatedNet(engine.spec, protocol.name, protocol.scales) for protocol in own]
        for engine, own in zip(known.engines, known.protocols, strict=True)
    ]

    # every table is decoded once
    paths = [path for own in written for path in own]
    fusions = [(name, [written[i][j] for i, j in places]) for name, places in plan.fusions]
    of_tables, of_fusions = summarise(paths, fusions)

    results = []
    summaries = iter(of_tables)
    for own, seconds, of_engine in zip(nets, progress.engine_seconds, progress.tables, strict=True):
        pixels = sum(table.view_pixels for table in of_engine)
        for net, table in zip(own, of_engine, strict=True):
            share = round(seconds * table.view_pixels / pixels, 3) if pixels else None
            taken = Seconds(round(seconds, 3), round(progress.wall_seconds, 3), share)
            results.append(next(summaries).result([net], taken, is_ilsvrc2012_val=is_ilsvrc))
    for summary, (_, places) in zip(of_fusions, plan.fusions, strict=True):
        results.append(summary.result([nets[i][j] for i, j in places], is_ilsvrc2012_val=is_ilsvrc))

    orders = (explain_order(one.answers, dataset.class_names, dataset.devkit_order) for one in of_tables)
    remarks = list(dict.fromkeys(remark for remark in orders if remark))
    for remark in remarks:
        print(remark, file=sys.stderr)
    unreadable = {name: status for one in of_tables for name, status in one.unreadable.items()}

    mistakes = [table.mistakes for own in progress.tables for table in own]
    metadata = [metadata for own in unfinished.metadata for metadata in own]
    write_mistakes(out, dataset, list(zip(metadata, mistakes, strict=True)))
    named = zip(dataset.classes, dataset.class_names, strict=True)
    words = {name: words for name, words in named if name != words}
    images = EvaluatedImages(unfinished.dataset_id, is_ilsvrc, results[0].images, len(unreadable), unreadable, words)
    reported = write_report(out, images, results, remarks, command=command, commit=metadata[0]["commit"])
    write_html([reported], out / HTML)
    return format_table(results)


if __name__ == "__main__":
    exit_with(main)
