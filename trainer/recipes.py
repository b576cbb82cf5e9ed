"""The recipes: VGG's and GoogLeNet's as the papers give them, and a `mini-` variant of each for the miniature.

`python -m trainer.recipes` prints them with their sources. Where a paper is silent the choice is a field with its
source beside it, and `--set` changes it.

The mini recipes train on the miniature in minutes on two cores. What the small nets need, having no batch norm and
few images, was found by experiment: He's start, a first phase at nearly fixed scale without dropout (with dropout
from the start they never leave chance), and for B to E the first layers of A, as in the paper (VGG section 3.1).
"""

from __future__ import annotations

import dataclasses
import json

from infer.command import Parser, exit_with

from .recipe import Phase, Recipe
from .sources import BOX_SOURCES, FINE_SOURCES, GOOGLENET_SOURCES, MINI_GOOGLENET_SOURCES, MINI_SOURCES, VGG_SOURCES

FINE_SCALES = ("C", "D", "E")
"""The nets that the paper also trains at S = 384 and S in [256; 512] (VGG Tables 3 and 4)."""
MINI_RATE = 0.015


def _fixed(short_px: int) -> tuple[Phase, ...]:
    return (Phase(1.0, (short_px, short_px), dropout=True),)


def _vgg(net: str) -> Recipe:
    deep = net in ("B", *FINE_SCALES)
    return Recipe(
        name=f"vgg-{net.lower()}",
        net=net,
        init="vgg-a" if deep else "",
        phases=_fixed(256),
        test_short_px=256,
        epochs=74,
        iterations=370_000,
        schedule="plateau",
        learning_rate=1e-2,
        start="normal",
        sources=VGG_SOURCES if deep else VGG_SOURCES | {"init": "VGG section 3.1: none, it is shallow enough"},
    )


def _vgg_384(base: Recipe) -> Recipe:
    own = {
        "init": "VGG section 3.1: the net of S = 256, all layers",
        "iterations": "our choice: at most those of S = 256, the stalls decide; the paper is silent",
    }
    return dataclasses.replace(
        base,
        name=f"{base.name}-384",
        init=base.name,
        phases=_fixed(384),
        test_short_px=384,
        learning_rate=1e-3,
        sources=VGG_SOURCES | FINE_SOURCES | own,
    )


def _vgg_jitter(base: Recipe) -> Recipe:
    own = {
        "init": "VGG section 3.1: the net of S = 384, all layers are fine-tuned",
        "learning_rate": "our choice: that of S = 384; the paper is silent",
        "iterations": "our choice: at most those of S = 256, the stalls decide; the paper is silent",
    }
    return dataclasses.replace(
        base,
        name=f"{base.name}-jitter",
        init=f"{base.name}-384",
        phases=(Phase(1.0, (256, 512), dropout=True),),
        test_short_px=384,
        learning_rate=1e-3,
        sources=VGG_SOURCES | FINE_SOURCES | own,
    )


def _boxes(base: Recipe, kind: str) -> Recipe:
    return dataclasses.replace(
        base,
        name=f"{base.name}-loc-{kind}",
        task="box-scr" if kind == "scr" else "box-pcr",
        init=base.name,
        learning_rate=1e-3,
        sources={**base.sources, **BOX_SOURCES},
    )


GOOGLENET = Recipe(
    name="googlenet",
    net="googlenet",
    fc_width=1024,
    phases=_fixed(256),
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
    sources=GOOGLENET_SOURCES,
)


def _mini_vgg(net: str) -> Recipe:
    deep = net in ("B", *FINE_SCALES)
    return Recipe(
        name=f"mini-{net.lower()}",
        net=net,
        init="mini-a" if deep else "",
        width=1 / 8,
        fc_width=256,
        crop_px=64,
        phases=(Phase(0.4, (82, 90), dropout=False), Phase(0.6, (72, 120), dropout=True)),
        test_short_px=88,
        epochs={"B": 10, "C": 14, "D": 14, "E": 14}.get(net, 12),
        batch=32,
        schedule="cosine",
        learning_rate=MINI_RATE,
        input_std=64.0,
        sources=MINI_SOURCES,
    )


