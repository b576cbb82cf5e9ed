"""The ends of INT8's scales, against NumPy's own percentiles and histograms."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import random_net, slim_spec
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.graph.view_graph import write_graph
from export.int8.calibration import BINS, calibrate, count_magnitudes, entropy_end, percentile_end
from export.model.file import copied, opened
from export.proof.images import CalibrationError
from infer.data.dataset import list_images
from infer.pixels.decode import read
from infer.views import plan_views


def edges(most: float) -> NDArray[np.float32]:
    return np.linspace(0, most, BINS + 1, dtype=np.float32)


def test_counts_are_those_of_a_histogram() -> None:
    values = np.random.default_rng(0).standard_normal((3, 4, 5, 6)).astype(np.float32)
    most = float(np.abs(values).max())
    found, expected = count_magnitudes(values, most), np.histogram(np.abs(values), BINS, (0, most))[0]
    assert found.sum() == expected.sum() == values.size
    assert np.abs(np.cumsum(found) - np.cumsum(expected)).max() <= 1  # a value on an edge, in FP32
    assert not count_magnitudes(np.zeros(5, np.float32), 0.0).any()


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentiles(percentile: float) -> None:
    values = np.abs(np.random.default_rng(1).standard_normal(200_000)).astype(np.float32)
    most = float(values.max())
    found = percentile_end(percentile)(count_magnitudes(values, most), edges(most))
    assert found == pytest.approx(np.percentile(values, percentile), abs=2 * most / BINS)


def test_entropy_cuts_a_lonely_value_off() -> None:
    """A quarter of the largest value is the least that the tool looks at."""
    values = np.abs(np.random.default_rng(2).standard_normal(200_000)).astype(np.float32)
    values[0] = 100
    assert 25 <= entropy_end(count_magnitudes(values, 100.0), edges(100.0)) < 50


def model_of() -> onnx.ModelProto:
    spec = slim_spec("A")
    model = write_graph(random_net(spec), spec)
    helper.set_model_props(model, {"spec": spec.to_json()})
    return model


def test_the_largest_values_of_a_net(miniature_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, folder = model_of(), miniature_dir / "ILSVRC2012_img_train"
    found = calibrate(model, {"relu1_1", "pool3"}, folder, "ten-crop", 0)
    assert len(found.images) == len(list_images(folder).images) > 32 and "only" not in capsys.readouterr().err
    calibrate(model, {"relu1_1"}, folder, "center", 10)
    assert "only 10 images that can be used, expected 32 or more" in capsys.readouterr().err
    with opened(with_outputs(model, "relu1_1", "pool3"), ["relu1_1", "pool3"]) as engine:
        largest = dict.fromkeys(("relu1_1", "pool3"), 0.0)
        for path, _ in list_images(folder).images:
            image = read(folder / path)
            plan = plan_views(engine.spec, "ten-crop", (image.shape[0], image.shape[1]))
            results = engine.run(engine.load([image]), [plan], list(largest))
            largest = {name: max(most, float(results[name].max())) for name, most in largest.items()}
    ends = found.largest["the largest value"]
    assert ends == pytest.approx(largest) and min(ends.values()) > 0
    for method, others in found.largest.items():
        assert all(0 < others[name] <= ends[name] * 1.001 for name in ends), method
    assert len(list(found.images.few(5))) == 5 and len(next(found.images.few(1))[1]) == 1


def with_outputs(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    changed = copied(model)
    changed.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    return changed


def test_images_that_say_little_or_nothing(
    miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of()
    with pytest.raises(CalibrationError, match="no images below it: --calibrate takes a folder"):
        calibrate(model, {"relu1_1"}, tmp_path, "center", 0)

    one = next(path for path in (miniature_dir / "ILSVRC2012_img_train").iterdir() if path.is_dir())
    shutil.copytree(one, tmp_path / "one")
    shutil.copy(next(one.glob("*.JPEG")), tmp_path / "one" / "again.JPEG")
    (tmp_path / "one" / "broken.JPEG").write_bytes(b"no image")
    calibrate(model, {"relu1_1"}, tmp_path, "center", 0)
    said = capsys.readouterr().err
    assert "all images are in one folder" in said and "broken.JPEG" in said
    with pytest.raises(CalibrationError, match="tensor nowhere: its range cannot be measured"):
        calibrate(model, {"nowhere"}, tmp_path, "center", 0)


def test_activations_that_no_image_wakes(
    miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scale is not known of zeros alone, and one of nothing would round what others' images give to whole numbers."""
    model = model_of()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "conv1_1.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(tuple(bias.dims), -1e6, np.float32), bias.name))
    found = calibrate(model, {"relu1_1"}, miniature_dir / "ILSVRC2012_img_train", "center", 40)
    assert found.largest["the largest value"] == {"relu1_1": 0}
    assert "1 activations are 0 on all images (relu1_1)" in capsys.readouterr().err
