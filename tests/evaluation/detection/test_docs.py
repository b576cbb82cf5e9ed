"""docs/detection.md: its commands from data to table, as they stand there, on few scenes and few steps."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Checkpoints

from trainer.checkpoint import load
from trainer.miniature import detection

PAGE = Path(__file__).parents[3] / "docs" / "detection.md"
SHORTER = {"evaluation.proposals": "--jobs 1", "trainer": "--set epochs=1 batch=32 iterations=2"}
"""Words behind the commands; the data are smaller, too."""


@pytest.mark.processes
def test_from_data_to_table(slim_checkpoint: Checkpoints, tmp_path: Path) -> None:
    detection.make(tmp_path / "few", train_scenes=6, val_scenes=3)
    first = tmp_path / "runs" / "mini-googlenet" / "ckpt.pt"
    first.parent.mkdir(parents=True)
    shutil.copy(slim_checkpoint("googlenet"), first)

    block = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[0]
    commands = block.replace("\\\n", " ").splitlines()
    assert len(commands) == 7
    for command in commands:
        words = command.split()
        assert words[:2] == ["python", "-m"]
        if words[2] == "trainer.miniature":
            (tmp_path / "few").rename(tmp_path / words[3])
            continue
        done = subprocess.run(
            [sys.executable, *words[1:], *SHORTER.get(words[2], "").split()], cwd=tmp_path, text=True,
            env={**os.environ, "PYTHONPATH": str(PAGE.parents[1])}, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0 and "Traceback" not in done.stderr, (command, done.stderr)
        if words[2] == "evaluation.detection":
            (photo,) = sorted((tmp_path / "scenes" / "ILSVRC2013_DET_val").iterdir())[:1]
            shutil.copy(photo, tmp_path / "photo.jpg")

    assert load(tmp_path / "runs" / "det" / "ckpt.pt").spec.classes[-1] == "background"
    report = json.loads((tmp_path / "detection" / "report.json").read_text())
    assert report["data"]["images"] == 3 and report["results"][0]["regions"] > 300
    assert 0 <= report["results"][0]["map_percent"] <= 100 and (tmp_path / "found.png").stat().st_size > 1000
