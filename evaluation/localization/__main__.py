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
import json
import platform
import shlex
import sys
from pathlib import Path

from infer.boxes.finding import box_net, check_together
from infer.boxes.merging import MATCHES, Merging
from infer.command import Parser, add_engine_options, count_argument, engine_options, exit_with, scales_argument
from infer.data.dataset import Dataset, DatasetError, open_dataset
from infer.engine import Engine, EngineError
from infer.open import open_engine
from infer.views import PlanError, check_scales, default_scales

from ..errors import RunError, ScoresError
from ..run.labels import map_labels
from ..run.progress import Watch
from ..scores import table as tables
from .find_boxes import PROTOCOLS, Task, make_shards, read_answers, settings_of
from .ground_truth import GroundTruth, read_ground_truth
from .report import KIND, Net, count, results_of, unreadable_images, write_report
from .table import UnfinishedBoxes


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    args = parser.parse_args(argv)
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
    try:
        return _localize(args, shlex.join(["python", "-m", "evaluation.localization", *argv]))
    except PlanError as error:
        parser.error(str(error))
    except (DatasetError, EngineError, RunError, ScoresError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> Parser:
    parser = Parser(
        prog="python -m evaluation.localization",
        description="Localisation: box nets over a labelled data set, by the protocols of the VGG paper's appendix A.",
    )
    add = parser.add_argument
    add("--boxes", action="append", required=True, type=Path, metavar="BOXES.onnx", help="a box net; repeat")
    add("--engine", type=Path, help="the classifier that rates boxes, with a score_map (not for given-class)")
    add("--scores", type=Path, metavar="TABLE.parquet", help="has the top-5 classes (default: --engine's)")
    add("--data", required=True, type=Path, help="the data set, as for evaluation.ilsvrc (docs/data.md)")
    add("--protocol", required=True, choices=list(PROTOCOLS))
    add(
        "--scales",
        action="append",
        type=scales_argument,
        metavar="Q[,Q...]",
        help="shorter sides in px, for all box nets, or repeated for each of them (default: each net's own)",
    )
    add("--match", choices=list(MATCHES), default="overlap", help="match_score of the merging (default: %(default)s)")
    add(
        "--merge-at",
        type=float,
        metavar="T",
        help="boxes that match worse than this are left apart (default: 0.75; with literal 0.25)",
    )
    add("--annotations", type=Path, metavar="DIR|TAR", help="the XMLs (default: DATA/ILSVRC2012_bbox_val_v3)")
    add("--blacklist", type=Path, metavar="FILE", help="numbers of images not to count (default: the devkit's, if any)")
    add_engine_options(parser)
    add("--out", type=Path, default=Path("localization"), help="for boxes/ and the report (default: %(default)s)")
    add("--limit", type=count_argument, metavar="N", help="only the first N images")
    add("--resume", action="store_true", help="go on with the unfinished run in OUT, if it is this one")
    add("--workers", type=count_argument, default=1, metavar="N", help="threads that decode (default: 1)")
    add("--strict", action="store_true", help="stop at the first image that cannot be read, or is out of range")
    return parser


def _localize(args: argparse.Namespace, command: str) -> int:
    """Opens, runs, reports. Raises PlanError, DatasetError, EngineError, RunError, ScoresError, OSError."""
    _check_out(args.out)
    dataset = open_dataset(args.data, "val", limit=args.limit)
    truth = read_ground_truth(dataset, args.annotations, args.blacklist)
    for said in truth.broken:
        print(f"{said}: not counted", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        task, scored_id = _open(args, dataset, stack)
        settings = settings_of(task, dataset, args.scores)
        unfinished = UnfinishedBoxes(args.out, settings, len(dataset.items), resume=args.resume)
        watch = stack.enter_context(Watch(len(dataset.items), unfinished.done, log_json=False))
        try:
            for shard in make_shards(task, dataset, unfinished.pending, args.workers, watch.images):
                unfinished.add(shard)
            if scored_id not in (None, unfinished.dataset_id()):
                raise ScoresError(
                    f"{args.scores}: scores of data set {scored_id}, but the images are {unfinished.dataset_id()}: "
                    "use a table of the same images"
                )
            table = _report(args, task, dataset, truth, unfinished, settings, command)
        except KeyboardInterrupt:
            print(
                f"interrupted: {unfinished.done} of {len(dataset.items)} images are kept in {args.out}, go on by "
                "--resume",
                file=sys.stderr,
            )
            return 130
        unfinished.discard()
    print(table)
    print(f"{len(dataset.items)} images of {args.data}; boxes and report in {args.out}")
    return 0


def _open(args: argparse.Namespace, dataset: Dataset, stack: contextlib.ExitStack) -> tuple[Task, str | None]:
    """What is to be done, and the data set that --scores has seen if it is all of it."""
    largest = max((q for own in args.scales or [] for q in own), default=0)

    def opened(path: Path) -> Engine:
        engine = open_engine(path, largest_short_px=largest, **engine_options(args))
        stack.callback(engine.close)
        return engine

    nets = []
    for number, path in enumerate(args.boxes):
        engine = opened(path)
        own = args.scales[min(number, len(args.scales) - 1)] if args.scales else None
        scales = own or default_scales(engine.spec, PROTOCOLS[args.protocol])
        check_scales(engine.spec, scales)
        nets.append(box_net(engine, scales))
    classifier = opened(args.engine) if args.protocol == "dense" else None
    check_together(nets, classifier)
    spec = nets[0].engine.spec
    label_of = map_labels(dataset, spec)
    answers, scored_id = read_answers(args.scores, dataset, spec.classes, label_of) if args.scores else (None, None)
    rule = Merging(args.match, MATCHES[args.match][1] if args.merge_at is None else args.merge_at)
    return Task(tuple(nets), classifier, args.protocol, rule, answers, label_of, args.strict), scored_id


def _report(
    args: argparse.Namespace,
    task: Task,
    dataset: Dataset,
    truth: GroundTruth,
    run: UnfinishedBoxes,
    settings: dict[str, str],
    command: str,
) -> str:
    """Writes the table of boxes and the report of a run whose shards are all there; returns the table to print."""
    out: Path = args.out
    nets = [Net(net.engine.spec, net.kind, net.scales) for net in task.nets]
    names = "+".join(net.spec.name for net in nets)
    scales = settings["scales"].replace(",", "-")
    words = [names, settings["runtime"], task.protocol, f"q{scales}"]
    classes_of = None
    if task.classifier is not None:
        classes_of = next(tables.parts(args.scores)).model if args.scores else task.classifier.spec.name
        words += [task.classifier.spec.name, f"{task.rule.match}-{task.rule.at:g}", f"top5-{classes_of}"]
    path = out / "boxes" / f"{'.'.join(words)}.parquet"
    run.finish(path)
    engine_seconds, wall_seconds = run.seconds()
    results = results_of(
        count(path, truth),
        nets,
        task.protocol,
        is_ilsvrc2012_val=dataset.is_ilsvrc2012_val,
        classes_of=classes_of,
        classifier=task.classifier.spec.name if task.classifier else None,
        runtime=settings["runtime"],
        merging=str(task.rule) if task.classifier else None,
        engine_seconds=round(engine_seconds, 3),
        wall_seconds=round(wall_seconds, 3),
    )
    remarks = []
    if truth.without:
        remarks.append(f"{truth.without} images have no box of their class, so that whatever was found counts as wrong")
    if dataset.is_ilsvrc2012_val and not truth.has_blacklist:
        remarks.append(
            "no blacklist was found, so images that the challenge does not count are counted: name the devkit's "
            "ILSVRC2014_clsloc_validation_blacklist.txt by --blacklist"
        )
    for remark in remarks:
        print(remark, file=sys.stderr)
    described = {
        "id": run.dataset_id(),
        "images": len(dataset.items),
        "is_ilsvrc2012_val": dataset.is_ilsvrc2012_val,
    }
    environment = {"command": command, "commit": settings["commit"], "python": platform.python_version()}
    return write_report(out, results, described, truth, unreadable_images(path), remarks, environment)


def _check_out(out: Path) -> None:
    """Raises RunError for a folder with the report of another command, which would be lost."""
    path = out / "report.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("kind")
    except FileNotFoundError:
        return
    except (ValueError, AttributeError):
        kind = None
    if kind != KIND:
        raise RunError(f"{path}: a report of another command, which would be lost: use another --out")


if __name__ == "__main__":
    exit_with(main)
