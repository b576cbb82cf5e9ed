"""A recipe: everything that decides a training run, as data. `--set key=value` overrides any plain field.

trainer/recipes.py holds the recipes themselves.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from infer.errors import UsageError
from infer.spec import Exif, ModelSpec, Preprocessing, Task

Schedule = Literal["cosine", "plateau", "exponential"]
Start = Literal["he", "normal", "glorot"]
Average = Literal["none", "polyak"]
Crop = Literal["scale", "area"]
Interpolation = Literal["fixed", "random"]
Sampling = Literal["all", "balanced", "regions"]
Learnt = Literal[Task, "regions"]
"""What a net learns; a net of regions is a classifier with background as one more class."""
Keep = Literal["last", "best"]
Norms = Literal["frozen", "updated"]

LARGEST = 1e9
"""The bound of every number in a recipe: a larger one is a slip, which would be found later, or never."""
TRAIN_LAYERS = re.compile(r"all|last|fully-connected|after-[1-9]\d{0,2}")
TRAIN_LAYERS_FORM = "all, last, after-N (the first N layers are frozen) or, of VGG, fully-connected (its last three)"
CLASS_WEIGHTS_FORM = "none, balanced or CLASS:WEIGHT,... like cat:2,dog:0.5 (the others 1)"
VGG_FAMILY = "vgg"
"""The net of a recipe that fine-tunes any of VGG's."""
PHASES_FORM = "SHARE:LOW-HIGH[:dropout],... like 0.4:82-90,0.6:72-120:dropout"


