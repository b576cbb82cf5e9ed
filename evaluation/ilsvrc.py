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
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from infer.command import (
    Parser,
    add_data_options,
    data_options,
    exit_with,
    print_notes,
    run,
    scales_argument,
    whole_argument,
)
from infer.data.dataset import Dataset, open_dataset
from infer.errors import UsageError, one_line
from infer.processes.owned import check_ours, own_folder
from infer.views import PROTOCOLS

from .errors import RunError
from .published.papers import EvaluatedNet
from .report.baseline import pair_up, places_of, wrong_answers
from .report.gate import DROP, add_gate_options, check_gate, judge, tell
from .report.page import HTML, write_html
from .report.pairs import Pair, pairs_by_runtime
from .report.results import REPORT, EvaluatedImages, ReportedRun, read_run, summarise, write_fusion
from .report.write import format_table, write_report
from .run.engines import our_commit
from .run.labels import BY_ORDER, match_classes
from .run.mistakes import MISTAKES, write_mistakes
from .run.mistakes import OURS as MISTAKES_OURS
from .run.score import KnownEngines, score_opener
from .run.store import UnfinishedScores, Watch, check_out
from .run.submission import POOLING_OUTPUT, RunPlan, plan_every_engine, plan_submission, read_submission
from .run.workers import add_run_options, check_run_options, decoder_remarks, open_crew, say_interrupted
from .scores.metrics import explain_order
from .scores.paired import WrongAnswers


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    args = parser.parse_args(argv)
    _check_together(parser, args)
    command = shlex.join(["python", "-m", "evaluation.ilsvrc", *argv])
    return run(parser, lambda: _evaluate(args, command), own_folder(args.out))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m evaluation.ilsvrc",
        description="The evaluation command: engines over a labelled data set, by the papers' protocols.",
    )
    add = parser.add_argument

    # what is run
    model = "a model: .pt, .onnx or .engine; repeat to evaluate and fuse several"
    data = "ILSVRC-2012 or class folders, a tar of them, or shards (docs/data.md)"
    pooling = (
        "what is averaged over the positions of a dense view: class scores, before the softmax, as in the paper, or "
        "posteriors, after it (default: scores)"
    )
    submission = (
        "engines to fuse, each with its protocol and scales (examples/submissions), instead of --engine, --protocol, "
        "--scales and --pooling"
    )
    add("--engine", action="append", type=Path, help=model)
    add("--data", required=True, type=Path, help=data)
    add("--protocol", type=_protocols, metavar="P[,P...]", help=f"of {', '.join(PROTOCOLS)} (docs/evaluation.md)")
    add("--scales", type=scales_argument, metavar="Q[,Q...]", help="shorter sides in px (default: each model's own)")
    add("--pooling", choices=list(POOLING_OUTPUT), help=pooling)
    add("--submission", type=Path, metavar="FILE.yaml", help=submission)
    add_data_options(parser)
    add(BY_ORDER, action="store_true", help="take the data set's classes by their places, whatever they are called")

    # where and how
    add("--out", type=Path, default=Path("results"), help="folder for scores/ and the report (default: %(default)s)")
    add_run_options(parser)

    # what is said
    mistakes = "of each table, the most confident mistakes to show in the report, with thumbnails (default: 8)"
    events = "events as JSON lines on stdout (docs/evaluation.md), in place of the table"
    add("--mistakes", type=whole_argument, default=8, metavar="N", help=mistakes)
    add("--log-json", action="store_true", help=events)
    add_gate_options(parser, "for --fail-above drop: a model of this run, or the OUT folder of an earlier run")
    return parser


def _check_together(parser: Parser, args: argparse.Namespace) -> None:
    """Ends with a usage error where options exclude each other, or are too few."""
    singly = {"--engine": args.engine, "--protocol": args.protocol, "--scales": args.scales, "--pooling": args.pooling}
    given = [option for option, value in singly.items() if value]
    if args.submission is not None and given:
        parser.error(f"{given[0]} is said by the --submission for each member: leave it out")
    if args.submission is None and not (args.engine and args.protocol):
        parser.error("expected --engine ENGINE --protocol P, or --submission FILE.yaml")
    check_run_options(parser, args)
    check_gate(parser, args.fail_above, args.baseline)
    if args.baseline is not None and not (args.fail_above and DROP in args.fail_above):
        parser.error("--baseline is for --fail-above drop=POINTS; evaluation.report shows pairs with a baseline")


