"""`--provider cuda` of ONNX Runtime for all nets in both precisions: pixels to the bit, posteriors beside the CPU's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import HELPERS

NEEDS = HELPERS
SIZES = ((90, 130), (140, 80), (64, 170), (333, 500))


def run(folder: Path, rehearse: bool) -> tuple[dict[str, Any], list[str]]:
    import numpy as np
    import onnxruntime
    from helpers import NETS, noise, slim_spec, write_checkpoint

    from export.to_onnx import export_onnx
    from infer.onnx_engine import OnnxEngine
    from infer.self_test import TOLERANCE
    from infer.views import PROTOCOLS, plan_views
    from trainer.checkpoint import load

    if not rehearse:
        onnxruntime.preload_dlls()
    provider: Any = "cpu" if rehearse else "cuda"
    found: dict[str, Any] = {"onnxruntime": onnxruntime.__version__, "from": str(Path(onnxruntime.__file__).parent)}
    wrong = []
    for net in NETS[:1] if rehearse else NETS:
        spec = slim_spec(net)
        checkpoint = load(write_checkpoint(folder / f"{net}.pt", spec))
        for precision in ("fp32", "fp16"):
            path = folder / f"{net}.{precision}.onnx"
            export_onnx(checkpoint, path, precision=precision)  # type: ignore[arg-type]
            engine, reference = OnnxEngine(path, provider=provider), OnnxEngine(folder / f"{net}.fp32.onnx")

            most, pixels = 0.0, True
            for seed, size in enumerate(SIZES):
                for protocol in PROTOCOLS:
                    work = [noise(size, seed)], [plan_views(spec, protocol, size)]
                    one, two = (
                        each.run(each.load(work[0]), work[1], ("posterior", "pixel_sums"))
                        for each in (engine, reference)
                    )
                    pixels &= bool(np.array_equal(one["pixel_sums"], two["pixel_sums"]))
                    most = float(np.maximum(most, np.abs(one["posterior"] - two["posterior"]).max()))
            found[f"{net} {precision}"] = f"largest difference of a posterior {most:.2g}"
            if not pixels:
                wrong.append(f"{net} {precision}: other pixels than on the CPU")
            if not most <= TOLERANCE[precision]:
                wrong.append(f"{net} {precision}: a posterior differs by {most:.2g}, at most {TOLERANCE[precision]}")
            engine.close()
    return found, wrong
