"""OpenVINO beside ours, for benchmarks/int8.py: runs in an environment of its own, which has nothing of ours.

    python openvino_rival.py IMAGES.onnx CALLS.npz SAMPLES.npz

IMAGES.onnx takes u8 [views, h, w, 3]. CALLS.npz holds the calls to be timed, SAMPLES.npz what NNCF calibrates on. A
line of input names a precision, `f32`, `bf16` or `int8`. The answer is a line of JSON: how long all calls took, what
OpenVINO says that it computes in, and the class of each view. Needs openvino and nncf.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino


def main(model: str, calls: str, samples: str) -> None:
    core = openvino.Core()
    ready = list(np.load(calls).values())
    version = {"openvino": openvino.__version__, "device": core.get_property("CPU", "FULL_DEVICE_NAME")}
    print(json.dumps({**version, "capabilities": core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")}), flush=True)

    quantised = Path(calls).with_name("openvino.xml")
    for line in sys.stdin:
        precision = line.strip()
        if precision == "int8" and not quantised.exists():
            _quantise(core, model, samples, quantised)
        print(json.dumps(_timed(core, str(quantised) if precision == "int8" else model, precision, ready)), flush=True)


def _quantise(core: Any, model: str, samples: str, path: Path) -> None:
    """Writes what NNCF makes of a model by its defaults."""
    import nncf

    images = list(np.load(samples).values())
    made = nncf.quantize(core.read_model(model), nncf.Dataset(images), subset_size=len(images))
    openvino.save_model(made, path, compress_to_fp16=False)


def _timed(core: Any, model: str, precision: str, calls: list[Any]) -> dict[str, Any]:
    """All calls after one of each size, which OpenVINO makes kernels for."""
    hint = "f32" if precision == "int8" else precision
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    output = compiled.output("posterior")
    for size in {call.shape: call for call in calls}.values():
        compiled([size])

    started = time.perf_counter(), time.process_time()
    answers = [compiled([call])[output] for call in calls]
    seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    return {
        **dict(zip(("seconds", "seconds_of_cores"), seconds, strict=True)),
        "precision": compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
        "classes": np.concatenate(answers).argmax(1).tolist(),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
