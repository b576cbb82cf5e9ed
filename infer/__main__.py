"""python -m infer IMAGE|FOLDER ... --engine model.onnx [--protocol center] [--top 5] [--json]

[--maps OUT.png] [--boxes OUT.png --box-engine BOXES.onnx]
"""

from __future__ import annotations

import dataclasses
import json
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .boxes.finding import BoxNet, box_net, check_together
from .classify import Classifier, Outcome
from .command import Parser, add_engine_options, engine_options, exit_with, scales_argument
from .data.dataset import image_files
from .drawing.boxes import write_boxes
from .drawing.maps import SUFFIXES, write_maps
from .engine import EngineError, check_outputs
from .open import open_engine
from .views import PROTOCOLS, PlanError, default_scales


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m infer", description="Classify images with an exported engine.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE|FOLDER")
    parser.add_argument("--engine", required=True, type=Path, help="model.onnx or model.engine")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), help="default: center; dense with --maps, --boxes")
    parser.add_argument("--scales", type=scales_argument, metavar="Q[,Q...]", help="default: the model's own")
    parser.add_argument("--top", type=int, default=5, help="how many classes (default: %(default)s)")
    add_engine_options(parser)
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
    args = parser.parse_args(argv)
    if args.top < 1:
        parser.error(f"--top: expected a positive number, got {args.top}")
    if (args.boxes is None) != (args.box_engine is None):
        parser.error("--boxes OUT.png and --box-engine BOXES.onnx go together")
    for option, picture in (("--maps", args.maps), ("--boxes", args.boxes)):
        if picture is None:
            continue
        if args.protocol not in (None, "dense"):
            parser.error(f"{option} shows dense views, not {args.protocol}: leave --protocol out")
        if len(args.images) != 1 or args.images[0].is_dir():
            parser.error(f"{option} draws one IMAGE: expected one file")
        if picture.suffix.lower() not in SUFFIXES:
            parser.error(f"{option} {picture}: expected a picture's name, ending in {', '.join(SUFFIXES)}")
    protocol = args.protocol or ("dense" if args.maps or args.boxes else "center")
    try:
        classifier = Classifier(args.engine, protocol=protocol, scales=args.scales, **engine_options(args))
        if args.maps is not None:
            check_outputs(classifier.engine.spec, ["score_map"])
        nets = []
        for path in args.box_engine or []:
            engine = open_engine(path, largest_short_px=max(args.scales or [0]), **engine_options(args))
            nets.append(box_net(engine, args.scales or default_scales(engine.spec, "dense")))
        if nets:
            check_together(nets, classifier.engine)
        failed = _classify(classifier, nets, args)
        classifier.close()
    except PlanError as error:
        parser.error(str(error))
    except EngineError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if failed else 0


def _classify(classifier: Classifier, nets: Sequence[BoxNet], args: Namespace) -> int:
    """Prints a line for each image and draws its maps and boxes; returns how many failed."""
    failed = 0
    for path, outcome in classifier.classify_files(list(files(args.images)), top=args.top):
        titles = [(p.index, f"{p.name} {100 * p.probability:.1f} %") for p in outcome.predictions]
        line, unwritten = _line(path, outcome, classifier), []
        for picture in filter(None, (args.maps, args.boxes) if titles else ()):
            pixels = classifier.pixels(path)
            try:
                if picture is args.maps:
                    write_maps(classifier.engine, pixels, classifier.scales, titles, picture)
                else:
                    guesses = write_boxes(nets, classifier.engine, pixels, titles, picture)
                    for prediction, found in zip(line["predictions"], guesses, strict=True):
                        prediction["box"] = None if found is None else list(found.box)
            except OSError as error:
                unwritten.append(f"{picture}: cannot be written ({error.strerror or error})")
            except EngineError as error:
                unwritten.append(f"{picture}: not drawn, {error}")
        if args.json:
            print(json.dumps(line), flush=True)
        elif titles:
            print(f"{path}: {', '.join(title for _, title in titles)}", flush=True)
        if outcome.status != "ok":
            print(outcome.status if str(path) in outcome.status else f"{path}: {outcome.status}", file=sys.stderr)
        for reason in unwritten:
            print(reason, file=sys.stderr)
        failed += (outcome.status != "ok") + len(unwritten)
    return failed


def files(paths: Iterable[Path]) -> Iterable[Path]:
    """The files named, and all images below the folders named, in order."""
    for path in paths:
        if path.is_dir():
            yield from image_files(path)
        else:
            yield path


def _line(path: Path, outcome: Outcome, classifier: Classifier) -> dict[str, Any]:
    return {
        "image": str(path),
        "status": outcome.status,
        "model": classifier.engine.spec.name,
        "protocol": classifier.protocol,
        "predictions": [dataclasses.asdict(prediction) for prediction in outcome.predictions],
    }


if __name__ == "__main__":
    exit_with(main)
