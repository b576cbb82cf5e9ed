"""TensorRT as an engine, on a double of TensorRT's runtime (fake_tensorrt.py) and the simulated CUDA driver.

The double computes with ONNX Runtime, so an engine's answers must be those of the ONNX engine, byte for byte; what is
copied, waited for and left behind is read from the driver's log.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import inspect
import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cudasim
import fake_tensorrt
import pytest
from cudasim import ALLOCATIONS, WAITS, Seen, copied_bytes, count
from engines import TENSORRT_LISTS, Built, frozen_api
from on_double import PRELUDE, check, run
from plans import RTX, TENSORRT, write_plan

from export.model.from_checkpoint import export_onnx
from export.model.source import read_source
from export.tensorrt.profiles import shapes_from_options
from trainer.checkpoint import load

Checkpoints = Callable[..., Path]
Exported = Callable[..., Path]


@pytest.mark.parametrize(
    ("interface", "binding", "builder"),
    [
        ("views", "pycuda", TENSORRT),
        ("views", "cuda-python", RTX),
        ("images", "cuda-python", TENSORRT),
        ("nchw", "pycuda", RTX),
    ],
)
def test_every_protocol_answers_as_the_onnx_engine_byte_for_byte(
    interface: str, binding: str, builder: str, exported: Exported, tmp_path: Path
) -> None:
    onnx = exported("A", interface=interface)
    plan = write_plan(onnx, tmp_path, builder=builder)
    code = f"""
    reference, engine = OnnxEngine(Path({str(onnx)!r})), TensorRTEngine(Path({str(plan)!r}))
    for name in PROTOCOLS:
        sizes = [(90, 130), (140, 80)] if name != "center" else [(90, 130), (140, 80), (75, 75), (64, 90), (300, 70)]
        images = [noise(*size, seed) for seed, size in enumerate(sizes)]
        plans = [plan_views(engine.spec, name, size) for size in sizes]
        same(engine.run(engine.load(images), plans, OUTPUTS), reference.run(reference.load(images), plans, OUTPUTS))
    assert engine.seconds > 0
    print(engine.runtime, engine.device, engine.sha256[:4], [shape.name for shape in engine.shapes])
    engine.close()
    engine.close()
    del engine"""
    seen = run(code, tmp_path, binding=binding)
    check(seen)
    assert seen.stdout.startswith(f"{builder.split()[0]}-fp32 cuda:0 ")
    assert not any("pageable" in call for call in seen.calls)


@pytest.fixture(scope="module")
def ensemble(slim_checkpoint: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two plans of nets with the paper's crop and number of classes, but few channels."""
    folder = tmp_path_factory.mktemp("ensemble")
    plans = []
    for seed in (0, 1):
        classes = tuple(f"n{number:08d}" for number in range(1000))
        name = f"wide-{seed}"
        changes = {"crop_px": 224, "train_short_px": (256, 512), "classes": classes, "width": 1 / 16, "name": name}
        onnx = folder / f"{name}.onnx"
        export_onnx(load(slim_checkpoint("A", seed=seed, **changes)), onnx)
        plans.append(write_plan(onnx, folder))
    return plans


def test_what_an_image_costs(ensemble: list[Path], tmp_path: Path) -> None:
    """`multicrop+dense` at three scales of a 500x375 image, by an ensemble of two: one upload for both."""
    code = f"""
    from cudasim import mark
    engines = [TensorRTEngine(Path(path)) for path in {[str(path) for path in ensemble]!r}]
    plan = plan_views(engines[0].spec, "multicrop+dense", (375, 500), [256, 384, 512])
    for image in [noise(375, 500, seed) for seed in range(3)]:
        mark()
        loaded = engines[0].load([image])
        pending = [engine.start(loaded, [plan], ("posterior", "pixel_sums")) for engine in engines]
        results = [each.result() for each in reversed(pending)]  # the last is waited for, the others are done
        assert all(result["posterior"].shape == (156, 1000) for result in results)
    mark()
    del loaded, pending
    for engine in engines: engine.close()
    del engine, engines
    """
    seen = run(code, tmp_path, settings={"FAKE_TENSORRT": "idle"})
    check(seen)
    first, *others = seen.between_marks()
    assert count(first, ALLOCATIONS) > 0 and len(others) == 2
    for calls in others:
        assert count(calls, ALLOCATIONS) == 0
        uploads = [call for call in calls if call.startswith("cuMemcpyHtoDAsync")]
        assert len(uploads) == 1 and 375 * 500 * 3 < copied_bytes(calls, "cuMemcpyHtoDAsync") < 1_000_000
        assert count(calls, ["cuMemcpyDtoHAsync"]) == 2
        assert copied_bytes(calls, "cuMemcpyDtoHAsync") < 2 * 1_300_000
        assert count(calls, WAITS) == 1
        assert count(calls, ["cuLaunchHostFunc"]) == 2 * 6  # three scales of crops, three dense


