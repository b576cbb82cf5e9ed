"""export/torchvision/head.py: heads that people put in place of VGG's three layers, against torch.nn."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision_nets
from safetensors.torch import save_file
from torch import nn

from export.from_torchvision import main
from trainer.checkpoint import load

FLAT = 64 * 49
OneLine = Callable[[], str]


def net_with(classifier: nn.Module | None = None, **layers: nn.Module) -> Any:
    """torchvision's vgg11, an eighth as wide, with another head, or with other layers in its own."""
    net = torchvision_nets.make("vgg11")
    if classifier is not None:
        net.classifier = classifier
    for place, layer in layers.items():
        net.classifier[int(place.removeprefix("at"))] = layer
    torchvision_nets.randomise(net.classifier)
    return net.eval()


def relu(*sizes: int, dropout: bool = True, first: bool = False) -> nn.Sequential:
    """Linear layers of these sizes with ReLU and Dropout between them."""
    layers: list[nn.Module] = [nn.Dropout()] if first else []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU(), *([nn.Dropout()] if dropout else [])]
    return nn.Sequential(*layers[: -2 if dropout else -1])


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize(
    ("net", "said"),
    [
        (lambda: net_with(at6=nn.Linear(32, 4)), ""),
        (lambda: net_with(at6=nn.Sequential(nn.Dropout(), nn.Linear(32, 4))), ""),
        (lambda: net_with(relu(FLAT, 32, 24, 4)), "its layers of 32 and 24 made 32 wide with zeros"),
        (lambda: net_with(relu(FLAT, 24, 32, 4)), "its layers of 24 and 32 made 32 wide with zeros"),
        (lambda: net_with(relu(FLAT, 32, 24, 4, first=True)), "taken for granted: a ReLU after classifier.1 and cl"),
        (lambda: net_with(relu(FLAT, 32, 32, 4, dropout=False)), "a ReLU after classifier.0 and classifier.2"),
        (lambda: net_with(relu(FLAT, 32, 4)), "its two linear layers written as three"),
        (lambda: net_with(nn.Linear(FLAT, 4)), "its one linear layer written as three"),
        (lambda: net_with(nn.Sequential(nn.Dropout(), nn.Linear(FLAT, 4))), "its one linear layer written as three"),
        (
            lambda: net_with(
                nn.Sequential(OrderedDict(fc1=nn.Linear(FLAT, 32), relu=nn.ReLU(), output=nn.Linear(32, 4)))
            ),
            "a ReLU after classifier.fc1",
        ),
        (
            lambda: net_with(nn.Sequential(OrderedDict(hidden=nn.Linear(FLAT, 32), r=nn.ReLU(), b=nn.Linear(32, 4)))),
            "a ReLU after classifier.hidden",
        ),
        (
            lambda: net_with(nn.Sequential(*(nn.Linear(FLAT, 24), nn.ReLU()), nn.Sequential(nn.Linear(24, 4)))),
            "a ReLU after classifier.0",
        ),
    ],
)
def test_heads_that_are_the_same_function(
    net: Callable[[], Any], said: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = net()
    path = tmp_path / f"weights.{kind}"
    if kind == "pth":
        torch.save(theirs.state_dict(), path)
    else:
        save_file(theirs.state_dict(), path)
    assert main([str(path), "-o", str(tmp_path / "a.pt")]) == 0
    assert said in capsys.readouterr().out
    ours = load(tmp_path / "a.pt")
    assert len(ours.spec.classes) == 4
    x = torch.randn(2, 3, 224, 224)
    expected = theirs(x)
    assert float((ours.build()(x)[:, :, 0, 0] - expected).abs().max()) < 1e-4 * float(expected.std())


@torch.inference_mode()
def test_googlenets_replaced_layer(tmp_path: Path) -> None:
    theirs = torchvision_nets.make("googlenet", transform_input=False)
    theirs.fc = nn.Sequential(nn.Dropout(), nn.Linear(128, 4)).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    assert main([str(tmp_path / "weights.pth"), "-o", str(tmp_path / "a.pt"), "--no-transform-input"]) == 0
    x = torch.randn(2, 3, 224, 224)
    assert torch.allclose(load(tmp_path / "a.pt").build()(x)[:, :, 0, 0], theirs(x), atol=1e-4)


@torch.inference_mode()
def test_a_net_for_smaller_crops(tmp_path: Path, one_line: OneLine) -> None:
    """As for CIFAR: no average pool, one position of the last map."""
    theirs = net_with(relu(64, 32, 32, 4))
    theirs.avgpool = nn.Identity()
    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path)
    assert main([str(path), "-o", str(tmp_path / "a.pt")]) == 1
    assert "classifier.0 reads 64 values, expected 3136: 64 channels of 7x7 positions; with a pool to" in one_line()
    assert main([str(path), "-o", str(tmp_path / "a.pt"), "--crop", "32"]) == 0
    checkpoint = load(tmp_path / "a.pt")
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(checkpoint.build()(x)[:, :, 0, 0], theirs(x), atol=1e-4)
    assert (checkpoint.spec.crop_px, checkpoint.spec.test_short_px) == (32, 36)


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (
            lambda: net_with(at6=relu(32, 16, 4)),
            "a head of 4 linear layers (classifier.0, classifier.3, classifier.6.0",
        ),
        (lambda: net_with(nn.Sequential(nn.Linear(FLAT, 8), nn.Linear(8, 4))), "no place for a ReLU between them"),
        (
            lambda: net_with(nn.Sequential(nn.Linear(FLAT, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))),
            "classifier.1.weight in its head is of no linear layer (a batch norm?): another net than ours",
        ),
        (
            lambda: net_with(nn.Sequential(nn.Linear(FLAT, 8), nn.PReLU(), nn.Linear(8, 4))),
            "classifier.1.weight in its",
        ),
    ],
)
def test_heads_of_other_nets(net: Callable[[], Any], said: str, tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "weights.pth"
    torch.save(net().state_dict(), path)
    assert main([str(path), "-o", str(tmp_path / "a.pt")]) == 1
    line = one_line()
    assert said in line and "has no classifier" not in line
