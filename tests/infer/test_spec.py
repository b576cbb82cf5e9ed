"""infer/spec.py: what a spec refuses, JSON without loss, and which images the default ranges admit."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from helpers import NETS, full_spec, slim_spec

from infer.spec import ModelSpec, Preprocessing, Size, SpecError
from infer.views import PROTOCOLS, Extent, ShapeRange, crops_shape, default_shapes, out_of_range, plan_views


def test_json_round_trip_loses_nothing() -> None:
    spec = slim_spec(
        "A-LRN",
        class_names=("zéro", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        preprocessing=Preprocessing(
            (123.68, 116.779, 103.939),
            std_rgb=(58.395, 57.12, 57.375),
            filter="bilinear",
            exif="apply",
            long_side_rounding="floor",
            center_rounding="torchvision",
        ),
        train_short_px=(72, 131),
        test_short_px=99,
        pool_rounding="floor",
        interface="images",
        precision="fp16",
        outputs=("posterior", "score_map"),
        fixed_size=True,
        max_views=3,
        source={"recipe": '{"name": "x"}'},
    )
    again = ModelSpec.from_json(spec.to_json())
    assert again == spec
    assert isinstance(again.preprocessing, Preprocessing)
    assert again.train_short_px == (72, 131)
    assert again.to_json() == spec.to_json()
    whole = slim_spec("D", preprocessing=Preprocessing((104, 117, 123)), width=1)
    assert ModelSpec.from_json(whole.to_json()).to_json() == whole.to_json()  # 104 does not become 104.0
    for net in NETS:
        assert ModelSpec.from_json(full_spec(net).to_json()) == full_spec(net)


def test_every_field_is_in_the_json() -> None:
    assert "boxes" not in json.loads(slim_spec("D").to_json())  # so that specs of other nets are as they always were
    values = json.loads(slim_spec("D", task="multibox", boxes=3, fixed_size=True).to_json())
    assert set(values) == {field.name for field in dataclasses.fields(ModelSpec)}
    assert set(values["preprocessing"]) == {field.name for field in dataclasses.fields(Preprocessing)}


@pytest.mark.parametrize(("train", "test"), [(256, 256), (384, 384), ((256, 512), 384), ((256, 511), 383)])
def test_test_scale_defaults_to_s_or_the_mean_of_the_range(train: int | tuple[int, int], test: int) -> None:
    assert full_spec("D", train_short_px=train).test_short_px == test
    assert full_spec("D", train_short_px=train, test_short_px=300).test_short_px == 300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "a model's name must be a plain word, got ''"),
        ({"name": "a/b"}, "a model's name must be a plain word, got 'a/b'"),
        ({"classes": ("one",)}, "a classifier needs two classes at least, got 1"),
        ({"classes": ("one", "one")}, "classes must differ from each other"),
        ({"class_names": ("one",)}, "1 class_names for 10 classes"),
        ({"pool_rounding": "up"}, "pool_rounding must be one of ceil, floor, got 'up'"),
        ({"interface": "tensors"}, "interface must be one of views, images, nchw, got 'tensors'"),
        ({"precision": "int4"}, "precision must be one of fp32, fp16, int8, got 'int4'"),
        ({"stride_px": 0}, "stride_px must be positive, got 0"),
        ({"crop_px": 60}, "crop_px must be a multiple of stride_px = 32, got 60"),
        ({"crop_px": 0}, "crop_px must be a multiple of stride_px = 32, got 0"),
        ({"max_views": -1}, "max_views must not be negative, got -1"),
        ({"width": 0.0}, "width and fc_width must be positive"),
        ({"fc_width": -1}, "width and fc_width must be positive"),
        ({"train_short_px": 63}, "train_short_px must be at least crop_px = 64 and in order, got 63"),
        ({"train_short_px": (120, 72)}, "train_short_px must be at least crop_px = 64 and in order, got (120, 72)"),
        ({"test_short_px": 63}, "test_short_px 63 is below crop_px 64"),
    ],
)
def test_a_spec_that_cannot_be_true(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        slim_spec("D", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean_rgb": (1.0, 2.0)}, "mean_rgb and std_rgb need three values each"),
        ({"std_rgb": (1.0,)}, "mean_rgb and std_rgb need three values each"),
        ({"std_rgb": (1.0, 0.0, 1.0)}, "std_rgb must be positive, got (1.0, 0.0, 1.0)"),
        ({"filter": "lanczos"}, "filter must be one of bicubic, bilinear, got 'lanczos'"),
        ({"exif": "maybe"}, "exif must be one of ignore, apply, got 'maybe'"),
        ({"long_side_rounding": "ceil"}, "long_side_rounding must be one of nearest, floor, got 'ceil'"),
        ({"center_rounding": "nearest"}, "center_rounding must be one of floor, torchvision, got 'nearest'"),
    ],
)
def test_preprocessing_that_cannot_be_true(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        Preprocessing(**{"mean_rgb": (0.0, 0.0, 0.0), **changes})


def changed_json(**changes: Any) -> str:
    """A good spec's JSON with fields changed; None removes one."""
    values = {**json.loads(slim_spec("D").to_json()), **changes}
    return json.dumps({name: value for name, value in values.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "not a model spec: "),
        ("[1, 2]", "not a model spec: "),
        ("{}", "not a model spec: Object missing required field `name`"),
        (changed_json(preprocessing=[1]), "Expected `object`, got `array` - at `$.preprocessing`"),
        (changed_json(preprocessing={}), "Object missing required field `mean_rgb` - at `$.preprocessing`"),
        (changed_json(preprocessing={"mean_rgb": [0, "x", 0]}), "Expected `int | float`, got `str` - at `$.prepro"),
        (changed_json(preprocessing={"mean_rgb": [0, 0]}), "Expected `array` of length 3"),
        (changed_json(preprocessing={"mean_rgb": [0, 0, 0], "gamma": 1}), "Preprocessing has unknown fields ['gamma']"),
        (changed_json(net=None, classes=None), "Object missing required field `net`"),
        (changed_json(depth=16), "ModelSpec has unknown fields ['depth']: written by a newer version?"),
        (changed_json(crop_px=60), "crop_px must be a multiple"),
        (changed_json(precision="int4"), "precision must be one of fp32, fp16, int8, got 'int4'"),
        (changed_json(classes=7), "not a model spec: Expected `array`, got `int` - at `$.classes`"),
        (changed_json(crop_px="64"), "not a model spec: Expected `int`, got `str` - at `$.crop_px`"),
        ("[" * 100_000, "not a model spec: "),
    ],
)
def test_json_that_is_no_spec(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        ModelSpec.from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_px": 64.0}, "Expected `int`, got `float` - at `$.crop_px`"),
        ({"max_views": 1.5}, "Expected `int`, got `float` - at `$.max_views`"),
        ({"fixed_size": 1}, "Expected `bool`, got `int` - at `$.fixed_size`"),
        ({"classes": {"0": 0}}, "Expected `array`, got `object` - at `$.classes`"),
        ({"classes": ["a", 7]}, "Expected `str`, got `int` - at `$.classes[1]`"),
        ({"outputs": 5}, "Expected `array`, got `int` - at `$.outputs`"),
        ({"source": [1]}, "Expected `object`, got `array` - at `$.source`"),
        ({"source": {"a": {}}}, "Expected `str`, got `object` - at `$.source[...]`"),
        ({"task": []}, "task must be one of classify, box-scr, box-pcr, multibox, got []"),
        ({"task": "multibox"}, "boxes must be above 0 for multibox, got 0"),
        ({"boxes": 3}, "boxes must be 0 for classify, got 3"),
        ({"task": "multibox", "boxes": -1}, "boxes must be above 0 for multibox, got -1"),
        ({"task": "multibox", "boxes": 3}, "fixed_size must be true for multibox, got false"),
        ({"task": "multibox", "boxes": 10**5, "fixed_size": True}, "boxes must be at most 10000, got 100000"),
        ({"interface": {}}, "interface must be one of views, images, nchw, got {}"),
        (
            {"preprocessing": {"mean_rgb": [True, 0, 0]}},
            "Expected `int | float`, got `bool` - at `$.preprocessing.mean",
        ),
        ({"preprocessing": {"mean_rgb": [1e300, 0, 0]}}, "mean_rgb must be between -1e+06 and 1e+06 grey levels, got"),
        ({"preprocessing": {"mean_rgb": [0, 0, 0], "std_rgb": [1, 1, 1e-50]}}, "std_rgb must be between 1e-06 and"),
        ({"crop_px": 2**64, "stride_px": 2**64}, "train_short_px must be at least crop_px = 18446744073709551616"),
        (
            {"train_short_px": [64, 10**9]},
            "train_short_px must be at least crop_px = 64 and in order, got (64, 1000000",
        ),
        ({"test_short_px": 20000}, "test_short_px must be at most 2048, got 20000"),
        ({"test_short_px": -1}, "test_short_px -1 is below crop_px 64"),
        ({"max_views": 10**9}, "max_views must be at most 65536, got 1000000000"),
        ({"width": 1e300}, "width must be at most 1000, got 1e+300"),
        ({"fc_width": 10**30}, "fc_width must be at most 1048576, got 1000000000000000000000000000000"),
        ({"name": "a\0b"}, r"name is 'a\x00b', expected text without control characters"),
        ({"name": "a\tb"}, r"a model's name must be a plain word, got 'a\tb'"),
        ({"name": "ä" * 101}, "name must have at most 200 bytes, got 202"),
        ({"net": "\x1b[2J"}, r"net is '\x1b[2J', expected text without control characters"),
        ({"classes": ["a", "b\x7fc"]}, r"classes[1] is 'b\x7fc', expected text without control characters"),
        ({"classes": ["a", "b\x9b"]}, r"classes[1] is 'b\x9b', expected text without control characters"),
        ({"class_names": ["\x07"] + ["a"] * 9}, r"class_names[0] is '\x07', expected text without control"),
        ({"outputs": ["posterior", "a" * 10_001]}, "outputs[1] has 10001 letters, expected at most 10000"),
        ({"unknown" * 1000: 1}, "ModelSpec has unknown fields ['unknownunkno...nknownunknown']"),
    ],
)
def test_json_of_wrong_types_or_beyond_bounds(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        ModelSpec.from_json(changed_json(**changes))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "\\ud800x"}',
        '{"name": "\ud800x"}',
        '{"crop_px": 1e400}',
        '{"crop_px": 1' + "0" * 5000 + "}",
        '{"width": NaN}',
        '{"source": ' + '{"a":' * 100_000 + "1" + "}" * 100_001,
        " " * (2**24 + 1),
        b"\xff\xfe",
        7,
    ],
)
def test_text_that_is_no_json_of_ours(text: Any) -> None:
    with pytest.raises(SpecError, match="not a model spec: ") as caught:
        ModelSpec.from_json(text)
    assert "\n" not in str(caught.value)


