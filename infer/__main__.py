"""python -m infer IMAGE|FOLDER ... --engine model.onnx [--protocol center] [--top 5] [--json] [--maps OUT.png]"""

from __future__ import annotations

import dataclasses
import json
import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from .classify import Classifier, Outcome
from .command import Parser, add_engine_options, engine_options, run, scales_argument
from .dataset import image_files
from .engine import EngineError, check_outputs
from .maps import SUFFIXES, write_maps
from .views import PROTOCOLS, PlanError


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m infer", description="Classify images with an exported engine.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE|FOLDER")
    parser.add_argument("--engine", required=True, type=Path, help="model.onnx or model.engine")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), help="default: center; dense with --maps")
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
    args = parser.parse_args(argv)
    if args.top < 1:
        parser.error(f"--top: expected a positive number, got {args.top}")
    if args.maps is not None:
        if args.protocol not in (None, "dense"):
            parser.error(f"--maps shows dense views, not {args.protocol}: leave --protocol out")
        if len(args.images) != 1 or args.images[0].is_dir():
            parser.error("--maps draws one IMAGE: expected one file")
        if args.maps.suffix.lower() not in SUFFIXES:
            parser.error(f"--maps {args.maps}: expected a picture's name, ending in {', '.join(SUFFIXES)}")
    protocol = args.protocol or ("dense" if args.maps is not None else "center")
    try:
        classifier = Classifier(args.engine, protocol=protocol, scales=args.scales, **engine_options(args))
        if args.maps is not None:
            check_outputs(classifier.engine.spec, ["score_map"])
        failed = _classify(classifier, args)
        classifier.close()
    except PlanError as error:
        parser.error(str(error))
    except EngineError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if failed else 0


def _classify(classifier: Classifier, args: Namespace) -> int:
    """Prints a line for each image and draws its maps; returns how many failed."""
    failed = 0
    for path, outcome in classifier.classify_files(list(files(args.images)), top=args.top):
        if args.json:
            print(json.dumps(_line(path, outcome, classifier)), flush=True)
        if outcome.status != "ok":
            print(outcome.status if str(path) in outcome.status else f"{path}: {outcome.status}", file=sys.stderr)
            failed += 1
            continue
        titles = [(p.index, f"{p.name} {100 * p.probability:.1f} %") for p in outcome.predictions]
        if not args.json:
            print(f"{path}: {', '.join(title for _, title in titles)}", flush=True)
        if args.maps is not None:
            try:
                write_maps(classifier.engine, classifier.pixels(path), classifier.scales, titles, args.maps)
            except OSError as error:
                print(f"{args.maps}: cannot be written ({error.strerror or error})", file=sys.stderr)
                failed += 1
    return failed


def files(paths: Iterable[Path]) -> Iterable[Path]:
    """The files named, and all images below the folders named, in order."""
    for path in paths:
        if path.is_dir():
            yield from image_files(path)
        else:
            yield path


def _line(path: Path, outcome: Outcome, classifier: Classifier) -> dict[str, object]:
    return {
        "image": str(path),
        "status": outcome.status,
        "model": classifier.engine.spec.name,
        "protocol": classifier.protocol,
        "predictions": [dataclasses.asdict(prediction) for prediction in outcome.predictions],
    }


if __name__ == "__main__":
    run(main)
