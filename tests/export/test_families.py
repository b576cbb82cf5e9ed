"""Nets of five families through the import: every protocol they admit, on Pillow's pixels, equal to torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_families as families
from conftest import Photos
from engines import build_engine
from torch import Tensor, nn

from evaluation.ilsvrc import main as evaluate
from export.from_onnx import ImportRequest, import_model
from export.to_triton import main as to_triton
from infer.__main__ import main as infer
from infer.onnx_engine import OnnxEngine
from infer.open import open_engine
from infer.spec import ModelSpec, Preprocessing
from infer.views import PROTOCOLS, PlanError, ViewPlan, check_protocol, default_scales, plan_views

TOLERANCE = 1e-4  # of the class scores' standard deviation
PREPROCESSING = Preprocessing(families.MEAN, families.STD, "bilinear", "ignore", "floor", "torchvision")
CROPS_ALONE = ("vit",)
IN_THE_GRAPH = ("resnet", "vit")
"""Families of which the graph rescales too, as on a GPU, and of which an engine is built: the others take longer."""


BY_SCRIPT: dict[str, dict[str, Any]] = {
    "resnet": {"opset_version": 17},
    "convnext": {"opset_version": 18, "dynamic_axes": {"image": {0: "N"}}},
    "efficientnet": {"opset_version": 13, "dynamic_axes": {"image": {0: "N"}}},
    "mobilenet_v3": {"opset_version": 11, "dynamic_axes": {"image": {0: "N", 2: "h", 3: "w"}}},
    "vit": {"opset_version": 17, "dynamic_axes": {"image": {0: "N"}}},
}
"""How torch.onnx writes these without dynamo, in a tenth of its time (test_from_torch.py has that): one image of one
size, any number, any size."""


def write_by_script(net: nn.Module, path: Path, **options: Any) -> None:
    image = torch.zeros(1, 3, families.CROP_PX, families.CROP_PX)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and its files will be brought for years
        torch.onnx.export(net, (image,), str(path), dynamo=False, input_names=["image"], **options)


@pytest.fixture(scope="module", params=families.FAMILIES)
def family(request: pytest.FixtureRequest, photos: Photos, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(name, torch's net, the model that was imported of it, what was said)."""
    net = families.make(request.param, list(photos.values()))
    folder = tmp_path_factory.mktemp(request.param)
    write_by_script(net, folder / "theirs.onnx", **BY_SCRIPT[request.param])
    request_ = ImportRequest(PREPROCESSING, crop_px=families.CROP_PX)
    imported = import_model(folder / "theirs.onnx", folder / "ours.onnx", request_)
    return request.param, net, folder / "ours.onnx", imported


def plans_of(spec: ModelSpec, photo: Any, shapes: Any) -> dict[str, ViewPlan]:
    """The plans of every protocol that the net admits, at its smallest scale."""
    plans = {}
    for protocol in PROTOCOLS:
        scales = default_scales(spec, protocol)
        try:
            check_protocol(spec, shapes, protocol, scales)
        except PlanError as error:
            assert "a net of fixed size sees crops alone" in str(error)
            continue
        plans[protocol] = plan_views(spec, protocol, photo.shape[:2], scales[:1])
    return plans


def errors(net: nn.Module, spec: ModelSpec, photo: Any, plan: ViewPlan, found: Any, **wrong: Any) -> float:
    """Largest difference of a log posterior from torch's, in deviations of the class scores."""
    inputs: list[Tensor] = []
    for view in plan.views:
        pixels = families.cut_by_pillow(photo, view, spec)
        pixels = pixels[:, ::-1] if wrong.get("mirror") else pixels
        pixels = pixels[:, :, ::-1] if wrong.get("channels") else pixels
        inputs.append(families.network_input(pixels, wrong.get("mean", families.MEAN)))
    expected, deviation = families.log_posteriors(net, inputs)
    return float(np.abs(np.log(found) - expected).max() / deviation)


