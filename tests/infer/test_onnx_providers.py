"""ONNX Runtime's CUDA and TensorRT providers, as far as a double goes (fake_onnxruntime.py): what they are told."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import fake_onnxruntime
import numpy as np
import onnx
import pytest
from fake_onnxruntime import CUDA, TENSORRT, InferenceSession
from helpers import Exported, noise

from infer.engine import EngineError, Provider
from infer.onnx_engine import OnnxEngine, plan_folder
from infer.open import open_engine
from infer.spec import ModelSpec
from infer.views import PROTOCOLS, plan_views

GPU_PROVIDERS: tuple[Provider, ...] = ("cuda", "tensorrt")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[InferenceSession]:
    """Sessions that the double opened; plans are kept below `tmp_path`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake_onnxruntime.install(monkeypatch)


@pytest.mark.parametrize("provider", GPU_PROVIDERS)
@pytest.mark.parametrize("interface", ["views", "images", "nchw"])
def test_fp32_is_fp32_for_every_protocol(
    provider: Provider, interface: str, exported: Exported, opened: list[InferenceSession]
) -> None:
    """The double computes by the CPU, but for TF32, which it adds unless it is told not to."""
    path = exported("A", interface=interface)
    engine, reference = open_engine(path, provider=provider, self_test=True), OnnxEngine(path)
    for protocol in PROTOCOLS:
        sizes = [(90, 130), (140, 80)]
        images = [noise(size, seed) for seed, size in enumerate(sizes)]
        plans = [plan_views(engine.spec, protocol, size) for size in sizes]
        outputs = ("posterior", "pixel_sums")
        found, expected = (one.run(one.load(images), plans, outputs) for one in (engine, reference))
        assert np.array_equal(found["pixel_sums"], expected["pixel_sums"])
        assert np.abs(found["posterior"] - expected["posterior"]).max() < 1e-6, protocol
    engine.close()


def test_what_the_cuda_provider_is_told(exported: Exported, opened: list[InferenceSession]) -> None:
    OnnxEngine(exported("A"), provider="cuda", device=2)
    (session,) = opened
    assert session.providers == {CUDA: {"device_id": "2", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}}


def test_the_double_shows_tf32(
    exported: Exported, opened: list[InferenceSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infer.onnx_engine.CUDA_OPTIONS", {})
    with pytest.raises(EngineError, match=r"self-test of slim-a on onnxruntime-fp32: a posterior differs by 0\.002"):
        open_engine(exported("A"), provider="cuda", self_test=True)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_the_tensorrt_provider_is_told(
    precision: str, exported: Exported, opened: list[InferenceSession], tmp_path: Path
) -> None:
    """Shapes of a profile, a session for each profile that is used, CUDA beside it for what it leaves."""
    path = exported("A", precision="fp32" if precision == "int8" else precision)
    if precision == "int8":  # by its spec, which is what the options follow
        model = onnx.load(path)
        said = {prop.key: prop.value for prop in model.metadata_props}
        spec = dataclasses.replace(ModelSpec.from_json(said["spec"]), precision="int8")
        onnx.helper.set_model_props(model, {**said, "spec": spec.to_json()})
        path = tmp_path / "int8.onnx"
        onnx.save(model, path)
    engine = OnnxEngine(path, provider="tensorrt", device=1)
    spec = engine.spec
    crops, landscape, _ = engine.shapes
    engine.run(engine.load([noise((90, 130))]), [plan_views(spec, "multicrop+dense", (90, 130))])
    assert len(opened) == 2  # crops, and landscape: no view is a portrait
    for session, shape in zip(opened, (crops, landscape), strict=True):
        told = dict(session.providers[TENSORRT])
        for bound in ("min", "opt", "max"):
            shapes = fake_onnxruntime.shapes(told.pop(f"trt_profile_{bound}_shapes"))
            assert len(shapes) == 7 and shapes["image"] == (getattr(shape.source_px, bound),) * 2 + (3,)
            assert shapes["rows"] == (getattr(shape.views, bound), getattr(shape.height_px, bound))
        assert Path(told.pop("trt_engine_cache_path")).is_dir()
        half = {} if precision == "fp32" else {"trt_fp16_enable": "1"}
        if precision == "int8":
            half["trt_int8_enable"] = "1"
        assert told == {"device_id": "1", "trt_engine_cache_enable": "1", **half}
        assert session.providers[CUDA]["use_tf32"] == "0"
    assert opened[0].providers[TENSORRT] != opened[1].providers[TENSORRT]


def test_plans_of_other_weights_or_shapes_are_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = {plan_folder("a", {"x": "1"}), plan_folder("b", {"x": "1"}), plan_folder("a", {"x": "2"})}
    monkeypatch.setattr("onnxruntime.__version__", "0.0")
    folders.add(plan_folder("a", {"x": "1"}))
    assert len(folders) == 4 and all(folder.is_relative_to(tmp_path) for folder in folders)


def test_plans_that_others_may_have_written_are_not_loaded(
    exported: Exported, opened: list[InferenceSession], caplog: pytest.LogCaptureFixture
) -> None:
    OnnxEngine(exported("A"), provider="tensorrt")
    Path(opened[0].providers[TENSORRT]["trt_engine_cache_path"]).chmod(0o777)
    with caplog.at_level(logging.WARNING):
        OnnxEngine(exported("A"), provider="tensorrt")
    assert "trt_engine_cache_path" not in opened[1].providers[TENSORRT]
    assert "others can write there, and loading a plan runs code from it" in caplog.text


def test_where_plans_cannot_be_kept_they_are_built(
    exported: Exported, opened: list[InferenceSession], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_bytes(b"a file, no folder")
    with caplog.at_level(logging.WARNING):
        OnnxEngine(exported("A"), provider="tensorrt")
    assert "trt_engine_cache_enable" not in opened[0].providers[TENSORRT]
    assert "TensorRT's plans are not kept there (" in caplog.text