def _mini_384(base: Recipe) -> Recipe:
    """The fixed scale of the miniature: a digit fills 60 to 85 % of the shorter side, so at S = 88 a crop of 64."""
    own = {"phases": "our choice: S = 88 for 384, where a crop still holds a digit; crop_px / 224 would give 110"}
    return dataclasses.replace(
        base,
        name=f"{base.name}-384",
        init=base.name,
        phases=_fixed(88),
        epochs=4,
        learning_rate=base.learning_rate / 10,
        sources=MINI_SOURCES | own,
    )


def _mini_jitter(base: Recipe) -> Recipe:
    own = {"phases": "our choice: S in [72; 120] for [256; 512], around the fixed 88"}
    return dataclasses.replace(
        base,
        name=f"{base.name}-jitter",
        init=f"{base.name}-384",
        phases=(Phase(1.0, (72, 120), dropout=True),),
        epochs=4,
        learning_rate=base.learning_rate / 10,
        sources=MINI_SOURCES | own,
    )


def _mini_boxes(base: Recipe, kind: str) -> Recipe:
    own = {
        "phases": "our choice: S = 80, where a crop of 64 holds most of a digit; no dropout, its noise moves boxes",
        "learning_rate": "our choice: the classification net's, twice that for PCR, since the run is short",
        "start_sigma": "our choice: with He's for the last layer PCR's classes pull the layers below apart at first",
    }
    return dataclasses.replace(
        base,
        name=f"{base.name}-loc-{kind}",
        task="box-scr" if kind == "scr" else "box-pcr",
        init=base.name,
        phases=(Phase(1.0, (80, 80), dropout=False),),
        test_short_px=80,
        epochs=4 if kind == "scr" else 6,
        learning_rate=MINI_RATE if kind == "scr" else 2 * MINI_RATE,
        start="normal",
        start_sigma=0.001,
        sources={**MINI_SOURCES, **BOX_SOURCES, **own},
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
    sources=MINI_SOURCES | MINI_GOOGLENET_SOURCES,
)

SHALLOW, DEEP = ("A", "A-LRN"), ("B", *FINE_SCALES)
BOX_KINDS = ("scr", "pcr")
VGG_BASES = {net: _vgg(net) for net in (*SHALLOW, *DEEP)}
MINI_BASES = {net: _mini_vgg(net) for net in (*SHALLOW, *DEEP)}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        *VGG_BASES.values(),
        *(_vgg_384(VGG_BASES[net]) for net in FINE_SCALES),
        *(_vgg_jitter(VGG_BASES[net]) for net in FINE_SCALES),
        *(_boxes(base, kind) for base in (VGG_BASES["D"], _vgg_384(VGG_BASES["D"])) for kind in BOX_KINDS),
        GOOGLENET,
        *MINI_BASES.values(),
        *(_mini_384(MINI_BASES[net]) for net in FINE_SCALES),
        *(_mini_jitter(MINI_BASES[net]) for net in FINE_SCALES),
        *(_mini_boxes(base, kind) for base in (MINI_BASES["D"], _mini_384(MINI_BASES["D"])) for kind in BOX_KINDS),
        MINI_GOOGLENET,
    )
}


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m trainer.recipes", description="Print recipes: field, value, source.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in RECIPES:
            parser.error(f"unknown recipe {name!r}: expected one of {', '.join(RECIPES)}")
    print("\n\n".join(described(RECIPES[name]) for name in args.names or RECIPES))
    return 0


def described(recipe: Recipe) -> str:
    """A recipe to read: a line for each field, with its source where it has one."""
    values = json.loads(recipe.to_json())
    width = max(map(len, values))
    lines = [recipe.name]
    for key, value in values.items():
        source = recipe.sources.get(key)
        lines.append(f"  {key:<{width}}  {json.dumps(value)}" + (f"    # {source}" if source else ""))
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with(main)
