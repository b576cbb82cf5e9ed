"""INT8 models, of our nets and of a foreign one, behind every interface, by every protocol, in every command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch_families as families
from helpers import WNIDS
from numpy.typing import NDArray
from scoring import evaluate, resolve

from export.foreign.tracing import write_net
from export.from_onnx import ImportRequest, import_model
from export.to_check import main as to_check
from export.to_onnx import main as to_onnx
from export.to_triton import main as to_triton
from export.to_trt import main as to_trt
from infer.data.dataset import open_dataset
from infer.onnx_engine import OnnxEngine
from infer.open import open_engine
from infer.spec import Preprocessing
from infer.views import plan_views

INTERFACES = ("views", "images", "nchw")
Made = Callable[[str, str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def made(
    slim_checkpoint: Callable[..., Path],
    photos: dict[str, NDArray[np.uint8]],
    miniature_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    """(FP32, INT8) ONNX models of a net behind an interface, made once."""
    folder, known = tmp_path_factory.mktemp("int8"), dict[tuple[str, str], tuple[Path, Path]]()

    def make(net: str, interface: str) -> tuple[Path, Path]:
        if (net, interface) in known:
            return known[net, interface]
        single, integer = (folder / f"{net}.{interface}.{precision}.onnx" for precision in ("fp32", "int8"))
        if net in families.FAMILIES:
            torch_net = families.make(net, list(photos.values()))
            write_net(torch_net, families.CROP_PX, folder / "theirs.onnx")
            preprocessing = Preprocessing(families.MEAN, families.STD, "bilinear")
            (folder / "classes.txt").write_text("\n".join(WNIDS))
            request = ImportRequest(
                preprocessing, folder / "classes.txt", crop_px=families.CROP_PX, interface=interface
            )  # type: ignore[arg-type]
            import_model(folder / "theirs.onnx", single, request)
        else:
            assert to_onnx([str(slim_checkpoint(net)), "-o", str(single), "--interface", interface]) == 0
        source = single if net in families.FAMILIES else slim_checkpoint(net)
        train = miniature_dir / "ILSVRC2012_img_train"
        own = [] if net in families.FAMILIES else ["--interface", interface]
        words = ["--precision", "int8", "--calibrate", str(train), "--limit", "16", "-o", str(integer), *own]
        assert to_onnx([str(source), *words]) == 0
        known[net, interface] = single, integer
        return single, integer

    return make


@pytest.mark.parametrize(
    ("net", "interface"),
    [
        *(("A-LRN", interface) for interface in INTERFACES),
        ("googlenet", "views"),
        ("resnet", "views"),
        ("vit", "views"),
    ],
)
def test_every_protocol_that_the_net_takes(net: str, interface: str, made: Made, miniature_dir: Path) -> None:
    """The pixels are FP32's; so are the answers, but for INT8's rounding, which is there."""
    single, integer = (OnnxEngine(path) for path in made(net, interface))
    assert (integer.runtime, integer.spec.interface) == ("onnxruntime-int8", interface)
    assert integer.arithmetic.startswith("int8 + fp16, rounded by ")
    dataset, tables = open_dataset(miniature_dir, limit=2), []
    names = ["ten-crop"] if single.spec.fixed_size else ["ten-crop", "dense", "googlenet-144"]
    for engine in (single, integer):
        protocols = resolve(names, engine.spec, None)
        tables.append(evaluate([engine], [protocols], dataset).scores[0])
    for one, other in zip(*tables, strict=True):
        assert one.pixel_digests == other.pixel_digests and all(one.pixel_digests)
        difference = np.abs(one.posterior - other.posterior).max()
        assert 1e-6 < difference < 0.3, one.metadata["protocol"]
        assert other.metadata["arithmetic"] == integer.arithmetic


def test_the_interfaces_agree(made: Made, photos: dict[str, NDArray[np.uint8]]) -> None:
    """All are quantised by the same images, and so alike."""
    logs = []
    for interface in INTERFACES:
        engine = open_engine(made("A-LRN", interface)[1], self_test=True)
        cat = np.ascontiguousarray(photos["cat"])
        plan = plan_views(engine.spec, "ten-crop", cat.shape[:2])  # type: ignore[arg-type]
        logs.append(np.log(engine.run(engine.load([cat]), [plan])["posterior"]))
    for log in logs[1:]:
        assert np.abs(log - logs[0]).max() < 0.05 * logs[0].std()


@pytest.mark.parametrize(("net", "interface"), [("A-LRN", "nchw"), ("A-LRN", "images"), ("resnet", "views")])
def test_engines(net: str, interface: str, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine = tmp_path / "m.engine"
    words = ["--precision", "int8", "--builder", "tensorrt-rtx", "--target", "sm86", "--profile", "crops:views=4"]
    assert to_trt([str(made(net, interface)[1]), "-o", str(engine), *words]) == 0
    assert "convolutions int8 but " in capsys.readouterr().out
    sidecar: dict[str, Any] = json.loads((tmp_path / "m.engine.json").read_text())
    assert sidecar["spec"]["precision"] == "int8" and sidecar["int8"]["images"] == 16
    assert sidecar["int8"]["tool"].startswith("onnxruntime.quantization ")


def test_other_commands(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single, integer = made("A-LRN", "views")
    assert to_triton([str(integer), "-o", str(tmp_path / "models")]) == 0
    check = integer.with_suffix(".check.onnx")
    before = check.read_bytes()
    check.unlink()
    assert to_check([str(integer)]) == 0 and check.read_bytes() == before
    assert {"QLinearConv"} <= {node.op_type for node in onnx.load(check).graph.node}
    capsys.readouterr()

    # what is INT8 already, or is to be
    assert to_onnx([str(integer), "--precision", "int8", "--calibrate", str(tmp_path), "-o", f"{tmp_path}/x.onnx"]) == 1
    assert "INT8 already: use it as it is" in capsys.readouterr().err
    assert to_trt([str(integer), "-o", f"{tmp_path}/x.engine"]) == 1
    assert "an INT8 graph, got --precision fp16" in capsys.readouterr().err
    assert to_trt([str(single), "-o", f"{tmp_path}/x.engine", "--precision", "int8"]) == 1
    assert "INT8 is made of it with images: --calibrate DIR" in capsys.readouterr().err