def _protocols(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in PROTOCOLS]
    if unknown or len(set(names)) != len(names):
        what = f"unknown protocol {unknown[0]!r}" if unknown else "a protocol is named twice"
        raise argparse.ArgumentTypeError(f"{what}: expected different ones of {', '.join(PROTOCOLS)}")
    return names


def _evaluate(args: argparse.Namespace, command: str) -> int:
    started = time.monotonic()
    check_out(args.out, None)
    check_ours(args.out / MISTAKES, MISTAKES_OURS, RunError)
    earlier = _earlier_run(args)
    plan = _plan(args)
    dataset = open_dataset(args.data, "named", **data_options(args))
    opener = score_opener(
        plan,
        dataset,
        args.provider,
        commit=our_commit(),
        strict=args.strict,
        mistakes=args.mistakes,
        classes_by_order=args.classes_by_order,
        decoder=args.decoder,
    )

    with contextlib.ExitStack() as stack:
        crew = open_crew(opener, args, stack)
        earlier = _baseline_run(args.baseline, crew.known, plan, earlier)
        unfinished = UnfinishedScores(args.out, crew.known, dataset, args.mistakes, started=started, resume=args.resume)
        matches = match_remarks(crew.known, dataset, by_order=args.classes_by_order)
        notes = [*dataset.notes, *matches, *decoder_remarks(args.decoder)]
        print_notes([*notes, *unfinished.remarks])
        watch = stack.enter_context(Watch(len(dataset.items), unfinished.done, log_json=args.log_json))

        try:
            unfinished.fill(crew.make(dataset.items, unfinished.pending, watch.images), watch)
            reported, tables = _report(
                args.out, crew.known, dataset, unfinished, plan, args.data.resolve().name, command, notes
            )
        except KeyboardInterrupt:
            return say_interrupted(f"{unfinished.done} of {len(dataset.items)} images are kept in {args.out}")
        unfinished.discard()
        watch.say("end", images=unfinished.done, of=len(dataset.items), report=str(args.out / "report.json"))

    if not args.log_json:
        print(format_table(reported.report.results))
        seconds = unfinished.progress.wall_seconds
        done = f"{len(dataset.items)} images of {args.data} in {seconds:.1f} s; scores and report in {args.out}"
        print(one_line(done))
    return _hold_to_limits(args, reported, tables, earlier) if args.fail_above else 0


def _earlier_run(args: argparse.Namespace) -> ReportedRun | None:
    """The run whose OUT folder the baseline is; None where it is a model's name. Raises ReportError and UsageError."""
    if args.baseline is None or not (Path(args.baseline) / REPORT).exists():
        return None
    if Path(args.baseline).resolve() == args.out.resolve():
        raise UsageError(f"--baseline {args.baseline}: the --out of this run, whose report is replaced: name another")
    return read_run(Path(args.baseline))


def _baseline_run(
    baseline: str | None, known: KnownEngines, plan: RunPlan, earlier: ReportedRun | None
) -> ReportedRun | None:
    """The earlier run, where the baseline is not a model of this one, which goes before a folder of its name.

    Raises UsageError, before anything is scored, where it is neither.
    """
    models = [*(engine.spec.name for engine in known.engines), *(name for name, _ in plan.fusions_of(known.engines))]
    if baseline is None or baseline in models:
        return None
    if earlier is None:
        raise UsageError(
            f"--baseline {baseline}: expected one of the models {', '.join(models)}, or the OUT folder of an earlier "
            "run"
        )
    return earlier


def _hold_to_limits(
    args: argparse.Namespace, reported: ReportedRun, tables: Sequence[WrongAnswers], earlier: ReportedRun | None
) -> int:
    """The exit status by --fail-above, after everything was written. Raises ReportError and ScoresError."""
    runs, every, places, pairs = [reported], list[WrongAnswers | None](tables), list[int](), list[Pair]()
    if args.baseline is not None:
        if earlier is not None:
            runs.append(earlier)
            every += [wrong_answers(earlier, result) for result in earlier.report.results]
        places, pairs = places_of(runs, args.baseline), pair_up(runs, every, args.baseline)

    # an earlier run is what this one is held to, and is not itself held to anything
    results = [result for one in runs for result in one.report.results]
    own = len(reported.report.results)
    others = {*places, *range(own, len(results))}
    verdict = judge(args.fail_above, results, [pair for pair in pairs if pair.second < own], others)
    return tell(verdict, quiet=args.log_json)


