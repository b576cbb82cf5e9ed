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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from infer.command import exit_with
from infer.data.dataset import Dataset, DatasetError, open_dataset
from infer.engine import EngineError
from infer.pipeline import behind
from infer.views import PlanError

from .arguments import check_together, make_parser
from .errors import ReportError, RunError, ScoresError
from .published.beside import EvaluatedNet
from .report.page import HTML, write_html
from .report.results import EvaluatedImages, Seconds, format_table, summarise, write_report
from .run.engines import Identities, identify, identities_of, open_members
from .run.identity import describe, our_commit
from .run.mistakes import write_mistakes
from .run.on_ray import Cluster
from .run.progress import Watch
from .run.score import Shard, shard_images
from .run.shards import Task, UnfinishedRun
from .run.submission import Plan, SubmissionError, plan_of, read_submission
from .run.workers import Job, run_here, run_on_devices
from .scores.class_order import explain_order
from .scores.fusion import FUSED


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    args = parser.parse_args(argv)
    check_together(parser, args)
    try:
        return _evaluate(args, shlex.join(["python", "-m", "evaluation.ilsvrc", *argv]))
    except (PlanError, SubmissionError) as error:
        parser.error(str(error))
    except (DatasetError, EngineError, ReportError, RunError, ScoresError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _plan(args: argparse.Namespace) -> Plan:
    """From --submission, or from --engine, --protocol, --scales. Raises SubmissionError."""
    if args.submission is None:
        scales = tuple(args.scales) if args.scales else None
        asked = [(path, [(name, scales) for name in args.protocol]) for path in args.engine]
        fusions = [(FUSED, [(i, j) for i in range(len(asked))]) for j in range(len(args.protocol))]
        return Plan(asked, fusions if len(asked) > 1 else [], args.pooling or "scores")
    return plan_of(read_submission(args.submission))


def _evaluate(args: argparse.Namespace, command: str) -> int:
    """Opens, runs, reports. Raises PlanError, SubmissionError, DatasetError, EngineError, RunError, ScoresError."""
    started = time.monotonic()
    plan = _plan(args)
    dataset = open_dataset(args.data, "val", limit=args.limit)
    with contextlib.ExitStack() as stack:
        members, make = _open(args, plan, stack)
        described = describe(members.engines, members.protocols, plan.pooling, our_commit())
        size = shard_images(members.protocols)
        task = Task(described, dataset.listing_digest, len(dataset.items), size, args.mistakes)
        unfinished = UnfinishedRun(args.out, task, resume=args.resume)
        progress, before = unfinished.progress, unfinished.progress.wall_seconds
        job = Job(plan, replace(dataset, items=()), described, args.provider, args.strict, args.workers, args.mistakes)
        watch = stack.enter_context(Watch(len(dataset.items), progress.images, log_json=args.log_json))
        shards = make(job, dataset, unfinished.pending, watch)

        def commit(shard: Shard) -> None:
            unfinished.add(shard, before + time.monotonic() - started)
            watch.error(progress.top1_error_percent)

        try:
            behind(shards, commit)
            table = _report(args.out, members, dataset, unfinished, plan, command)
        except KeyboardInterrupt:
            print(
                f"interrupted: {progress.images} of {len(dataset.items)} images are kept in {args.out}, go on by "
                "--resume",
                file=sys.stderr,
            )
            return 130
        unfinished.discard()
        watch.say("end", images=progress.images, of=len(dataset.items), report=str(args.out / "report.json"))
    if not args.log_json:
        print(table)
        seconds = progress.wall_seconds
        print(f"{len(dataset.items)} images of {args.data} in {seconds:.1f} s; scores and report in {args.out}")
    return 0


Made = Callable[[Job, Dataset, Sequence[int], Watch], Iterator[Shard]]
"""Makes the shards at the given starts."""


def _open(args: argparse.Namespace, plan: Plan, stack: contextlib.ExitStack) -> tuple[Identities, Made]:
    """What the engines are, and who makes shards by them: this process, one for each --device, or a Ray cluster."""
    devices = args.device or [0]
    elsewhere: Callable[[Job, Identities, Dataset, Sequence[int]], Iterator[Shard]]
    if args.ray is not None:
        cluster = Cluster(args.ray, plan, args.provider, args.ray_actors)
        stack.callback(cluster.close)
        identities, elsewhere = cluster.identify(), cluster.run
    elif len(devices) > 1:
        identities, elsewhere = identify(plan, args.provider, devices[0]), partial(run_on_devices, devices=devices)
    else:
        members = open_members(plan, args.provider, stack, device=devices[0])
        return identities_of(members), lambda job, dataset, starts, watch: run_here(
            job, members, dataset, starts=starts, on_images=watch.images
        )

    def made_elsewhere(job: Job, dataset: Dataset, starts: Sequence[int], watch: Watch) -> Iterator[Shard]:
        for shard in elsewhere(job, identities, dataset, starts):
            watch.images(shard.images)
            yield shard

    return identities, made_elsewhere


def _report(out: Path, members: Identities, dataset: Dataset, run: UnfinishedRun, plan: Plan, command: str) -> str:
    """Writes the score tables and the report of a run whose shards are all there; returns the table to print."""
    written, ilsvrc, progress = run.finish(), dataset.is_ilsvrc2012_val, run.progress
    nets = [
        [EvaluatedNet(engine.spec, protocol.name, protocol.scales) for protocol in own]
        for engine, own in zip(members.engines, members.protocols, strict=True)
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
            results.append(next(summaries).result([net], taken, is_ilsvrc2012_val=ilsvrc))
    for summary, (_, places) in zip(of_fusions, plan.fusions, strict=True):
        results.append(summary.result([nets[i][j] for i, j in places], is_ilsvrc2012_val=ilsvrc))

    orders = (explain_order(one.answers, dataset.class_names, dataset.devkit_order) for one in of_tables)
    remarks = list(dict.fromkeys(remark for remark in orders if remark))
    for remark in remarks:
        print(remark, file=sys.stderr)
    unreadable = {name: status for one in of_tables for name, status in one.unreadable.items()}

    mistakes = [table.mistakes for own in progress.tables for table in own]
    metadata = [metadata for own in run.task.described for metadata in own]
    write_mistakes(out, dataset, list(zip(metadata, mistakes, strict=True)))
    known = zip(dataset.classes, dataset.class_names, strict=True)
    words = {name: words for name, words in known if name != words}
    images = EvaluatedImages(run.dataset_id, ilsvrc, results[0].images, len(unreadable), unreadable, words)
    reported = write_report(out, images, results, remarks, command=command, commit=metadata[0]["commit"])
    write_html([reported], out / HTML)
    return format_table(results)


if __name__ == "__main__":
    exit_with(main)
