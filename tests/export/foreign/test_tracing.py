"""Nets that take another way for larger views: torch traces one way alone, and ONNX does not say for which sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from export.foreign.surgery import ForeignError
from export.foreign.tracing import write_net, write_program
from export.from_onnx import ImportRequest, import_model
from infer.spec import Preprocessing

CROP_PX = 64


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.relu(self.conv(x)).mean((2, 3)))
        return scores


class AtMost(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[2] <= 100 else x[:, :, :64, :64])


class Multiple(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[3] % 32 == 0 else 2 * x)


class Lying(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[2] <= x.shape[3] else x.transpose(2, 3) * 0.5)


class OfPixels(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


def test_a_way_that_depends_on_pixels_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """torch prints the graph that it gives up."""
    with pytest.raises(ForeignError, match=r"torch\.onnx cannot export it"):
        write_net(OfPixels().eval(), CROP_PX, tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (Plain, ""),
        (AtMost, "the net was traced for sides of at most 100 px"),
        (Multiple, "the net takes another way for 149x97 px, where not (shape[3] % 32) == 0"),
        (Lying, "the net takes another way for 149x97 px, where not shape[2] <= shape[3]"),
    ],
)
def test_another_way_for_larger_views(net: type[Plain], reason: str, tmp_path: Path) -> None:
    """Where no reason is given, and only there, ONNX answers for them as the net does."""
    made = net().eval()
    assert write_net(made, CROP_PX, tmp_path / "net.onnx") == reason
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    view = torch.randn(2, 3, 149, 97)
    (found,) = session.run(None, {session.get_inputs()[0].name: view.numpy()})
    assert np.allclose(found, made(view).detach().numpy(), atol=1e-5) == (reason == "")

    request = ImportRequest(Preprocessing((120,) * 3, (60,) * 3, "bilinear"), crop_px=CROP_PX, crops_alone=reason)
    imported = import_model(tmp_path / "net.onnx", tmp_path / "ours.onnx", request)
    assert imported.spec.fixed_size == bool(reason) and (not reason or reason in imported.lines[1])


def test_a_program_that_says_a_limit(tmp_path: Path) -> None:
    open_sizes = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)
    image = torch.zeros(2, 3, CROP_PX, CROP_PX)
    program = torch.export.export(AtMost().eval(), (image,), dynamic_shapes=open_sizes)
    torch.export.save(program, tmp_path / "net.pt2")
    assert (
        write_program(tmp_path / "net.pt2", tmp_path / "net.onnx") == "the net was traced for sides of at most 100 px"
    )
