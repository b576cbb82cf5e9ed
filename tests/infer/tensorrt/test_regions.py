"""Engines whose views are regions: the inputs that calls have, answered by the engine's own graph on ONNX Runtime.

What the graph sees is compared with what Pillow makes, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from helpers import Checkpoints, noise, slim_spec

from export.graph.frame import add_regions
from export.model import file as model_file
from export.tensorrt.profiles import parse_profile, shapes_from_options
from export.to_onnx import export_onnx
from infer.engine import DeviceImage, load_on_host
from infer.graph_inputs import Packed, profile_entries
from infer.pixels.regions import make_picture, plan_regions
from infer.pixels.render import render
from infer.spec import Filter, ModelSpec, Size
from infer.tensorrt.calls import Call, make_calls
from infer.views import ShapeRange, ViewPlan, default_shapes, dense_shapes, plan_views, with_regions
from trainer.checkpoint import load

SIZES = [(90, 130), (131, 89), (64, 64), (300, 211), (70, 70), (90, 130), (33, 80), (90, 130)]


@pytest.fixture(scope="module")
def session(slim_checkpoint: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    """The graph of an engine with regions, which says what pixels it sees."""
    path = tmp_path_factory.mktemp("regions") / "a.onnx"
    export_onnx(load(slim_checkpoint("A")), path, outputs=["pixels"])
    model = model_file.read(path)
    assert add_regions(model)
    return onnxruntime.InferenceSession(model.SerializeToString())


def gpu_shapes(spec: ModelSpec) -> list[ShapeRange]:
    crops, landscape, _ = default_shapes(spec)
    dense = dense_shapes(spec, landscape.height_px, landscape.width_px, 16)
    return [with_regions(shape) for shape in (crops, *dense)]


def seen(
    session: onnxruntime.InferenceSession,
    protocol: str,
    sizes: Sequence[Size],
    spec: ModelSpec,
    shapes: Sequence[ShapeRange],
    scales: Sequence[int] | None = None,
) -> list[Call]:
    """The calls, after a check that the graph sees in them just what Pillow makes, within the profiles."""
    images = load_on_host([noise(size, seed) for seed, size in enumerate(sizes)])
    plans = [plan_views(spec, protocol, size, scales) for size in sizes]
    return answered(session, images, plans, spec, shapes)


def answered(
    session: onnxruntime.InferenceSession,
    images: DeviceImage,
    plans: Sequence[ViewPlan],
    spec: ModelSpec,
    shapes: Sequence[ShapeRange],
) -> list[Call]:
    """What `seen` does, for loaded images and their plans."""
    calls = list(make_calls(images, plans, spec, shapes))
    parts: list[tuple[Sequence[int], dict[str, Any]]] = []
    for call in calls:
        feed = {name: np.asarray(array) for name, array in call.feed.items()}
        for name, (low, _, high) in profile_entries(shapes[call.profile], "views").items():
            assert all(a <= n <= b for a, n, b in zip(low, feed[name].shape, high, strict=True)), name
        parts.append((call.places, list(session.run(["pixels"], feed)[0])))

    found = {place: pixels for places, own in parts for place, pixels in zip(places, own, strict=True)}
    assert sorted(found) == list(range(sum(map(len, plans))))
    right = [
        pixels for image, plan in zip(images.images, plans, strict=True) for pixels in render(image, plan.views, spec)
    ]
    for place, pixels in enumerate(right):
        assert np.array_equal(found[place].transpose(1, 2, 0), pixels), place
    return calls


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize("protocol", ["center", "ten-crop", "dense", "multicrop+dense", "googlenet-144"])
def test_the_graph_sees_what_pillow_makes(session: onnxruntime.InferenceSession, protocol: str, filter: Filter) -> None:
    spec = slim_spec("A")
    rules = replace(spec.preprocessing, filter=filter)
    spec = replace(spec, preprocessing=rules)
    calls = seen(session, protocol, SIZES, spec, gpu_shapes(spec))
    if protocol == "center":
        assert len(calls) == 1 and isinstance(calls[0].feed["image"], Packed)  # nothing is rescaled by the host


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
def test_regions_of_pictures(session: onnxruntime.InferenceSession, filter: Filter, mirrored: bool) -> None:
    """Any boxes of some images, warped with context: no host makes a region, an image goes up once for its calls."""
    spec = replace(slim_spec("A"), preprocessing=replace(slim_spec("A").preprocessing, filter=filter))
    images = [noise(size, seed) for seed, size in enumerate([(90, 130), (131, 89), (40, 300)])]
    rng = np.random.default_rng(1)
    plans = []
    for image in images:
        size = image.shape[:2]
        plans.append(plan_regions(random_boxes(rng, 70, size), size, spec, mirrored=mirrored))
    loaded = load_on_host([make_picture(image, spec) for image in images])
    calls = answered(session, loaded, plans, spec, gpu_shapes(spec))
    assert all(isinstance(call.feed["image"], Packed) for call in calls)
    assert len({id(call.feed["image"]) for call in calls}) <= 5  # three images alone, two that share a call


def test_thousands_of_regions_and_none(session: onnxruntime.InferenceSession) -> None:
    spec = slim_spec("A")
    image = noise((60, 90))
    loaded = load_on_host([make_picture(image, spec)])
    boxes = random_boxes(np.random.default_rng(0), 1200, (60, 90))
    answered(session, loaded, [plan_regions(boxes, (60, 90), spec)], spec, gpu_shapes(spec))
    assert answered(session, loaded, [plan_regions(boxes[:0], (60, 90), spec)], spec, gpu_shapes(spec)) == []


def random_boxes(rng: np.random.Generator, count: int, image_px: Size) -> Any:
    """Boxes anywhere, the first of the whole image, the second one pixel, the third partly outside."""
    height, width = image_px
    across = np.sort(rng.uniform(1, width, (count, 2)), 1)
    down = np.sort(rng.uniform(1, height, (count, 2)), 1)
    boxes = np.stack([across[:, 0], down[:, 0], across[:, 1], down[:, 1]], 1)
    boxes[:3] = [[1, 1, width, height], [5, 7, 5, 7], [-20, 3, 10, height + 9]]
    return boxes


def test_torchvisions_rounding(session: onnxruntime.InferenceSession) -> None:
    spec = slim_spec("A")
    rules = replace(spec.preprocessing, long_side_rounding="floor", center_rounding="torchvision", filter="bilinear")
    spec = replace(spec, preprocessing=rules)
    for protocol in ("center", "dense", "googlenet-144"):
        seen(session, protocol, SIZES, spec, gpu_shapes(spec))


@pytest.mark.parametrize(
    ("sizes", "protocol", "scales", "profiles"),
    [
        # an image that fills all of a profile whose sides are no whole number of steps
        ([(300, 300), (90, 130), (300, 299)], "center", [96], ["crops:image=300"]),
        # dense views one a call, though an image has two
        ([(90, 130), (90, 130), (131, 89)], "dense", [96, 120], ["dense:views=1"]),
        # squares for which nothing is to be resized, from images that only the dense profiles hold
        ([(128, 200)] * 3, "googlenet-144", [64], ["crops:image=70"]),
    ],
)
def test_images_share_calls_within_odd_profiles(
    session: onnxruntime.InferenceSession,
    sizes: list[Size],
    protocol: str,
    scales: list[int],
    profiles: list[str],
) -> None:
    spec = slim_spec("A")
    options = {option.name: option for option in map(parse_profile, profiles)}
    seen(session, protocol, sizes, spec, [with_regions(s) for s in shapes_from_options(spec, options)], scales)


def test_calls_of_many_images_have_few_shapes(session: onnxruntime.InferenceSession) -> None:
    """A profile of 400 px a side has room for twelve such images, of which a call takes eight; rows, lines, taps
    come in steps, too."""
    spec = slim_spec("A")
    shapes = [with_regions(s) for s in shapes_from_options(spec, {"crops": parse_profile("crops:image=400")})]
    calls = seen(session, "center", [(80 + n % 3, 100) for n in range(20)], spec, shapes)
    assert [len(call.places) for call in calls] == [8, 12]  # the last has what is left
    assert {np.asarray(call.feed["image"]).shape for call in calls} == {(256, 400, 3)}
    assert {call.feed["rows"].shape[1] for call in calls} == {64}
    assert {len(call.feed[f"region_{side}_taps"]) for call in calls for side in ("row", "col")} == {8}
