"""trainer/nets/googlenet_tv.py: size, shapes, and torchvision's net said again with its batch norms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision_nets
from conftest import Photos
from helpers import full_spec, random_net, slim_spec, write_checkpoint
from parity import TOLERANCE, plans_for, score_error

from export.to_onnx import export_onnx
from infer.onnx_engine import OnnxEngine
from infer.spec import SpecError
from trainer.__main__ import main as train
from trainer.checkpoint import load
from trainer.nets.googlenet_tv import GoogLeNetTV
from trainer.nets.zoo import build_net

NET = "googlenet-tv"
SLIM = slim_spec(NET, train_short_px=(108, 180), crop_px=96)


def test_full_size_has_torchvisions_parameters() -> None:
    """torchvision documents 6,624,904, of which a batch norm has two for each of 7,280 channels, folded one: a bias."""
    with torch.device("meta"):
        net = build_net(full_spec(NET))
    convolutions = [module for module in net.modules() if isinstance(module, torch.nn.Conv2d)]
    channels = sum(module.out_channels for module in convolutions[:-1])
    assert (len(convolutions), channels) == (58, 7_280)
    assert sum(p.numel() for p in net.parameters()) == 6_624_904 - 7_280
    theirs = torchvision_nets.make("googlenet", classes=1000, width=1)
    assert sum(p.numel() for p in theirs.parameters()) == 6_624_904


@pytest.mark.parametrize(("side", "positions"), [(224, 1), (256, 2), (288, 3), (341, 5), (384, 6), (512, 10)])
def test_score_map_of_the_short_side(side: int, positions: int) -> None:
    """Its pools round up: 341 -> conv 171 -> 85 -> 42 -> 21 -> 11 -> 5 positions of the 7x7 window."""
    with torch.device("meta"):
        net = build_net(full_spec(NET))
    assert net(torch.empty(1, 3, 224, side, device="meta")).shape == (1, 1000, 1, positions)


def test_width_and_crop() -> None:
    net = build_net(slim_spec(NET, width=1 / 4, crop_px=96, train_short_px=108))
    assert isinstance(net, GoogLeNetTV)
    block = net.inception["4b"]  # 160, 112, 224, 24, 64, 64
    sizes = [(layer.out_channels, layer.kernel_size[0]) for layer in block.children() if hasattr(layer, "out_channels")]
    assert sizes == [(40, 1), (28, 1), (56, 3), (6, 1), (16, 3), (16, 1)]
    assert (net.last_pool.kernel_size, net.classifier.in_channels, net.drop.p) == (3, 256, 0.2)


@torch.inference_mode()
def test_one_position_at_the_crop_and_a_map_beyond() -> None:
    net = random_net(SLIM)
    assert net(torch.zeros(2, 3, 96, 96)).shape == (2, 10, 1, 1)
    x = torch.randn(1, 3, 96 + 32, 96 + 96)
    assert net(x).shape == (1, 10, 2, 4)
    assert torch.equal(net.classify(net.penultimate(x)), net(x))
    ((weight, scores),) = net.training_scores(x)
    assert weight == 1 and torch.equal(scores, net(x).mean((2, 3)))


def test_pools_round_up_only() -> None:
    with pytest.raises(SpecError, match="googlenet-tv's pools round up: set pool_rounding to 'ceil'"):
        build_net(slim_spec(NET, pool_rounding="floor"))


def test_from_random_weights_its_norms_take_the_batch_s_statistics(miniature_dir: Path, tmp_path: Path) -> None:
    arguments = ["--recipe", "mini-googlenet", "--set", f"net={NET}", "iterations=2", "batch=8", "width=0.0625"]
    arguments += ["--data", str(miniature_dir), "--out", str(tmp_path), "--final-protocol", "none"]
    assert train(arguments) == 0
    made = load(tmp_path / "ckpt.pt")
    assert made.unfolded["conv1.norm.running_mean"].abs().max() > 0.01
    assert not any(".norm." in name for name in made.weights)


@pytest.mark.parametrize("interface", ["views", "images", "nchw"])
def test_onnx_scores_are_torchs(interface: str, photos: Photos, tmp_path: Path) -> None:
    checkpoint, path = write_checkpoint(tmp_path / "tv.pt", SLIM), tmp_path / "tv.onnx"
    export_onnx(load(checkpoint), path, interface=interface, outputs=["score_map", "features"])  # type: ignore[arg-type]
    engine = OnnxEngine(path)
    assert score_error(engine, checkpoint, photos["cat"], plans_for(SLIM, photos["cat"])) < TOLERANCE


@pytest.mark.slow
def test_full_size_onnx_scores_are_torchs(photos: Photos, tmp_path: Path) -> None:
    checkpoint, path = write_checkpoint(tmp_path / "tv.pt", full_spec(NET)), tmp_path / "tv.onnx"
    spec = load(checkpoint).spec
    for interface in ("views", "images", "nchw"):
        export_onnx(load(checkpoint), path, interface=interface, outputs=["score_map"])  # type: ignore[arg-type]
        assert score_error(OnnxEngine(path), checkpoint, photos["cat"], plans_for(spec, photos["cat"])) < TOLERANCE
