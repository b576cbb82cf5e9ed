"""Profiles: what --profile means, which ranges are refused, and that all entries follow from one range."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import full_spec, slim_spec

from export.tensorrt.profiles import (
    MAX_ELEMENTS,
    PROFILES,
    ProfileError,
    ProfileOption,
    parse_profile,
    shapes_from_options,
)
from infer.graph_inputs import profile_entries
from infer.views import Extent, ShapeRange, crops_shape, default_shapes, few_crops_shape, out_of_range, plan_views

SHAPE = ShapeRange(
    "dense landscape",
    Extent(1, 2, 3),
    Extent(4, 5, 6),
    Extent(7, 8, 9),
    Extent(4, 11, 12),
    Extent(1, 14, 15),
    Extent(16, 17, 18),
)


def options(*texts: str) -> dict[str, ProfileOption]:
    return {text.partition(":")[0]: parse_profile(text) for text in texts}


def test_entries_of_views_follow_from_the_range() -> None:
    assert profile_entries(SHAPE, "views") == {
        "image": ((1, 1, 3), (14, 14, 3), (15, 15, 3)),
        "col_first": ((4,), (11,), (12,)),
        "col_taps": ((16, 4), (17, 11), (18, 12)),
        "row_first": ((4,), (11,), (12,)),
        "row_taps": ((16, 4), (17, 11), (18, 12)),
        "rows": ((1, 4), (2, 5), (3, 6)),
        "cols": ((1, 7), (2, 8), (3, 9)),
    }


def test_entries_of_plain_interfaces_know_views_and_sides_only() -> None:
    assert profile_entries(SHAPE, "images") == {"images": ((1, 4, 7, 3), (2, 5, 8, 3), (3, 6, 9, 3))}
    assert profile_entries(SHAPE, "nchw") == {"input": ((1, 3, 4, 7), (2, 3, 5, 8), (3, 3, 6, 9))}


def test_defaults_are_those_of_the_spec() -> None:
    spec = full_spec("D")
    crops, *dense = default_shapes(spec)
    assert [shape.views for shape in dense] == [Extent(1, 2, 2)] * 2  # on a CPU
    built = (crops, *(replace(shape, views=Extent(1, 8, 16)) for shape in dense))
    assert shapes_from_options(spec) == (*built, few_crops_shape(spec))
    assert shapes_from_options(spec, options("crops", "dense:")) == built


def test_few_crops_have_a_profile_by_default_and_on_request() -> None:
    """Whoever says which crops there are gets no others."""
    spec = full_spec("D")
    *_, few = shapes_from_options(spec)
    assert (few.name, few.views) == ("few crops", Extent(1, 4, 8))
    assert replace(few, name="crops", views=Extent(1, 50, 50)) == crops_shape(spec)
    assert shapes_from_options(spec, options("dense:max=512x1000"))[-1] == few
    for given in ("crops", "crops:views=20", "batch"):
        assert len(shapes_from_options(spec, options(given))) == 3
        assert shapes_from_options(spec, options(given, "few"))[-1] == few
    asked = shapes_from_options(spec, options("crops:views=20", "few:views=3,image=400"))[-1]
    assert (asked.views, asked.source_px.max) == (Extent(1, 1, 3), 400)

    with pytest.raises(
        ProfileError, match=r"few: 8 views in a call are no fewer than the 8 of profile crops: use fewer"
    ):
        shapes_from_options(spec, options("crops:views=8", "few"))
    assert len(shapes_from_options(slim_spec("A", max_views=8, interface="nchw"))) == 3


def test_options_override_what_they_name() -> None:
    spec = full_spec("D")
    crops, landscape, portrait = shapes_from_options(
        spec, options("crops:views=10", "dense:min=224x256,opt=256x341,max=1024x2048")
    )
    assert crops.views == Extent(1, 10, 10)
    assert crops.height_px == crops.width_px == Extent(224, 224, 224)
    assert landscape.height_px == portrait.width_px == Extent(224, 256, 1024)
    assert landscape.width_px == portrait.height_px == Extent(256, 341, 2048)
    assert landscape.views == portrait.views == Extent(1, 8, 16)
    _, landscape, portrait, _ = shapes_from_options(spec, options("dense:views=2"))
    assert landscape.views == portrait.views == Extent(1, 2, 2)


def test_what_is_not_given_gives_way_to_what_is() -> None:
    spec = full_spec("D")
    default = default_shapes(spec)[1]
    assert (default.height_px, default.width_px) == (Extent(224, 256, 512), Extent(224, 341, 1365))
    for text, short, long in (
        ("dense:max=240x300", Extent(224, 240, 240), Extent(224, 300, 300)),
        ("dense:min=600x700", Extent(600, 600, 600), Extent(700, 700, 1365)),
        ("dense:opt=640x1500", Extent(224, 640, 640), Extent(224, 1500, 1500)),
    ):
        landscape = shapes_from_options(spec, options(text))[1]
        assert (landscape.height_px, landscape.width_px) == (short, long), text


def test_a_larger_dense_range_admits_the_image_that_the_default_refuses() -> None:
    spec = full_spec("D")
    plan = plan_views(spec, "dense", (512, 2048), [512])
    assert "rebuild the engine with a larger --profile" in (out_of_range(plan, default_shapes(spec), spec) or "")
    assert out_of_range(plan, shapes_from_options(spec, options("dense:max=1024x2048")), spec) is None


def test_image_bounds_upload_and_rescaled_image() -> None:
    crops, landscape, portrait = shapes_from_options(full_spec("D"), options("crops:image=400", "dense:image=2000"))
    assert (crops.rescaled_px, crops.source_px) == (Extent(224, 256, 400), Extent(8, 400, 400))
    for shape in (landscape, portrait):
        assert (shape.rescaled_px.max, shape.source_px) == (2000, Extent(8, 500, 2000))


def test_batch_is_crops_for_the_whole_grid() -> None:
    """50 at each of three scales; all of GoogLeNet's 144 too."""
    for spec in (full_spec("D"), full_spec("E", train_short_px=(256, 512)), full_spec("googlenet")):
        crops, landscape, _ = shapes_from_options(spec, options("batch:image=1500"))
        assert crops.views == Extent(1, 150, 150)
        assert crops.views.max == len(plan_views(spec, "multicrop", (375, 500)).views)
        assert crops.views.max >= len(plan_views(spec, "googlenet-144", (375, 500)).views)
        assert crops.source_px.max == 1500 and landscape.views.max == 16
        assert crops_shape(spec).views.max == 50  # and never by default


