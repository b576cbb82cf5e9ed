"""On a real GPU: engines against ONNX Runtime, for every net, protocol and profile; leaks, threads, CUDA graphs.

Skipped without a GPU, and tried on doubles by test_gpu_check.py. `make gpu-check` runs these and sends what they find.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu
import numpy as np
import onnxruntime
import pyarrow.parquet
import pytest
from helpers import noise, random_net, slim_spec
from numpy.typing import NDArray

from evaluation.ilsvrc import main as ilsvrc
from export.to_onnx import export_onnx
from infer.cuda.device import Device
from infer.engine import Engine
from infer.onnx_engine import OnnxEngine
from infer.open import open_engine
from infer.pixels.regions import make_picture, plan_regions
from infer.self_test import TOLERANCE
from infer.tensorrt.library import LibraryName
from infer.views import PROTOCOLS, ViewPlan, plan_views
from trainer.checkpoint import Checkpoint

Exported = Callable[..., Path]
Record = Callable[[str, object], None]

NETS = ("A", "A-LRN", "B", "C", "D", "E", "googlenet")
SIZES = ((90, 130), (140, 80), (75, 75), (64, 170), (180, 70), (333, 500))
"""Landscape, portrait, square, the smallest crop at the widest aspect, tall, one that is shrunk."""
SCORE_ERROR = {"fp32": 5e-4, "fp16": 0.05}
"""Largest difference of a class score from FP32's on the CPU, in standard deviations. TF32, which is to be off, would
show: its ten bits differ by 6e-4 to 3e-3."""
OUTPUTS = ("posterior", "posterior_positions", "pixel_sums")

each_library = pytest.mark.parametrize("library", gpu.LIBRARIES)


@pytest.fixture(autouse=True)
def _needed(request: pytest.FixtureRequest) -> None:
    gpu.require(request.node.callspec.params["library"])


def run(engine: Engine, images: list[Any], plans: list[ViewPlan], outputs: tuple[str, ...] = OUTPUTS) -> dict[str, Any]:
    return engine.run(engine.load(images), plans, outputs)


def score_error(engine: Engine, reference: Engine, image: NDArray[np.uint8], plan: ViewPlan) -> float:
    found, expected = (run(each, [image], [plan], ("score_map",))["score_map"] for each in (engine, reference))
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / expected.std())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("net", NETS)
@each_library
def test_every_protocol_and_profile(
    library: LibraryName, net: str, precision: str, exported: Exported, tmp_path: Path, record_property: Record
) -> None:
    """Pixels to the bit, posteriors and class scores within what the precision costs; the self-test passes."""
    engine = gpu.opened(exported(net, precision=precision), tmp_path, library)
    reference = OnnxEngine(exported(net))
    images = [noise(size, seed) for seed, size in enumerate(SIZES)]
    worst = 0.0
    for protocol in PROTOCOLS:
        plans = [plan_views(engine.spec, protocol, size) for size in SIZES]
        found, expected = run(engine, images, plans), run(reference, images, plans)
        assert np.array_equal(found["pixel_sums"], expected["pixel_sums"]), protocol
        for name in OUTPUTS[:2]:
            worst = max(worst, float(np.abs(found[name] - expected[name]).max()))
    errors = [
        score_error(engine, reference, image, plan_views(engine.spec, "dense", size, [scale]))
        for image, size in zip(images, SIZES, strict=True)
        for scale in (engine.spec.crop_px, engine.spec.crop_px + 13, engine.spec.crop_px * 3 // 2)
    ]
    record_property("largest difference of a posterior", worst)
    record_property("largest difference of a class score, in standard deviations", max(errors))
    engine.close()
    assert worst <= TOLERANCE[precision] and max(errors) <= SCORE_ERROR[precision]


@each_library
def test_regions(library: LibraryName, exported: Exported, tmp_path: Path) -> None:
    """Regions with context, of one image and of several, with what lies outside: pixels to the bit."""
    engine, reference = gpu.opened(exported("A"), tmp_path, library), OnnxEngine(exported("A"))
    rng = np.random.default_rng(0)
    images, plans = [], []
    for seed, size in enumerate(SIZES):
        across, down = (np.sort(rng.uniform(-9, side - 3, (150, 2)), 1) for side in size[::-1])
        boxes = np.stack([across[:, 0], down[:, 0], across[:, 1] + 12, down[:, 1] + 12], 1)
        images.append(make_picture(noise(size, seed), engine.spec))
        plans.append(plan_regions(boxes, size, engine.spec, mirrored=bool(seed % 2)))
    for own in ([0], list(range(len(SIZES)))):
        found, expected = (run(each, [images[n] for n in own], [plans[n] for n in own]) for each in (engine, reference))
        assert np.array_equal(found["pixel_sums"], expected["pixel_sums"])
        assert np.abs(found["posterior"] - expected["posterior"]).max() <= TOLERANCE["fp32"]
    engine.close()


@pytest.mark.parametrize("interface", ["images", "nchw"])
@each_library
def test_plain_interfaces(library: LibraryName, interface: str, exported: Exported, tmp_path: Path) -> None:
    engine = gpu.opened(exported("A", interface=interface), tmp_path, library)
    reference = OnnxEngine(exported("A", interface=interface))
    for protocol in PROTOCOLS:
        plans = [plan_views(engine.spec, protocol, size) for size in SIZES[:3]]
        images = [noise(size) for size in SIZES[:3]]
        found, expected = run(engine, images, plans), run(reference, images, plans)
        assert np.array_equal(found["pixel_sums"], expected["pixel_sums"])
        assert np.abs(found["posterior"] - expected["posterior"]).max() < TOLERANCE["fp32"]
    engine.close()


@each_library
def test_fc6_accumulates_in_single_precision(library: LibraryName, tmp_path: Path, record_property: Record) -> None:
    """25,088 products of the same size, of which a sum in half stops growing after 2,048 or so."""
    spec = slim_spec("A", crop_px=224, train_short_px=224, width=1.0, fc_width=64)
    net = random_net(spec)
    weights = net.state_dict()
    for name, tensor in weights.items():
        if name.startswith("fc6"):
            tensor.fill_(1e-3 if tensor.ndim > 1 else 0.0)
    onnx = [tmp_path / f"{precision}.onnx" for precision in ("fp32", "fp16")]
    for path, precision in zip(onnx, ("fp32", "fp16"), strict=True):
        export_onnx(Checkpoint(spec, weights), path, precision=precision, outputs=("features", "score_map"))  # type: ignore[arg-type]
    engine, reference = gpu.opened(onnx[1], tmp_path, library), OnnxEngine(onnx[0])
    image = noise((224, 224))
    error = score_error(engine, reference, image, plan_views(spec, "center", (224, 224), [224]))
    record_property("difference of a class score, in standard deviations", error)
    engine.close()
    assert error < SCORE_ERROR["fp16"]


@each_library
def test_nothing_is_left_on_the_gpu(
    library: LibraryName, exported: Exported, tmp_path: Path, record_property: Record
) -> None:
    """Memory that is free stays the same when engines come and go, and when images go by."""
    plan = gpu.build(exported("A", precision="fp16"), tmp_path, library)
    device = Device()
    free: list[int] = []
    for _ in range(12):
        engine = open_engine(plan)
        for seed, size in enumerate(SIZES[:3]):
            run(engine, [noise(size, seed)], [plan_views(engine.spec, "dense", size)])
        engine.close()
        del engine
        with device.current():
            free.append(device.driver.memory_info().free_bytes)
    device.close()
    lost = free[3] - free[-1]  # libraries keep what they loaded the first times
    record_property("bytes lost by eight engines", lost)
    assert lost <= 2 << 20, free


@each_library
def test_threads_share_an_engine(library: LibraryName, exported: Exported, tmp_path: Path) -> None:
    engine = gpu.opened(exported("A", precision="fp16"), tmp_path, library)
    protocols = ("ten-crop", "dense") * 3
    work = [
        (noise(size, seed), plan_views(engine.spec, protocol, size))
        for seed, (size, protocol) in enumerate(zip(SIZES, protocols, strict=True))
    ]
    expected = [run(engine, [image], [plan]) for image, plan in work]
    failed: list[str] = []

    def repeat(offset: int) -> None:
        for step in range(3 * len(work)):
            place = (step + offset) % len(work)
            found = run(engine, [work[place][0]], [work[place][1]])
            failed.extend(name for name in OUTPUTS if not np.array_equal(found[name], expected[place][name]))

    threads = [threading.Thread(target=repeat, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close()
    assert not failed


@each_library
def test_cuda_graphs_change_nothing(library: LibraryName, exported: Exported, tmp_path: Path) -> None:
    """On and off: the same bytes, for images of one size and of changing sizes."""
    plan = gpu.build(exported("googlenet", precision="fp16"), tmp_path, library)
    engines = [open_engine(plan, cuda_graphs=graphs) for graphs in (False, True)]
    sizes = [SIZES[0]] * 5 + [SIZES[1], SIZES[0], SIZES[0], SIZES[1]]
    for seed, size in enumerate(sizes):
        for protocol in ("center", "dense"):
            work = [noise(size, seed)], [plan_views(engines[0].spec, protocol, size)]
            off, on = (run(engine, *work) for engine in engines)
            assert all(np.array_equal(off[name], on[name]) for name in OUTPUTS), (seed, protocol)
    for engine in engines:
        engine.close()


@each_library
def test_an_evaluation_sees_the_same_pixels(
    library: LibraryName, exported: Exported, miniature_dir: Path, tmp_path: Path, record_property: Record
) -> None:
    """evaluation.ilsvrc of an ensemble of two engines, and of their ONNX models on the CPU."""
    onnx = [exported(net) for net in ("A", "googlenet")]
    engines = [gpu.build(path, tmp_path, library) for path in onnx]
    for out, paths in (("onnx", onnx), ("engines", engines)):
        members = [word for path in paths for word in ("--engine", str(path))]
        options = ["--protocol", "center,dense", "--limit", "10", "--out", str(tmp_path / out)]
        assert ilsvrc([*members, "--data", str(miniature_dir), *options]) == 0
    tables = [sorted((tmp_path / out / "scores").glob("*.parquet")) for out in ("onnx", "engines")]
    worst = 0.0
    for one, other in zip(*tables, strict=True):
        expected, found = (pyarrow.parquet.read_table(path) for path in (one, other))
        for column in ("image", "label", "status", "pixels"):
            assert found[column].to_pylist() == expected[column].to_pylist()
        difference = np.array(found["posterior"].to_pylist()) - np.array(expected["posterior"].to_pylist())
        worst = max(worst, float(np.abs(difference).max()))
    record_property("largest difference of a posterior", worst)
    assert worst <= TOLERANCE["fp32"]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
@pytest.mark.parametrize("library", ["tensorrt"])
def test_providers_of_onnx_runtime(library: LibraryName, provider: Any, exported: Exported) -> None:
    if f"{'CUDA' if provider == 'cuda' else 'Tensorrt'}ExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip(
            f"this ONNX Runtime has no {provider} provider: pip install onnxruntime-gpu in place of onnxruntime"
        )
    engine, reference = OnnxEngine(exported("D"), provider=provider), OnnxEngine(exported("D"))
    for size in SIZES[:3]:
        work = [noise(size)], [plan_views(engine.spec, "multicrop+dense", size)]
        found, expected = run(engine, *work), run(reference, *work)
        assert np.array_equal(found["pixel_sums"], expected["pixel_sums"])
        assert np.abs(found["posterior"] - expected["posterior"]).max() < TOLERANCE["fp32"]
    engine.close()