def test_white_space_in_classes_and_whole_numbers_for_widths_are_read() -> None:
    """As lists of classes and importers have had them."""
    spec = slim_spec("D", class_names=("a\tb\nc", *"cdefghijk"), width=1)
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("sides", [(0, 1, 2), (2, 1, 3), (1, 3, 2), (-1, 0, 1)])
def test_extents_are_in_order_and_positive(sides: tuple[int, int, int]) -> None:
    with pytest.raises(SpecError, match="expected 0 < min <= opt <= max, got Extent"):
        Extent(*sides)


def test_an_extent_holds_its_ends() -> None:
    extent = Extent(3, 4, 6)
    assert [n in extent for n in (2, 3, 4, 6, 7)] == [False, True, True, True, False]


def test_a_shape_range_admits_what_is_in_every_extent() -> None:
    one = Extent(1, 1, 2)
    shape = ShapeRange("x", one, Extent(64, 64, 100), Extent(64, 80, 200), Extent(64, 80, 300), Extent(8, 99, 400), one)
    assert shape.admits((64, 200), (64, 300))
    assert shape.admits((100, 64), (300, 64))
    assert not shape.admits((101, 64), (300, 64))
    assert not shape.admits((64, 201), (64, 300))
    assert not shape.admits((63, 64), (64, 64))
    assert not shape.admits((64, 64), (64, 301))
    assert shape.explain() == "x: views of 64x64 to 100x200 px"


