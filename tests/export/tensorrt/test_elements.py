"""Profiles at whose largest shapes a tensor anywhere in the net is more than TensorRT counts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from engines import OneLine
from helpers import Exported, slim_spec
from onnx import TensorProto, helper, numpy_helper

from export.tensorrt.elements import fit_shapes
from export.tensorrt.profiles import MAX_ELEMENTS, ProfileError, parse_profile, shapes_from_options
from export.to_trt import main
from infer.views import DENSE_VIEWS, Extent, crops_shape, dense_shapes

Checkpoints = Callable[..., Path]
FIRST = 8 * 64 * 64
"""Elements of the first convolution's output, for one crop of a slim VGG-A."""
MOST = MAX_ELEMENTS // FIRST


@pytest.mark.parametrize("interface", ["views", "images", "nchw"])
def test_the_first_convolution_of_many_crops(interface: str, exported: Exported) -> None:
    path, spec = exported("A", interface=interface), slim_spec("A", interface=interface)
    fit_shapes(path, spec, [crops_shape(spec, MOST)])
    sizes = f"{MOST + 1}x8x64x64 = {(MOST + 1) * FIRST} elements"
    with pytest.raises(ProfileError, match=rf"profile crops: slim-a has a tensor of {sizes} there \((conv|relu)1_1\)"):
        fit_shapes(path, spec, [crops_shape(spec, MOST + 1)])


def test_it_is_refused_before_anything_is_built(exported: Exported, tmp_path: Path, one_line: OneLine) -> None:
    pytest.importorskip("tensorrt_rtx")
    argv = [str(exported("A")), "-o", str(tmp_path / "m.engine"), "--precision", "fp32", "--target", "sm86"]
    assert main([*argv, "--profile", f"crops:views={MOST + 1}"]) == 1
    assert f"TensorRT's tensors hold {MAX_ELEMENTS}: use fewer views or smaller ones" in one_line()
    assert list(tmp_path.iterdir()) == []


def test_a_net_that_grows_in_the_middle(tmp_path: Path) -> None:
    """Of a foreign net nothing is known but its graph: a 1x1 convolution to 4,000 channels, then back to 10."""
    spec = dataclasses.replace(slim_spec("A", interface="nchw"), net="foreign")
    sizes = {"wide": (4000, 3, 1, 1), "back": (10, 4000, 1, 1)}
    weights = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in sizes.items()]
    nodes = [
        helper.make_node("Conv", ["input", "wide"], ["grown"], "grown"),
        helper.make_node("Conv", ["grown", "back"], ["small"], "small"),
        helper.make_node("GlobalAveragePool", ["small"], ["posterior"], "posterior"),
    ]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["views", 3, "height", "width"])
    answer = helper.make_tensor_value_info("posterior", TensorProto.FLOAT, ["views", 10, 1, 1])
    graph = helper.make_graph(nodes, "grows", [image], [answer], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "grows.onnx")
    most = MAX_ELEMENTS // (4000 * math.prod((64, 64)))
    fit_shapes(
        tmp_path / "grows.onnx", spec, shapes_from_options(spec, {"crops": parse_profile(f"crops:views={most}")})
    )
    with pytest.raises(ProfileError, match=rf"{most + 1}x4000x64x64 = \d+ elements there \(grown\)"):
        fit_shapes(tmp_path / "grows.onnx", spec, [crops_shape(spec, most + 1)])


def test_dense_views_share_calls_as_far_as_they_are_counted(exported: Exported) -> None:
    """8 views of 4096x8192 px have one element more in the first convolution than there may be."""
    path, spec = exported("A", interface="nchw"), slim_spec("A", interface="nchw")
    sides = Extent(64, 64, 4096), Extent(64, 64, 8192)
    landscape, portrait = dense_shapes(spec, *sides, DENSE_VIEWS)
    assert landscape.views == Extent(1, 8, 16)
    fitted, lines = fit_shapes(path, spec, [landscape, portrait])
    most = MAX_ELEMENTS // (8 * 4096 * 8192)
    assert [shape.views for shape in fitted] == [Extent(1, 4, 4)] * 2 and 4 <= most < 8
    assert lines == tuple(
        f"profile dense {name}: 4 views in a call, 16 are too many" for name in ("landscape", "portrait")
    )