class RecipeError(UsageError):
    """A recipe or an override that cannot be used; one line."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A share of the training steps with its scale range S and dropout."""

    share: float
    short_px: tuple[int, int]
    dropout: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The fields that decide a run. Defaults are VGG's (section 3.1) where it says something.

    `sources` says of a field where its value is from. Raises RecipeError for values that cannot be.
    """

    name: str
    net: str
    task: Learnt = "classify"
    init: str = ""  # the recipe whose checkpoint starts the net; "": none
    fine_tune: bool = (
        False  # net, widths, preprocessing and all layers but a last one for other classes come from --init
    )
    width: float = 1.0
    fc_width: int = 4096
    crop_px: int = 224
    boxes: int = 0  # multibox: boxes, and priors, of an image
    box_weight: float = 0.3  # multibox: of the boxes' squared distances in the loss, beside the confidences
    phases: tuple[Phase, ...]
    test_short_px: int = 0  # 0: S, or the mean of the range

    epochs: int
    iterations: int = 0  # 0: the epochs decide how long it trains; otherwise this does
    batch: int = 256  # of all processes together
    schedule: Schedule
    learning_rate: float  # at its highest
    warmup: float = 0.05  # cosine: the share of the steps over which the rate rises
    lr_factor: float = 0.1  # plateau, exponential: what a drop multiplies the rate by
    lr_drops: int = 3  # plateau: how many there are; the run ends where another would come
    patience: int = 5  # plateau: validations without a new best before a drop
    lr_every_epochs: int = 8  # exponential: epochs between drops
    momentum: float = 0.9
    weight_decay: float = 5e-4
    start: Start = "he"
    start_sigma: float = 0.01  # normal: standard deviation
    train_layers: str = "all"  # TRAIN_LAYERS_FORM; the others stay as they were loaded
    loaded_rate: float = 1.0  # of layers that --init gave, times the learning rate
    norms: Norms = "frozen"  # googlenet-tv: the statistics of its batch norms
    label_smoothing: float = 0.0  # the share of a target that goes to all classes alike
    class_weights: str = "none"  # balanced: an image counts by how rare its class is; or CLASS_WEIGHTS_FORM
    stop_after: int = 0  # validations without a new best after which the run ends; 0: it goes on
    keep: Keep = "last"  # the epoch whose weights are the result: the last, or that of the best validation
    feature_draws: int = 2  # train_layers=last: crops of an image whose features are computed, used in turn
    average: Average = "none"
    average_decay: float = 0.9999  # polyak; 1: the plain mean of all iterates

    val_split: float = 0.0  # the share of each class that is kept for validation, where a data set has no images for it
    split_seed: int = 0  # decides which
    sampling: Sampling = "all"  # an epoch has every image once; as many of each class; a quarter of objects in a batch
    crop: Crop = "scale"  # the short side becomes S, then any crop; or a share of the image's area
    area: tuple[float, float] = (0.08, 1.0)  # area: smallest and largest share
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # area: width over height
    exif: Exif = "ignore"  # rotation that a camera noted, in training and ever after
    interpolation: Interpolation = "fixed"
    mirror: bool = True
    color_sigma: float = 0.1  # AlexNet's colour shift; 0 turns it off
    photometric: bool = False  # Howard's brightness, contrast and colour
    input_std: float = 1.0  # grey levels; the input is divided by it
    seed: int = 0
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name in POSITIVE:
            self._require(getattr(self, name) > 0, name, "must be positive")
        for name in NOT_NEGATIVE:
            self._require(getattr(self, name) >= 0, name, "must not be negative")
        for name, choices in CHOICES.items():
            self._require(getattr(self, name) in choices, name, f"is one of {', '.join(choices)}")
        self._require(TRAIN_LAYERS.fullmatch(self.train_layers) is not None, "train_layers", f"is {TRAIN_LAYERS_FORM}")
        vgg = "googlenet" not in self.net
        self._require(
            self.train_layers != "fully-connected" or vgg, "train_layers", "fully-connected is for VGG's nets"
        )
        features = self.train_layers == "last" and self.task == "classify"
        self._require(self.train_layers != "last" or features, "train_layers", "last is for classification")
        regions = self.task == "regions"
        self._require(
            (self.sampling == "regions") == regions, "sampling", "is regions for nets of regions, and only these"
        )
        self._require(not regions or self.batch % 4 == 0, "batch", "is a multiple of 4 for a quarter of objects")
        self._require(not regions or self.val_split == 0, "val_split", "is not for regions: --val-proposals")
        is_multibox = self.task == "multibox"
        self._require((self.boxes > 0) == is_multibox, "boxes", "is above 0 for multibox, and for nothing else")
        self._require(not is_multibox or self.val_split == 0, "val_split", "is not for multibox: use the data's own")
        self._require(not features or len(self.phases) == 1, "train_layers", "last is for recipes of one phase")
        self._require(0 < self.loaded_rate <= 1, "loaded_rate", "is above 0 and at most 1")
        self._require(weights_by_class(self.class_weights) is not None, "class_weights", f"is {CLASS_WEIGHTS_FORM}")
        self._require(0 <= self.label_smoothing < 1, "label_smoothing", "is a share below 1")
        self._require(0 <= self.val_split < 1, "val_split", "is a share below 1")
        self._require(0 <= self.warmup < 1, "warmup", "is a share of the steps")
        self._require(0 < self.lr_factor <= 1, "lr_factor", "is above 0 and at most 1")
        self._require(0 <= self.average_decay <= 1, "average_decay", "is between 0 and 1")
        self._require(0 < self.area[0] <= self.area[1] <= 1, "area", "is two shares of the image in order")
        self._require(0 < self.aspect[0] <= self.aspect[1], "aspect", "is two positive numbers in order")

        # all numbers, one by one or in pairs
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            values = value if isinstance(value, tuple) else (value,)
            small = all(abs(number) < LARGEST for number in values if isinstance(number, int | float))
            self._require(small, one.name, f"must be below {LARGEST:g}")

        total = sum(phase.share for phase in self.phases)
        if not abs(total - 1) <= 1e-9:
            raise RecipeError(f"recipe {self.name}: the phases' shares must sum to 1, got {total:g}")
        for phase in self.phases:
            if phase.share <= 0:
                raise RecipeError(f"recipe {self.name}: a phase's share must be positive, got {phase.share:g}")
            low, high = phase.short_px
            if not self.crop_px <= low <= high:
                raise RecipeError(
                    f"recipe {self.name}: a phase's S must be in order and at least crop_px = {self.crop_px}, "
                    f"got {low}-{high}"
                )

    def _require(self, true: bool, name: str, rule: str) -> None:
        if not true:
            raise RecipeError(f"recipe {self.name}: {name} {rule}, got {getattr(self, name)}")

    def spec(
        self, classes: tuple[str, ...], class_names: tuple[str, ...], mean_rgb: tuple[float, float, float]
    ) -> ModelSpec:
        """The spec of the net that this recipe trains; the last phase's scales are its S."""
        low, high = self.phases[-1].short_px

        source = {"recipe": self.to_json()}
        if self.task in ("box-scr", "box-pcr"):  # as VGG's Table 8 has it
            source["fine_tuned"] = "all" if self.train_layers == "all" else "first two FC"

        return ModelSpec(
            name=self.name,
            net=self.net,
            task="classify" if self.task == "regions" else self.task,
            classes=classes,
            class_names=class_names,
            preprocessing=Preprocessing(mean_rgb, std_rgb=(self.input_std,) * 3, exif=self.exif),
            train_short_px=low if low == high else (low, high),
            test_short_px=self.test_short_px,
            crop_px=self.crop_px,
            width=self.width,
            fc_width=self.fc_width,
            boxes=self.boxes,
            fixed_size=self.task == "multibox",
            source=source,
        )

    def steps(self, steps_per_epoch: int) -> int:
        """The largest number of steps of the run."""
        return self.iterations or self.epochs * steps_per_epoch

    def to_json(self) -> str:
        """The fields that decide the result: a run can be resumed by a recipe of the same JSON."""
        values = dataclasses.asdict(self)
        del values["sources"]
        for name in LATER:
            if values[name] == DEFAULTS[name]:
                del values[name]
        return json.dumps(values)


