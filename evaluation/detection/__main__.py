"""The detection command: nets of regions over a data set of detection, measured by its own rule.

    python -m evaluation.detection --engine A.onnx --data DIR --proposals proposals.parquet
    python -m evaluation.detection --regions A/regions.parquet --regions B/regions.parquet --data DIR

Each proposal is warped and classified by every net; the posteriors of several nets are averaged (GoogLeNet section 8).
The second form computes detections and errors anew from stored posteriors, without inference: by other settings, or of
nets of several runs. Writes OUT/regions.parquet (not in the second form), OUT/detections.parquet and the report.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from infer.boxes.detecting import Suppression
from infer.command import Parser, count_argument, exit_with, print_notes, run
from infer.data.detection import DetectionData, open_detection
from infer.errors import one_line
from infer.processes.owned import own_folder
from infer.spec import Exif

from ..run.store import Watch, check_out
from ..run.workers import add_run_options, check_run_options, decoder_remarks, open_crew, say_interrupted
from .classify import RegionSettings, check_exif, images_to_classify, region_metadata, region_opener
from .metric import Rule
from .score import RULES, Measured, classes_of_data, detect, measure
from .table import KIND, UnfinishedRegions, check_same_run, exif_of
from .write import write_report

REGIONS, DETECTIONS = "regions.parquet", "detections.parquet"
SPLITS = ("val", "test", "train")


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    args = parser.parse_args(argv)
    _check_together(parser, args)
    command = shlex.join(["python", "-m", "evaluation.detection", *argv])
    return run(parser, lambda: _detect(args, command), own_folder(args.out))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m evaluation.detection",
        description="Detection: nets of regions over a data set, as GoogLeNet's section 8 has it (docs/detection.md).",
    )
    add, how = parser.add_argument, Suppression()

    # what is run
    engine = "a net of regions (.onnx, .engine, .pt); repeat for an ensemble, whose posteriors are averaged"
    regions = "posteriors of an earlier run, in place of --engine; repeat for an ensemble"
    rule = "what counts as found, and what is averaged (default: the data set's own)"
    nms = "of two detections of a class that overlap by more the worse goes (default: %(default)g)"
    add("--engine", action="append", type=Path, metavar="NET", help=engine)
    add("--regions", action="append", type=Path, metavar="TABLE.parquet", help=regions)
    add("--data", required=True, type=Path, help="ILSVRC's detection task, PASCAL VOC or COCO (docs/detection.md)")
    add("--split", choices=SPLITS, default="val", help="default: %(default)s")
    add("--limit", type=count_argument, metavar="N", help="take N images, evenly spaced, always the same")
    add("--proposals", type=Path, metavar="FILE", help="of python -m evaluation.proposals, for --engine")
    add("--mirror", action="store_true", help="average each region's posterior with its mirror's")

    # what is made of it
    add("--rule", choices=get_args(Rule), help=rule)
    add("--nms", type=_share, default=how.overlap, metavar="IOU", help=nms)
    add("--least", type=_share, default=how.least, metavar="P", help="posterior that counts (default: %(default)g)")
    add("--most", type=count_argument, default=how.most, metavar="N", help="detections an image (default: %(default)s)")
    add("--classes-by-order", action="store_true", help="take the data set's classes by their places, not by name")
    add("--out", type=Path, default=Path("detection"), help="for the tables and the report (default: %(default)s)")
    add_run_options(parser)
    return parser


def _share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def _check_together(parser: Parser, args: argparse.Namespace) -> None:
    """Ends with a usage error where options exclude each other, or are too few."""
    if bool(args.engine) == bool(args.regions):
        parser.error("expected --engine NET with --proposals FILE, or --regions TABLE.parquet of an earlier run")
    if args.engine and args.proposals is None:
        parser.error("--engine classifies proposals: expected --proposals FILE, made by python -m evaluation.proposals")
    if args.regions and (args.proposals or args.mirror or args.resume):
        parser.error("--regions are posteriors that are there: leave out --proposals, --mirror and --resume")
    check_run_options(parser, args)


def _detect(args: argparse.Namespace, command: str) -> int:
    check_out(args.out, KIND)
    data = open_detection(args.data, args.split, limit=args.limit)
    print_notes(data.remarks)
    tables, notes = args.regions, list[str]()
    seconds: tuple[float, float] | None = None
    if args.engine:
        made = _classify(args, data, notes)
        if made is None:
            return 130
        tables, seconds = [args.out / REGIONS], made

    rule: Rule = args.rule or RULES[data.kind]
    how = Suppression(args.nms, args.least, args.most)
    systems = detect(tables, data, how, by_order=args.classes_by_order)
    measured = [measure(system, data, rule) for system in systems]
    exif = args.exif or exif_of(tables[0])
    print(_report(args, data, rule, how, measured, [*notes], command, seconds, exif))
    print(one_line(f"{len(data.items)} images of {args.data}; tables and report in {args.out}"))
    return 0


def _classify(args: argparse.Namespace, data: DetectionData, notes: list[str]) -> tuple[float, float] | None:
    """Writes OUT/regions.parquet; returns the seconds inside the engines and in all, None where it was interrupted.

    What is to be said is added to `notes`.
    """
    settings = RegionSettings(args.mirror, args.strict)
    images, said = images_to_classify(data, args.proposals)
    with contextlib.ExitStack() as stack:
        crew = open_crew(region_opener(settings, args.engine, args.provider, {}), args, stack)
        net = crew.known[0].spec
        classes_of_data(net.classes, data, net.name, by_order=args.classes_by_order)  # before hours of work
        said += check_exif(crew.known, data, args.proposals)
        metadata = region_metadata(settings, crew.known, data, args.proposals, args.decoder)
        check_same_run(args.out / REGIONS, metadata)
        unfinished = UnfinishedRegions(args.out, metadata, len(crew.known), len(images), resume=args.resume)
        notes += [*said, *decoder_remarks(args.decoder)]
        print_notes([*notes, *unfinished.remarks])
        watch = stack.enter_context(Watch(len(images), unfinished.done, log_json=False))
        try:
            unfinished.fill(crew.make(images, unfinished.pending, watch.images), watch)
            unfinished.finish(args.out / REGIONS)
        except KeyboardInterrupt:
            say_interrupted(f"{unfinished.done} of {len(images)} images are kept in {args.out}")
            return None
        remarks = unfinished.say_trained_on([engine.spec.name for engine in crew.known])
        print_notes(remarks)
        notes += remarks
        seconds = unfinished.seconds()
        unfinished.discard()
    return seconds


def _report(
    args: argparse.Namespace,
    data: DetectionData,
    rule: Rule,
    how: Suppression,
    measured: Sequence[Measured],
    notes: Sequence[str],
    command: str,
    seconds: tuple[float, float] | None,
    exif: Exif,
) -> str:
    """Writes what a run found; returns the table to print."""
    said: dict[str, Any] = {"command": command, "python": platform.python_version()}
    said |= {"rule": rule, "suppression": str(how)}
    if seconds is not None:
        said |= {"engine_seconds": round(seconds[0], 3), "wall_seconds": round(seconds[1], 3)}
    return write_report(args.out, data, measured, rule, said, notes, exif)


if __name__ == "__main__":
    exit_with(main)
