"""tests/infer/tensorrt/test_on_gpu.py: TensorRTEngine on real streams and memory; NOT TensorRT, torch computes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

from . import HELPERS

NEEDS = (*HELPERS, "cuda.bindings.driver", "skimage", "sklearn", "tensorboard")
ROOT = Path(__file__).resolve().parents[2]
CHOSEN = "not rtx and not graphs and not providers"
"""CUDA graphs of torch want memory of their own; the others are of TensorRT-RTX and of ONNX Runtime."""


def run(folder: Path, rehearse: bool) -> tuple[dict[str, Any], list[str]]:
    """The test that weighs the GPU's memory alone, then the others, some at a time where xdist is here."""
    parallel = ["-n", "6"] if importlib.util.find_spec("xdist") and not rehearse else []
    parts = {"A-fp16 and not rtx": []} if rehearse else {f"left and {CHOSEN}": [], f"not left and {CHOSEN}": parallel}
    options = ["-p", "torch_tensorrt", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    command = [sys.executable, "-m", "pytest", "-q", *options, "tests/infer/tensorrt/test_on_gpu.py"]

    cases, codes = list[ElementTree.Element](), []
    for number, (chosen, more) in enumerate(parts.items()):
        xml = folder / f"tests{number}.xml"
        words = [*command, "-k", chosen, *more, "--junit-xml", str(xml), "-o", "junit_family=xunit1"]
        codes.append(subprocess.run(words, cwd=ROOT, env={**os.environ, "VERYDEEP_DOUBLE": "1"}).returncode)
        cases += ElementTree.parse(xml).iter("testcase") if xml.exists() else ()
    return judge(cases, codes)


def judge(cases: list[ElementTree.Element], codes: list[int]) -> tuple[dict[str, Any], list[str]]:
    outcomes, wrong, measured = Counter[str](), list[str](), dict[str, str]()
    for case in cases:
        bad = next((case.find(kind) for kind in ("failure", "error", "skipped") if case.find(kind) is not None), None)
        outcomes["passed" if bad is None else bad.tag] += 1
        if bad is not None and bad.tag != "skipped":
            wrong.append(f"{case.get('name')}: {str(bad.get('message'))[:300]}")
        for each in case.iter("property"):
            measured[f"{case.get('name')}: {each.get('name')}"] = str(each.get("value"))
    if not outcomes["passed"] or (any(codes) and not wrong):
        wrong.append(f"{outcomes['passed']} tests passed, pytest's statuses are {codes}")
    return {"arithmetic": "torch's, not TensorRT's", "tests": dict(outcomes), **measured}, wrong
