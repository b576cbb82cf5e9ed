"""python -m infer IMAGE|FOLDER ... --engine model.onnx [--protocol center] [--top 5] [--json]

[--maps OUT.png] [--boxes OUT.png --box-engine BOXES.onnx]
[--detect [--proposals selective-search,multibox] [--multibox MULTIBOX.onnx] [--least 0.5] [--picture OUT.png]]
"""

from __future__ import annotations

import dataclasses
import json
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .boxes.finding import BoxNet, box_net, check_together
from .classify import Classifier, Outcome
from .command import Parser, add_engine_options, engine_options, exit_with, print_notes, run, scales_argument
from .data.dataset import list_images, say_left_out
from .data.folder import printable
from .detect import METHODS, SHOWN, Detector, FoundObject
from .drawing.maps import SUFFIXES, draw_boxes, write_boxes, write_maps, write_picture
from .engine import INT8_IN_FP32, UNROUNDED, AnswerError, EngineError, check_outputs
from .errors import UsageError, one_line
from .open import open_engine
from .pixels.decode import ImageError, decode
from .views import PROTOCOLS, default_scales

WHY_UNROUNDED = (
    "ONNX Runtime does not round on a CPU, so a GPU answers otherwise; python -m export.to_check MODEL.onnx makes the "
    "check graph beside it, which does"
)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m infer", description="Classify images with an exported engine.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE|FOLDER")
    parser.add_argument("--engine", required=True, type=Path, help="model.onnx or model.engine")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), help="default: center; dense with --maps, --boxes")
    parser.add_argument("--scales", type=scales_argument, metavar="Q[,Q...]", help="default: the model's own")
    parser.add_argument("--top", type=int, default=5, help="how many classes (default: %(default)s)")
    add_engine_options(parser)
    parser.add_argument(
        "--lazy-kernels",
        action="store_true",
        help="TensorRT-RTX: begin before kernels are compiled, with answers whose last bits change, for .engine",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--maps",
        type=Path,
        metavar="OUT.png",
        help="draw where the net sees the --top classes in one IMAGE, from its dense class score maps; needs an engine "
        "exported with --outputs score_map (docs/maps.md)",
    )
    parser.add_argument(
        "--boxes",
        type=Path,
        metavar="OUT.png",
        help="draw where the --top classes are in one IMAGE, by the box nets of --box-engine, and add boxes to "
        "--json; needs an --engine exported with --outputs score_map (docs/localization.md)",
    )
    parser.add_argument("--box-engine", action="append", type=Path, metavar="BOXES.onnx", help="repeat for several")

    add_detect_options(parser)

    args = parser.parse_args(argv)
    return run(parser, lambda: _detect(args) if args.detect else _work(args))


def add_detect_options(parser: Parser) -> None:
    """Adds the options of --detect (docs/detection.md)."""
    add = parser.add_argument_group("objects, where --engine is a net of regions (docs/detection.md)").add_argument
    methods = f"what proposes regions, comma-separated, of {', '.join(METHODS)} (default: {METHODS[0]})"
    add("--detect", action="store_true", help="find the objects of each image, with their boxes")
    add("--proposals", type=methods_argument, metavar="M[,M]", help=methods)
    add("--multibox", type=Path, metavar="MULTIBOX.onnx", help="the net that proposes, for --proposals multibox")
    add("--least", type=float, metavar="P", help=f"posterior from which on an object is shown (default: {SHOWN})")
    add("--picture", type=Path, metavar="OUT.png", help="draw the objects of one IMAGE")


def methods_argument(text: str) -> tuple[str, ...]:
    """Methods of proposals, each once, for argparse."""
    names = tuple(dict.fromkeys(text.split(",")))
    if not set(names) <= set(METHODS):
        raise ArgumentTypeError(f"expected {', '.join(METHODS)} or both, got {text[:80]!r}")
    return names


def _detect(args: Namespace) -> int:
    """Finds objects; returns the exit status."""
    if args.maps or args.boxes or args.box_engine or args.protocol or args.scales:
        raise UsageError("--detect looks at regions: leave out --protocol, --scales, --maps and --boxes")
    if args.least is not None and not 0 < args.least <= 1:
        raise UsageError(f"--least: expected a posterior above 0 and at most 1, got {args.least}")
    _check_picture("--picture", args.picture, args)
    files = list(_files(args.images))
    options = {**engine_options(args), "lazy_kernels": args.lazy_kernels}
    least = SHOWN if args.least is None else args.least
    methods = args.proposals or METHODS[:1]
    detector = Detector(args.engine, proposals=methods, multibox=args.multibox, least=least, **options)
    failed = sum(_report_objects(path, detector, args) for path in files)
    detector.close()
    return 1 if failed else 0


def _report_objects(path: Path, detector: Detector, args: Namespace) -> int:
    """Prints the objects of an image, and draws them; returns how much of that failed."""
    spec, found, status, unwritten = detector.engine.spec, list[FoundObject](), "ok", ""
    try:
        image = decode(path.read_bytes(), exif=spec.preprocessing.exif, name=printable(str(path)))
        found = detector.detect(image)
        if args.picture is not None:
            titles = [f"{one.name} {100 * one.score:.0f} %" for one in found]
            write_picture(Image.fromarray(draw_boxes(image, [one.box for one in found], titles)), args.picture)
    except (ImageError, AnswerError) as error:
        status = str(error)
    except OSError as error:
        if error.filename != str(path):
            unwritten = f"{args.picture}: cannot be written ({error.strerror or error})"
        else:
            status = f"cannot be read ({error.strerror})"

    if args.json:
        line = {"image": str(path), "status": status, "model": spec.name, "arithmetic": detector.engine.arithmetic}
        line |= {"proposals": ",".join(detector.methods)}
        objects = [{**dataclasses.asdict(one), "box": list(one.box)} for one in found]
        print(json.dumps({**line, "objects": objects}), flush=True)
    elif status == "ok":
        shown = [
            f"{one.name} {100 * one.score:.1f} % at {','.join(f'{edge:.0f}' for edge in one.box)}" for one in found
        ]
        print(one_line(f"{path}: {'; '.join(shown) or f'no object of {detector.how.least:g} or more'}"), flush=True)
    if status != "ok":
        named = printable(str(path)) in status
        print(one_line(status if named else f"{path}: {status}"), file=sys.stderr)
    if unwritten:
        print(one_line(unwritten), file=sys.stderr)
    return (status != "ok") + bool(unwritten)


