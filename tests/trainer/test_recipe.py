"""trainer/recipe.py and recipes.py: every recipe is whole and sourced, and `--set` changes what it says or refuses."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch

from trainer.loop.schedule import phase_at
from trainer.nets.zoo import build_net
from trainer.recipe import DEFAULTS, FIELDS, LATER, Phase, Recipe, RecipeError, override
from trainer.recipes import FINE_SCALES, FINE_TUNED_NETS, RECIPES, REGION_NETS, main

MINI_A = RECIPES["mini-a"]


KEPT = (*FINE_TUNED_NETS, *REGION_NETS)
"""Names of recipes whose miniatures have them whole."""
FROM_RANDOM = {name: recipe for name, recipe in RECIPES.items() if not recipe.fine_tune}


@pytest.mark.parametrize("recipe", FROM_RANDOM.values(), ids=FROM_RANDOM.keys())
def test_every_recipe_builds_its_spec_and_net(recipe: Recipe) -> None:
    spec = recipe.spec(("a", "b", "c"), ("A", "B", "C"), (40.0, 41.0, 42.0))
    assert RECIPES[spec.name] is recipe
    assert (spec.net, spec.classes, spec.class_names) == (recipe.net, ("a", "b", "c"), ("A", "B", "C"))
    assert spec.preprocessing.mean_rgb == (40.0, 41.0, 42.0)
    assert spec.preprocessing.std_rgb == (recipe.input_std,) * 3
    assert spec.train_range_px == recipe.phases[-1].short_px
    assert (spec.crop_px, spec.width, spec.fc_width) == (recipe.crop_px, recipe.width, recipe.fc_width)
    assert spec.test_short_px == recipe.test_short_px
    said = json.loads(json.dumps(dataclasses.asdict(recipe)))
    at_default = {key for key in LATER if getattr(recipe, key) == DEFAULTS[key]}
    assert json.loads(spec.source["recipe"]) == {key: said[key] for key in FIELDS if key not in at_default}
    assert recipe.sources.keys() <= set(FIELDS)
    assert recipe.init in ("", *RECIPES)
    assert recipe.mirror  # mirrored views are part of every protocol
    with torch.device("meta"):
        net = build_net(spec, auxiliary_heads=True).eval()
        for weight, scores in net.training_scores(torch.empty(2, 3, spec.crop_px, spec.crop_px)):
            assert weight > 0
            channels = {"classify": 3, "regions": 3, "box-scr": 4, "box-pcr": 12, "multibox": 5 * recipe.boxes}
            assert scores.shape == (2, channels[recipe.task])


def test_every_recipe_has_a_mini_variant() -> None:
    full = {name for name in RECIPES if not name.startswith("mini-")}
    minis = {name: f"mini-{name if name in KEPT else name.removeprefix('vgg-')}" for name in full}
    assert set(minis.values()) == RECIPES.keys() - full
    for name in full:
        mini = RECIPES[minis[name]]
        assert (mini.net, bool(mini.init)) == (RECIPES[name].net, bool(RECIPES[name].init))


def test_the_papers_numbers() -> None:
    for net in ("A", "A-LRN", "B", "C", "D", "E"):
        r = RECIPES[f"vgg-{net.lower()}"]
        assert (r.batch, r.momentum, r.weight_decay, r.learning_rate) == (256, 0.9, 5e-4, 0.01)
        assert (r.schedule, r.lr_factor, r.lr_drops, r.iterations, r.epochs) == ("plateau", 0.1, 3, 370_000, 74)
        assert (r.phases, r.crop_px, r.width, r.fc_width) == ((Phase(1.0, (256, 256), dropout=True),), 224, 1, 4096)
        assert r.init == ("" if net.startswith("A") else "vgg-a")
    for net in FINE_SCALES:
        base = f"vgg-{net.lower()}"
        fine, jitter = RECIPES[f"{base}-384"], RECIPES[f"{base}-jitter"]
        assert (fine.init, fine.learning_rate, fine.phases[0].short_px) == (base, 1e-3, (384, 384))
        assert (jitter.init, jitter.phases[0].short_px, jitter.test_short_px) == (f"{base}-384", (256, 512), 384)
    g = RECIPES["googlenet"]
    assert (g.schedule, g.lr_factor, g.lr_every_epochs, g.average) == ("exponential", 0.96, 8, "polyak")
    assert (g.crop, g.area, g.aspect, g.interpolation) == ("area", (0.08, 1.0), (3 / 4, 4 / 3), "random")
    assert (g.photometric, g.momentum, g.fc_width) == (True, 0.9, 1024)
    for base, short in (("vgg-d", 256), ("vgg-d-384", 384)):
        for kind in ("scr", "pcr"):
            r = RECIPES[f"{base}-loc-{kind}"]
            assert (r.task, r.init, r.learning_rate, r.train_layers) == (f"box-{kind}", base, 1e-3, "all")
            assert (r.phases[0].short_px, r.test_short_px) == ((short, short), short)


def test_recipes_are_printed_with_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vgg-d", "googlenet"]) == 0
    first, second = capsys.readouterr().out.split("\n\n")
    assert first.startswith("vgg-d\n")
    lines = {line.split()[0]: line for line in first.splitlines()[1:]}
    assert tuple(lines) == FIELDS
    assert re.search(r"^  iterations +370000    # VGG section 3.1$", first, re.MULTILINE)
    assert re.search(r"^  lr_factor +0.96    # GoogLeNet section 6$", second, re.MULTILINE)
    assert main([]) == 0
    assert capsys.readouterr().out.count("\n\n") == len(RECIPES) - 1
    with pytest.raises(SystemExit) as caught:
        main(["vgg-f"])
    assert caught.value.code == 2
    assert "unknown recipe 'vgg-f': expected one of vgg-a" in capsys.readouterr().err


def test_a_fixed_last_scale_is_a_single_number() -> None:
    recipe = dataclasses.replace(MINI_A, phases=(Phase(1.0, (88, 88), dropout=True),))
    assert recipe.spec(("a", "b"), (), (0.0, 0.0, 0.0)).train_short_px == 88


def test_iterations_decide_the_steps_where_they_are_given() -> None:
    assert dataclasses.replace(MINI_A, epochs=3).steps(100) == 300
    assert dataclasses.replace(MINI_A, epochs=3, iterations=250).steps(100) == 250


def test_sources_are_no_part_of_what_a_run_resumes_by() -> None:
    other = dataclasses.replace(MINI_A, sources={"epochs": "elsewhere"})
    assert other == MINI_A
    assert other.to_json() == MINI_A.to_json()
    assert hash(other) == hash(MINI_A)


OTHER = {
    "class_weights": "balanced",
    "sampling": "balanced",
    "keep": "best",
    "norms": "updated",
    "label_smoothing": "0.1",
    "loaded_rate": "0.1",
    "val_split": "0.2",
    "task": "box-scr",
    "schedule": "plateau",
    "start": "glorot",
    "average": "polyak",
    "crop": "area",
    "exif": "apply",
    "interpolation": "random",
    "train_layers": "fully-connected",
    "net": "D",
    "area": "0.25,0.5",
    "aspect": "0.5,2",
    "phases": "0.25:80,0.75:72-100:dropout",
    "name": "other",
    "init": "mini-d",
}
VALUES = {
    "area": (0.25, 0.5),
    "aspect": (0.5, 2.0),
    "phases": (Phase(0.25, (80, 80), dropout=False), Phase(0.75, (72, 100), dropout=True)),
}


@pytest.mark.parametrize("key", FIELDS)
def test_every_field_can_be_set(key: str) -> None:
    old = getattr(MINI_A, key)
    numbers = {bool: lambda: str(not old), int: lambda: str(old + 32), float: lambda: str(old / 2)}
    text = OTHER[key] if key in OTHER else numbers[type(old)]()
    changes = {"crop_px": ["phases=1:120-200"], "boxes": ["task=multibox"]}.get(key, [])
    recipe = override(MINI_A, [f"{key}={text}", *changes])
    new = getattr(recipe, key)
    assert new == VALUES[key] if key in VALUES else str(new) == text, new
    assert type(new) is type(old)
    assert new != old
    assert recipe.to_json() != MINI_A.to_json()


def test_settings_are_parsed_as_the_fields_type() -> None:
    settings = ["epochs=3", "learning_rate=1e-3", "mirror=False", "start=normal", "width=1", "seed=7", "net=D"]
    recipe = override(MINI_A, settings)
    assert recipe == dataclasses.replace(
        MINI_A, epochs=3, learning_rate=1e-3, mirror=False, start="normal", width=1.0, seed=7, net="D"
    )
    assert isinstance(recipe.width, float)
    assert override(MINI_A, []) == MINI_A
    assert override(MINI_A, ["mirror=true"]).mirror is True


PHASES = "expected SHARE:LOW-HIGH[:dropout],... like 0.4:82-90,0.6:72-120:dropout"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "--set epochs: expected key=value with a key of name, net, task"),
        ("=3", "--set =3: expected key=value"),
        ("speed=3", "--set speed=3: expected key=value"),
        ("spec=3", "--set spec=3: expected key=value"),
        ("sources=3", "--set sources=3: expected key=value"),
        ("phases=3", f"--set phases=3: {PHASES}"),
        ("phases=1:80:drop", f"--set phases=1:80:drop: {PHASES}"),
        ("phases=1:80-", "--set phases=1:80-: "),
        ("phases=0.5:80", "the phases' shares must sum to 1, got 0.5"),
        ("phases=nan:80", "the phases' shares must sum to 1, got nan"),
        ("phases=2:80,-1:80", "a phase's share must be positive, got -1"),
        ("phases=1:60", "a phase's S must be in order and at least crop_px = 64, got 60-60"),
        ("phases=1:90-80", "a phase's S must be in order and at least crop_px = 64, got 90-80"),
        ("area=0.5", "--set area=0.5: expected a value like 0.08,1"),
        ("area=0.5,0.6,0.7", "--set area=0.5,0.6,0.7: expected a value like 0.08,1"),
        ("area=0.5,0.1", "area is two shares of the image in order, got (0.5, 0.1)"),
        ("aspect=0,1", "aspect is two positive numbers in order, got (0.0, 1.0)"),
        ("epochs=many", "--set epochs=many: expected a value like 12"),
        ("epochs=1.5", "--set epochs=1.5: expected a value like 12"),
        ("mirror=1", "--set mirror=1: expected a value like True"),
        ("learning_rate=fast", "--set learning_rate=fast: expected a value like 0.015"),
        ("epochs=0", "epochs must be positive, got 0"),
        ("batch=-1", "batch must be positive, got -1"),
        ("learning_rate=nan", "learning_rate must be positive, got nan"),
        ("iterations=-1", "iterations must not be negative, got -1"),
        ("warmup=1", "warmup is a share of the steps, got 1.0"),
        ("lr_factor=2", "lr_factor is above 0 and at most 1, got 2.0"),
        ("average_decay=1.1", "average_decay is between 0 and 1, got 1.1"),
        ("start=random", "start is one of he, normal, glorot, got random"),
        ("train_layers=first", "train_layers is all, last, after-N (the first N layers are frozen)"),
        ("train_layers=after-0", "train_layers is all, last, after-N"),
        ("train_layers=last", "train_layers last is for recipes of one phase, got last"),
        ("loaded_rate=0", "loaded_rate is above 0 and at most 1, got 0.0"),
        (
            "class_weights=heavy",
            "class_weights is none, balanced or CLASS:WEIGHT,... like cat:2,dog:0.5 (the others 1)",
        ),
        ("class_weights=cat:2,cat:3", "class_weights is none, balanced or CLASS:WEIGHT"),
        ("label_smoothing=1", "label_smoothing is a share below 1, got 1.0"),
        ("val_split=1", "val_split is a share below 1, got 1.0"),
        ("val_split=-0.1", "val_split is a share below 1, got -0.1"),
        ("keep=first", "keep is one of last, best, got first"),
        ("schedule=step", "schedule is one of cosine, plateau, exponential, got step"),
    ],
)
def test_settings_that_cannot_be_used(setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        override(MINI_A, [setting])
    assert "\n" not in str(caught.value)


def test_each_epoch_has_its_phase() -> None:
    recipe = dataclasses.replace(MINI_A, epochs=10)  # 40 % without dropout
    phases = [phase_at(recipe, epoch / 10) for epoch in range(10)]
    assert [phase.dropout for phase in phases] == [False] * 4 + [True] * 6
    thirds = dataclasses.replace(MINI_A, phases=tuple(Phase(1 / 3, (80 + i, 90), dropout=False) for i in range(3)))
    assert [phase_at(thirds, epoch / 3).short_px[0] for epoch in range(3)] == [80, 81, 82]
    assert phase_at(thirds, 1.0).short_px[0] == 82
