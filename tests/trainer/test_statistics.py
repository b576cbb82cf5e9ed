"""trainer/statistics.py: mean and components of known colours, the file, and its one-line errors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infer.data.dataset import open_dataset
from infer.pixels.decode import read
from trainer.data.colours import Statistics, StatisticsError, measure
from trainer.statistics import main


def folder_of(root: Path, images: list[np.ndarray]) -> Path:
    (root / "a").mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(root / "a" / f"{number:03}.png")
    return root


def test_colours_drawn_along_known_axes_are_found_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)  # two of these axes have a first entry of the other sign than their largest
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    amounts = rng.normal(size=(40, 64 * 64, 3)) * (30.0, 12.0, 4.0)
    images = (np.array([120.0, 110.0, 130.0]) + amounts @ axes.T).round().clip(0, 255).astype(np.uint8)
    found = measure(open_dataset(folder_of(tmp_path, [image.reshape(64, 64, 3) for image in images]), "train"))
    assert found.images == 40
    assert found.mean_rgb == pytest.approx([120, 110, 130], abs=0.5)
    assert np.sqrt(found.eigenvalues) * 255 == pytest.approx([30, 12, 4], rel=0.02)
    vectors = np.array(found.eigenvectors)
    assert np.abs((vectors * axes).sum(0)) == pytest.approx([1, 1, 1], abs=1e-3)  # columns, whatever their sign
    assert (np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0) > 0).all()


def test_every_image_counts_the_same_whatever_its_size(tmp_path: Path) -> None:
    images = [np.full((10, 10, 3), 0, np.uint8), np.full((50, 80, 3), 255, np.uint8)]
    found = measure(open_dataset(folder_of(tmp_path, images), "train"))
    assert found.mean_rgb == (127.5,) * 3
    assert found.mean_error == pytest.approx((127.5 / math.sqrt(2),) * 3, abs=1e-3)
    assert found.eigenvalues == pytest.approx((0.75, 0, 0), abs=1e-6)  # grey: (1, 1, 1) / sqrt 3, 3 x 0.25
    assert np.array(found.eigenvectors)[:, 0] == pytest.approx([3**-0.5] * 3, abs=1e-5)


def test_of_the_miniature_all_or_a_sample(
    miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = open_dataset(miniature_dir, "train")
    means = [read(item.path).reshape(-1, 3).mean(0) for item in dataset.items]
    assert main(["--data", str(miniature_dir), "-o", str(tmp_path / "s.json")]) == 0
    assert capsys.readouterr().out.startswith(f"mean RGB of {len(means)} images: ")
    whole = Statistics.read(tmp_path / "s.json")
    assert whole == measure(dataset, 0)
    assert whole.mean_rgb == pytest.approx(np.mean(means, 0).tolist(), abs=1e-3)
    assert main(["--data", str(miniature_dir), "--images", "16"]) == 0
    assert "mean RGB of 16 images" in capsys.readouterr().out
    assert measure(dataset, 48).images == 48  # never more than asked for, of however many
    assert measure(dataset, len(means) + 1) == whole
    assert measure(dataset, 16).mean_rgb == pytest.approx(np.mean(means[::4], 0).tolist(), abs=1e-3)


GOOD = {
    "mean_rgb": [1, 2, 3],
    "mean_error": [0, 0, 0],
    "eigenvalues": [0.3, 0.2, 0.1],
    "eigenvectors": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "images": 4,
}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file or directory"),
        ("mean", "JSON is malformed"),
        ("[]", "Expected `object`, got `array`"),
        (json.dumps({**GOOD, "mean_rgb": [1, 2]}), "Expected `array` of length 3"),
        (json.dumps({**GOOD, "eigenvectors": [1, 2, 3]}), "Expected `array`, got `int` - at `$.eigenvectors[0]`"),
        (json.dumps({**GOOD, "eigenvectors": [[1, 0, 0]]}), "expected eigenvectors of three by three numbers"),
        ("[" * 100_000, "no statistics"),
        (json.dumps({**GOOD, "mean_rgb": [1, 2, math.nan]}), "JSON is malformed"),
        (json.dumps({**GOOD, "mean_rgb": [0.5, 0.4, 0.4]}), "expected a mean in grey levels"),
        (json.dumps({**GOOD, "mean_rgb": [100, 100, 300]}), "expected a mean in grey levels"),
        (json.dumps({**GOOD, "eigenvalues": [14000, 200, 100]}), "eigenvalues of RGB in 0 to 1"),
        (json.dumps({**GOOD, "images": 0}).replace('"images": 0', '"images": 1e999'), "Number out of range"),
        (json.dumps({key: value for key, value in GOOD.items() if key != "images"}), "missing required field `images`"),
    ],
)
def test_a_file_that_holds_no_statistics(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StatisticsError, match=r"s\.json: no statistics \(.*expected a file of python -m") as caught:
        Statistics.read(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_mean_s_error_is_that_of_the_images_means(tmp_path: Path) -> None:
    greys = np.random.default_rng(0).integers(0, 256, 300)  # more than are measured at once
    found = measure(open_dataset(folder_of(tmp_path, [np.full((2, 3, 3), grey, np.uint8) for grey in greys]), "train"))
    assert found.mean_rgb == pytest.approx((greys.mean(),) * 3, abs=1e-3)
    assert found.mean_error == pytest.approx((greys.std() / math.sqrt(300),) * 3, abs=1e-3)


def test_an_image_that_is_no_good_is_named(tmp_path: Path, one_line: Callable[[], str]) -> None:
    folder_of(tmp_path, [np.zeros((2, 3, 3), np.uint8)])
    (tmp_path / "a" / "001.png").write_bytes(b"no image")
    assert main(["--data", str(tmp_path)]) == 1
    assert one_line().startswith("a/001.png: ")
    (tmp_path / "a" / "001.png").unlink()
    (tmp_path / "a" / "001.png").symlink_to("nowhere")
    assert main(["--data", str(tmp_path)]) == 1
    assert "a/001.png: cannot be read (No such file or directory) from" in one_line()


def test_usage_and_data_errors(tmp_path: Path, one_line: Callable[[], str]) -> None:
    with pytest.raises(SystemExit):
        main(["--data", "d", "--images", "-1"])
    assert "--images: expected a number of 0 (all) or more, got -1" in one_line()
    assert main(["--data", str(tmp_path / "none")]) == 1
    assert "no such folder" in one_line()
