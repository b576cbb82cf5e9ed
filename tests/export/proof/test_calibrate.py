"""Ranges on real images: they equal what torch computes, and images or nets that give none are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from foreign_nets import foreign_net, weights
from helpers import encode, network_input, noise, random_net, slim_spec
from loud import graphs, loud_net

from export.from_onnx import ImportRequest, import_model
from export.model.precision import half_model, half_tensors
from export.proof.calibrate import ActivationRanges, measure_ranges
from export.proof.images import CalibrationError
from infer.pixels.render import render
from infer.spec import Preprocessing
from infer.views import plan_views

Exported = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, photos: Any) -> Path:
    """Three photographs, one of them below a folder, and a file that is none."""
    below = tmp_path / "images" / "more"
    below.mkdir(parents=True)
    for name in ("cat", "china", "astronaut"):
        (below if name == "cat" else below.parent).joinpath(f"{name}.png").write_bytes(encode(photos[name], "PNG"))
    (below / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    return below.parent


@pytest.mark.parametrize("net", ["A-LRN", "googlenet"])
def test_ranges_are_those_of_torch(net: str, folder: Path, photos: Any) -> None:
    """The largest input of every convolution, as hooks see it."""
    spec = slim_spec(net)
    built = random_net(spec)
    single, half = graphs(built, spec)
    ranges = measure_ranges(single, half_tensors(half), folder, "center", 0)
    assert (ranges.images, len(ranges.unreadable)) == (3, 1)
    assert "broken.jpg" in ranges.unreadable[0]
    seen: dict[str, float] = {}

    def hook(name: str) -> Any:
        def record(_: Any, inputs: Any, output: torch.Tensor) -> None:
            seen[name] = max(seen.get(name, 0.0), float(output.abs().max()))

        return record

    for name, layer in built.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(hook(name))
    for name in ("cat", "china", "astronaut"):
        image = photos[name]
        (view,) = render(image, plan_views(spec, "center", image.shape[:2]).views, spec)
        with torch.inference_mode():
            built(network_input(view, spec))
    assert len(seen) > 8
    for name, value in seen.items():
        assert ranges.largest[name] == pytest.approx(value, rel=1e-4), name


def test_limit_spreads_over_the_folder(folder: Path) -> None:
    single, half = graphs(*loud_net("A"))
    few = measure_ranges(single, half_tensors(half), folder, "center", 2)
    assert few.images + len(few.unreadable) == 2


def test_no_usable_image_is_refused(tmp_path: Path) -> None:
    single, half = graphs(*loud_net("A"))
    with pytest.raises(CalibrationError, match="no images below it: --calibrate takes a folder"):
        measure_ranges(single, half_tensors(half), tmp_path, "center", 0)
    (tmp_path / "tiny.png").write_bytes(encode(noise((3, 3)), "PNG"))
    with pytest.raises(CalibrationError, match=r"none of 1 images can be used, first .*tiny\.png: .* too small"):
        measure_ranges(single, half_tensors(half), tmp_path, "center", 0)


def test_a_net_that_is_not_finite_in_fp32_is_refused(folder: Path, tmp_path: Path) -> None:
    net, spec = loud_net("A")
    layers: Any = dict(net.named_modules())
    layers["conv3_1"].weight.data *= 1e38
    single, half = graphs(net, spec)
    with pytest.raises(CalibrationError, match=r"tensor conv3_1 is (inf|nan) in FP32 already"):
        measure_ranges(single, half_tensors(half), folder, "center", 1)


def test_the_table_and_the_sidecar_name_the_ten_worst() -> None:
    values = {f"t{i}": float(i + 1) * 5000 for i in range(14)}
    ranges = ActivationRanges(values, 7, ("a.jpg: broken",))
    exponents = dict.fromkeys(values, 0) | {"t13": -3}
    lines = ranges.table(exponents).splitlines()
    assert len(lines) == 12
    assert "largest on 7 images" in lines[0]
    assert lines[2].split("|")[1:5] == [" t13      ", " 7e+04                 ", " 1.1e+02 %   ", " 2^-3: 13 %      "]
    content: Any = ranges.as_json(exponents)
    assert content["worst"][0] == {"tensor": "t13", "largest": 70_000.0}
    assert (len(content["worst"]), content["rescaled"]) == (10, {"t13": -3})


def test_every_interface_can_be_measured(exported: Exported, folder: Path) -> None:
    """The same views, so the same ranges."""
    found = []
    for interface in ("views", "images", "nchw"):
        model = onnx.load(exported("A", interface=interface))
        names = half_tensors(onnx.load(exported("A", interface=interface, precision="fp16")))
        found.append(measure_ranges(model, names, folder, "ten-crop", 2).largest)
    for other in found[1:]:
        shared = found[0].keys() & other.keys()
        assert len(shared) > 20
        assert {name: other[name] for name in shared} == pytest.approx({name: found[0][name] for name in shared})


def test_the_measured_model_keeps_the_callers(folder: Path) -> None:
    single, half = graphs(*loud_net("A"))
    before = single.SerializeToString()
    measure_ranges(single, half_tensors(half), folder, "center", 1)
    assert single.SerializeToString() == before


def test_a_foreign_net_is_measured_too(folder: Path, tmp_path: Path) -> None:
    """Its half tensors have other names than those of the FP32 graph; nothing was measured, without a word."""
    onnx.save(foreign_net(weights()), tmp_path / "theirs.onnx")
    preprocessing = Preprocessing((123.0, 116.0, 103.0), (58.0, 57.0, 56.0), "bilinear")
    import_model(tmp_path / "theirs.onnx", tmp_path / "ours.onnx", ImportRequest(preprocessing, crop_px=64))
    single = onnx.load(tmp_path / "ours.onnx")
    half = half_model(single)
    names = half_tensors(half)
    found = measure_ranges(single, names, folder, "center", 2)
    assert len(found.largest) >= len(names) - 1 and all(value > 0 for value in found.largest.values())

    with pytest.raises(CalibrationError, match="none of 1 half tensors is in the FP32 graph"):
        measure_ranges(single, ["unknown"], folder, "center", 2)