def test_an_atlas_goes_up_once_for_an_ensemble(ensemble: list[Path], tmp_path: Path) -> None:
    code = f"""
    from cudasim import mark
    engines = [TensorRTEngine(Path(path)) for path in {[str(path) for path in ensemble]!r}]
    images = [noise(256, 256 + 8 * seed, seed) for seed in range(12)]
    plans = [plan_views(engines[0].spec, "center", image.shape[:2], [256]) for image in images]
    loaded = engines[0].load(images)
    mark()
    for engine in engines: engine.run(loaded, plans)
    mark()
    del loaded
    for engine in engines: engine.close()
    del engine, engines
    """
    seen = run(code, tmp_path, settings={"FAKE_TENSORRT": "idle"})
    check(seen)
    (calls,) = seen.between_marks()
    crops = 12 * 224 * 224 * 3
    assert crops < copied_bytes(calls, "cuMemcpyHtoDAsync") < 2 * crops and count(calls, ["cuMemcpyHtoDAsync"]) == 1
    assert count(calls, ["cuLaunchHostFunc"]) == 2 * 2  # one to warm up, one that counts


def test_the_first_run_of_a_profile_is_not_counted_as_time(exported: Exported, tmp_path: Path) -> None:
    """Of each profile an image comes to one more run than it has calls, before the time starts."""
    code = f"""
    from cudasim import mark
    engine = TensorRTEngine(Path({str(write_plan(exported("A"), tmp_path))!r}))
    images = [noise(90, 130, seed) for seed in range(3)]
    for image, protocol in zip(images, ("ten-crop", "multicrop+dense", "multicrop+dense"), strict=True):
        mark()
        engine.run(engine.load([image]), [plan_views(engine.spec, protocol, (90, 130))])
    mark()
    engine.close()
    del engine
    """
    seen = run(code, tmp_path, settings={"FAKE_TENSORRT": "idle"})
    check(seen)
    kinds = [[call.partition("(")[0] for call in calls] for calls in seen.between_marks()]
    assert [kind.count("cuLaunchHostFunc") for kind in kinds] == [1 + 1, 1 + 6, 6]
    for kind, before in zip(kinds, (1, 1, 0), strict=True):
        timed = kind.index("cuEventRecord", kind.index("cuStreamWaitEvent"))
        assert kind[:timed].count("cuLaunchHostFunc") == before


def test_neighbouring_images_overlap(exported: Exported, tmp_path: Path) -> None:
    """While one image is computed, the next is uploaded and put behind it: the host waits for results alone."""
    code = f"""
    from cudasim import mark
    engine = TensorRTEngine(Path({str(write_plan(exported("A"), tmp_path))!r}))
    images = [noise(90, 130, seed) for seed in range(3)]
    plan = plan_views(engine.spec, "multicrop+dense", (90, 130))
    expected = [engine.run(engine.load([image]), [plan])["posterior"] for image in images[:2]]
    assert not np.array_equal(*expected)
    pending = engine.start(engine.load([images[0]]), [plan])
    for image in [images[2], images[0], images[1]]:
        mark()
        following = engine.start(engine.load([image]), [plan])
        result, pending = pending.result(), following
    mark()
    same(result, {{"posterior": expected[0]}})
    same(pending.result(), {{"posterior": expected[1]}})
    del pending, following
    engine.close()
    del engine
    """
    seen = run(code, tmp_path)
    check(seen)
    warm, *others = seen.between_marks()
    assert count(warm, ALLOCATIONS) > 0 and len(others) == 2  # a second set of buffers
    for calls in others:
        assert count(calls, ALLOCATIONS) == 0 and count(calls, WAITS) == 1
        wait = next(number for number, call in enumerate(calls) if call.startswith("cuEventSynchronize"))
        before = [call.partition("(")[0] for call in calls[:wait]]
        assert before.count("cuMemcpyHtoDAsync_v2") == 1 and before.count("cuLaunchHostFunc") == 6
        assert before.count("cuMemcpyDtoHAsync_v2") == 1 and count(calls[wait:], ["cuLaunchHostFunc"]) == 0
    streams = {
        name: {call.rpartition(",")[2] for call in seen.calls if call.startswith(name)}
        for name in ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync")
    }
    launched = {call.partition("(")[2] for call in seen.calls if call.startswith("cuLaunchHostFunc")}
    assert len(streams["cuMemcpyHtoDAsync"] | streams["cuMemcpyDtoHAsync"] | launched) == 3


