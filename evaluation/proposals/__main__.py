"""The command of proposals: boxes that may hold an object, for every image of a detection data set.

    python -m evaluation.proposals --data DIR -o proposals.parquet --method selective-search,multibox --multibox M.onnx

Writes the table (infer/boxes/proposed.py) and beside it a .json with what the proposals cover, and prints that, beside
random boxes and a grid of the same number. `--read` takes proposals from a file of others.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from infer.boxes.multibox import MOST
from infer.boxes.proposals import MODES, SelectiveSearch
from infer.boxes.proposed import OK, SCHEMA, ProposalsError, read_proposals
from infer.command import Parser, count_argument, exit_with, positive_argument, print_notes, run
from infer.data.detection import DetectionData, boxes_in, open_detection
from infer.data.own_parquet import check_replaceable, opened
from infer.errors import one_line
from infer.files import read_file, replacing
from infer.processes.cores import usable_cores
from infer.processes.owned import own_file

from ..run.store import REPORT_BYTES, Watch
from ..run.workers import add_run_options, check_run_options, decoder_remarks, open_crew, say_interrupted
from ..scores.table import decoder_metadata
from .baselines import grid_boxes, random_boxes
from .files import Proposals, match_images, read_file_proposals
from .propose import FILE, METHODS, NET, SEARCH, ImageToSearch, ProposalSettings, proposal_metadata, proposal_opener
from .recall import PAPER, Coverage, combinations, recall_text
from .table import UnfinishedProposals, boxes_of

SLACK_PX = 0.5
"""That a box of a file may reach out of its image: what rounding does."""


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    args = parser.parse_args(argv)
    _check_together(parser, args)
    command = shlex.join(["python", "-m", "evaluation.proposals", *argv])
    return run(parser, lambda: _propose(args, command), own_file(args.out))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m evaluation.proposals",
        description="Proposals: boxes that may hold an object, for every image of a detection data set.",
    )
    add = parser.add_argument

    methods = f"comma-separated, of {', '.join(METHODS)} (default: {SEARCH}, or none with --read)"
    superpixels = "size of selective search's first segments, in R-CNN's (default: %(default)g, as GoogLeNet's)"
    jobs = "processes, which change no result (default: the cores; with --provider, --device or --ray theirs)"
    add("--data", required=True, type=Path, help="ILSVRC's detection task, PASCAL VOC or COCO")
    add("-o", "--out", required=True, type=Path, metavar="F.parquet")
    add("--method", type=_methods, metavar="M[,M]", help=methods)
    add("--split", choices=("train", "val", "test"), default="val", help="of the data (default: %(default)s)")
    add("--limit", type=count_argument, metavar="N", help="only N images, evenly spaced, always the same")
    add("--superpixels", type=positive_argument, default=2.0, metavar="X", help=superpixels)
    add("--mode", choices=MODES, default="fast", help="of selective search (default: %(default)s)")
    add("--multibox", type=Path, metavar="ENGINE.onnx", help="the MultiBox net, as exported")
    add("--most", type=count_argument, default=MOST, metavar="N", help="its boxes of an image (default: %(default)s)")
    add("--read", type=Path, metavar="FILE", help="proposals of others: .csv, or .mat as R-CNN's")
    add("--jobs", type=count_argument, metavar="N", help=jobs)
    add_run_options(parser)
    return parser


def _methods(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(METHODS) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected {' or '.join(METHODS)}, or both with a comma, got {text!r}")
    return names


def _check_together(parser: Parser, args: argparse.Namespace) -> None:
    """Ends with a usage error where options exclude each other; fills in what follows from others."""
    if args.method is None:
        args.method = () if args.read is not None else (SEARCH,)
    if (NET in args.method) != (args.multibox is not None):
        parser.error(f"--method {NET} and --multibox ENGINE.onnx go together: the net proposes by itself")
    if args.out.with_suffix(".json") == args.out:
        parser.error(f"-o {args.out}: the .json beside the table would replace it: expected F.parquet")
    check_run_options(parser, args)

    elsewhere = args.provider != "cpu" or args.device is not None or args.ray is not None
    if args.jobs is not None and elsewhere:
        parser.error("--jobs is for processes on this CPU: --provider, --device and --ray have their own")
    if not elsewhere:
        args.device = list(range(args.jobs or usable_cores()))
        args.workers = args.workers or 1


def _propose(args: argparse.Namespace, command: str) -> int:
    beside = args.out.with_suffix(".json")
    check_replaceable(args.out, _read_head)
    check_replaceable(beside, _read_report)
    data = open_detection(args.data, args.split, limit=args.limit)
    given: list[Proposals | None] | None = None
    notes = data.remarks
    if args.read is not None:
        found = read_file_proposals(args.read)
        given, said = match_images(found, [item.name for item in data.items], args.read)
        notes += said
    methods = (*args.method, *([FILE] if given is not None else []))
    search = SelectiveSearch(args.mode, args.superpixels)
    settings = ProposalSettings(methods, search, args.most, args.exif or "ignore", args.strict)
    images = [ImageToSearch(item, given[place] if given else None) for place, item in enumerate(data.items)]

    with contextlib.ExitStack() as stack:
        # no more processes than there is work for
        args.device = args.device and args.device[: max(1, len(images) // 2)]
        crew = open_crew(proposal_opener(settings, args.multibox, args.provider, {}), args, stack)
        listing = f"{data.kind} {args.split} {data.listing_digest}"
        metadata = proposal_metadata(settings, crew.known, listing, args.read) | decoder_metadata(args.decoder)
        unfinished = UnfinishedProposals(args.out, metadata, len(images), resume=args.resume)
        print_notes([*notes, *decoder_remarks(args.decoder), *unfinished.remarks])
        watch = stack.enter_context(Watch(len(images), unfinished.done, log_json=False))
        try:
            unfinished.fill(crew.make(images, unfinished.pending, watch.images), watch)
        except KeyboardInterrupt:
            return say_interrupted(f"{unfinished.done} of {len(images)} images are kept in {unfinished.folder}")
        remarks = unfinished.say_trained_on([engine.spec.name for engine in crew.known])
        unfinished.finish(args.out)
        unfinished.discard()

    coverage, unread = cover(args.out, data, methods)
    if given is not None:
        remarks += say_beyond(args.out, args.read)
    print_notes([*unread, *remarks])
    report = {
        "kind": "proposals",
        "command": command,
        "images": len(images),
        "unreadable_images": len(unread),
        "objects": next(iter(coverage.values())).objects,
        "dataset_id": unfinished.dataset_id,
        **metadata,
        "methods": {name: own.to_json() for name, own in coverage.items()},
        "paper": PAPER,
    }
    with replacing(beside) as path:
        path.write_text(json.dumps(report, indent=1) + "\n")

    print(recall_text(coverage))
    objects = f"{report['objects']} objects in {len(images)} images of {args.data}"
    print(one_line(f"{objects}; proposals in {args.out}, coverage in {beside}"))
    return 0


def _read_head(path: Path) -> None:
    with opened(path, "a table of proposals", "evaluation.proposals", ProposalsError) as table:
        if not table.schema.equals(SCHEMA):
            raise ValueError("other columns")


def _read_report(path: Path) -> None:
    try:
        report = msgspec.json.decode(read_file(path, REPORT_BYTES, ProposalsError), type=dict[str, msgspec.Raw])
        known = msgspec.json.decode(report.get("kind", b"null")) == "proposals"
    except (ValueError, RecursionError):
        known = False
    if not known:
        raise ProposalsError(f"{path}: not the report of a table of proposals")


def say_beyond(table: Path, source: Path) -> list[str]:
    """A line where boxes of a file reach out of their images: they may count from 0, or be of another size."""
    every, beyond, first = 0, 0, ""
    for row in read_proposals(table):
        boxes = boxes_of(row, (FILE,))
        height, width = row.size_px
        out = (boxes[:, :2] < 1 - SLACK_PX).any(1) | (boxes[:, 2:] > np.array([width, height]) + SLACK_PX).any(1)
        every, beyond = every + len(boxes), beyond + int(out.sum())
        if out.any() and not first:
            said = ",".join(f"{edge:g}" for edge in boxes[out.argmax()])
            first = f"{said} in {row.image}, {height}x{width} px"
    if not beyond:
        return []
    return [
        f"{source}: {beyond} of {every} boxes reach out of their images ({first}): expected xmin,ymin,xmax,ymax in "
        "pixels of the image, counted from 1"
    ]


def cover(table: Path, data: DetectionData, methods: Sequence[str]) -> tuple[dict[str, Coverage], list[str]]:
    """(coverage by each method, by all and by boxes of the same number that know nothing; lines of unreadable images).

    Objects that are neither found nor missed do not count, nor those of classes that do not in their image.
    """
    rows = list(combinations(methods))
    names = [*(name for name, _ in rows), "random", "grid"]
    coverage = {name: Coverage() for name in names}
    unread = []

    for place, row in enumerate(read_proposals(table)):
        objects = data.objects[place]
        if row.status == OK:
            objects = boxes_in(objects, data.sizes_px[place], row.size_px)
        else:
            unread.append(row.status)
        counted = [one for one in objects if not (one.ignored or one.crowd)]
        boxes = np.array([one.box for one in counted if (place, one.label) not in data.not_counted]).reshape(-1, 4)

        for name, own in rows:
            coverage[name].add(boxes_of(row, own), boxes)
        count, known = len(row.boxes), row.size_px if row.status == OK else (1, 1)
        coverage["random"].add(random_boxes(known, count, seed=place), boxes)
        coverage["grid"].add(grid_boxes(known, count), boxes)
    return coverage, unread


if __name__ == "__main__":
    exit_with(main)
