"""Which calls an engine with fixed ranges makes of plans: profiles, splits, atlases. No GPU or library is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from helpers import noise, slim_spec

from infer.engine import EngineError, load_on_host
from infer.pixels.render import render
from infer.spec import ModelSpec, Size
from infer.tensorrt.calls import Call, make_calls
from infer.views import Extent, ShapeRange, View, ViewPlan, crops_shape, default_shapes, few_crops_shape, plan_views

SPEC = slim_spec("A")  # crops of 64 px, at most 50 a call; dense views of up to 146x389 px; images of up to 2048 px
CROPS, LANDSCAPE, PORTRAIT = range(3)


def calls_of(
    protocol: str, sizes: Sequence[Size], spec: ModelSpec = SPEC, shapes: Sequence[ShapeRange] = ()
) -> list[Call]:
    """The calls, after a check that they hold each view once, and (for `views`) the pixels that the host renders."""
    images = load_on_host([noise(size, seed) for seed, size in enumerate(sizes)])
    plans = [plan_views(spec, protocol, size) for size in sizes]
    calls = list(make_calls(images, plans, spec, shapes or default_shapes(spec)))
    assert sorted(place for call in calls for place in call.places) == list(range(sum(map(len, plans))))
    rendered = [
        pixels for image, plan in zip(images.images, plans, strict=True) for pixels in render(image, plan.views, spec)
    ]
    for call in calls:
        if len(call.feed["col_taps"]) == 1:  # rescaled by the host: what the graph sees can be read off
            flat = call.feed["image"].reshape(-1, 3)
            for place, rows, cols in zip(call.places, call.feed["rows"], call.feed["cols"], strict=True):
                assert np.array_equal(flat[rows[:, None] + cols[None]], rendered[place])
    return calls


def described(calls: Sequence[Call]) -> list[tuple[int, int, bool]]:
    """(profile, views, rescaled by the engine) of each call."""
    return [(call.profile, len(call.places), len(call.feed["col_taps"]) > 1) for call in calls]


def test_a_scale_is_a_call_and_dense_views_have_profiles_of_their_own() -> None:
    crops = [(CROPS, 50, True)] * 3
    assert described(calls_of("multicrop+dense", [(90, 130)])) == crops + [(LANDSCAPE, 2, True)] * 3
    assert described(calls_of("multicrop+dense", [(130, 90)])) == crops + [(PORTRAIT, 2, True)] * 3


def test_a_plan_beyond_the_profile_is_split_evenly() -> None:
    crops, *_ = default_shapes(SPEC)
    shapes = [replace(crops, views=Extent(1, 20, 20))]
    assert [len(call.places) for call in calls_of("multicrop", [(90, 130)], shapes=shapes)] == [16, 17, 17] * 3


def test_single_views_of_many_images_share_atlases() -> None:
    sizes = [(70 + seed, 100 + 2 * seed) for seed in range(60)]
    calls = calls_of("center", sizes)
    assert described(calls) == [(CROPS, 50, False), (CROPS, 10, False)]
    assert calls[0].feed["image"].shape == (2 * 64, 31 * 64 + 64, 3)  # in rows of up to 2048 px
    assert described(calls_of("center", sizes[:1])) == [(CROPS, 1, True)]
    assert described(calls_of("ten-crop", sizes[:3])) == [(CROPS, 10, True)] * 3  # enough views of each


def test_few_views_take_the_profile_that_was_tuned_for_few() -> None:
    """The nearest number of views, by its ratio; splits are those of the profile that takes the most."""
    few = few_crops_shape(SPEC)
    for shapes in ((*default_shapes(SPEC), few), (few, *default_shapes(SPEC))):
        names = {shape.name: number for number, shape in enumerate(shapes)}
        assert few.views == Extent(1, 4, 8)
        for protocol, sizes, expected in (
            ("center", [(90, 130)], [("few crops", 1, True)]),
            ("center", [(70 + seed, 100) for seed in range(60)], [("crops", 50, False), ("crops", 10, False)]),
            ("center", [(70 + seed, 100) for seed in range(5)], [("few crops", 5, False)]),
            ("ten-crop", [(90, 130)], [("crops", 10, True)]),
            ("multicrop+dense", [(90, 130)], [("crops", 50, True)] * 3 + [("dense landscape", 2, True)] * 3),
        ):
            found = described(calls_of(protocol, sizes, shapes=shapes))
            assert found == [(names[name], views, rescaled) for name, views, rescaled in expected], protocol

    # of two that take a call the one tuned nearer: 7 of 4 is less than 10 of 7
    ten = crops_shape(SPEC, 10)
    calls = calls_of("center", [(70 + seed, 100) for seed in range(7)], shapes=[ten, few])
    assert described(calls) == [(0, 7, False)]
    calls = calls_of("center", [(70 + seed, 100) for seed in range(6)], shapes=[ten, few])
    assert described(calls) == [(1, 6, False)]


def test_what_few_views_share_must_be_within_their_profile() -> None:
    """An atlas of the crops' profile that is too large for theirs."""
    few = replace(few_crops_shape(SPEC), rescaled_px=Extent(64, 96, 150), source_px=Extent(8, 150, 150))
    calls = calls_of("center", [(70, 100)] * 6, shapes=[*default_shapes(SPEC), few])
    assert calls[0].feed["image"].shape == (64, 6 * 64, 3) and described(calls) == [(CROPS, 6, False)]