TWICE = """
    reference = OnnxEngine(Path(ONNX))
    image, engine = noise(90, 130), None
    plan = plan_views(reference.spec, "multicrop+dense", (90, 130))
    expected = reference.run(reference.load([image]), [plan], OUTPUTS)
    for attempt in range(3):
        try:
            engine = engine or TensorRTEngine(Path(PLAN))
            same(engine.run(engine.load([image]), [plan], OUTPUTS), expected)
            print("the same")
        except EngineError as error:
            print(type(error).__name__, error)
    try:
        if engine: engine.close()
    except EngineError as error:
        print("close:", error)
    del engine
"""

ONCE = [
    ("cuStreamCreate:2=2", "cuStreamCreate failed: out of memory: close what"),
    ("cuEventCreate:2=2", "cuEventCreate failed: out of memory: close what"),
    *(
        (f"cuMemAlloc_v2:{n}=2", r"cuMemAlloc failed: out of memory \(.* MB wanted, .* MB free\): close")
        for n in (1, 2, 3)
    ),
    *((f"cuMemHostAlloc:{n}=2", "cuMemHostAlloc failed: out of memory: close what else") for n in (1, 2)),
    ("cuMemcpyHtoDAsync_v2:1=1", "cuMemcpyHtoDAsync failed: invalid argument"),
    ("cuMemcpyDtoHAsync_v2:1=1", "cuMemcpyDtoHAsync failed: invalid argument"),
    ("cuStreamWaitEvent:2=400", "cuStreamWaitEvent failed: invalid resource handle"),
    ("cuLaunchHostFunc:1=2", "PLAN: tensorrt refused a run of profile crops: launch failed"),  # to warm up
    ("cuLaunchHostFunc:3=2", "PLAN: tensorrt refused a run of profile crops: launch failed"),
]
LOST = [
    ("cuMemcpyHtoDAsync_v2:1=719", "cuMemcpyHtoDAsync failed: unspecified launch failure: what this process had"),
    ("cuEventSynchronize:1=700", "cuEventSynchronize failed: an illegal memory access was encountered: what"),
    ("cuLaunchHostFunc:4=700", "PLAN: tensorrt refused a run of profile crops: launch failed"),
]


def interrupted(fail: str, exported: Exported, folder: Path) -> tuple[Seen, list[str]]:
    onnx = exported("A")
    plan = write_plan(onnx, folder)
    code = textwrap.dedent(f"ONNX, PLAN = {str(onnx)!r}, {str(plan)!r}") + textwrap.dedent(TWICE)
    seen = run(code, folder, fail=fail)
    check(seen)
    assert seen.stderr == ""
    return seen, [line.replace(str(plan), "PLAN") for line in seen.stdout.splitlines()]


@pytest.mark.parametrize(("fail", "message"), ONCE, ids=[fail for fail, _ in ONCE])
def test_a_failure_is_told_and_the_next_image_runs(fail: str, message: str, exported: Exported, tmp_path: Path) -> None:
    _, (failed, *others) = interrupted(fail, exported, tmp_path)
    assert re.match(f"(CudaError|EngineError) {message}", failed) and others == ["the same", "the same"]