def test_every_protocol_is_torchs(family: Any, photos: Photos) -> None:
    name, net, path, (spec, lines) = family
    assert (spec.interface, spec.max_views, spec.fixed_size) == ("views", 0, name in CROPS_ALONE), lines
    for rescale in ("host", "graph") if name in IN_THE_GRAPH else ("host",):
        engine = OnnxEngine(path, rescale=rescale)
        photo = photos["cat" if rescale == "host" else "portrait"]
        plans = plans_of(spec, photo, engine.shapes)
        assert plans.keys() == PROTOCOLS.keys() - ({"dense", "multicrop+dense"} if spec.fixed_size else set())
        for protocol, plan in plans.items():
            if rescale == "graph" and "crop+" in protocol:
                continue  # the views of others
            found = engine.run(engine.load([photo]), [plan])["posterior"]
            assert errors(net, spec, photo, plan, found) < TOLERANCE, protocol

        # the same with a planted fault
        plan = plans["center"]
        found = engine.run(engine.load([photo]), [plan])["posterior"]
        for wrong in ({"mean": families.MEAN[::-1]}, {"channels": True}, {"mirror": True}):
            assert errors(net, spec, photo, plan, found, **wrong) > 100 * TOLERANCE, wrong


@pytest.mark.parametrize("family", IN_THE_GRAPH, indirect=True)
def test_engines_in_half(
    family: Any, photos: Photos, miniature_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real builder takes it, calibrated and verified; what its graph rounds (its check graph) is near."""
    pytest.importorskip("tensorrt_rtx")
    name, net, path, (spec, _) = family
    images = ("--calibrate", miniature_dir, "--verify", miniature_dir, "--limit", "4")
    made = build_engine(path, "-o", tmp_path / "m.engine", "--target", "sm86", *images, "--tolerance", "0.05")
    assert "not measured" not in "".join(made.printed) + capfd.readouterr().err
    assert made.sidecar["ranges"]["images"] == 4 and made.sidecar["verify"]["layers"]
    assert made.sidecar["half_tensors"] > 10 and len(made.sidecar["profiles"]) == (2 if spec.fixed_size else 4)
    engine = open_engine(tmp_path / "m.fp16.onnx", self_test=True)
    photo = photos["cat"]
    plan = plan_views(spec, "ten-crop", photo.shape[:2])
    found = engine.run(engine.load([photo]), [plan])["posterior"]
    expected, _ = families.log_posteriors(
        net, [families.network_input(families.cut_by_pillow(photo, view, spec)) for view in plan.views]
    )
    assert 1e-6 < np.abs(found - np.exp(expected)).max() < 0.02, name


def test_a_class_token_for_one_image_is_nchw(photos: Photos, tmp_path: Path) -> None:
    net = families.make("vit", list(photos.values()))
    write_by_script(net, tmp_path / "theirs.onnx", opset_version=17)
    spec, lines = import_model(tmp_path / "theirs.onnx", tmp_path / "ours.onnx", ImportRequest(PREPROCESSING))
    assert (spec.interface, spec.max_views, spec.fixed_size) == ("nchw", 1, True)
    assert lines[-1].startswith("nchw interface: takes one view a call (ONNX Runtime cannot run it (")
    engine, photo = OnnxEngine(tmp_path / "ours.onnx"), photos["cat"]
    plan = plan_views(spec, "center", photo.shape[:2])
    found = engine.run(engine.load([photo]), [plan])["posterior"]
    assert errors(net, spec, photo, plan, found) < TOLERANCE


@pytest.mark.parametrize("family", ["resnet", "vit"], indirect=True)
def test_the_other_commands_take_it(
    family: Any, miniature_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, _, path, (spec, _) = family
    photo = next(iter(sorted((miniature_dir / "ILSVRC2012_img_val").iterdir())))
    assert infer([str(photo), "--engine", str(path), "--protocol", "multicrop"]) == 0
    assert to_triton([str(path), "-o", str(tmp_path / "models")]) == 0
    evaluated = ["--engine", str(path), "--data", str(miniature_dir), "--limit", "3", "--out", str(tmp_path / "out")]
    capfd.readouterr()
    if spec.fixed_size:
        with pytest.raises(SystemExit, match="2"):
            evaluate([*evaluated, "--protocol", "center,dense", "--classes-by-order"])
        assert "a net of fixed size sees crops alone" in capfd.readouterr().err
        assert not list((tmp_path / "out").rglob("*.parquet"))
    else:
        assert evaluate([*evaluated, "--protocol", "center,dense", "--classes-by-order"]) == 0