def test_a_net_of_fixed_size_has_crops_alone() -> None:
    spec = slim_spec("A", fixed_size=True, interface="nchw")
    (crops,) = shapes_from_options(spec, options("crops:views=3"))
    assert crops.views == Extent(1, 3, 3)
    with pytest.raises(ProfileError, match="profile dense: slim-a takes nothing but 64x64 px crops: leave it out"):
        shapes_from_options(spec, options("dense:max=100x100"))


def test_a_net_of_few_views() -> None:
    spec = slim_spec("A", max_views=1, interface="nchw")
    for given in ((), ("crops",), ("crops:views=1",)):
        shapes = shapes_from_options(spec, options(*given))
        assert {shape.views for shape in shapes} == {Extent(1, 1, 1)}, given
    for text, views in (("crops:views=50", 50), ("batch", 150)):
        with pytest.raises(ProfileError, match=f"{views} views in a call, but slim-a takes 1: use crops:views=1"):
            shapes_from_options(spec, options(text))


@pytest.mark.parametrize("text", [keys.example for keys in PROFILES.values()])
def test_examples_in_messages_are_right(text: str) -> None:
    shapes_from_options(full_spec("D"), options(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("square", "unknown profile 'square', expected one of crops, batch, few, dense, auto"),
        ("crops:size=3", r"profile crops has no key 'size', only views, image: write it like crops:views=50"),
        ("dense:size=4", "profile dense has no key 'size', only views, image, min, opt, max: write it like dense:min="),
        ("crops:views=50,views=2", "profile crops names views twice"),
        ("crops:views=0", "cannot read 'crops:views=0': expected whole numbers above 0, like crops:views=50"),
        ("crops:views=-1", "cannot read 'crops:views=-1'"),
        ("crops:views", "cannot read 'crops:views'"),
        ("dense:max=512", "cannot read 'dense:max=512'"),
        ("dense:max=512x1365x3", "cannot read 'dense:max=512x1365x3'"),
    ],
)
def test_unreadable(text: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        parse_profile(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "dense:min=32x64",
            r"profile dense: a view of 32x64 px is below the 64 px that slim-a needs \(its pools shrink it to nothing, "
            r"and the builder would not mind\): use dense:min=64x64",
        ),
        ("dense:max=1365x512", r"names the long side first: write dense:max=512x1365 \(short x long"),
        ("dense:min=100x100,max=90x200", r"short side of 100 \(min\), 90 \(opt\), 90 \(max\) px is out of order"),
        ("dense:min=64x64,opt=64x200,max=64x100", r"long side of 64 \(min\), 200 \(opt\), 100 \(max\) px is out of"),
        ("crops:image=63", "views of up to 64x64 px cannot be cut from images of up to 63 px: use image=64 or more"),
        (
            "dense:image=388",
            "dense landscape: views of up to 146x389 px cannot be cut from .* up to 388 px: use image=389",
        ),
        (
            "dense:max=2048x5461",
            f"gathers 3668170083 elements, TensorRT's tensors hold {MAX_ELEMENTS}: use .* most 4178 px",
        ),
    ],
)
def test_ranges_that_cannot_work(text: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        shapes_from_options(slim_spec("A"), options(text))


def test_image_means_nothing_where_views_arrive_cut() -> None:
    with pytest.raises(ProfileError, match="which the images interface does not have: leave it out"):
        shapes_from_options(slim_spec("A", interface="images"), options("crops:image=512"))
    large = shapes_from_options(slim_spec("A", interface="nchw"), options("dense:max=2048x5461"))
    assert large[1].width_px.max == 5461