@pytest.mark.parametrize(("fail", "message"), LOST, ids=[fail for fail, _ in LOST])
def test_a_lost_device_is_told_each_time(fail: str, message: str, exported: Exported, tmp_path: Path) -> None:
    _, (failed, *others) = interrupted(fail, exported, tmp_path)
    assert re.match(f"(CudaError|EngineError) {message}", failed) and len(others) == 3
    assert all("what this process had on the GPU is lost" in line for line in others)
    assert others[-1].startswith("close: ")


def test_threads_share_an_engine(exported: Exported, tmp_path: Path) -> None:
    onnx = exported("A")
    code = f"""
    from concurrent.futures import ThreadPoolExecutor
    reference, engine = OnnxEngine(Path({str(onnx)!r})), TensorRTEngine(Path({str(write_plan(onnx, tmp_path))!r}))
    sizes = [(90, 130), (140, 80), (100, 100)]
    def one(number):
        image, size = noise(*sizes[number % 3], number), sizes[number % 3]
        plan = plan_views(reference.spec, "multicrop+dense", size)
        same(engine.run(engine.load([image]), [plan]), reference.run(reference.load([image]), [plan]))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, range(9)))
    engine.close()
    del engine, one
    """
    check(run(code, tmp_path))


def test_buffers_that_nobody_uses_make_room(tmp_path: Path) -> None:
    code = """
    from infer.cuda.driver import CudaError
    from infer.tensorrt.gpu import close_gpu, open_gpu
    gpu, mega = open_gpu(0), 1 << 20
    assert open_gpu(0) is gpu
    with gpu.lock, gpu.device.current():
        small, large = gpu.memory(100), gpu.memory(40 * mega)
        gpu.reuse([large])
        assert gpu.memory(35 * mega) is large and gpu.memory(99).nbytes == small.nbytes == 1 << 16
        gpu.reuse([large])
        other = gpu.memory(60 * mega)
        assert gpu.activations(3 * mega).nbytes == gpu.activations(4 * mega).nbytes == 4 * mega
        try:
            gpu.memory(60 * mega)
        except CudaError as error:
            print(error)
        print(large.handle)
    for _ in range(2): close_gpu(gpu)
    """
    seen = run(code, tmp_path, settings={"CUSIM_MEM_MB": "100"})
    check(seen)
    error, large = seen.stdout.splitlines()
    assert "out of memory (67.1 MB wanted, 33 of 105 MB free): close" in error and large == "None"


@pytest.mark.parametrize(
    ("end", "binding"),
    [
        ("", "pycuda"),
        ("", "cuda-python"),
        ("del engine, other", "cuda-python"),
        ("sys.exit(3)", "pycuda"),
        ("raise KeyError('a bug elsewhere')", "pycuda"),
    ],
)
def test_what_nobody_closes_is_given_back_in_the_end(
    end: str, binding: str, exported: Exported, tmp_path: Path
) -> None:
    code = f"""
    import sys
    engine, other = (TensorRTEngine(Path({str(write_plan(exported("A"), tmp_path))!r})) for _ in range(2))
    image, plan = noise(90, 130), plan_views(engine.spec, "center", (90, 130))
    loaded = engine.load([image])
    pending = engine.start(loaded, [plan])
    same(other.run(loaded, [plan]), pending.result())
    del pending
    """
    code = PRELUDE + textwrap.dedent(code) + end
    seen = cudasim.run(code, tmp_path, binding=binding)
    assert seen.code == {"s": 3, "r": 1}.get(end[:1], 0) and seen.stderr.count("Error") == end.count("Error")
    assert seen.left().pop("peak") and sum(seen.left().values()) == seen.left()["peak"], seen.report


def test_what_is_not_collected_is_waited_for_before_its_memory_is_used_again(
    exported: Exported, tmp_path: Path
) -> None:
    onnx = exported("A")
    code = f"""
    reference, engine = OnnxEngine(Path({str(onnx)!r})), TensorRTEngine(Path({str(write_plan(onnx, tmp_path))!r}))
    small, large = noise(90, 130), noise(1500, 1500)  # whose pixels, out of and into the GPU, need 8 MB
    out = plan_views(reference.spec, "multicrop", (90, 130))
    plan = plan_views(reference.spec, "multicrop", (1500, 1500), [160])
    for attempt in range(2):
        engine.start(engine.load([small]), [out], ("pixels",))
        same(engine.run(engine.load([large]), [plan]), reference.run(reference.load([large]), [plan]))
    pending = engine.start(engine.load([large]), [plan])
    engine.close()
    try:
        pending.result()
    except EngineError as error:
        print(error)
    del engine, pending
    """
    seen = run(code, tmp_path)
    check(seen)
    assert seen.stdout == "GPU 0 was closed: open the engine again\n"


