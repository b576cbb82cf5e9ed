"""--maps: heat lies where the positions of the net look, and is what the net says there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Photos
from helpers import network_input, slim_spec
from PIL import Image

from infer.__main__ import main
from infer.maps import draw, heat, shown_size
from infer.onnx_engine import OnnxEngine
from infer.render import rescale
from infer.views import ViewPlan
from trainer import checkpoint

Exported = Callable[..., Path]


class OnePosition:
    """An engine whose net is sure of class 1 at one place of the image, whatever the view, and of class 0 elsewhere."""

    spec = slim_spec("A", outputs=("posterior", "score_map"))

    def __init__(self, place: tuple[float, float]) -> None:
        self._place = place  # as shares of height and width

    def load(self, images: Sequence[Any]) -> Any:
        return images

    def run(self, image: Any, plans: Sequence[ViewPlan], outputs: Sequence[str]) -> dict[str, Any]:
        assert tuple(outputs) == ("score_map",)
        maps = []
        for view in plans[0].views:
            height, width = view.size_px
            scores = np.zeros((10, -(-height // 32) - 1, -(-width // 32) - 1), np.float32)
            scores[0] = 50
            x = 1 - self._place[1] if view.mirrored else self._place[1]
            places = [
                int(np.clip(round((share * side - 32) / 32), 0, size - 1))
                for share, side, size in zip((self._place[0], x), view.size_px, scores.shape[1:], strict=True)
            ]
            scores[1, places[0], places[1]] = 100
            maps.append(scores)
        return {"score_map": np.stack(maps)}


@pytest.mark.parametrize("place", [(0.4, 0.35), (0.5, 0.7), (0.6, 0.3), (0.4, 0.6)])
@pytest.mark.parametrize("scales", [[160], [160, 192]])
def test_heat_lies_where_the_position_looks(place: tuple[float, float], scales: list[int]) -> None:
    image, shown = np.zeros((150, 210, 3), np.uint8), (300, 420)
    found = heat(OnePosition(place), image, scales, [0, 1], shown)  # type: ignore[arg-type]
    assert found.shape == (2, *shown)
    assert np.abs(found.sum(0) - 1).max() < 1e-9  # posteriors of the two classes that there are
    y, x = np.unravel_index(found[1].argmax(), shown)
    stride = 32 * 300 / 160
    for share, got, side in zip(place, (int(y), int(x)), shown, strict=True):
        assert abs(got - share * side) <= stride


def test_values_at_the_centres_are_the_nets_own(exported: Exported, slim_checkpoint: Exported, photos: Photos) -> None:
    """Where mirrored positions lie on each other: (160 - 64) % 32 = 0. Shown as large as the view."""
    engine, net = OnnxEngine(exported("A")), checkpoint.load(slim_checkpoint("A")).build()
    image = np.ascontiguousarray(photos["cat"][:128, :160])
    rescaled = rescale(image, 128, engine.spec)
    with torch.inference_mode():
        plain, mirrored = (
            torch.softmax(net(network_input(pixels, engine.spec))[0].double(), 0).numpy()
            for pixels in (rescaled, np.ascontiguousarray(rescaled[:, ::-1]))
        )
    expected = (plain + mirrored[..., ::-1]) / 2
    found = heat(engine, image, [128], range(10), (128, 160))
    assert expected.shape == (10, 3, 4)
    for i in range(3):
        for j in range(4):
            centre = found[:, 32 * i + 31 : 32 * i + 33, 32 * j + 31 : 32 * j + 33].mean((1, 2))
            assert np.abs(centre - expected[:, i, j]).max() < 0.02 * np.ptp(expected)
    assert np.abs(found[:, 0, 0] - expected[:, 0, 0]).max() < 1e-5
    assert np.abs(found[:, -1, -1] - expected[:, -1, -1]).max() < 1e-5


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
        draw(image, heats, ["a", "b", "a name that is far too long for the panel that it stands over", "d"])
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
    ],
)
def test_usage(more: list[str], message: str, exported: Exported, tmp_path: Path, one_line: Callable[[], str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["a.png", *more, "--engine", str(exported("A")), "--maps", str(tmp_path / "out.png")])
    assert caught.value.code == 2
    assert message in one_line()


def test_an_engine_without_maps(
    slim_checkpoint: Exported, photos: Photos, tmp_path: Path, one_line: Callable[[], str]
) -> None:
    from export.to_onnx import export_onnx

    Image.fromarray(photos["cat"]).save(tmp_path / "cat.png")
    export_onnx(checkpoint.load(slim_checkpoint("A")), tmp_path / "plain.onnx")
    argv = [str(tmp_path / "cat.png"), "--engine", str(tmp_path / "plain.onnx"), "--maps", str(tmp_path / "out.png")]
    assert main(argv) == 1
    assert one_line().endswith("export it again, python -m export.to_onnx ckpt.pt --outputs score_map")
    assert not (tmp_path / "out.png").exists()
