"""Weights of torchvision's or timm's VGG nets, or of torchvision's GoogLeNet -> ckpt.pt, with their preprocessing.

python -m export.from_torchvision [--net A|B|D|E|googlenet-tv] vgg16.pth -o ckpt.pt [--classes FILE]

Images are rescaled and cropped as torchvision evaluates, and so does timm with these nets. They have no S, since they
were trained on areas of 8 to 100 % of an image: S is what they are evaluated at, 256, so protocols of several scales
use 224, 256 and 288.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import torch

from infer.command import Parser, exit_with, run
from infer.errors import one_line
from infer.files import file_sha256
from infer.processes.owned import own_file
from infer.spec import ModelSpec, SpecError
from trainer import checkpoint as checkpoints
from trainer.checkpoint import Checkpoint
from trainer.nets.zoo import build_net

from .errors import naming
from .importing.classes import described, read_classes
from .importing.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    UNIT_SCALE,
    Chosen,
    Known,
    PreprocessingError,
    add_preprocessing_options,
    choose,
)
from .torchvision.nets import GOOGLENET, THEIRS, Converted, weights_from_torchvision
from .torchvision.reading import WeightsError, read_state_dict

CROP_PX, EVALUATED_PX = 224, 256


def _known(found: Converted, transforms_input: bool) -> Known:
    """torchvision's preprocessing of a net.

    --no-transform-input: GoogLeNet's option of that name turns ImageNet's mean and std into 0.5 and 0.5; the weights
    that torchvision distributes were trained so.
    """
    mean, std, origins = IMAGENET_MEAN, IMAGENET_STD, {}
    if found.net == GOOGLENET and transforms_input:
        mean, std = (0.5,) * 3, (0.5,) * 3
        origins = dict.fromkeys(("mean", "std"), "torchvision's transform_input")
    return Known("torchvision's", mean=mean, std=std, scale=UNIT_SCALE, origins=origins)


def _make_spec(found: Converted, args: argparse.Namespace, chosen: Chosen) -> ModelSpec:
    """The spec of converted weights, checked against the shapes of the net it describes.

    Raises WeightsError, ClassesError or SpecError.
    """
    names, words = read_classes(args.classes, found.classes)
    crop_px = args.crop or CROP_PX
    spec = ModelSpec(
        name=args.name or re.sub(r"[^\w.-]+", "-", args.weights.stem),
        net=found.net,
        classes=names,
        class_names=words,
        preprocessing=chosen.preprocessing,
        train_short_px=crop_px * EVALUATED_PX // CROP_PX,
        crop_px=crop_px,
        width=found.width,
        fc_width=found.fc_width,
        pool_rounding="ceil" if found.net == GOOGLENET else "floor",
        source={
            "importer": "export.from_torchvision",
            "origin": found.origin,
            "weights_sha256": file_sha256(args.weights),
        },
    )

    with torch.device("meta"):
        expected = build_net(spec).state_dict()
    for layer in found.layers:
        for kind in ("weight", "bias"):
            got, right = (list(w[f"{layer.ours}.{kind}"].shape) for w in (found.weights, expected))
            if got != right:
                raise WeightsError(
                    f"{layer.theirs}.{kind} is {got} as a convolution, expected {right} in net {found.net} "
                    f"of width {found.width:g}"
                )
    return spec


def _parser() -> Parser:
    parser = Parser(
        prog="python -m export.from_torchvision", description="Turn torchvision's or timm's weights into a checkpoint."
    )
    parser.add_argument("weights", type=Path, help="a state dict: .pth of torch.save, or .safetensors")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the checkpoint to write (.pt)")
    parser.add_argument("--entry", default="", metavar="NAME", help="of several nets in a training checkpoint the one")
    parser.add_argument("--net", choices=list(THEIRS), help="default: the one that the weights fit")
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="names in the order of the outputs, or imagenet-1k"
    )
    parser.add_argument("--name", help="default: the file's")
    add_preprocessing_options(parser, default="default: torchvision's")
    parser.add_argument(
        "--no-transform-input", action="store_true", help="a GoogLeNet that was trained on ImageNet's mean and std"
    )
    return parser


def _work(args: argparse.Namespace) -> int:
    started = time.monotonic()
    with naming(args.weights, WeightsError, SpecError, PreprocessingError, OSError):
        state = read_state_dict(args.weights, args.entry)
        found = weights_from_torchvision(state.tensors, args.crop or CROP_PX)
        if args.net not in (None, found.net):
            raise WeightsError(f"these are weights of {found.origin}, so --net {found.net}, got --net {args.net}")
        if args.no_transform_input and found.net != GOOGLENET:
            raise WeightsError(f"--no-transform-input is for {GOOGLENET}, these are weights of {found.origin}")
        chosen = choose(args, _known(found, not args.no_transform_input))
        spec = _make_spec(found, args, chosen)
        if chosen.channels == "bgr":
            first = f"{found.layers[0].ours}.weight"
            for weights in (found.weights, found.unfolded):
                if first in weights:
                    weights[first] = weights[first][:, [2, 1, 0]].contiguous()
        checkpoints.save(Checkpoint(spec, found.weights, unfolded=found.unfolded), args.out)
    findings = ", ".join([*_findings(spec, found, args.classes), *state.remarks])
    print(one_line(f"{args.out}: {findings}, {time.monotonic() - started:.1f} s"))
    print(one_line(chosen.line(spec)))
    return 0


def _findings(spec: ModelSpec, found: Converted, classes: Path | None) -> list[str]:
    """The net that was found, and what was left out or made up."""
    named = described(classes, len(spec.classes), spec.classes)
    parts = [f"net {spec.net} from {found.origin}", named]
    norms = sum(bool(layer.norm) for layer in found.layers)
    if norms:
        parts.append(f"{norms} batch norms folded" + (", and kept for fine-tuning" if found.unfolded else ""))
    return [*parts, *found.remarks]


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.out.suffix != ".pt" or args.out.resolve() == args.weights.resolve():
        parser.error(f"-o {args.out}: expected another file whose name ends in .pt")
    return run(parser, lambda: _work(args), own_file(args.out))


if __name__ == "__main__":
    exit_with(main)