REFUSALS = {
    "sha256": ("", "sha256 .* but its sidecar says 0000"),
    "builder": ("onnx 1", r"built by 'onnx', expected tensorrt or tensorrt-rtx: build it with export\.to_trt"),
    "version": (
        "tensorrt 10.9.0.34",
        r"built by tensorrt 10\.9\.0\.34, but here is 11\.4\.0\.106, and a plan belongs to one version: python -m "
        r"export\.to_trt \S+\.onnx -o \S+\.engine --builder tensorrt$",
    ),
    "absent": (
        "tensorrt-rtx 1.7.1.116",
        r"built by tensorrt-rtx 1\.7\.1\.116, which cannot be imported \(.*\): pip install ",
    ),
    "targets": (
        ["sm80", "sm90"],
        r"built for sm80, sm90, but cudasim .* is sm86: python -m export\.to_trt .* \(on this ",
    ),
    "profiles": ([], "has 3 profiles, but its sidecar names 0: python -m export"),
    "spec": ({}, r"\.json: cannot be understood \(not a model spec: Object missing required field `name`\), "),
    "outputs": ("", r"has outputs .*pixel_sums.*, but its spec says posterior: python -m export"),
    "plan": (
        b"something else",
        r"tensorrt cannot load it: Serialization assertion failed\. Magic tag does not match: python",
    ),
    "options": (
        {"runtime_cache": "kernels.cache"},
        "a runtime_cache is of tensorrt-rtx, and this plan is tensorrt's: leave it out",
    ),
}


def test_what_cannot_be_opened(exported: Exported, tmp_path: Path) -> None:
    """All in one process: nothing is left by any of them, and a good plan opens afterwards."""
    paths = []
    for case, (value, _) in REFUSALS.items():
        folder = tmp_path / case
        folder.mkdir()
        onnx, changes = exported("A"), {}
        if case in ("builder", "version", "absent"):
            changes["builder"] = value
        elif case in ("targets", "profiles", "spec"):
            changes[case] = value
        elif case == "sha256":
            changes["sha256"] = "0" * 64
        elif case == "outputs":
            spec = read_source(onnx).spec
            changes["spec"] = json.loads(dataclasses.replace(spec, outputs=("posterior",)).to_json())
        path = write_plan(onnx, folder, **changes)
        if case == "plan":
            assert isinstance(value, bytes)
            path = write_plan(onnx, folder, sha256=hashlib.sha256(value).hexdigest())
            path.write_bytes(value)
        paths.append((str(path), value if case == "options" else {}))
    code = f"""
    import sys
    sys.modules["tensorrt_rtx"] = None
    for path, options in {paths!r}:
        try:
            TensorRTEngine(Path(path), **options)
            print("opened")
        except EngineError as error:
            print(error)
    TensorRTEngine(Path({paths[-1][0]!r})).close()
    """
    seen = run(code, tmp_path)
    check(seen)
    lines = seen.stdout.splitlines()
    for (path, _), (_, message), line in zip(paths, REFUSALS.values(), lines, strict=True):
        assert line.startswith(path) and re.search(message, line), line


def test_the_real_library_says_why_it_does_not_start_on_the_simulated_driver(built: Built, tmp_path: Path) -> None:
    """The other tests use a double; here the calls up to the engine are made to TensorRT-RTX itself, which wants
    NVIDIA's own driver."""
    pytest.importorskip("tensorrt_rtx")
    code = f"""
    from pathlib import Path
    from infer.engine import EngineError
    from infer.tensorrt.engine import TensorRTEngine
    try:
        TensorRTEngine(Path({str(built.engine)!r}))
    except EngineError as error:
        print(error)
    """
    seen = cudasim.run(textwrap.dedent(code), tmp_path)
    seen.check()
    assert len(seen.stdout.splitlines()) == 1
    assert re.match(
        rf"{built.engine}: tensorrt-rtx cannot (start|load it): .*Cuda Runtime.*: python -m export", seen.stdout
    )


