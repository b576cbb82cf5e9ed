"""docs/own-photos.md: its four commands, as they stand there, on slim weights of torchvision's format and photos."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision_nets
from conftest import Photos
from PIL import Image

from trainer.checkpoint import load

PAGE = Path(__file__).parents[2] / "docs" / "own-photos.md"


@pytest.mark.processes
def test_the_four_commands(photos: Photos, tmp_path: Path) -> None:
    """VGG-D a sixteenth as wide, with crops of 224 px as it is; twelve regions of each photograph are a class."""
    pytest.importorskip("tensorrt_rtx")
    state = torchvision_nets.make("vgg16", classes=1000, width=1 / 16, fc_width=64).state_dict()
    torch.save(state, tmp_path / "vgg16.pth")
    rng = np.random.default_rng(0)
    for name, pixels in photos.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            top, left = (int(rng.integers(0, side - side // 2)) for side in pixels.shape[:2])
            part = pixels[top : top + pixels.shape[0] // 2, left : left + pixels.shape[1] // 2]
            Image.fromarray(part).save(tmp_path / "photos" / name / f"{number:04d}.jpg", quality=92)

    (block,) = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    commands = block.splitlines()
    assert len(commands) == 4 and all(command.startswith("python -m ") for command in commands)
    said = []
    for command in commands:
        words = command.replace("python", sys.executable, 1)
        done = subprocess.run(
            ["bash", "-c", words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(PAGE.parents[1])}, text=True,
            capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)
        assert "Traceback" not in done.stderr
        said.append(done.stdout + done.stderr)

    run = tmp_path / "runs" / "photos"
    made = load(run / "ckpt.pt")
    assert made.spec.classes == tuple(sorted(photos)) and len(made.held_out) == 8
    assert torch.equal(made.weights["conv1_1.weight"], state["features.0.weight"])  # frozen
    assert (run / "ckpt.engine").stat().st_size > 10_000
    assert "8 of 48 images, those of held-out.txt" in said[3]
    assert not any("was trained on" in line for line in said)  # nothing that was kept was learnt from
    rows = json.loads((run / "cost" / "report.json").read_text())["results"]
    assert [(row["protocol"], row["images"]) for row in rows] == [("center", 8), ("dense", 8)] * 2
    assert {row["runtime"].partition("-")[0] for row in rows} == {"torch", "onnxruntime"}
    assert all(row["top1_interval95_percent"][1] > row["top1_error_percent"] for row in rows)
    errors = [row["top1_error_percent"] for row in rows]
    assert min(errors) < 60  # chance is 75
    assert (run / "report.html").exists() and (run / "evaluation" / "report.html").exists()
