"""The graph against torch on Pillow's pixels: class scores, pixels and sums, in every interface and for every feed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import NETS, noise
from onnx import numpy_helper
from parity import TOLERANCE, plans_for, score_error

from infer.onnx_engine import OnnxEngine
from infer.pixels.render import pixel_sums, render
from infer.views import View, ViewPlan, plan_views, rescaled_px
from trainer.checkpoint import load

Exported = Callable[..., Path]


@pytest.mark.parametrize("net", NETS)
def test_views_graph_gives_torchs_scores(net: str, exported: Exported, slim_checkpoint: Exported, photos: Any) -> None:
    for rescale in ("host", "graph"):
        engine = OnnxEngine(exported(net), rescale=rescale)  # type: ignore[arg-type]
        image = photos["cat"]
        assert score_error(engine, slim_checkpoint(net), image, plans_for(engine.spec, image)) < TOLERANCE


@pytest.mark.parametrize("net", ["D", "googlenet"])
@pytest.mark.parametrize("interface", ["images", "nchw"])
def test_plain_interfaces_give_torchs_scores(
    net: str, interface: str, exported: Exported, slim_checkpoint: Exported, photos: Any
) -> None:
    engine = OnnxEngine(exported(net, interface=interface))
    image = photos["portrait"]
    assert score_error(engine, slim_checkpoint(net), image, plans_for(engine.spec, image)) < TOLERANCE


def test_a_perturbed_weight_is_seen(exported: Exported, slim_checkpoint: Exported, photos: Any, tmp_path: Path) -> None:
    model = onnx.load(exported("A"))
    weights = next(i for i in model.graph.initializer if i.name == "conv3_1.weight")
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.001), weights.name))
    onnx.save(model, tmp_path / "perturbed.onnx")
    engine, image = OnnxEngine(tmp_path / "perturbed.onnx"), photos["cat"]
    assert score_error(engine, slim_checkpoint("A"), image, plans_for(engine.spec, image)) > TOLERANCE


@pytest.mark.parametrize("protocol", ["center", "dense", "multicrop", "googlenet-144"])
@pytest.mark.parametrize("size", [(300, 451), (97, 71), (64, 64)])
def test_pixels_in_the_graph_are_pillows(protocol: str, size: tuple[int, int], exported: Exported) -> None:
    image = noise(size)
    host, graph = (OnnxEngine(exported("A"), rescale=how) for how in ("host", "graph"))  # type: ignore[arg-type]
    plan = plan_views(host.spec, protocol, size)
    expected = render(image, plan.views, host.spec)
    for engine in (host, graph):
        by_size: dict[tuple[int, ...], list[int]] = {}
        for place, view in enumerate(plan.views):
            by_size.setdefault(view.size_px, []).append(place)
        for places in by_size.values():  # views of one size, so that they stack
            part = ViewPlan("part", size, tuple(plan.views[p] for p in places))
            results = engine.run(engine.load([image]), [part], ["pixels", "pixel_sums"])
            wanted = np.stack([expected[p] for p in places])
            np.testing.assert_array_equal(results["pixels"].transpose(0, 2, 3, 1), wanted)
            np.testing.assert_array_equal(results["pixel_sums"], pixel_sums(wanted))


def test_an_atlas_gives_what_separate_calls_give(exported: Exported, photos: Any) -> None:
    engine = OnnxEngine(exported("A"))
    images = [photos["cat"], noise((91, 133)), photos["portrait"]]
    for protocol in ("ten-crop", "multicrop+dense"):
        plans = [plan_views(engine.spec, protocol, image.shape[:2]) for image in images]
        together = engine.run(engine.load(images), plans, ["posterior", "pixel_sums"])
        apart = [
            engine.run(engine.load([image]), [plan], ["posterior", "pixel_sums"])
            for image, plan in zip(images, plans, strict=True)
        ]
        np.testing.assert_array_equal(together["pixel_sums"], np.concatenate([a["pixel_sums"] for a in apart]))
        difference = together["posterior"] - np.concatenate([a["posterior"] for a in apart])
        assert np.abs(difference).max() < 1e-6


def test_indices_beyond_the_image_are_clamped(exported: Exported) -> None:
    """Tools like trtexec fill integer inputs with anything."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported("A")), providers=["CPUExecutionProvider"])
    wild = np.full((1, 64), 2**30 - 1, np.int32)
    line, one = np.full(70, -5, np.int32), np.full((1, 70), 1 << 22, np.int32)
    feed = {"image": noise((70, 70)), "col_first": line, "col_taps": one, "row_first": line, "row_taps": one}
    posterior = session.run(["posterior"], {**feed, "rows": wild, "cols": wild})[0]
    assert np.isfinite(posterior).all()


def test_rescaling_uses_pillows_filter_for_bilinear_too(slim_checkpoint: Exported, tmp_path: Path) -> None:
    import dataclasses

    from export.to_onnx import export_onnx

    checkpoint = load(slim_checkpoint("A"))
    preprocessing = dataclasses.replace(checkpoint.spec.preprocessing, filter="bilinear", long_side_rounding="floor")
    spec = dataclasses.replace(checkpoint.spec, preprocessing=preprocessing)
    export_onnx(dataclasses.replace(checkpoint, spec=spec), tmp_path / "m.onnx", outputs=["pixels"])
    engine = OnnxEngine(tmp_path / "m.onnx", rescale="graph")
    image = noise((111, 190))
    plan = ViewPlan("one", (111, 190), (View(80, (0, 0, *rescaled_px((111, 190), 80, "floor"))),))
    got = engine.run(engine.load([image]), [plan], ["pixels"])["pixels"][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(got, render(image, plan.views, engine.spec)[0])