def test_plans_that_suit_other_versions_and_gpus_say_so(exported: Exported, tmp_path: Path) -> None:
    compatible = {"options": {"version_compatible": True, "hardware_compatible": "ampere+"}, "targets": ["sm80"]}
    older = write_plan(exported("A"), tmp_path, **{**compatible, "builder": "tensorrt 10.9.0.34"})
    newer = write_plan(exported("B"), tmp_path, **{**compatible, "builder": "tensorrt 12.0.0.1"})
    code = f"""
    engine = TensorRTEngine(Path({str(older)!r}))
    engine.close()
    try:
        TensorRTEngine(Path({str(newer)!r}))
    except EngineError as error:
        print(error)
    del engine
    """
    seen = run(code, tmp_path)
    check(seen)
    assert "built by tensorrt 12.0.0.1, but here is 11.4.0.106" in seen.stdout


def test_views_beyond_every_profile_and_unknown_outputs(exported: Exported, tmp_path: Path) -> None:
    shapes = shapes_from_options(read_source(exported("A")).spec)
    crops, both = write_plan(exported("A"), tmp_path, shapes[:1]), write_plan(exported("B"), tmp_path)
    code = f"""
    crops, both = (TensorRTEngine(Path(path)) for path in ({str(crops)!r}, {str(both)!r}))
    def attempt(engine, plan, *outputs):
        try:
            engine.run(engine.load([noise(*plan.image_px)]), [plan], *outputs)
        except EngineError as error:
            print(error)
    attempt(crops, plan_views(crops.spec, "dense", (90, 130)))
    attempt(both, plan_views(both.spec, "dense", (90, 3000)))
    attempt(both, plan_views(both.spec, "center", (90, 130)), ["logits"])
    attempt(both, ViewPlan("tiny", (90, 130), (View(88, (0, 0, 32, 32)),)))
    for engine in (crops, both): engine.close()
    del crops, both, engine
    """
    seen = run(code, tmp_path)
    check(seen)
    small, large, output, tiny = seen.stdout.splitlines()
    assert re.match(r"slim-a: image 90x130 px at Q=72 needs a view of 72x104 px .* use --protocol multicrop", small)
    assert re.match(r"slim-b: image 90x3000 px at Q=72 needs a view of 72x2400 px .* beyond the engine's range", large)
    assert "no output 'logits'" in output
    assert re.match(r"slim-b: image 90x130 px at Q=88 needs a view of 32x32 px", tiny)


def test_the_evaluation_writes_the_same_posteriors(exported: Exported, miniature_dir: Path, tmp_path: Path) -> None:
    """evaluation.ilsvrc of an ensemble of two, as plans with their self-tests and as ONNX models."""
    onnx = [str(exported(net)) for net in ("A", "B")]
    plans = [str(write_plan(Path(path), tmp_path)) for path in onnx]
    code = f"""
    import pyarrow.parquet
    from evaluation.ilsvrc import main
    tables = []
    for engines, out in (({onnx!r}, "onnx"), ({plans!r}, "plans")):
        for protocols, limit in (("center,ten-crop", "20"), ("multicrop+dense,googlenet-144", "3")):
            engine_arguments = [word for path in engines for word in ("--engine", path)]
            folder = Path(out) / limit
            options = ["--protocol", protocols, "--limit", limit, "--out", str(folder)]
            assert main([*engine_arguments, "--data", {str(miniature_dir)!r}, *options]) == 0
            written = sorted(folder.glob("scores/*.parquet"))
            tables += [(path.name, pyarrow.parquet.read_table(path)) for path in written]
    half = len(tables) // 2
    for (name, expected), (found_name, found) in zip(tables[:half], tables[half:], strict=True):
        assert found_name == name.replace("onnxruntime", "tensorrt"), (name, found_name)
        for column in ("image", "label", "status", "pixels", "posterior"):
            assert found[column].combine_chunks().equals(expected[column].combine_chunks()), (name, column)
        assert set(found["status"].to_pylist()) == {{"ok"}}
        print("the same:", found_name)
    """
    seen = run(code, tmp_path)
    check(seen)
    assert seen.stdout.count("the same: ") == 8, seen.stdout


