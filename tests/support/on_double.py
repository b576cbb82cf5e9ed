"""Programs run on the double of TensorRT (fake_tensorrt.py) and the simulated CUDA driver, in a child process."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import cudasim
from cudasim import Seen

PRELUDE = r"""
import numpy as np, fake_tensorrt
from pathlib import Path
from infer.engine import EngineError
from infer.onnx_engine import OnnxEngine
from infer.views import PROTOCOLS, View, ViewPlan, plan_views
from infer.tensorrt.engine import TensorRTEngine
fake_tensorrt.install("tensorrt", "11.4.0.106")
fake_tensorrt.install("tensorrt_rtx", "1.7.1.116")

def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)

def same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype and found[name].shape == expected[name].shape, name
        assert found[name].tobytes() == expected[name].tobytes(), (name, np.abs(found[name] - expected[name]).max())

OUTPUTS = ("posterior", "posterior_positions", "pixel_sums")
"""


END = "\nassert not fake_tensorrt.live(), fake_tensorrt.live()\n"


def run(code: str, folder: Path, **options: Any) -> Seen:
    return cudasim.run(PRELUDE + textwrap.dedent(code) + END, folder, **options)


def check(seen: Seen) -> None:
    """Ended well, kept every contract, left nothing: of the driver's nor of TensorRT's."""
    assert "BREACH" not in seen.stderr, seen.stderr
    seen.check()