def match_remarks(known: KnownEngines, dataset: Dataset, *, by_order: bool) -> list[str]:
    """Lines that say how classes were matched where it was not by their names."""
    matches = (match_classes(dataset, engine.spec, by_order=by_order) for engine in known.engines)
    return list(dict.fromkeys(match.remark for match in matches if match.remark))


def _plan(args: argparse.Namespace) -> RunPlan:
    """Plans a run by --submission, or by --engine, --protocol and --scales. Raises SubmissionError."""
    if args.submission is not None:
        return plan_submission(read_submission(args.submission))
    scales = tuple(args.scales) if args.scales else None
    return plan_every_engine(args.engine, args.protocol, scales, args.pooling or "scores")


def _report(
    out: Path,
    known: KnownEngines,
    dataset: Dataset,
    unfinished: UnfinishedScores,
    plan: RunPlan,
    name: str,
    command: str,
    notes: Sequence[str],
) -> tuple[ReportedRun, list[WrongAnswers]]:
    """Writes the score tables and the report of a run whose shards are all there; the wrong answers of each result."""
    written, is_ilsvrc, progress = unfinished.finish(), dataset.is_ilsvrc2012_val, unfinished.progress
    nets = [
        [EvaluatedNet(engine.spec, protocol.name, protocol.scales) for protocol in own]
        for engine, own in zip(known.engines, known.protocols, strict=True)
    ]

    # fusions are tables like the others, in a folder of their own
    fusions = plan.fusions_of(known.engines)
    fused = [write_fusion(out, name, [written[i][j] for i, j in members]) for name, members in fusions]
    paths = [path for own in written for path in own]
    summaries = summarise([*paths, *fused])
    of_tables, of_fusions = summaries[: len(paths)], summaries[len(paths) :]

    results = []
    waiting = iter(of_tables)
    for own, seconds, of_engine in zip(nets, progress.engine_seconds, progress.tables, strict=True):
        pixels = sum(table.view_pixels for table in of_engine)
        for net, table in zip(own, of_engine, strict=True):
            share = round(seconds * table.view_pixels / pixels, 3) if pixels else None
            taken, wall = round(seconds, 3), round(progress.wall_seconds, 3)
            row = next(waiting).result([net], is_ilsvrc2012_val=is_ilsvrc)
            results.append(replace(row, engine_seconds=taken, wall_seconds=wall, protocol_engine_seconds=share))
    for summary, fusion in zip(of_fusions, fusions, strict=True):
        results.append(summary.result([nets[i][j] for i, j in fusion.members], is_ilsvrc2012_val=is_ilsvrc))

    names = [path.relative_to(out).as_posix() for path in (*paths, *fused)]
    results = [replace(row, table=name) for row, name in zip(results, names, strict=True)]

    unscored = [one.remark for one in of_tables]
    if all(one.errors.blind for one in of_tables):
        raise RunError(f"no image could be scored: {unscored[0]}")

    orders = (explain_order(one.answers, dataset.class_names, dataset.devkit_order) for one in of_tables)
    trained = unfinished.say_trained_on([engine.spec.name for engine in known.engines])
    found = list(dict.fromkeys(remark for remark in (*unscored, *orders, *trained) if remark))
    print_notes(found)
    remarks = [*notes, *found]
    unreadable = {name: status for one in of_tables for name, status in one.unreadable.items()}

    mistakes = [table.mistakes for own in progress.tables for table in own]
    metadata = [metadata for own in unfinished.metadata for metadata in own]
    write_mistakes(out, dataset, list(zip(metadata, mistakes, strict=True)))
    named = zip(dataset.classes, dataset.class_names, strict=True)
    words = {name: words for name, words in named if name != words}
    images = EvaluatedImages(
        unfinished.dataset_id,
        is_ilsvrc,
        results[0].images,
        len(unreadable),
        unreadable,
        words,
        dict(dataset.left_out),
        name,
    )
    pairs = pairs_by_runtime([one.wrong for one in summaries])
    reported = write_report(out, images, results, remarks, pairs, command=command, commit=metadata[0]["commit"])
    write_html([reported], out / HTML)
    return reported, [one.wrong for one in summaries]


if __name__ == "__main__":
    exit_with(main)
