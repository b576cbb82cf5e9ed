"""model.onnx of another's making -> a model of ours, with its preprocessing, classes and a self-test inside.

python -m export.from_onnx model.onnx --mean R,G,B --std R,G,B [--filter bilinear|bicubic] [--classes names.txt]
    [--interface views|images|nchw] -o out.onnx

The view graph goes before it (`views`, the default), which rescales images and cuts views bit for bit as Pillow does.
A model that takes one view a call becomes `nchw`: there the host prepares pixels.

Mean and std are of grey levels from 0 to 255, or of pixels from 0 to 1 where both are that small; --scale says which
where they do not: of a model that takes pixels of 0 to 1 as they are, `--mean 0,0,0 --std 1,1,1 --scale 1/255`. A model
that takes bytes needs neither. Images are rescaled and cropped as torchvision does. What the model says of itself is
tried out: whether it takes several views in a call, whether it sees all of a larger view, and whether it returns logits
or probabilities.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

import onnx

from infer import self_test
from infer.command import Parser, exit_with, run
from infer.engine import EngineError
from infer.errors import UsageError, one_line
from infer.processes.bounded import Died, bounded_memory, in_its_own_process, keep_reserves_small
from infer.processes.owned import own_file
from infer.spec import Interface, ModelSpec, Preprocessing, SpecError

from .errors import naming
from .foreign import recognised, surgery
from .foreign.surgery import ForeignError, ImageInput, OutputKind
from .foreign.trial import THREADS, Trial, in_opset, kind_of, try_out
from .graph.frame import OLDEST_OPSET
from .importing.classes import described, read_classes
from .importing.preprocessing import Channels, Chosen, Known, PreprocessingError, add_preprocessing_options, choose
from .model import file as model_file
from .model.check import save_model
from .model.file import metadata
from .model.mixed import KEPT, single_layers

KNOWN = Known("default", origins={"crop": "the model's own, or 224 of 256"})
"""Nothing is known of another's model: --mean and --std are required, the rest is as torchvision has it."""
OF_BYTES = Known(
    "default",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    scale=1.0,
    origins={**KNOWN.origins, "mean": "within the model", "std": "within the model"},
)
"""A model that takes bytes does the rest itself."""
DEFAULT_CROP_PX = 224
REFUSALS = (EngineError, ForeignError, SpecError, PreprocessingError, OSError)
"""What an import may raise that does not name the file."""
MEMORY_BYTES = 6_000_000_000
"""Memory that an import may take beside COPIES of the weights: a small file can ask its runtime for any amount."""
COPIES = 8


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """The command line's words on a model; 0 and None: the model's own, or what it shows when it is tried.

    `levels_said`: mean and std were given. A model that takes bytes needs none, and any other does. `source`: what
    the spec says of where the model is from; None: this file. `crops_alone`: why larger views are not for it, which
    the file does not show; "": it may take them.
    """

    preprocessing: Preprocessing
    classes: Path | None = None
    name: str | None = None
    output: str | None = None
    output_kind: OutputKind | None = None
    channels: Channels = "rgb"
    crop_px: int = 0
    test_short_px: int = 0
    interface: Interface | None = None
    levels_said: bool = True
    source: Mapping[str, str] | None = None
    crops_alone: str = ""


class Imported(NamedTuple):
    """The spec of a model that was imported, and lines that say what was recognised."""

    spec: ModelSpec
    lines: tuple[str, ...]


