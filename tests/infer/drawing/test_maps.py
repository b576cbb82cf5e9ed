"""--maps: heat lies where the positions of the net look, and is what the net says there."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Photos
from helpers import network_input, random_net, slim_spec
from PIL import Image

from export.to_onnx import export_onnx
from infer.__main__ import main
from infer.drawing.maps import BEYOND_PX, draw_maps, heat, shown_size
from infer.engine import EngineError
from infer.onnx_engine import OnnxEngine
from infer.pixels.render import rescale
from infer.spec import ModelSpec, Preprocessing, Size
from trainer import checkpoint
from trainer.nets.zoo import build_net

Exported = Callable[..., Path]


@pytest.mark.parametrize("net", ["A", "D", "googlenet", "googlenet-tv"])
def test_where_receptive_fields_are_centred(net: str) -> None:
    """A NaN reaches whatever looks at it: the first and the last row that a position in the middle sees."""
    spec = slim_spec(net, crop_px=96, train_short_px=108)
    model, height, position = random_net(spec), 1536, 20

    def seen(rows: slice) -> bool:
        x = torch.zeros(1, 3, height, 96)
        x[:, :, rows] = torch.nan
        with torch.inference_mode():
            return bool(model(x)[0, 0, position].isnan().any())

    above = bisect.bisect_left(range(height), True, key=lambda row: seen(slice(0, row)))  # rows 0 to above - 1
    below = bisect.bisect_left(range(height), True, key=lambda row: not seen(slice(row, None)))
    assert 1 < above < below < height  # all of it lies in the image
    middle = (above - 1 + below) / 2
    assert middle == 32 * position + spec.crop_px / 2 + BEYOND_PX.get(net, 0)


def interpolated(positions: torch.Tensor, size: Size, shown: Size, spec: ModelSpec) -> torch.Tensor:
    """torch's own bilinear interpolation of [classes, h', w'] between the centres of receptive fields."""
    axes = []
    for count, side, shown_px in zip(positions.shape[1:], size, shown, strict=True):
        pixel = (torch.arange(shown_px, dtype=torch.float64) + 0.5) * side / shown_px
        centre = spec.crop_px / 2 + (14.5 if spec.net == "googlenet" else 0)
        axes.append((pixel - centre) / 32 / max(count - 1, 1) * 2 - 1)
    y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([x, y], -1)[None]
    return torch.nn.functional.grid_sample(positions[None], grid, "bilinear", "border", align_corners=True)[0]


@pytest.mark.parametrize(
    ("net", "scales", "shown"),
    [("A", [64, 97], (151, 200)), ("A", [128], (128, 170)), ("googlenet", [96, 133], (90, 111))],
)
def test_every_value_is_what_torch_computes(
    net: str, scales: list[int], shown: Size, exported: Exported, slim_checkpoint: Exported, photos: Photos
) -> None:
    engine, model = OnnxEngine(exported(net)), checkpoint.load(slim_checkpoint(net)).build()
    image = np.ascontiguousarray(photos["cat"][:150, :200])
    expected = torch.zeros(10, *shown, dtype=torch.float64)
    for scale in scales:
        rescaled = rescale(image, scale, engine.spec)
        size = (rescaled.shape[0], rescaled.shape[1])
        for mirrored in (False, True):
            pixels = np.ascontiguousarray(rescaled[:, ::-1]) if mirrored else rescaled
            with torch.inference_mode():
                posterior = torch.softmax(model(network_input(pixels, engine.spec))[0].double(), 0)
            own = interpolated(posterior, size, shown, engine.spec)
            expected += (own.flip(2) if mirrored else own) / (2 * len(scales))
    found = heat(engine, image, scales, range(10), shown)
    assert found.shape == (10, *shown)
    assert np.abs(found.sum(0) - 1).max() < 1e-9
    assert np.abs(found - expected.numpy()).max() < 1e-5 < np.ptp(found[0])
    assert (heat(engine, image, scales, [7, 2], shown) == found[[7, 2]]).all()


@pytest.fixture(scope="module")
def brightness(tmp_path_factory: pytest.TempPathFactory) -> OnnxEngine:
    """A net A that is the surer of class 1 the brighter its crop is: every layer hands on one channel."""
    spec = slim_spec("A", preprocessing=Preprocessing((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)))
    net = build_net(spec)
    with torch.no_grad():
        for name, tensor in net.named_parameters():
            tensor.zero_()
            if name.endswith("weight"):
                middle = tensor.shape[2] // 2
                tensor[0, 0, middle, middle] = 1
        net.get_parameter("fc6.weight")[0, 0] = 1 / 4
        fc8 = net.get_parameter("fc8.weight")
        fc8[0, 0], fc8[1, 0] = 0, 8
    path = tmp_path_factory.mktemp("brightness") / "model.onnx"
    export_onnx(checkpoint.Checkpoint(spec, net.state_dict()), path, outputs=["score_map"])
    return OnnxEngine(path)


