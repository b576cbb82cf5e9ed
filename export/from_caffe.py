"""A Caffe model -> ckpt.pt: Oxford's VGG nets and BVLC's GoogLeNet, or nets of the same shape.

    python -m export.from_caffe deploy.prototxt weights.caffemodel -o ckpt.pt [--classes synset_words.txt]

The net is recognised by what its layers are and how they are joined, not by its name. What changes: the first
convolution's BGR becomes RGB, and inner products become convolutions (fc6 over the whole map, channel by channel).
Caffe's LRN (alpha divided by the window) and its pools, which round up, are ours.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import torch

from infer.command import Parser, exit_with, rgb_argument, run
from infer.files import file_sha256
from infer.spec import Filter, ModelSpec, Preprocessing, SpecError
from trainer.checkpoint import Checkpoint, save
from trainer.nets.zoo import build_net

from .caffe.net import CaffeError, read_description, read_weights
from .caffe.steps import Shape, chain, layers_of, shape_of, weights_from_caffe
from .classes import ClassesError, read_classes

VGG_MEAN, GOOGLENET_MEAN = (123.68, 116.779, 103.939), (123.0, 117.0, 104.0)
"""RGB. The release notes of VGG-16; BVLC's googlenet train_val.prototxt (both in BGR there).

Both are rescaled by bicubic by default: so does the VGG group's demo (MATLAB's imresize). BVLC warped its images to
256x256 beforehand, which no protocol of ours does, so for GoogLeNet it is a choice.
"""


def _import(args: argparse.Namespace) -> Checkpoint:
    """The checkpoint of a Caffe model.

    Raises CaffeError for files that are not Caffe's or a net that is none of ours, ClassesError. Both name the file.
    """
    classifier = read_description(args.description)
    blobs = read_weights(args.weights)
    try:
        steps = chain(classifier)
        spec = _make_spec(args, shape_of(steps, blobs))
        with torch.device("meta"):
            expected = layers_of(build_net(spec))
        state = weights_from_caffe(steps, expected, blobs)
    except (CaffeError, SpecError) as error:
        raise CaffeError(f"{args.description}: {error}") from None

    first = expected[0].name + ".weight"
    state[first] = state[first][:, [2, 1, 0]].contiguous()  # BGR
    return Checkpoint(spec, state)


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
    parser.add_argument("--classes", type=Path, metavar="FILE", help="names, one a line; default: sorted WNIDs' places")
    parser.add_argument("--name", help="of the model (default: the checkpoint's file name)")
    parser.add_argument(
        "--mean", type=rgb_argument, metavar="R,G,B", help="default: the VGG group's or, of GoogLeNet, BVLC's"
    )
    parser.add_argument("--filter", choices=get_args(Filter), default="bicubic", help="of rescaling (default: bicubic)")
    parser.add_argument(
        "--train-short", type=_train_short, metavar="S[,S]", help="default: 256,512 for VGG, 256 for GoogLeNet"
    )
    return parser


def _make_spec(args: argparse.Namespace, shape: Shape) -> ModelSpec:
    """The spec of a net of this shape, as the command line says or by default."""
    classes, class_names = read_classes(args.classes, shape.classes)
    is_vgg = shape.net != "googlenet"
    scale = shape.crop_px / 224  # of a slim net: the same ranges for its own crop
    train_short_px = (round(256 * scale), round(512 * scale)) if is_vgg else round(256 * scale)
    return ModelSpec(
        args.name or args.out.stem,
        shape.net,
        classes,
        Preprocessing(args.mean or (VGG_MEAN if is_vgg else GOOGLENET_MEAN), filter=args.filter),
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
        checkpoint = _import(args)
        save(checkpoint, args.out)
    except (CaffeError, ClassesError, OSError) as error:  # with names from the files, which may be any bytes
        raise CaffeError("".join(char if char.isprintable() else "?" for char in str(error)[:1000])) from None

    spec = checkpoint.spec
    parameters = sum(tensor.numel() for tensor in checkpoint.weights.values())
    named = f"classes from {args.classes}" if args.classes else "classes not named (--classes): in the order of WNIDs"
    origin = f"{args.weights} (sha256 {spec.source['caffemodel_sha256'][:12]})"
    print(f"{args.out}: net {spec.net} from {origin}, {parameters:,} parameters, {len(spec.classes)} {named}")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.out.suffix != ".pt":
        parser.error(f"-o {args.out}: a checkpoint's name ends in .pt")
    return run(parser, lambda: _work(args))


if __name__ == "__main__":
    exit_with(main)
