"""The extra `build`: from an ONNX model to an engine without torch, and a line where a command needs more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from foreign_nets import foreign_net, weights
from paths import ROOT

pytest.importorskip("tensorrt_rtx")
pytestmark = pytest.mark.processes
Exported = Callable[..., Path]

ABSENT = (
    *("torch", "torchvision", "safetensors", "tensorboard"),
    *("scipy", "sklearn", "pyarrow", "matplotlib", "jinja2", "yaml", "ray"),
)
"""What `pip install 'verydeep[build,onnx,tensorrt-rtx]'` does not install."""

STEPS = """
import sys
from export.from_onnx import main as from_onnx
from export.to_check import main as to_check
from export.to_triton import main as to_triton
from export.to_trt import main as to_trt
from infer.__main__ import main as infer

rtx = ["--builder", "tensorrt-rtx", "--target", "sm86"]
photo, photos = sys.argv[1:]
assert to_trt(["ours.onnx", *rtx, "--calibrate", photos, "--limit", "4"]) == 0
mean = ["--mean", "123,116,103", "--std", "58,57,56", "--crop", "64"]
assert from_onnx(["theirs.onnx", "-o", "imported.onnx", *mean]) == 0
assert to_trt(["imported.onnx", *rtx]) == 0
assert to_check(["imported.fp16.onnx"]) == 0
assert to_triton(["imported.onnx", "-o", "models"]) == 0
assert infer([photo, "--engine", "imported.fp16.onnx"]) == 0
assert not [name for name in sys.modules if name.partition(".")[0] == "torch" and sys.modules[name] is not None]
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a process that finds none of ABSENT."""
    lines = "".join(f"sys.modules[{name!r}] = None\n" for name in ABSENT)
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "sitecustomize.py").write_text(f"import sys\n{lines}")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "absent"), str(ROOT)])}


def test_from_a_model_to_an_engine(
    exported: Exported, miniature_dir: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ours.onnx").write_bytes(exported("A", precision="fp16").read_bytes())
    onnx.save(foreign_net(weights()), tmp_path / "theirs.onnx")
    photo = next(
        path
        for path in sorted(miniature_dir.rglob("*"))
        if path.is_file() and path.suffix.lower() in (".jpeg", ".jpg", ".png")
    )
    words = [sys.executable, "-c", STEPS, str(photo), str(miniature_dir)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"ours.engine", "imported.engine", "imported.fp16.onnx", "imported.fp16.check.onnx"} <= set(
        os.listdir(tmp_path)
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["ckpt.pt"], "torch: not installed, expected the extra 'trainer': pip install 'verydeep[trainer]'"),
        (["ours.onnx", "--verify", "."], "expected the extra 'evaluation': pip install 'verydeep[evaluation]'"),
    ],
)
def test_what_needs_more_says_so(
    arguments: list[str], line: str, exported: Exported, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ours.onnx").write_bytes(exported("A", precision="fp16").read_bytes())
    (tmp_path / "ckpt.pt").write_bytes(b"any")
    words = [sys.executable, "-m", "export.to_trt", *arguments, "--builder", "tensorrt-rtx", "--target", "sm86"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.endswith(line + "\n")
