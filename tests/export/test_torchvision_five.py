"""torchvision's own nets, at full size, through export.from_torch: every protocol, equal to torch; engines in half.

`make test-torchvision`. It prints a row of a table for each.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Photos
from engines import build_engine
from paths import ROOT, SUPPORT
from PIL import Image
from planned import plan_of, protocols_of

from infer.onnx_engine import OnnxEngine
from infer.open import open_engine
from infer.views import PROTOCOLS, plan_views

PYTHON = os.environ.get("VERYDEEP_TORCHVISION_PYTHON")
pytestmark = [
    *(pytest.mark.slow, pytest.mark.full, pytest.mark.torchvision),
    pytest.mark.skipif(not PYTHON, reason="VERYDEEP_TORCHVISION_PYTHON is not set: make test-torchvision"),
]
FIVE = ("resnet50", "efficientnet_b0", "convnext_tiny", "vit_b_16", "mobilenet_v3_large")
TOLERANCE = 1e-4  # of the class scores' standard deviation
HALF_TOLERANCE = 0.02  # of a posterior
PHOTO = "cat"


def in_its_environment(*words: object) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{SUPPORT}"}
    done = subprocess.run([str(PYTHON), *map(str, words)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def photo_dir(photos: Photos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, pixels in photos.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("name", FIVE)
def test_one_of_five(name: str, photos: Photos, photo_dir: Path, tmp_path: Path) -> None:
    script, state, out = SUPPORT / "torchvision_five.py", tmp_path / "state.pth", tmp_path / f"{name}.onnx"
    in_its_environment(script, "make", name, photo_dir, state)
    call = f"torchvision_five:load({name!r}, {str(state)!r})"
    said = in_its_environment("-m", "export.from_torch", call, "--mean", "imagenet", "--name", name, "-o", out)
    (layers,) = re.findall(r"recognised: (.*?), opset", said)

    engine, photo = OnnxEngine(out), photos[PHOTO]
    spec = engine.spec
    assert (spec.interface, spec.max_views, spec.fixed_size) == ("views", 0, name.startswith("vit"))
    assert len(protocols_of(spec)) == len(PROTOCOLS) - (2 if spec.fixed_size else 0)
    (tmp_path / "spec.json").write_text(spec.to_json())
    in_its_environment(
        script, "answer", name, state, photo_dir / f"{PHOTO}.png", tmp_path / "spec.json", tmp_path / "answers.npz"
    )
    expected = np.load(tmp_path / "answers.npz")

    # every protocol, and the distance to what planted faults would give
    protocols, merged = protocols_of(spec), plan_of(spec, photo)
    found = np.log(engine.run(engine.load([photo]), [merged.plan])["posterior"])
    away = np.abs(found - expected["expected"]).max(1) / expected["deviation"]
    errors = {name: float(away[own].max()) for name, own in zip(protocols, merged.places, strict=True)}
    for fault in ("mean", "channels", "mirror"):
        shown = np.abs(found[:1] - expected[fault]).max() / expected["deviation"]
        assert shown > 100 * TOLERANCE, (fault, shown)
    engine.close()

    # in half: built, and its rounded graph run
    started = time.monotonic()
    made = build_engine(out, "-o", tmp_path / "half.engine", "--target", "sm86")
    seconds = time.monotonic() - started
    # on photographs: the self-test's images are noise, where a net of random weights is certain of anything
    half = open_engine(tmp_path / "half.fp16.onnx")
    plan = plan_views(spec, "ten-crop", photo.shape[:2])
    found = half.run(half.load([photo]), [plan])["posterior"]
    cost = float(np.abs(found - np.exp(expected["expected"][merged.places[1]])).max())

    megabytes = (tmp_path / "half.engine").stat().st_size / 1e6
    tensors = f"{made.sidecar['half_tensors']} half, {made.sidecar['float_tensors']} float"
    sides = "224 px only" if spec.fixed_size else "224 px and more"
    worst = max(errors, key=lambda one: errors[one])
    error = f"{errors[worst]:.1e} ({worst})"
    row = (name, layers, sides, len(protocols), error, f"{megabytes:.0f}", tensors, f"{seconds:.0f}", f"{cost:.4f}")
    print(f"\n| {' | '.join(map(str, row))} |")
    assert max(errors.values()) < TOLERANCE, errors
    assert cost < HALF_TOLERANCE
