"""infer/views.py: the geometry of every protocol against numbers worked by hand, and what no plan may break."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from helpers import full_spec, slim_spec

from infer.spec import ModelSpec, Preprocessing, Size
from infer.views import (
    PROTOCOLS,
    PlanError,
    View,
    ViewPlan,
    check_protocol,
    default_scales,
    default_shapes,
    merge_plans,
    out_of_range,
    plan_views,
    rescaled_px,
)

IMAGES: list[Size] = [(375, 500), (500, 375), (333, 333), (427, 641), (1200, 451), (31, 47)]
SPECS = {
    "S=256": full_spec("D", train_short_px=256),
    "S=384": full_spec("D", train_short_px=384),
    "S=[256,512]": full_spec("D", train_short_px=(256, 512)),
    "crop 64": slim_spec("D"),
    "googlenet": full_spec("googlenet"),
}


def rounding(long_side: Literal["nearest", "floor"], center: Literal["floor", "torchvision"]) -> ModelSpec:
    preprocessing = Preprocessing((0, 0, 0), long_side_rounding=long_side, center_rounding=center)
    return full_spec("D", preprocessing=preprocessing)


@pytest.mark.parametrize(
    ("image_px", "q", "nearest", "floor"),
    [
        ((375, 500), 256, (256, 341), (256, 341)),  # 341.33
        ((500, 375), 256, (341, 256), (341, 256)),
        ((427, 640), 256, (256, 384), (256, 383)),  # 383.70
        ((640, 427), 512, (767, 512), (767, 512)),  # 767.40
        ((333, 500), 384, (384, 577), (384, 576)),  # 576.58
        ((2, 3), 5, (5, 8), (5, 7)),  # 7.5: a half goes up
        ((4, 7), 6, (6, 11), (6, 10)),  # 10.5
        ((3, 5), 4, (4, 7), (4, 6)),  # 6.67
        ((3, 4), 4, (4, 5), (4, 5)),  # 5.33
        ((300, 300), 224, (224, 224), (224, 224)),
        ((100, 100), 384, (384, 384), (384, 384)),
        ((1, 1), 224, (224, 224), (224, 224)),
    ],
)
def test_rescaled_px(image_px: Size, q: int, nearest: Size, floor: Size) -> None:
    assert rescaled_px(image_px, q, "nearest") == nearest
    assert rescaled_px(image_px, q, "floor") == floor


@pytest.mark.parametrize(
    ("image_px", "ours", "torchvisions"),
    [
        ((256, 341), (16, 58), (16, 58)),  # 58.5: down, and to even
        ((256, 343), (16, 59), (16, 60)),  # 59.5: down, but up to even
        ((343, 256), (59, 16), (60, 16)),
        ((256, 256), (16, 16), (16, 16)),
    ],
)
def test_centre_crop_offsets(image_px: Size, ours: Size, torchvisions: Size) -> None:
    for spec, expected in ((rounding("floor", "floor"), ours), (rounding("floor", "torchvision"), torchvisions)):
        (view,) = plan_views(spec, "center", image_px, [256]).views
        assert view == View(256, (*expected, 224, 224))


def test_torchvision_centre_is_its_own_formula_at_every_side() -> None:
    spec = rounding("floor", "torchvision")
    for side in range(256, 600):
        left = plan_views(spec, "center", (256, side), [256]).views[0].box[1]
        assert left == int(round((side - 224) / 2.0)), side  # noqa: RUF046  as torchvision writes it


@pytest.mark.parametrize("image_px", IMAGES)
@pytest.mark.parametrize(
    ("protocol", "per_scale"),
    [
        ("center", 1),
        ("ten-crop", 10),
        ("dense", 2),
        ("multicrop", 50),
        ("multicrop+dense", 52),
        ("googlenet-144", 36),
    ],
)
def test_number_of_views_and_weights(protocol: str, per_scale: int, image_px: Size) -> None:
    for scales in ([256], [256, 384, 512], [256, 288, 320, 352]):
        plan = plan_views(SPECS["S=256"], protocol, image_px, scales)
        assert len(plan) == len(plan.views) == per_scale * len(scales)
        assert abs(sum(view.weight for view in plan.views) - 1) < 1e-12
        assert Counter(view.short_side_px for view in plan.views) == dict.fromkeys(scales, per_scale)


def test_the_papers_totals() -> None:
    assert len(plan_views(SPECS["S=[256,512]"], "multicrop", (375, 500))) == 150
    assert len(plan_views(SPECS["googlenet"], "googlenet-144", (375, 500))) == 144


def test_multicrop_and_dense_weigh_a_half_each() -> None:
    views = plan_views(SPECS["S=[256,512]"], "multicrop+dense", (375, 500)).views
    crops = [view.weight for view in views if view.size_px == (224, 224)]
    whole = [view.weight for view in views if view.size_px != (224, 224)]
    assert crops == pytest.approx([1 / 300] * 150, abs=1e-15)
    assert whole == pytest.approx([1 / 12] * 6, abs=1e-15)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("image_px", IMAGES)
@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "center"])
def test_views_lie_inside_the_image_in_mirror_pairs(spec: ModelSpec, image_px: Size, protocol: str) -> None:
    plan = plan_views(spec, protocol, image_px)
    for view in plan.views:
        height, width = rescaled_px(image_px, view.short_side_px, "nearest")
        top, left, h, w = view.box
        assert top >= 0
        assert left >= 0
        assert top + h <= height
        assert left + w <= width
        assert min(view.size_px) >= spec.crop_px
    plain = Counter(view for view in plan.views if not view.mirrored)
    mirrored = Counter(replace(view, mirrored=False) for view in plan.views if view.mirrored)
    assert plain == mirrored


@pytest.mark.parametrize("image_px", IMAGES)
@pytest.mark.parametrize("protocol", ["ten-crop", "multicrop"])
def test_crops_reach_all_four_corners(protocol: str, image_px: Size) -> None:
    spec = SPECS["S=256"]
    height, width = rescaled_px(image_px, 256, "nearest")
    boxes = {view.box for view in plan_views(spec, protocol, image_px, [256]).views}
    for top in (0, height - 224):
        for left in (0, width - 224):
            assert (top, left, 224, 224) in boxes


def test_five_by_five_grid_by_hand() -> None:
    plan = plan_views(SPECS["S=256"], "multicrop", (375, 500), [256])  # 256x341: 32 and 117 px of room
    plain = [view.box for view in plan.views if not view.mirrored]
    assert plain == [(top, left, 224, 224) for top in (0, 8, 16, 24, 32) for left in (0, 29, 58, 87, 117)]


@pytest.mark.parametrize("turn", [False, True])
def test_googlenets_squares_by_hand(turn: bool) -> None:
    """256x341: squares at 0, 42, 85; crops at 0 and 32 in each, the centre at 16, and the square itself."""
    image_px = (500, 375) if turn else (375, 500)
    plan = plan_views(SPECS["googlenet"], "googlenet-144", image_px, [256])
    expected = set()
    for square in (0, 42, 85):
        for across, along in ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16)):
            expected.add((across, square + along, 224, 224, None))
        expected.add((0, square, 256, 256, 224))
    if turn:
        expected = {(left, top, h, w, resize) for top, left, h, w, resize in expected}
    assert {(*view.box, view.resize_px) for view in plan.views} == expected
    assert {view.size_px for view in plan.views} == {(224, 224)}


@pytest.mark.parametrize(
    ("spec", "protocol", "scales"),
    [
        ("S=256", "dense", (224, 256, 288)),
        ("S=256", "multicrop", (224, 256, 288)),
        ("S=256", "multicrop+dense", (224, 256, 288)),
        ("S=256", "center", (256,)),
        ("S=256", "ten-crop", (256,)),
        ("S=384", "dense", (352, 384, 416)),
        ("S=384", "center", (384,)),
        ("S=[256,512]", "dense", (256, 384, 512)),
        ("S=[256,512]", "center", (384,)),
        ("S=[256,512]", "ten-crop", (384,)),
        ("googlenet", "googlenet-144", (256, 288, 320, 352)),
        ("crop 64", "dense", (72, 96, 120)),
        ("crop 64", "center", (96,)),
        ("crop 64", "googlenet-144", (73, 82, 91, 100)),  # the paper's, times 64/224
    ],
)
def test_default_scales_are_the_papers(spec: str, protocol: str, scales: tuple[int, ...]) -> None:
    assert default_scales(SPECS[spec], protocol) == scales
    plan = plan_views(SPECS[spec], protocol, (375, 500))
    assert tuple(dict.fromkeys(view.short_side_px for view in plan.views)) == scales


def test_default_scales_of_small_training_scales_stay_at_or_above_the_crop() -> None:
    assert default_scales(slim_spec("D", train_short_px=88), "dense") == (79, 88, 97)
    assert default_scales(full_spec("D", train_short_px=240), "dense") == (224, 240, 272)


def test_default_scales_of_a_net_trained_at_its_crop_are_different() -> None:
    at_the_crop = full_spec("D", train_short_px=224)  # the paper allows any S >= 224
    assert default_scales(at_the_crop, "dense") == (224, 256)
    assert len(plan_views(at_the_crop, "dense", (375, 500))) == 4


@pytest.mark.parametrize(
    ("protocol", "scales", "message"),
    [
        ("centre", None, "unknown protocol 'centre': expected one of center, ten-crop, dense"),
        (
            "dense",
            [256, 223],
            "scale 223 px is below the crop of 224 px that full-d needs: use --scales of 224 or more",
        ),
        ("center", [0], "scale 0 px is below the crop"),
        ("center", [-256], "scale -256 px is below the crop"),
        ("center", [10**9], "scale 1000000000 px: expected at most 65536"),
        ("dense", [65537], "scale 65537 px: expected at most 65536"),
        ("dense", [256, 384, 256], "must be different positive integers, got 256,384,256"),
        ("dense", [], "must be different positive integers, got none"),
    ],
)
def test_plan_errors(protocol: str, scales: list[int] | None, message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        plan_views(SPECS["S=256"], protocol, (375, 500), scales)
    assert "\n" not in str(caught.value)


def test_merged_plans_run_shared_views_once_and_keep_every_posterior() -> None:
    spec = SPECS["S=256"]
    names = ["center", "multicrop", "dense", "multicrop+dense", "ten-crop"]
    plans = [plan_views(spec, name, (375, 500), [256, 384]) for name in names]
    merged = merge_plans(plans[0].image_px, plans)
    keys = [replace(view, weight=1.0) for plan in plans for view in plan.views]
    assert len(merged.plan) == len(set(merged.plan.views)) == len(set(keys)) == 2 * 52 < len(keys)
    assert merged.weights.sum(1) == pytest.approx(np.ones(5), abs=1e-12)
    posterior = np.random.default_rng(0).random((len(merged.plan), 7))
    of_view = dict(zip(merged.plan.views, posterior, strict=True))
    for plan, row, places in zip(plans, merged.weights, merged.places, strict=True):
        expected = sum(view.weight * of_view[replace(view, weight=1.0)] for view in plan.views)
        assert row @ posterior == pytest.approx(expected, abs=1e-12)
        assert [merged.plan.views[place] for place in places] == [replace(view, weight=1.0) for view in plan.views]


def test_merging_keeps_the_weight_of_views_that_coincide() -> None:
    """On a square image GoogLeNet's three squares are one."""
    plan = plan_views(SPECS["googlenet"], "googlenet-144", (300, 300), [256])
    merged = merge_plans(plan.image_px, [plan])
    assert len(plan) == 36
    assert len(merged.plan) == 12
    assert merged.weights == pytest.approx(np.full((1, 12), 3 / 36), abs=1e-15)