@pytest.mark.parametrize("scales", [[160], [160, 200]])
@pytest.mark.parametrize("patch", [(50, 50), (50, 180), (110, 60), (84, 113), (106, 175)])
def test_heat_moves_with_what_the_net_sees(brightness: OnnxEngine, patch: Size, scales: list[int]) -> None:
    """A bright square of 30 px centred on `patch`; the hottest place lies within a stride of it."""
    image = np.zeros((160, 230, 3), np.uint8)
    image[patch[0] - 15 : patch[0] + 15, patch[1] - 15 : patch[1] + 15] = 255
    found = heat(brightness, image, scales, [1], (160, 230))[0]
    hottest = np.argwhere(found > found.max() - 1e-6).mean(0)
    assert found.max() > 3 * found.min()
    assert np.abs(hottest - patch).max() < 32, hottest


def test_a_crop_sized_image_has_one_value_everywhere(exported: Exported, photos: Photos) -> None:
    engine, image = OnnxEngine(exported("A")), np.ascontiguousarray(photos["cat"][:64, :64])
    found = heat(engine, image, [64], [3], shown_size(image))
    assert np.ptp(found) < 1e-12 and 0 < found.max() < 1


def test_the_picture(photos: Photos) -> None:
    image = photos["portrait"]
    height, width = shown_size(image)
    assert (height, width) == (448, 299)
    heats = np.zeros((4, height, width))
    heats[0, :100], heats[1, :, :100] = 0.5, 1.0
    sheet = np.asarray(
        draw_maps(image, heats, ["a", "b", "a name that is far too long for the panel that it stands over", "d"])
    )
    across, down = width + 16, height + 24 + 24 + 12 + 24
    assert sheet.shape == (2 * down, 3 * across, 3)
    plain, first = sheet[32 : 32 + height, 8 : 8 + width], sheet[32 : 32 + height, across + 8 : across + 8 + width]
    assert first[:100].mean() > plain[:100].mean() + 20  # bright where it is hot
    assert (
        np.abs(first[200:].astype(int) - (0.45 * plain[200:] + 0.55 * np.array([0, 0, 4]))).max() <= 1
    )  # dark elsewhere


def test_the_command(exported: Exported, photos: Photos, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(photos["cat"]).save(tmp_path / "cat.png")
    out = tmp_path / "new" / "maps.png"
    argv = [str(tmp_path / "cat.png"), "--engine", str(exported("A")), "--maps", str(out), "--scales", "72,96"]
    assert main([*argv, "--top", "2"]) == 0
    with Image.open(out) as picture:
        assert picture.size[0] == 3 * (448 + 16)
    assert capsys.readouterr().out.count(" %") == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--protocol", "multicrop"], "--maps shows dense views, not multicrop"),
        (["another.png"], "--maps draws one IMAGE"),
        (["--maps", "out.psd"], "--maps out.psd: expected a picture's name, ending in .png, .jpg, .jpeg, .webp"),
    ],
)
def test_usage(more: list[str], message: str, exported: Exported, tmp_path: Path, one_line: Callable[[], str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--engine", str(exported("A")), "--maps", str(tmp_path / "out.png"), *more, "a.png"])
    assert caught.value.code == 2
    assert message in one_line()


def test_an_engine_without_maps(
    slim_checkpoint: Exported, photos: Photos, tmp_path: Path, one_line: Callable[[], str]
) -> None:
    Image.fromarray(photos["cat"]).save(tmp_path / "cat.png")
    export_onnx(checkpoint.load(slim_checkpoint("A")), tmp_path / "plain.onnx")
    argv = [str(tmp_path / "cat.png"), "--engine", str(tmp_path / "plain.onnx"), "--maps", str(tmp_path / "out.png")]
    assert main(argv) == 1
    assert one_line().endswith("export it again, python -m export.to_onnx ckpt.pt --outputs score_map")
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.png", "none.png: cannot be read (No such file or directory)"), ("cat.png", "cannot be written (Is a dire")],
)
def test_nothing_is_drawn(
    name: str, message: str, exported: Exported, photos: Photos, tmp_path: Path, one_line: Callable[[], str]
) -> None:
    Image.fromarray(photos["cat"]).save(tmp_path / "cat.png")
    (tmp_path / "out.png").mkdir()
    argv = [str(tmp_path / name), "--engine", str(exported("A")), "--maps", str(tmp_path / "out.png")]
    assert main([*argv, "--scales", "64"]) == 1
    assert message in one_line()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.png", "out.png"]


def test_an_engine_that_fails(
    exported: Exported, photos: Photos, tmp_path: Path, one_line: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise EngineError("out of memory")

    monkeypatch.setattr(OnnxEngine, "run", fail)
    Image.fromarray(photos["cat"]).save(tmp_path / "cat.png")
    assert main([str(tmp_path / "cat.png"), "--engine", str(exported("A"))]) == 1
    assert one_line() == "out of memory"