def import_model(path: Path, out: Path, request: ImportRequest) -> Imported:
    """Writes `out`. Raises ForeignError, ModelFileError, ClassesError, SpecError, EngineError, UsageError."""
    # the graph, with our input
    model = model_file.read(path)
    if "spec" in metadata(model):
        raise ForeignError("a model of ours already: use it as it is")
    model = surgery.plain(model)
    image = surgery.image_input(model.graph)
    _check_levels(image, request)
    output = surgery.class_output(model.graph, request.output)
    crop_px = _crop_px(image.side_px, request.crop_px)
    last_operator = surgery.last_operator(model.graph, output)
    model = surgery.with_our_input(model, image, output, request.channels)
    surgery.fixed(model.graph, surgery.opset_of(model))
    precision, layers = surgery.precision_of(model), recognised.layers(model.graph, "input")

    # what it does when it is run
    trial = try_out(model, image, crop_px, request.preprocessing)
    trial = trial._replace(fixed_sides=request.crops_alone or trial.fixed_sides)
    class_axis = image.class_axis(trial.outputs.ndim)
    kind = kind_of(trial.outputs, class_axis, last_operator, request.output_kind)
    classes, class_names = read_classes(request.classes, trial.outputs.shape[class_axis])
    interface, made, why = _choose_interface(trial, request, crop_px)
    spec = ModelSpec(
        name=request.name or re.sub(r"[^\w.-]+", "-", path.stem),
        net="foreign",
        classes=classes,
        class_names=class_names,
        preprocessing=request.preprocessing,
        train_short_px=request.test_short_px or crop_px * 256 // 224,
        crop_px=crop_px,
        stride_px=1,
        fixed_size=bool(trial.fixed_sides),
        max_views=int(bool(trial.few_views)),
        interface=interface,
        precision=precision,
        source=request.source or {"importer": "export.from_onnx", "onnx_sha256": model_file.model_sha256(path)},
    )

    # pixels before it, our outputs, and the metadata
    is_map = trial.outputs.ndim == 4
    surgery.add_posteriors(made, kind=kind, is_map=is_map, channels_last=image.channels_last)
    if interface != "nchw":
        surgery.add_pixels(made, spec)
    surgery.declare(made, spec)
    made.doc_string = f"{spec.name}: a foreign model of {len(classes)} classes behind our {interface} interface"
    said = {"spec": spec.to_json()}
    if precision == "fp16":
        said[KEPT] = json.dumps(single_layers(made))
    onnx.helper.set_model_props(made, said)
    with model_file.opened(made, threads=THREADS) as engine:
        expected = self_test.record(engine)
    onnx.helper.set_model_props(made, {**said, "self_test": expected})
    save_model(made, out)

    head = f"{kind}, {'a map' if is_map else 'a vector'}"
    found = f"recognised: {layers}, opset {surgery.opset_of(made)}; takes {image}, returns {head}"
    return Imported(spec, (found, _say_sides(image, trial), *([f"nchw interface: {why}"] if why else [])))


def _check_levels(image: ImageInput, request: ImportRequest) -> None:
    """Refuses mean and std of a model that has its own inside, and none of one that has not."""
    levels = request.preprocessing.mean_rgb, request.preprocessing.std_rgb
    if image.kind == onnx.TensorProto.UINT8:
        if levels != ((0, 0, 0), (1, 1, 1)):
            raise ForeignError(
                "takes bytes, so its preprocessing is within it, got --mean or --std: leave them out (the same is "
                "--mean 0,0,0 --std 1,1,1 --scale 1)"
            )
    elif not request.levels_said:
        raise UsageError("the following arguments are required: --mean, --std")


def _choose_interface(trial: Trial, request: ImportRequest, crop_px: int) -> tuple[Interface, onnx.ModelProto, str]:
    """(interface, model in an opset that has it, why it is not `views`). Raises ForeignError for one asked in vain."""
    asked = request.interface
    if asked == "nchw":
        return "nchw", trial.model, ""
    model, why = trial.model, trial.few_views
    opset = surgery.opset_of(model)
    if not why and opset < OLDEST_OPSET:
        try:
            model = in_opset(trial, OLDEST_OPSET, request.preprocessing, crop_px)
        except ForeignError as error:
            why = f"opset {opset}, the view graph needs {OLDEST_OPSET}, and {error}: export it again with a later one"
    if why and asked:
        raise ForeignError(f"--interface {asked}: {why}, or leave it out, for nchw")
    return ("nchw", trial.model, why) if why else (asked or "views", model, "")


def _say_sides(image: ImageInput, trial: Trial) -> str:
    """Which views the model takes, and how that is known."""
    if trial.fixed_sides:
        return f"sides: crops alone, since {trial.fixed_sides}"
    tried = ", ".join(f"{height}x{width}" for height, width in trial.tried)
    freed = f"declared {image.side_px} px only, but " if image.side_px else ""
    return f"sides: {freed}larger views are seen whole (tried: {tried} px)"


