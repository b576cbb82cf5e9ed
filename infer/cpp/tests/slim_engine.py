"""Writes a slim VGG-A with random weights as an engine for the tests: slim_engine.py OUT.onnx"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers import random_net, slim_spec

from export.to_onnx import export_onnx
from trainer.checkpoint import Checkpoint

spec = slim_spec("A")
export_onnx(Checkpoint(spec, dict(random_net(spec).state_dict())), Path(sys.argv[1]))
