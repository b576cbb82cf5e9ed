"""A Caffe model -> ckpt.pt: Oxford's VGG nets and BVLC's GoogLeNet, or nets of the same shape.

    python -m export.from_caffe deploy.prototxt weights.caffemodel -o ckpt.pt [--classes synset_words.txt]

The net is recognised by what its layers are and how they are joined, not by its name. What changes: the first
convolution's BGR becomes RGB, and inner products become convolutions (fc6 over the whole map, channel by channel).
Caffe's LRN (alpha divided by the window) and its pools, which round up, are ours.

The preprocessing is that of transform_param, which a train_val.prototxt has and a deploy.prototxt has not; without one
it is what the nets' authors published. It is printed, and options say another.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch

from infer.command import Parser, exit_with, run
from infer.errors import UsageError, one_line
from infer.files import file_sha256
from infer.processes.owned import own_file
from infer.spec import ModelSpec, SpecError
from trainer.checkpoint import Checkpoint, save
from trainer.nets.zoo import build_net

from .caffe.net import CaffeError, Transform, read_description, read_weights
from .caffe.steps import Shape, chain, layers_of, shape_of, weights_from_caffe
from .importing.classes import ClassesError, described, read_classes
from .importing.preprocessing import Chosen, Known, PreprocessingError, add_preprocessing_options, choose

VGG_MEAN, GOOGLENET_MEAN = (123.68, 116.779, 103.939), (123.0, 117.0, 104.0)
"""RGB. The release notes of VGG-16; BVLC's googlenet train_val.prototxt (both in BGR there).

Both are rescaled by bicubic by default: so does the VGG group's demo (MATLAB's imresize). BVLC warped its images to
256x256 beforehand, which no protocol of ours does, so for GoogLeNet it is a choice.
"""


class Imported(NamedTuple):
    checkpoint: Checkpoint
    preprocessing: Chosen
    warped: str


def _import(args: argparse.Namespace) -> Imported:
    """The checkpoint of a Caffe model.

    Raises CaffeError for files that are not Caffe's or a net that is none of ours, ClassesError. Both name the file.
    """
    classifier, transform = read_description(args.description)
    blobs = read_weights(args.weights)
    try:
        steps = chain(classifier)
        shape = shape_of(steps, blobs)
        chosen = choose(args, _known(args, shape, transform))
        spec = _make_spec(args, shape, chosen)
        with torch.device("meta"):
            expected = layers_of(build_net(spec))
        state = weights_from_caffe(steps, expected, blobs)
    except (CaffeError, SpecError, PreprocessingError) as error:
        raise CaffeError(f"{args.description}: {error}") from None

    if chosen.channels == "bgr":
        first = expected[0].name + ".weight"
        state[first] = state[first][:, [2, 1, 0]].contiguous()
    return Imported(Checkpoint(spec, state), chosen, transform.warped if transform else "")


def _known(args: argparse.Namespace, shape: Shape, transform: Transform | None) -> Known:
    """The preprocessing as the description says it, or as the nets' authors do. Raises CaffeError for another crop."""
    asked_px = args.crop or (transform.crop_px if transform else 0)
    if asked_px not in (0, shape.crop_px):
        said = f"--crop {args.crop}" if args.crop else f"crop_size {asked_px} in its transform_param"
        raise CaffeError(f"the net's weights are for crops of {shape.crop_px} px, got {said}")

    common = {"crop": "the weights", "filter": "VGG group's demo"}
    if transform is None:
        mean, whose = (GOOGLENET_MEAN, "BVLC's") if shape.net == "googlenet" else (VGG_MEAN, "VGG group's")
        origins = {**common, "mean": f"{whose}, not in the prototxt", "std": "no transform_param scale"}
        return Known("Caffe's", "bgr", "bicubic", mean, (1.0, 1.0, 1.0), 1.0, True, "nearest", "floor", origins)

    if transform.mean_file and args.mean is None:
        raise CaffeError(
            f"its transform_param subtracts a mean image, {transform.mean_file!r}, where our nets subtract a colour: "
            "say the image's mean with --mean R,G,B"
        )
    one, two, three = transform.mean
    mean = (one, two, three) if args.channels == "rgb" else (three, two, one)
    origins = {**common, "mean": "transform_param", "std": "1 / scale of transform_param"}
    return Known("Caffe's", "bgr", "bicubic", mean, (1.0, 1.0, 1.0), transform.scale, True, "nearest", "floor", origins)


def _train_short(text: str) -> int | tuple[int, int]:
    try:
        low, *high = (int(part) for part in text.split(","))
    except ValueError:
        low, high = 0, []
    if low <= 0 or len(high) > 1:
        raise argparse.ArgumentTypeError(f"expected S like 256 or 256,512, got {text!r}")
    return (low, high[0]) if high else low


def _parser() -> Parser:
    parser = Parser(prog="python -m export.from_caffe", description="Turn a Caffe model into a checkpoint.")
    parser.add_argument("description", type=Path, metavar="deploy.prototxt")
    parser.add_argument("weights", type=Path, metavar="weights.caffemodel")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="ckpt.pt")
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="names in the order of the outputs, or imagenet-1k"
    )
    parser.add_argument("--name", help="of the model (default: the checkpoint's file name)")
    add_preprocessing_options(parser, default="default: transform_param's, or the authors'")
    parser.add_argument(
        "--train-short", type=_train_short, metavar="S[,S]", help="default: 256,512 for VGG, 256 for GoogLeNet"
    )
    return parser


def _make_spec(args: argparse.Namespace, shape: Shape, chosen: Chosen) -> ModelSpec:
    """The spec of a net of this shape, as the command line says or by default."""
    classes, class_names = read_classes(args.classes, shape.classes)
    is_vgg = shape.net != "googlenet"
    scale = shape.crop_px / 224  # of a slim net: the same ranges for its own crop
    train_short_px = (round(256 * scale), round(512 * scale)) if is_vgg else round(256 * scale)
    return ModelSpec(
        args.name or args.out.stem,
        shape.net,
        classes,
        chosen.preprocessing,
        args.train_short or train_short_px,
        crop_px=shape.crop_px,
        width=shape.width,
        fc_width=shape.fc_width,
        pool_rounding=shape.pool_rounding,
        class_names=class_names,
        source={
            "importer": "export.from_caffe",
            "prototxt_sha256": file_sha256(args.description),
            "caffemodel_sha256": file_sha256(args.weights),
        },
    )


def _work(args: argparse.Namespace) -> int:
    try:
        checkpoint, chosen, warped = _import(args)
        save(checkpoint, args.out)
    except UsageError:
        raise
    except (CaffeError, ClassesError, OSError) as error:  # with names from the files, which may be any bytes
        raise CaffeError("".join(char if char.isprintable() else "?" for char in str(error)[:1000])) from None

    spec = checkpoint.spec
    parameters = sum(tensor.numel() for tensor in checkpoint.weights.values())
    named = described(args.classes, len(spec.classes), spec.classes)
    origin = f"{args.weights} (sha256 {spec.source['caffemodel_sha256'][:12]})"
    print(one_line(f"{args.out}: net {spec.net} from {origin}, {parameters:,} parameters, {named}"))
    print(one_line(chosen.line(spec)))
    if warped:
        print(f"its source warps images to {warped} before, which no protocol does: shapes are kept here")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.out.suffix != ".pt":
        parser.error(f"-o {args.out}: a checkpoint's name ends in .pt")
    return run(parser, lambda: _work(args), own_file(args.out))


if __name__ == "__main__":
    exit_with(main)
