"""ckpt.pt -> model.onnx."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnx

from infer import self_test
from infer.files import file_sha256
from infer.spec import Interface, Precision
from trainer import checkpoint as checkpoints
from trainer.checkpoint import Checkpoint, CheckpointError
from trainer.torch_engine import TorchEngine

from ..graph.interface import ALWAYS, ALWAYS_OF_BOXES, NOT_OF_BOXES
from ..graph.view_graph import write_graph
from . import file as model_file
from .precision import check_weights
from .source import Graphs, Source


def load_with_source(path: Path, outputs: Sequence[str] = ()) -> Checkpoint:
    """A checkpoint whose spec says which file it came from.

    Raises CheckpointError, also where a box net has no such `outputs`.
    """
    checkpoint = checkpoints.load(path)
    lacking = [name for name in outputs if name in NOT_OF_BOXES and checkpoint.spec.task != "classify"]
    if lacking:
        raise CheckpointError(f"{path}: a box net, which has no {lacking[0]}: leave it out of --outputs")
    source = {**checkpoint.spec.source, "checkpoint_sha256": file_sha256(path)}
    return dataclasses.replace(checkpoint, spec=dataclasses.replace(checkpoint.spec, source=source))


def export_onnx(
    checkpoint: Checkpoint,
    path: Path,
    *,
    interface: Interface = "views",
    precision: Precision = "fp32",
    outputs: Sequence[str] = (),
    infinite_weights: Literal["refuse", "keep"] = "refuse",
    with_graphs: bool = False,
) -> Source:
    """Writes `path`. `outputs` are those of ON_REQUEST, beside the usual ones.

    Raises PrecisionError for weights beyond the range of half, unless they are kept for the graph to be rescaled.
    """
    always = ALWAYS if checkpoint.spec.task == "classify" else ALWAYS_OF_BOXES
    all_outputs = tuple(dict.fromkeys((*always, *outputs)))
    spec = dataclasses.replace(checkpoint.spec, interface=interface, precision=precision, outputs=all_outputs)

    engine = TorchEngine(checkpoint)
    model = write_graph(engine.net, spec)
    if infinite_weights == "refuse":
        check_weights(model)
    expected = self_test.record(engine)
    onnx.helper.set_model_props(model, {"spec": spec.to_json(), "self_test": expected})
    model_file.save(model, path)

    graphs = None
    if with_graphs:
        single_spec = dataclasses.replace(spec, precision="fp32")
        single = write_graph(engine.net, single_spec)
        onnx.helper.set_model_props(single, {"spec": single_spec.to_json()})
        graphs = Graphs(model, single)
    return Source(path, spec, json.loads(expected), graphs=graphs)