def _work(args: Namespace) -> int:
    for name in ("proposals", "multibox", "least", "picture"):
        if getattr(args, name) is not None:
            raise UsageError(f"--{name} is for --detect: add it")
    _check_usage(args)
    files = list(_files(args.images))
    protocol = args.protocol or ("dense" if args.maps or args.boxes else "center")
    options = {**engine_options(args), "lazy_kernels": args.lazy_kernels}
    classifier = Classifier(args.engine, protocol=protocol, scales=args.scales, **options)
    if args.maps is not None:
        check_outputs(classifier.engine.spec, ["score_map"])

    nets = []
    for path in args.box_engine or []:
        engine = open_engine(path, largest_short_px=max(args.scales or [0]), **options)
        nets.append(box_net(engine, args.scales or default_scales(engine.spec, "dense")))
    if nets:
        check_together(nets, classifier.engine)

    for engine in (classifier.engine, *(net.engine for net in nets)):
        if engine.arithmetic in (UNROUNDED, INT8_IN_FP32):
            print_notes([f"{engine.spec.name}: {engine.arithmetic}: {WHY_UNROUNDED}"])
        if args.lazy_kernels:
            print_notes([f"{engine.spec.name}: on {engine.runtime}, the last bits of whose answers change"])

    failed = 0
    for path, outcome in classifier.classify_files(files, top=args.top):
        failed += _report(path, outcome, classifier, nets, args)
    classifier.close()
    return 1 if failed else 0


def _check_usage(args: Namespace) -> None:
    if args.top < 1:
        raise UsageError(f"--top: expected a positive number, got {args.top}")
    if (args.boxes is None) != (args.box_engine is None):
        raise UsageError("--boxes OUT.png and --box-engine BOXES.onnx go together")

    for option, picture in (("--maps", args.maps), ("--boxes", args.boxes)):
        if picture is None:
            continue
        if args.protocol not in (None, "dense"):
            raise UsageError(f"{option} shows dense views, not {args.protocol}: leave --protocol out")
        _check_picture(option, picture, args)


def _check_picture(option: str, picture: Path | None, args: Namespace) -> None:
    """Raises UsageError for a picture of several images, or of no known format."""
    if picture is None:
        return
    if len(args.images) != 1 or args.images[0].is_dir():
        raise UsageError(f"{option} draws one IMAGE: expected one file")
    if picture.exists() and args.images[0].exists() and picture.samefile(args.images[0]):
        raise UsageError(f"{option} {picture}: is the image itself, which would be lost: expected another name")
    if picture.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{option} {picture}: expected a picture's name, ending in {', '.join(SUFFIXES)}")


def _report(path: Path, outcome: Outcome, classifier: Classifier, nets: Sequence[BoxNet], args: Namespace) -> int:
    """Draws an image's maps and boxes and prints its line; returns how much of that failed."""
    line = _line(path, outcome, classifier)
    titles = [(p.index, f"{p.name} {100 * p.probability:.1f} %") for p in outcome.predictions]

    unwritten = []
    for picture in filter(None, (args.maps, args.boxes) if titles else ()):
        pixels = classifier.pixels(path)
        try:
            if picture is args.maps:
                write_maps(classifier.engine, pixels, classifier.scales, titles, picture)
            else:
                guesses = write_boxes(nets, classifier.engine, pixels, titles, picture)
                for prediction, guess in zip(line["predictions"], guesses, strict=True):
                    prediction["box"] = None if guess is None else list(guess.box)
        except OSError as error:
            unwritten.append(f"{picture}: cannot be written ({error.strerror or error})")
        except EngineError as error:
            unwritten.append(f"{picture}: not drawn, {error}")

    if args.json:
        print(json.dumps(line), flush=True)
    elif titles:
        print(one_line(f"{path}: {', '.join(title for _, title in titles)}"), flush=True)
    if outcome.status != "ok":
        named = printable(str(path)) in outcome.status
        print(one_line(outcome.status if named else f"{path}: {outcome.status}"), file=sys.stderr)
    for reason in unwritten:
        print(one_line(reason), file=sys.stderr)
    return (outcome.status != "ok") + len(unwritten)


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    """The files named, and all images below the folders named, in order; says what else is there.

    Raises DatasetError for a folder without images.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = list_images(path)
        if found.left_out:
            print_notes([f"{path}: {say_left_out(found.left_out)}"])
        yield from (file.path for _, file in found.images)


def _line(path: Path, outcome: Outcome, classifier: Classifier) -> dict[str, Any]:
    """An image's object of --json."""
    return {
        "image": str(path),
        "status": outcome.status,
        "model": classifier.engine.spec.name,
        "arithmetic": classifier.engine.arithmetic,
        "protocol": classifier.protocol,
        "predictions": [dataclasses.asdict(prediction) for prediction in outcome.predictions],
    }


if __name__ == "__main__":
    exit_with(main)