def test_the_evaluation_never_leaves_the_gpu_without_work(
    exported: Exported, miniature_dir: Path, tmp_path: Path
) -> None:
    """Of an ensemble: when the host waits for an image, the next one is on the GPU for all engines already."""
    plans = [str(write_plan(exported(net), tmp_path)) for net in ("A", "B")]
    code = f"""
    from evaluation.ilsvrc import main
    engines = [word for path in {plans!r} for word in ("--engine", path)]
    options = ["--protocol", "multicrop+dense", "--limit", "12", "--out", "out"]
    assert main([*engines, "--data", {str(miniature_dir)!r}, *options]) == 0
    """
    seen = run(code, tmp_path)
    check(seen)
    read_backs = [number for number, call in enumerate(seen.calls) if call.startswith("cuMemcpyDtoHAsync")]
    waits = [number for number, call in enumerate(seen.calls) if call.startswith("cuEventSynchronize")]
    closing = 2 * 3  # each engine waits for each stream
    assert len(read_backs) == 12 * 2 and len(waits) == 12 + closing  # one for an image
    for image in range(11):
        enqueued = sum(place < waits[image] for place in read_backs)
        assert enqueued == (image + 2) * 2, (image, enqueued)


def test_the_self_test_is_asked_for_by_open_engine(exported: Exported, tmp_path: Path) -> None:
    wrong = {"pixel_sums": [[0] * 6] * 16, "log_posterior": [[0.0] * 10] * 16}
    code = f"""
    from infer.open import open_engine
    open_engine({str(write_plan(exported("A"), tmp_path))!r}, self_test=True).close()
    try:
        open_engine({str(write_plan(exported("B"), tmp_path, self_test=wrong))!r}, self_test=True)
    except EngineError as error:
        print(error)
    """
    seen = run(code, tmp_path)
    check(seen)
    assert "self-test of slim-b on tensorrt-fp32: image 0 gave pixel sums" in seen.stdout


def test_runtime_cache_and_cuda_graphs_of_tensorrt_rtx(exported: Exported, tmp_path: Path) -> None:
    onnx, cache = exported("A"), tmp_path / "kernels.cache"
    code = f"""
    reference = OnnxEngine(Path({str(onnx)!r}))
    path = Path({str(write_plan(onnx, tmp_path, builder=RTX))!r})
    image, plan = noise(90, 130), plan_views(reference.spec, "ten-crop", (90, 130))
    for content in (None, b"of another GPU", b"cache kept"):
        if content: Path({str(cache)!r}).write_bytes(content)
        engine = TensorRTEngine(path, runtime_cache=Path({str(cache)!r}), cuda_graphs=True)
        same(engine.run(engine.load([image]), [plan]), reference.run(reference.load([image]), [plan]))
        engine.close()
        print(Path({str(cache)!r}).read_bytes())
    del engine
    """
    seen = run(code, tmp_path)
    check(seen)
    assert seen.stdout.splitlines() == ["b'cache of the double'", "b'cache of the double'", "b'cache kept'"]