def isolated(path: Path, out: Path, request: ImportRequest) -> Imported:
    """`import_model` in a process of its own with bounded memory, since a strange graph can crash its runtime."""
    try:
        return in_its_own_process(_bounded_import, path, out, request)
    except Died as end:
        raise ForeignError(f"ONNX Runtime dies of it (its process {end}): it cannot be imported") from None


def _bounded_import(path: Path, out: Path, request: ImportRequest) -> Imported:
    files = (path, *model_file.external_files(path, model_file.read_graph(path)))
    keep_reserves_small()
    most = MEMORY_BYTES + COPIES * sum(file.stat().st_size for file in files)
    try:
        with bounded_memory(most):
            return import_model(path, out, request)
    except MemoryError:
        raise ForeignError(f"needs more than the {most / 1e9:.0f} GB that an import may take") from None


def _crop_px(own_px: int, asked_px: int) -> int:
    if own_px and asked_px not in (0, own_px):
        raise ForeignError(f"takes {own_px}x{own_px} px only, got --crop {asked_px}: leave it out")
    return own_px or asked_px or DEFAULT_CROP_PX


def add_import_options(parser: Parser) -> None:
    """Adds what can be said of any classifier of another's making."""
    parser.add_argument("-o", "--out", type=Path, required=True, help="the model to write (.onnx)")
    add_preprocessing_options(
        parser, default="--mean and --std are required, unless it takes bytes; crop: the model's own, or 224"
    )

    # what a model may say itself
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="names in the order of the outputs, or imagenet-1k"
    )
    parser.add_argument("--name", help="default: the file's")
    parser.add_argument("--output", metavar="NAME", help="of several outputs the class scores")
    parser.add_argument("--output-kind", choices=get_args(OutputKind), help="default: probabilities if they sum to 1")
    parser.add_argument(
        "--interface", choices=get_args(Interface), help="default: views, or nchw where it takes one view a call"
    )
    parser.add_argument("--test-short", type=int, default=0, metavar="PX", help="default: 256/224 of the crop")


def request_of(args: argparse.Namespace) -> tuple[ImportRequest, Chosen]:
    """What the options ask for, and the preprocessing with its origins. Raises PreprocessingError, UsageError."""
    levels_said = any(value is not None for value in (args.mean, args.std, args.scale))
    chosen = choose(args, KNOWN if levels_said else OF_BYTES)
    request = ImportRequest(
        chosen.preprocessing,
        args.classes,
        args.name,
        args.output,
        args.output_kind,
        chosen.channels,
        args.crop,
        args.test_short,
        args.interface,
        levels_said,
    )
    return request, chosen


def say_imported(args: argparse.Namespace, imported: Imported, chosen: Chosen, seconds: float) -> None:
    """Prints the result, what was recognised, and the preprocessing."""
    spec = imported.spec
    sides = f"{spec.crop_px}x{spec.crop_px} px only" if spec.fixed_size else f"{spec.crop_px} px and more"
    views = f"{spec.max_views} view a call" if spec.max_views else "any number of views a call"
    named = described(args.classes, len(spec.classes), spec.classes)
    found = f"{named}, {spec.interface} interface, {spec.precision}, {sides}, {views}"
    for line in (f"{args.out}: {found}, {seconds:.1f} s", *imported.lines, chosen.line(spec)):
        print(one_line(line))


def check_usage(parser: Parser, args: argparse.Namespace, source: Path) -> None:
    """Refuses an output that is no other ONNX file, and sides that are none."""
    if args.out.suffix != ".onnx" or args.out.resolve() == source.resolve():
        parser.error(f"-o {args.out}: expected another file whose name ends in .onnx")
    if args.crop < 0 or args.test_short < 0:
        parser.error("--crop and --test-short: expected pixels")


def _work(args: argparse.Namespace) -> int:
    started = time.monotonic()
    with naming(args.model, *REFUSALS):
        request, chosen = request_of(args)
        imported = isolated(args.model, args.out, request)
    say_imported(args, imported, chosen, time.monotonic() - started)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m export.from_onnx", description="Turn another's image classifier into an engine.")
    parser.add_argument("model", type=Path, help="an ONNX model")
    add_import_options(parser)
    args = parser.parse_args(argv)
    check_usage(parser, args, args.model)
    return run(parser, lambda: _work(args), own_file(args.out))


if __name__ == "__main__":
    exit_with(main)