def test_a_shape_range_that_contradicts_itself() -> None:
    one = Extent(1, 1, 2)
    with pytest.raises(SpecError, match=r"profile x contradicts itself: views of up to 301 px cannot be cut"):
        ShapeRange("x", one, Extent(64, 64, 100), Extent(64, 80, 301), Extent(64, 80, 300), Extent(8, 99, 400), one)


@pytest.mark.parametrize("image_px", [(375, 500), (500, 375), (400, 400), (300, 800), (800, 300)])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("train", [256, 384, (256, 512)])
def test_default_shapes_admit_every_protocol_up_to_8_to_3(
    train: int | tuple[int, int], protocol: str, image_px: Size
) -> None:
    for spec in (full_spec("D", train_short_px=train), full_spec("googlenet", train_short_px=train)):
        assert out_of_range(plan_views(spec, protocol, image_px), default_shapes(spec), spec) is None


def test_default_shapes_grow_with_the_scales_that_are_asked_for() -> None:
    spec = full_spec("D")
    plan = plan_views(spec, "dense", (375, 500), [768])
    assert out_of_range(plan, default_shapes(spec), spec) is not None
    assert out_of_range(plan, default_shapes(spec, 768), spec) is None


def test_default_shapes_never_admit_less_than_a_crop() -> None:
    for shape in default_shapes(slim_spec("D")):
        assert not shape.admits((63, 64), (64, 64))
        assert not shape.admits((64, 63), (64, 64))


def test_a_foreign_net_of_fixed_size_has_crops_alone() -> None:
    spec = full_spec("foreign", crop_px=227, stride_px=1, fixed_size=True)
    (crops,) = default_shapes(spec, 768)
    assert crops.admits((227, 227), (256, 341)) and not crops.admits((227, 228), (256, 341))
    assert (crops.views.max, crops) == (50, crops_shape(spec))


@pytest.mark.parametrize(("max_views", "views"), [(0, [50, 2, 2]), (1, [1, 1, 1]), (8, [8, 2, 2])])
def test_profiles_hold_no_more_views_than_the_net_takes(max_views: int, views: list[int]) -> None:
    shapes = default_shapes(full_spec("foreign", max_views=max_views))
    assert [shape.views.max for shape in shapes] == [shape.views.opt for shape in shapes] == views


def test_specs_of_before_there_were_foreign_nets_are_read() -> None:
    spec = slim_spec("D")
    old = {key: value for key, value in json.loads(spec.to_json()).items() if key not in ("fixed_size", "max_views")}
    assert ModelSpec.from_json(json.dumps(old)) == spec