POSITIVE = (
    *("width", "fc_width", "epochs", "batch", "learning_rate", "input_std", "start_sigma"),
    *("patience", "lr_every_epochs", "feature_draws", "box_weight"),
)
NOT_NEGATIVE = (
    *("split_seed", "stop_after", "boxes"),
    *("seed", "momentum", "weight_decay", "color_sigma", "iterations", "lr_drops", "test_short_px"),
)
LATER = (
    *("exif", "fine_tune", "loaded_rate", "norms", "label_smoothing", "class_weights", "stop_after", "keep"),
    *("feature_draws", "val_split", "split_seed", "sampling", "boxes", "box_weight"),
)
"""Fields that recipes did not always have: at their defaults they are not written, so that older runs go on."""
DEFAULTS = {one.name: one.default for one in dataclasses.fields(Recipe)}
CHOICES = {name: get_args(kind) for name, kind in get_type_hints(Recipe).items() if get_origin(kind) is Literal}
"""The values of each field that has a few."""
FIELDS = tuple(one.name for one in dataclasses.fields(Recipe) if one.name != "sources")
"""The names that --set knows."""


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """The recipe with `key=value` settings applied. Raises RecipeError for an unknown key or a wrong type.

    Pairs of numbers are `a,b`; the phases are PHASES_FORM.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or key not in FIELDS:
            raise RecipeError(f"--set {setting}: expected key=value with a key of {', '.join(FIELDS)}")

        old = getattr(recipe, key)
        try:
            values[key] = _phases_from_text(text) if key == "phases" else _value_from_text(text, old)
        except ValueError:
            example = PHASES_FORM if key == "phases" else f"a value like {_text_from_value(old)}"
            raise RecipeError(f"--set {setting}: expected {example}") from None

    return dataclasses.replace(recipe, **values)


def weights_by_class(text: str) -> dict[str, float] | None:
    """The weights that CLASS_WEIGHTS_FORM names; none for `none` and `balanced`; None for another form."""
    if text in ("none", "balanced"):
        return {}
    found = {}
    for part in text.split(","):
        name, colon, weight = part.rpartition(":")
        if not (colon and name and re.fullmatch(r"\d+(\.\d+)?", weight)) or name in found:
            return None
        found[name] = float(weight)
    return found


def _text_from_value(value: Any) -> str:
    """A field's value as --set takes it."""
    return ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else repr(value)


def _value_from_text(text: str, old: Any) -> Any:
    """A value of the type of `old`. Raises ValueError."""
    if isinstance(old, tuple):
        return tuple(type(one)(part) for one, part in zip(old, text.split(","), strict=True))
    if isinstance(old, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return type(old)(text)


def _phases_from_text(text: str) -> tuple[Phase, ...]:
    """Phases from PHASES_FORM. Raises ValueError."""
    phases = []
    for part in text.split(","):
        share, scales, *rest = part.split(":")
        if rest not in ([], ["dropout"]):
            raise ValueError(part)
        low, dash, high = scales.partition("-")
        phases.append(Phase(float(share), (int(low), int(high) if dash else int(low)), dropout=bool(rest)))
    return tuple(phases)