def test_an_atlas_ends_where_the_profile_does() -> None:
    crops, *_ = default_shapes(SPEC)
    shapes = [replace(crops, rescaled_px=Extent(64, 128, 150), source_px=Extent(8, 150, 150))]
    calls = calls_of("center", [(70, 100)] * 9, shapes=shapes)
    assert [len(call.places) for call in calls] == [4, 4, 1]
    assert calls[0].feed["image"].shape == (128, 128, 3) and calls[2].feed["image"].shape == (64, 64, 3)


@pytest.mark.parametrize("size", [(2100, 1500), (8, 12)])
def test_what_the_engine_cannot_rescale_the_host_does(size: Size) -> None:
    """A source beyond the profile, or more taps than it holds."""
    shapes = [replace(shape, taps=Extent(1, 3, 3)) if size == (8, 12) else shape for shape in default_shapes(SPEC)]
    calls = calls_of("multicrop+dense", [size], shapes=shapes)
    assert not any(on_device for _, _, on_device in described(calls))
    assert all(max(call.feed["image"].shape) <= 2048 for call in calls)


def test_resized_squares_are_the_hosts() -> None:
    calls = calls_of("googlenet-144", [(200, 260)], slim_spec("googlenet"))
    assert described(calls)[-1] == (CROPS, 24, False) and sum(len(call.places) for call in calls) == 144
    assert all(on_device for _, _, on_device in described(calls)[:-1])


@pytest.mark.parametrize("interface", ["images", "nchw"])
def test_ready_pixels_of_all_images_share_calls(interface: str) -> None:
    spec = slim_spec("A", interface=interface)
    sizes: list[Size] = [(90, 130)] * 7
    images = load_on_host([noise(size, seed) for seed, size in enumerate(sizes)])
    calls = list(make_calls(images, [plan_views(spec, "ten-crop", size) for size in sizes], spec, default_shapes(spec)))
    assert [len(call.places) for call in calls] == [35, 35]
    assert (calls[0].sums is None) == (interface == "images")


def test_a_view_that_no_profile_takes() -> None:
    image = load_on_host([noise((90, 130))])
    odd = ViewPlan("odd", (90, 130), (View(88, (0, 0, 20, 500)),))
    with pytest.raises(EngineError, match=r"slim-a: image 90x130 px at Q=88 needs a view of 20x500 px"):
        list(make_calls(image, [odd], SPEC, default_shapes(SPEC)))
    narrow = [replace(default_shapes(SPEC)[0], rescaled_px=Extent(64, 64, 64), source_px=Extent(8, 64, 64))]
    with pytest.raises(EngineError, match=r"slim-a: image 90x130 px at Q=96 needs a view of 64x64 px from 96x139 px"):
        list(make_calls(image, [plan_views(SPEC, "ten-crop", (90, 130))], SPEC, narrow))
