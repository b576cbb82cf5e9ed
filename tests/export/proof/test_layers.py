"""Errors of layers in half precision against an own computation, and what is proposed to be kept in FP32."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_nets import foreign_net, weights
from helpers import loud_checkpoint, slim_spec

from export.from_onnx import ImportRequest, import_model
from export.model.file import metadata
from export.model.precision import check_graph, half_model
from export.model.source import Graphs, Reading
from export.proof.layers import IMAGES, measure_layers, propose, table_of, worst
from export.proof.verify import few_views
from export.to_onnx import export_onnx
from export.to_trt import main
from infer.data.dataset import open_dataset
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import decode
from infer.pixels.render import render
from infer.spec import ModelSpec, Preprocessing
from infer.views import default_scales, plan_views
from trainer.checkpoint import load

Exported = Callable[..., Path]


def graphs_of(checkpoint: Any, folder: Path) -> Graphs:
    source = export_onnx(checkpoint, folder / "m.onnx", interface="nchw", precision="fp16", with_graphs=True)
    assert source.graphs is not None
    return source.graphs


def spec_of(graphs: Graphs) -> ModelSpec:
    return ModelSpec.from_json(metadata(graphs.single)["spec"])


def with_output(model: onnx.ModelProto, name: str) -> onnxruntime.InferenceSession:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return onnxruntime.InferenceSession(changed.SerializeToString())


@pytest.mark.parametrize("layer", ["conv1_1", "relu3_2", "pool5", "fc7"])
def test_errors_are_those_of_an_own_computation(
    layer: str, slim_checkpoint: Exported, miniature_dir: Path, tmp_path: Path
) -> None:
    graphs = graphs_of(load(slim_checkpoint("A")), tmp_path)
    found = {one.layer: one for one in measure_layers(graphs, few_views(spec_of(graphs), miniature_dir, Reading()), {})}
    spec = OnnxEngine(tmp_path / "m.onnx").spec
    differences, values = [], []
    for item in open_dataset(miniature_dir, limit=IMAGES).items:
        pixels = decode(item.file.read_bytes())
        (view,) = plan_views(spec, "center", (pixels.shape[0], pixels.shape[1]), default_scales(spec, "center")).views
        mean, std = (np.array(own, np.float32) for own in (spec.preprocessing.mean_rgb, spec.preprocessing.std_rgb))
        feed = {"input": ((render(pixels, [view], spec) - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)}
        feed = {with_output(graphs.single, layer).get_inputs()[0].name: next(iter(feed.values()))}
        single = with_output(graphs.single, layer).run([layer], feed)[0].astype(np.float64)
        half = with_output(check_graph(graphs.built), layer).run([layer], feed)[0].astype(np.float64)
        differences.append(half - single)
        values.append(single)
    one, difference, value = found[layer], np.array(differences), np.array(values)
    assert one.relative == pytest.approx(np.sqrt((difference**2).sum() / (value**2).sum()), rel=1e-6)
    assert one.largest == pytest.approx(np.abs(difference).max(), rel=1e-6)
    assert one.range_used == pytest.approx(np.abs(value).max() / 65504, rel=1e-6)
    assert 1e-5 < one.relative < 0.01
    assert table_of(list(found.values())).count("\n") == 11 and len(worst(list(found.values()))) == 10


def test_scales_of_calibrate_are_taken_out(slim_checkpoint: Exported, miniature_dir: Path, tmp_path: Path) -> None:
    graphs = graphs_of(load(slim_checkpoint("A")), tmp_path)
    views = few_views(spec_of(graphs), miniature_dir, Reading())
    plain, wrong = (
        next(one for one in measure_layers(graphs, views, exponents) if one.layer == "conv1_1")
        for exponents in ({}, {"conv1_1": 3})
    )
    assert wrong.relative == pytest.approx(7 / 8, rel=1e-3)  # the graph was not rescaled
    assert wrong.range_used == pytest.approx(8 * plain.range_used)


def test_what_overflows_is_named_and_what_helps_is_proposed(
    slim_checkpoint: Exported, miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the proposal passes the gate that refused."""
    loud_checkpoint(slim_checkpoint("A"), tmp_path / "loud.pt")
    arguments = [
        str(tmp_path / "loud.pt"),
        "--verify",
        str(miniature_dir),
        "--target",
        "sm86",
        "--builder",
        "tensorrt-rtx",
    ]
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "| conv3_1 " in said.splitlines()[3]
    chart = (tmp_path / "loud.layers.svg").read_text()  # written though the gate refused
    assert all(f">{name}</text>" in chart for name in ("conv1_1", "fc8", "no finite number", "share of half's range"))
    proposal = re.search(r"--keep-single (\S+) passes on 8 of the images", said)
    assert proposal and proposal[1] == "conv3_1,relu3_1,conv3_2"

    assert main([*arguments, "--keep-single", proposal[1]]) == 0
    sidecar = json.loads((tmp_path / "loud.engine.json").read_text())
    assert sidecar["keep_single"] == proposal[1].split(",")
    assert len(sidecar["verify"]["layers"]) == 10 and sidecar["verify"]["layers"][0]["relative"] < 0.01


def test_without_an_overflow_the_largest_growth_is_kept(
    slim_checkpoint: Exported, miniature_dir: Path, tmp_path: Path
) -> None:
    """A tolerance that half precision cannot meet anywhere is met by FP32 throughout, if by nothing less."""
    graphs = graphs_of(load(slim_checkpoint("A")), tmp_path)
    found = measure_layers(graphs, few_views(spec_of(graphs), miniature_dir, Reading()), {})
    loose = propose(graphs, found, few_views(spec_of(graphs), miniature_dir, Reading()), 1.0)
    assert loose is not None and len(loose[0]) == 1 and loose[1] < 0.01
    assert propose(graphs, found, few_views(spec_of(graphs), miniature_dir, Reading()), -1.0) is None


def test_a_foreign_net_is_measured(miniature_dir: Path, tmp_path: Path) -> None:
    onnx.save(foreign_net(weights()), tmp_path / "theirs.onnx")
    preprocessing = Preprocessing((123.0, 116.0, 103.0), (58.0, 57.0, 56.0), "bilinear")
    import_model(tmp_path / "theirs.onnx", tmp_path / "ours.onnx", ImportRequest(preprocessing, crop_px=64))
    single = onnx.load(tmp_path / "ours.onnx")
    found = measure_layers(
        Graphs(half_model(single), single),
        few_views(ModelSpec.from_json(metadata(single)["spec"]), miniature_dir, Reading()),
        {},
    )
    assert len(found) > 4 and all(0 <= one.relative < 0.01 for one in found)


def test_named_images_alone_are_seen(miniature_dir: Path, tmp_path: Path) -> None:
    names = [item.name for item in open_dataset(miniature_dir).items]
    (tmp_path / "few.txt").write_text("\n".join(names[2:5]))
    found = few_views(slim_spec("A"), miniature_dir, Reading(only=tmp_path / "few.txt"))
    assert len(found) == 3