@pytest.mark.parametrize("binding", cudasim.BINDINGS)
def test_cuda_graphs_of_tensorrt(binding: str, exported: Exported, tmp_path: Path) -> None:
    """A call whose shapes stay is launched as a graph from the third time on; other shapes in between end that."""
    onnx = exported("A", interface="images")
    code = f"""
    from cudasim import mark
    path = Path({str(write_plan(onnx, tmp_path))!r})
    reference, engine = OnnxEngine(Path({str(onnx)!r})), TensorRTEngine(path, cuda_graphs=True)
    ten, one = (plan_views(engine.spec, name, (90, 130)) for name in ("ten-crop", "center"))
    for plan in (ten, ten, ten, ten, one, ten, one, one, one):
        image = noise(90, 130, len(plan))
        mark()
        same(engine.run(engine.load([image]), [plan], OUTPUTS), reference.run(reference.load([image]), [plan], OUTPUTS))
    mark()
    engine.close()
    del engine
    """
    seen = run(code, tmp_path, binding=binding)
    check(seen)
    kinds = [[call.partition("(")[0] for call in calls] for calls in seen.between_marks()]
    assert [kind.count("cuGraphLaunch") for kind in kinds] == [0, 1, 1, 1, 0, 0, 0, 0, 1]
    assert sum(kind.count("cuStreamBeginCapture_v2") for kind in kinds) == 2


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("cuStreamBeginCapture_v2:1=2", "cuStreamBeginCapture failed: out of memory"),
        ("cuLaunchHostFunc:4=2", "tensorrt refused a run of profile crops"),  # in the capture
        ("cuGraphInstantiateWithFlags:1=2", "cuGraphInstantiate(WithFlags)? failed: out of memory"),
        ("cuGraphLaunch:1=2", "cuGraphLaunch failed: out of memory"),
    ],
)
@pytest.mark.parametrize("binding", cudasim.BINDINGS)
def test_a_graph_that_fails_is_told(binding: str, fail: str, message: str, exported: Exported, tmp_path: Path) -> None:
    code = f"""
    engine = TensorRTEngine(Path({str(write_plan(exported("A", interface="images"), tmp_path))!r}), cuda_graphs=True)
    plan = plan_views(engine.spec, "center", (90, 130))
    for attempt in range(5):
        try:
            engine.run(engine.load([noise(90, 130)]), [plan])
            print("ran")
        except EngineError as error:
            print(error)
    engine.close()
    del engine
    """
    seen = run(code, tmp_path, binding=binding, fail=fail)
    assert len(re.findall(message, seen.stdout)) == 1 and seen.stdout.count("ran") == 4, (seen.stdout, seen.stderr)
    check(seen)


def classes() -> dict[str, type]:
    """The double's own, but for what is private."""
    own = vars(fake_tensorrt).items()
    return {k: v for k, v in own if isinstance(v, type) and v.__module__ == "fake_tensorrt" and not k.startswith("_")}


def members(owner: type) -> dict[str, Any]:
    """Public methods, properties and values of a class of the double."""
    if issubclass(owner, enum.Enum):
        return dict(owner.__members__)
    kept = {name: value for name, value in vars(owner).items() if not name.startswith("_")}
    attributes = (
        re.findall(r"self\.([a-z]\w*) = ", inspect.getsource(owner.__init__)) if "__init__" in vars(owner) else []
    )
    return kept | {name: None for name in attributes}


RTX_ONLY = {
    *("module.IRuntimeCache", "IRuntimeCache.serialize", "IRuntimeCache.deserialize", "module.CudaGraphStrategy"),
    *("CudaGraphStrategy.DISABLED", "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE", "IRuntimeConfig.cuda_graph_strategy"),
    *("IRuntimeConfig.create_runtime_cache", "IRuntimeConfig.set_runtime_cache", "module.IRuntimeConfig"),
    *("IRuntimeConfig.set_execution_context_allocation_strategy", "ICudaEngine.create_runtime_config"),
}
"""Behind runtime_cache, which is refused for plans of tensorrt, and cuda_graphs, which we make for them."""
OURS = {"ILogger.started"}


def names() -> set[str]:
    found = {f"module.{name}" for name in (*classes(), "nptype")}
    found |= {f"{name}.{member}" for name, owner in classes().items() for member in members(owner)}
    return found - OURS


@pytest.mark.parametrize("release", TENSORRT_LISTS)
def test_every_name_of_the_double_exists_in_tensorrt(release: str) -> None:
    assert names() - frozen_api(release) <= RTX_ONLY


def test_every_name_and_signature_of_the_double_is_that_of_tensorrt_rtx() -> None:
    """The real module says its signatures in the first lines of its docstrings."""
    rtx = pytest.importorskip("tensorrt_rtx")
    compared = 0
    for name, owner in classes().items():
        real = getattr(rtx, name)
        for member, value in members(owner).items():
            if f"{name}.{member}" in OURS:
                continue
            assert hasattr(real, member), f"{name}.{member}"
            if not inspect.isfunction(value) or name == "ILogger":
                continue
            said = re.findall(
                rf"^(?:\d+\. )?{member}\(self: [\w.]+(.*)\) -> ", getattr(real, member).__doc__, re.MULTILINE
            )
            parameters = [re.findall(r", (\w+): ", text) for text in said]
            assert list(inspect.signature(value).parameters)[1:] in parameters, f"{name}.{member}: {said}"
            compared += 1
    assert compared >= 17
    assert callable(rtx.nptype) and issubclass(rtx.IRuntimeCache, object)