def reason(protocol: str, image_px: Size, **options: Any) -> str | None:
    spec = SPECS["S=[256,512]"]
    return out_of_range(plan_views(spec, protocol, image_px, **options), default_shapes(spec), spec)


@pytest.mark.parametrize("image_px", [(1, 1), (7, 500), (500, 7)])
@pytest.mark.parametrize("protocol", ["center", "multicrop", "dense"])
def test_tiny_images_are_out_of_range(protocol: str, image_px: Size) -> None:
    message = reason(protocol, image_px)
    assert message is not None
    assert message.startswith(f"image {image_px[0]}x{image_px[1]} px is too small")
    assert "at least 8 px" in message


def test_dense_views_beyond_8_to_3_are_out_of_range_and_crops_are_not() -> None:
    for turn in (False, True):
        exact, wider = ((800, 300), (801, 300)) if turn else ((300, 800), (300, 801))  # at Q=512: 1365 and 1367
        assert reason("dense", exact) is None
        message = reason("dense", wider)
        assert message is not None
        assert "Q=512" in message
        assert "use --protocol multicrop" in message
        assert "\n" not in message
        assert reason("dense", wider, scales=[256]) is None
        assert reason("multicrop+dense", wider) is not None
        assert reason("multicrop", wider) is None


def test_crops_of_an_image_that_rescales_beyond_the_largest_side_are_out_of_range() -> None:
    assert reason("multicrop", (100, 400)) is None  # 2048 px long at Q=512
    message = reason("multicrop", (100, 401))
    assert message is not None and "use smaller --scales" in message


def test_a_plan_says_its_counts() -> None:
    plan = plan_views(SPECS["S=[256,512]"], "multicrop+dense", (375, 500))
    text = str(plan)
    assert isinstance(plan, ViewPlan)
    assert text.startswith("multicrop+dense of a 375x500 px image: 156 views")
    for part in ("50 of 224x224 at Q=256", "50 of 224x224 at Q=512", "2 of 256x341 at Q=256", "2 of 512x683 at Q=512"):
        assert part in text


def test_a_protocol_that_no_image_can_be_seen_by_is_refused_at_the_start() -> None:
    fixed = slim_spec("A", fixed_size=True)
    shapes = default_shapes(fixed)
    for protocol in ("center", "ten-crop", "multicrop"):
        check_protocol(fixed, shapes, protocol, (80,))
    with pytest.raises(PlanError, match=r"slim-a: dense at Q=80 can see no image of any size \(a net of fixed size"):
        check_protocol(fixed, shapes, "dense", (80,))
    check_protocol(fixed, shapes, "dense", (64,))  # a square at the crop's size
    free = slim_spec("A")
    for protocol in PROTOCOLS:
        check_protocol(free, default_shapes(free), protocol, (72, 96, 120))
