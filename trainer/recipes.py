"""The recipes: VGG's and GoogLeNet's as the papers give them, and a `mini-` variant of each for the miniature.

`python -m trainer.recipes` prints them with their sources. Where a paper is silent the choice is a field with its
source beside it, and `--set` changes it.

The mini recipes train on the miniature in minutes on two cores. What the small nets need, having no batch norm and
few images, was found by experiment: He's start, a first phase at nearly fixed scale without dropout (with dropout
from the start they never leave chance), and for B to E the first layers of A, as in the paper (VGG section 3.1).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from infer.command import Parser, exit_with, run
from infer.errors import UsageError
from infer.spec import Task

from . import sources
from .recipe import FIELDS, VGG_FAMILY, Phase, Recipe

SHALLOW = ("A", "A-LRN")
"""The nets that the paper starts at random (VGG section 3.1)."""
FINE_SCALES = ("C", "D", "E")
"""The nets that the paper also trains at S = 384 and S in [256; 512] (VGG Tables 3 and 4)."""
NETS = (*SHALLOW, "B", *FINE_SCALES)
MINI_RATE = 0.015


def _one_phase(low_px: int, high_px: int, *, dropout: bool = True) -> tuple[Phase, ...]:
    return (Phase(1.0, (low_px, high_px), dropout=dropout),)


def _vgg(net: str) -> Recipe:
    """VGG section 3.1 at the fixed scale S = 256."""
    shallow = net in SHALLOW
    return Recipe(
        name=f"vgg-{net.lower()}",
        net=net,
        init="" if shallow else "vgg-a",
        phases=_one_phase(256, 256),
        test_short_px=256,
        epochs=74,  # the iterations decide
        iterations=370_000,
        schedule="plateau",
        learning_rate=1e-2,
        start="normal",
        sources=sources.VGG | sources.SHALLOW if shallow else sources.VGG,
    )


def _mini_vgg(net: str) -> Recipe:
    return Recipe(
        name=f"mini-{net.lower()}",
        net=net,
        init="" if net in SHALLOW else "mini-a",
        width=1 / 8,
        fc_width=256,
        crop_px=64,
        phases=(Phase(0.4, (82, 90), dropout=False), Phase(0.6, (72, 120), dropout=True)),
        test_short_px=88,
        # found by experiment: with 10, some runs of D end at 15 to 20 % error
        epochs={"B": 10, "C": 14, "D": 14, "E": 14}.get(net, 12),
        batch=32,
        schedule="cosine",
        learning_rate=MINI_RATE,
        input_std=64.0,
        sources=sources.MINI,
    )


class FineScale(NamedTuple):
    """A further training of nets at another scale, from the layers of their own run before (VGG section 3.1)."""

    suffix: str
    after: str  # the suffix of the run that it starts from; "": the net's first
    short_px: tuple[int, int]
    test_short_px: int
    epochs: int
    sources: Mapping[str, str]

    def recipe(self, base: Recipe) -> Recipe:
        """The recipe for the net of `base`, with a tenth of its learning rate."""
        return dataclasses.replace(
            base,
            name=f"{base.name}{self.suffix}",
            init=f"{base.name}{self.after}",
            phases=_one_phase(*self.short_px),
            test_short_px=self.test_short_px,
            epochs=self.epochs,
            learning_rate=base.learning_rate / 10,
            sources={**base.sources, **self.sources},
        )


VGG_384 = FineScale("-384", "", (384, 384), 384, 74, sources.VGG_384)
VGG_JITTER = FineScale("-jitter", "-384", (256, 512), 384, 74, sources.VGG_JITTER)
MINI_384 = FineScale("-384", "", (88, 88), 88, 4, sources.MINI_384)
MINI_JITTER = FineScale("-jitter", "-384", (72, 120), 88, 4, sources.MINI_JITTER)


def _boxes(base: Recipe, task: Task) -> Recipe:
    """The localisation net of a classification net (VGG appendix A)."""
    return dataclasses.replace(
        base,
        name=f"{base.name}-loc-{task.removeprefix('box-')}",
        task=task,
        init=base.name,
        learning_rate=1e-3,
        sources={**base.sources, **sources.BOX},
    )


def _mini_boxes(base: Recipe, task: Task) -> Recipe:
    own = _boxes(base, task)
    return dataclasses.replace(
        own,
        phases=_one_phase(80, 80, dropout=False),
        test_short_px=80,
        epochs=4 if task == "box-scr" else 6,
        learning_rate=MINI_RATE if task == "box-scr" else 2 * MINI_RATE,
        start="normal",
        start_sigma=0.001,
        sources={**own.sources, **sources.MINI_BOX},
    )


GOOGLENET = Recipe(
    name="googlenet",
    net="googlenet",
    fc_width=1024,
    phases=_one_phase(256, 256),
    test_short_px=256,
    epochs=250,
    batch=32,
    schedule="exponential",
    learning_rate=0.01,
    lr_factor=0.96,
    lr_every_epochs=8,
    weight_decay=2e-4,
    average="polyak",
    crop="area",
    interpolation="random",
    photometric=True,
    color_sigma=0.0,
    input_std=128.0,
    sources=sources.GOOGLENET,
)

MINI_GOOGLENET = Recipe(
    name="mini-googlenet",
    net="googlenet",
    width=1 / 4,
    fc_width=128,
    crop_px=96,
    phases=(Phase(0.4, (118, 130), dropout=False), Phase(0.6, (108, 192), dropout=True)),
    test_short_px=128,
    epochs=14,
    batch=32,
    schedule="cosine",
    learning_rate=0.005,
    weight_decay=2e-4,
    input_std=128.0,
    sources=sources.MINI | sources.MINI_GOOGLENET,
)

FINE_TUNED = Recipe(
    name="vgg-finetune",
    net=VGG_FAMILY,
    fine_tune=True,
    phases=_one_phase(256, 320),
    test_short_px=256,
    epochs=20,
    batch=32,
    schedule="cosine",
    learning_rate=0.01,
    loaded_rate=0.1,
    start="normal",
    stop_after=8,
    keep="best",
    sources=sources.FINE_TUNE,
)
"""Of any net of VGG's; those of GoogLeNet's differ in little."""


def _fine_tune(name: str, net: str, *, mini: bool = False) -> Recipe:
    """The recipe that fine-tunes a net; mini: one of the miniature, at its scales."""
    recipe = dataclasses.replace(FINE_TUNED, name=name, net=net)
    if net != VGG_FAMILY:
        recipe = dataclasses.replace(recipe, weight_decay=2e-4)
    if not mini:
        return recipe
    crop_px, short_px, test_px = (64, (72, 96), 88) if net == VGG_FAMILY else (96, (108, 144), 128)
    return dataclasses.replace(
        recipe,
        name=f"mini-{name}",
        crop_px=crop_px,
        phases=_one_phase(*short_px),
        test_short_px=test_px,
        epochs=30,
        batch=16,
        start="he",
        sources={**recipe.sources, **sources.MINI_FINE_TUNE},
    )


def _regions(name: str, net: str, *, mini: bool = False) -> Recipe:
    """The recipe of a net of regions, from a classifier (R-CNN's fine-tuning); mini: one of the miniature's."""
    base = _fine_tune(name, net, mini=mini)
    return dataclasses.replace(
        base,
        task="regions",
        phases=_one_phase(base.crop_px, base.crop_px),
        test_short_px=base.crop_px,
        sampling="regions",
        epochs=2 if mini else 10,  # the iterations decide
        iterations=400 if mini else 50_000,
        batch=128,
        learning_rate=0.02 if mini else 1e-3,
        loaded_rate=0.5 if mini else 1.0,
        stop_after=0,
        keep="last",
        color_sigma=0.0,
        sources=sources.REGIONS | (sources.MINI_REGIONS if mini else {}),
    )


GOOGLENET_MULTIBOX = dataclasses.replace(
    GOOGLENET,
    name="googlenet-multibox",
    task="multibox",
    init="googlenet",
    boxes=200,
    epochs=60,
    learning_rate=1e-3,
    area=(0.3, 1.0),
    sources={**sources.GOOGLENET, **sources.MULTIBOX},
)
MINI_GOOGLENET_MULTIBOX = dataclasses.replace(
    MINI_GOOGLENET,
    name="mini-googlenet-multibox",
    task="multibox",
    init="mini-googlenet",
    phases=_one_phase(128, 128, dropout=False),
    boxes=200,
    box_weight=100.0,
    epochs=40,
    batch=16,
    learning_rate=0.0015,
    crop="area",
    area=(0.3, 1.0),
    sources={**MINI_GOOGLENET.sources, **sources.MULTIBOX, **sources.MINI_MULTIBOX},
)

REGION_NETS = {"vgg-det": VGG_FAMILY, "googlenet-det": "googlenet"}
FINE_TUNED_NETS = {
    "vgg-finetune": VGG_FAMILY,
    "googlenet-finetune": "googlenet",
    "googlenet-tv-finetune": "googlenet-tv",
}
VGG_BASES = {net: _vgg(net) for net in NETS}
MINI_BASES = {net: _mini_vgg(net) for net in NETS}
BOX_TASKS: tuple[Task, ...] = ("box-scr", "box-pcr")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        *VGG_BASES.values(),
        *(scale.recipe(VGG_BASES[net]) for scale in (VGG_384, VGG_JITTER) for net in FINE_SCALES),
        *(_boxes(net, task) for net in (VGG_BASES["D"], VGG_384.recipe(VGG_BASES["D"])) for task in BOX_TASKS),
        GOOGLENET,
        *MINI_BASES.values(),
        *(scale.recipe(MINI_BASES[net]) for scale in (MINI_384, MINI_JITTER) for net in FINE_SCALES),
        *(_mini_boxes(net, task) for net in (MINI_BASES["D"], MINI_384.recipe(MINI_BASES["D"])) for task in BOX_TASKS),
        MINI_GOOGLENET,
        GOOGLENET_MULTIBOX,
        MINI_GOOGLENET_MULTIBOX,
        *(_fine_tune(name, net, mini=mini) for mini in (False, True) for name, net in FINE_TUNED_NETS.items()),
        *(_regions(name, net, mini=mini) for mini in (False, True) for name, net in REGION_NETS.items()),
    )
}


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m trainer.recipes", description="Print recipes: field, value, source.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    args = parser.parse_args(argv)
    return run(parser, lambda: _print_recipes(args))


def _print_recipes(args: argparse.Namespace) -> int:
    unknown = next((name for name in args.names if name not in RECIPES), None)
    if unknown is not None:
        raise UsageError(f"unknown recipe {unknown!r}: expected one of {', '.join(RECIPES)}")
    print("\n\n".join(recipe_text(RECIPES[name]) for name in args.names or RECIPES))
    return 0


def recipe_text(recipe: Recipe) -> str:
    """A recipe to read: a line for each field, with its source where it has one."""
    width = max(map(len, FIELDS))
    lines = [recipe.name]
    for key, value in msgspec.to_builtins({key: getattr(recipe, key) for key in FIELDS}).items():
        source = recipe.sources.get(key)
        lines.append(f"  {key:<{width}}  {json.dumps(value)}" + (f"    # {source}" if source else ""))
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with(main)
