"""The importer against an independent reader of Caffe models: OpenCV's, up to 4.x, in an environment of its own.

`make test-slow` makes the environment (.venv-caffe) and runs this.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caffe_files import messages, write_caffe
from helpers import NETS, full_spec, random_net, slim_spec
from paths import ROOT

from export.from_caffe import main
from trainer.checkpoint import load
from trainer.nets.lrn import LRN

PYTHON = ROOT / ".venv-caffe" / "bin" / "python"
READ = """
import sys, cv2, numpy as np
net = cv2.dnn.readNetFromCaffe(bytearray(open(sys.argv[1], "rb").read()), bytearray(open(sys.argv[2], "rb").read()))
scores = []
for image in np.load(sys.argv[3]):  # [N, 3, h, w] BGR, mean subtracted
    net.setInput(image[None])
    scores.append(net.forward(sys.argv[5]).ravel())
np.save(sys.argv[4], np.array(scores))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-caffe with OpenCV 4: run `make test-slow`"),
]


def opencv_scores(files: tuple[Path, Path], bgr: Any, classifier: str, folder: Path) -> Any:
    np.save(folder / "input.npy", bgr)
    command = [PYTHON, "-c", READ, *files, folder / "input.npy", folder / "scores.npy", classifier]
    subprocess.run(list(map(str, command)), check=True)
    return np.load(folder / "scores.npy")


def compare(spec: Any, generation: Any, folder: Path, *, spoil: bool = False) -> float:
    """Largest difference of a class score in standard deviations, on two images of noise."""
    files = write_caffe(random_net(spec), folder, generation, spec.crop_px)
    if spoil:
        weights = messages.NetParameter()
        weights.ParseFromString(files[1].read_bytes())
        blob = weights.layer[0].blobs[0]
        values = np.frombuffer(blob.data, "<f4").copy()
        values[:9] *= 1.05
        blob.data = values.tobytes()
    assert main([*map(str, files), "-o", str(folder / "ckpt.pt")]) == 0
    if spoil:
        files[1].write_bytes(weights.SerializeToString())
    rng = np.random.default_rng(0)
    rgb = rng.normal(0, 60, (2, 3, spec.crop_px, spec.crop_px)).astype(np.float32)
    net = load(folder / "ckpt.pt").build()
    for layer in net.modules():
        if isinstance(layer, LRN):
            layer.k = 1.0  # OpenCV does not read LRN's k (its parameter is called bias), so it takes 1 for A-LRN's 2
    with torch.inference_mode():
        ours = net(torch.from_numpy(rgb)).flatten(1).numpy()
    classifier = "loss3/classifier" if spec.net == "googlenet" else "fc8"
    theirs = opencv_scores(files, np.ascontiguousarray(rgb[:, ::-1]), classifier, folder)
    return float(np.abs(ours - theirs).max() / ours.std())


@pytest.mark.parametrize("generation", ["V1", "new"])
@pytest.mark.parametrize("net", NETS)
def test_class_scores_of_slim_nets(net: str, generation: Any, tmp_path: Path) -> None:
    assert compare(slim_spec(net), generation, tmp_path) < 1e-4


@pytest.mark.parametrize(
    ("net", "generation"),
    [("D", "V1"), pytest.param("E", "V1", marks=pytest.mark.full), ("googlenet", "new")],
)
def test_class_scores_of_the_released_sizes(net: str, generation: Any, tmp_path: Path) -> None:
    assert compare(full_spec(net), generation, tmp_path) < 1e-4


@pytest.mark.parametrize("net", ["A", "googlenet"])
def test_a_perturbed_weight_is_seen(net: str, tmp_path: Path) -> None:
    assert compare(slim_spec(net), "new", tmp_path, spoil=True) > 1e-3
