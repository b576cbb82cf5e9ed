"""The localisation command: box nets over a labelled data set, by the two protocols of the VGG paper's appendix A.

    python -m evaluation.localization --boxes BOXES.onnx --engine CLASSIFIER.onnx --data DIR --protocol dense

`given-class`: the box of the image's own class at the central crop, of one box net. `dense`: the boxes of all
positions, scales and box nets, merged, rated by the classifier, for its five likeliest classes (or a score table's),
and for the image's own class. What the paper leaves open is chosen in infer/boxes/.

Writes OUT/boxes/*.parquet, OUT/report.json and report.md, and prints the table.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infer.boxes.finding import MATCHES, Merging
from infer.command import Parser, add_data_options, data_options, exit_with, print_notes, run, scales_argument
from infer.data.dataset import Dataset, open_dataset
from infer.errors import one_line
from infer.processes.owned import own_folder

from ..errors import ScoresError
from ..run.labels import BY_ORDER, match_classes
from ..run.store import Watch, check_out
from ..run.workers import add_run_options, check_run_options, decoder_remarks, open_crew, say_interrupted
from ..scores import table as tables
from ..scores.table import decoder_metadata
from .find_boxes import PROTOCOLS, BoxSettings, ImageToLocate, KnownNets, box_metadata, box_opener, read_likeliest
from .ground_truth import GroundTruth, read_ground_truth
from .report import count, results_of, unreadable_images, write_report
from .table import KIND, UnfinishedBoxes


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    args = parser.parse_args(argv)
    _check_together(parser, args)
    command = shlex.join(["python", "-m", "evaluation.localization", *argv])
    return run(parser, lambda: _localize(args, command), own_folder(args.out))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m evaluation.localization",
        description="Localisation: box nets over a labelled data set, by the protocols of the VGG paper's appendix A.",
    )
    add = parser.add_argument

    # what is run
    scales = "shorter sides in px, for all box nets, or repeated for each of them (default: each net's own)"
    merge_at = "boxes that match worse than this are left apart (default: 0.75; with literal 0.25)"
    add("--boxes", action="append", required=True, type=Path, metavar="BOXES.onnx", help="a box net; repeat")
    add("--engine", type=Path, help="the classifier that rates boxes, with a score_map (not for given-class)")
    add("--scores", type=Path, metavar="TABLE.parquet", help="has the top-5 classes (default: --engine's)")
    add("--data", required=True, type=Path, help="the data set, as for evaluation.ilsvrc (docs/data.md)")
    add("--protocol", required=True, choices=list(PROTOCOLS))
    add("--scales", action="append", type=scales_argument, metavar="Q[,Q...]", help=scales)
    add("--match", choices=list(MATCHES), default="overlap", help="match_score of the merging (default: %(default)s)")
    add("--merge-at", type=float, metavar="T", help=merge_at)
    add("--annotations", type=Path, metavar="DIR|TAR", help="the XMLs (default: DATA/ILSVRC2012_bbox_val_v3)")
    add("--blacklist", type=Path, metavar="FILE", help="numbers of images not to count (default: the devkit's, if any)")
    add_data_options(parser)
    add(BY_ORDER, action="store_true", help="take the data set's classes by their places, whatever they are called")

    # where and how
    add("--out", type=Path, default=Path("localization"), help="for boxes/ and the report (default: %(default)s)")
    add_run_options(parser)
    add("--runtime-cache", type=Path, metavar="FILE", help="where TensorRT-RTX keeps compiled kernels, for .engine")
    add("--cuda-graphs", action="store_true", help="launch a call's kernels at once where shapes stay, for .engine")
    return parser


def _check_together(parser: Parser, args: argparse.Namespace) -> None:
    """Ends with a usage error where options exclude each other, or are too few."""
    if args.protocol == "given-class" and (len(args.boxes) > 1 or args.scores):
        parser.error("--protocol given-class is of one box net and the images' own classes: one --boxes, no --scores")
    if args.protocol == "dense" and args.engine is None:
        parser.error("--protocol dense rates boxes by a classifier: expected --engine CLASSIFIER.onnx")
    if args.scales and len(args.scales) not in (1, len(args.boxes)):
        parser.error(f"--scales {len(args.scales)} times for {len(args.boxes)} --boxes: expected one or as many")
    if args.protocol == "given-class" and args.scales and len(args.scales[0]) > 1:
        parser.error("--protocol given-class looks at one central crop: expected one scale")
    if args.merge_at is not None and not args.merge_at >= 0:
        parser.error(f"--merge-at: expected a number of 0 or more, got {args.merge_at}")
    check_run_options(parser, args)


def _localize(args: argparse.Namespace, command: str) -> int:
    check_out(args.out, KIND)
    dataset = open_dataset(args.data, "named", **data_options(args))
    truth = read_ground_truth(dataset, args.annotations, args.blacklist)
    print_notes(f"{said}: not counted" for said in truth.broken)
    merge_at = MATCHES[args.match][1] if args.merge_at is None else args.merge_at
    settings = BoxSettings(args.protocol, Merging(args.match, merge_at), args.scales or [], args.strict)
    classifier = args.engine if args.protocol == "dense" else None
    options = {"runtime_cache": args.runtime_cache, "cuda_graphs": args.cuda_graphs}

    with contextlib.ExitStack() as stack:
        crew = open_crew(box_opener(settings, args.boxes, classifier, args.provider, options), args, stack)
        match = match_classes(dataset, crew.known.nets[0].spec, by_order=args.classes_by_order)
        notes = [*dataset.notes, *filter(None, [match.remark]), *decoder_remarks(args.decoder)]
        images, scored_id = _images_to_locate(dataset, crew.known, args.scores, match.label_of)
        metadata = box_metadata(settings, crew.known, dataset, args.scores) | decoder_metadata(args.decoder)
        if args.classes_by_order:
            metadata["classes"] = "by order"
        unfinished = UnfinishedBoxes(args.out, metadata, len(images), resume=args.resume)
        print_notes([*notes, *unfinished.remarks])
        watch = stack.enter_context(Watch(len(images), unfinished.done, log_json=False))

        try:
            unfinished.fill(crew.make(images, unfinished.pending, watch.images), watch)
            if scored_id not in (None, unfinished.dataset_id):
                raise ScoresError(
                    f"{args.scores}: scores of data set {scored_id}, but the images are {unfinished.dataset_id}: "
                    "use a table of the same images"
                )
            table = _report(args, settings, crew.known, dataset, truth, unfinished, command, notes)
        except KeyboardInterrupt:
            return say_interrupted(f"{unfinished.done} of {len(images)} images are kept in {args.out}")
        unfinished.discard()

    print(table)
    print(one_line(f"{len(images)} images of {args.data}; boxes and report in {args.out}"))
    return 0


def _images_to_locate(
    dataset: Dataset, known: KnownNets, scores: Path | None, label_of: NDArray[np.int32]
) -> tuple[list[ImageToLocate], str | None]:
    """Lists the images with what is known of each, and the data set that `scores` has seen if it is all of it.

    Raises RunError and ScoresError.
    """
    classes = known.nets[0].spec.classes
    likeliest, scored_id = read_likeliest(scores, dataset, classes, label_of) if scores else (None, None)

    images = []
    for place, item in enumerate(dataset.items):
        label = -1 if item.label < 0 else int(label_of[item.label])
        images.append(ImageToLocate(item, label, None if likeliest is None else likeliest[place]))
    return images, scored_id


def _report(
    args: argparse.Namespace,
    settings: BoxSettings,
    known: KnownNets,
    dataset: Dataset,
    truth: GroundTruth,
    unfinished: UnfinishedBoxes,
    command: str,
    notes: Sequence[str],
) -> str:
    """Writes the table of boxes and the report of a run whose shards are all there; returns the table to print."""
    out: Path = args.out
    rule, classifier = settings.rule, known.classifier

    # the table, whose name says what it was made by
    names = "+".join(net.spec.name for net in known.nets)
    scales = unfinished.settings["scales"].replace(",", "-")
    words = [names, known.runtime, settings.protocol, f"q{scales}"]
    classes_of = None
    if classifier is not None:
        classes_of = tables.read_head(args.scores).model if args.scores else classifier.spec.name
        words += [classifier.spec.name, f"{rule.match}-{rule.at:g}", f"top5-{classes_of}"]
    path = out / "boxes" / f"{'.'.join(words)}.parquet"
    unfinished.finish(path)

    # its errors
    engine_seconds, wall_seconds = unfinished.seconds()
    results = results_of(
        count(path, truth),
        known.nets,
        settings.protocol,
        is_ilsvrc2012_val=dataset.is_ilsvrc2012_val,
        classes_of=classes_of,
        classifier=classifier.spec.name if classifier else None,
        runtime=known.runtime,
        merging=str(rule) if classifier else None,
        engine_seconds=round(engine_seconds, 3),
        wall_seconds=round(wall_seconds, 3),
    )

    # what one should know before believing them
    remarks = unfinished.say_trained_on([engine.spec.name for engine in known.engines])
    if truth.without:
        remarks.append(f"{truth.without} images have no box of their class, so that whatever was found counts as wrong")
    if dataset.is_ilsvrc2012_val and not truth.has_blacklist:
        remarks.append(
            "no blacklist was found, so images that the challenge does not count are counted: name the devkit's "
            "ILSVRC2014_clsloc_validation_blacklist.txt by --blacklist"
        )
    print_notes(remarks)

    said: dict[str, Any] = {"id": unfinished.dataset_id, "images": len(dataset.items)}
    said |= {"is_ilsvrc2012_val": dataset.is_ilsvrc2012_val, "blacklisted": truth.blacklisted}
    said |= {"left_out": dict(dataset.left_out)} if dataset.left_out else {}
    said |= {"broken_annotations": list(truth.broken), "unreadable_images": unreadable_images(path)}
    environment = {"command": command, "commit": unfinished.settings["commit"], "python": platform.python_version()}
    return write_report(out, results, said, [*notes, *remarks], environment)


if __name__ == "__main__":
    exit_with(main)
