"""What stands between an FP16 graph and its engine: the range of its activations, and the gate.

`--calibrate DIR` measures the range on real images and rescales the net where it comes near the end of half precision;
`--verify DIR` lets no graph pass whose posteriors differ from FP32's by more than the tolerance, nor, where its GPU is
here, an engine.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from infer.cuda.device import Device
from infer.cuda.driver import CudaError
from infer.open import open_engine

from ..errors import ModelError
from ..model import file as model_file
from ..model.precision import half_tensors, single_graph
from ..model.request import Proof
from ..model.source import Source
from ..tensorrt.sidecar import write_engine
from . import activation_ranges as ranges
from . import rescale
from .verify import Verdict, verify, verify_engine
from .verify_boxes import BoxVerdict, verify_box_engine, verify_boxes


class GateError(ModelError):
    """A graph that does not pass; one line."""


def prove(model: Path, source: Source, rescaled: Path, proof: Proof) -> Source:
    """The source that an engine may be built from, with notes for its sidecar; says on stdout what was found.

    `model` is what the command was given, `source` the FP16 graph made of it or itself. A graph that must be rescaled
    is written to `rescaled`. Raises CalibrationError, RescaleError, VerifyError, GateError.
    """
    half, reference = model_file.read(source.path), _reference(model, source)
    notes: dict[str, Any] = {}
    if proof.calibrate is not None:
        found = ranges.measure(reference, half_tensors(half), proof.calibrate, proof.protocol, proof.limit)
        exponents = rescale.exponents(half, found.largest)
        notes["ranges"] = ranges.as_json(found, exponents)
        print(ranges.table(found, exponents), flush=True)
        for line in found.unreadable:
            print(line, flush=True)
        changed = sum(exponent != 0 for exponent in exponents.values())
        if changed:
            half = rescale.rescaled(half, exponents, _weights(reference))
            model_file.save(half, rescaled)
            source = dataclasses.replace(source, path=rescaled)
            print(f"{rescaled}: {changed} of {len(exponents)} half tensors rescaled by powers of two", flush=True)
    if proof.verify is not None:
        gate = verify if source.spec.task == "classify" else verify_boxes
        verdict = gate(reference, half, proof.verify, proof.protocol, proof.limit)
        notes["verify"] = _pass(verdict, source.path, proof)
    return dataclasses.replace(source, notes={**source.notes, **notes})


def prove_engine(model: Path, source: Source, plan: bytes, sidecar: dict[str, Any], proof: Proof) -> dict[str, Any]:
    """A note for the sidecar of a plan that was built but not written: the engine's own verdict, where its GPU is here;
    says on stdout what was found, or why nothing was. Raises VerifyError, GateError, EngineError.
    """
    reason = not_here(sidecar)
    if reason is not None:
        print(f"the engine itself was not run on the images of --verify: {reason}", flush=True)
        return {}
    assert proof.verify is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.engine")
        write_engine(path, plan, sidecar)
        engine = open_engine(path, self_test=True)
        try:
            gate = verify_engine if source.spec.task == "classify" else verify_box_engine
            verdict = gate(_reference(model, source), engine, proof.verify, proof.protocol, proof.limit)
        finally:
            engine.close()
    return {"verify_engine": _pass(verdict, source.path, proof)}


def not_here(sidecar: dict[str, Any]) -> str | None:
    """Why the plan cannot run on this machine's first GPU; None where it can."""
    try:
        device = Device()
    except CudaError as error:
        return f"no GPU here ({error})"
    target = device.target
    device.close()
    if target in sidecar["targets"] or sidecar["options"].get("hardware_compatible"):
        return None
    return f"it is for {', '.join(sidecar['targets'])}, the GPU here is {target}"


def _pass(verdict: Verdict | BoxVerdict, path: Path, proof: Proof) -> dict[str, Any]:
    """Says the verdict and returns it for the sidecar. Raises GateError where it does not pass."""
    print("\n".join(verdict.lines()), flush=True)
    if not verdict.passes(proof.tolerance):
        raise GateError(
            f"{path}: {verdict.worst}, --tolerance is {proof.tolerance:g}, so there is no engine: {_advice(proof)}"
        )
    return {**dataclasses.asdict(verdict), "tolerance": proof.tolerance}


def _advice(proof: Proof) -> str:
    if proof.calibrate is None:
        return "try --calibrate DIR, which rescales a net that leaves half's range, or --precision fp32"
    return "build with --precision fp32"


def _reference(model: Path, source: Source) -> onnx.ModelProto:
    """The FP32 graph of what the command was given; of an FP16 graph, itself without rounding but of its weights."""
    if model.suffix == ".pt":
        from trainer import checkpoint as checkpoints

        from ..graph.view_graph import write_graph

        checkpoint = checkpoints.load(model)
        spec = dataclasses.replace(source.spec, precision="fp32")
        outputs = [output.name for output in model_file.read_graph(source.path).graph.output]
        single = write_graph(checkpoint.build(), spec, outputs)
        helper.set_model_props(single, {"spec": spec.to_json()})
        return single
    given = model_file.read(model)
    return given if not half_tensors(given) else single_graph(given)


def _weights(reference: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    floats = (tensor for tensor in reference.graph.initializer if tensor.data_type == TensorProto.FLOAT)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in floats}
