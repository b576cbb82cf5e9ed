"""Writes VGG-A with random weights as engines for the tests, slim and tiny: slim_engine.py SLIM.onnx [TINY.onnx]"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from helpers import random_net, slim_spec

from export.to_onnx import export_onnx
from trainer.checkpoint import Checkpoint

SPECS = (slim_spec("A"), slim_spec("A", crop_px=32, train_short_px=(32, 40), width=1 / 32, fc_width=8))
for path, spec in zip(sys.argv[1:], SPECS, strict=False):
    export_onnx(Checkpoint(spec, dict(random_net(spec).state_dict())), Path(path))
