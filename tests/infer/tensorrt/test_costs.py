"""What an image costs on the double of TensorRT: uploads, waits, allocations, and a GPU that always has work."""

from __future__ import annotations

from pathlib import Path

import pytest
from cudasim import ALLOCATIONS, WAITS, copied_bytes, count
from helpers import Checkpoints, Exported
from on_double import check, run
from plans import write_plan

from export.to_onnx import export_onnx
from trainer.checkpoint import load

pytestmark = pytest.mark.processes


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


def test_decoded_images_go_up_once_for_an_ensemble(ensemble: list[Path], tmp_path: Path) -> None:
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
    pixels = sum(256 * (256 + 8 * seed) * 3 for seed in range(12))
    assert pixels < copied_bytes(calls, "cuMemcpyHtoDAsync") < pixels + 1_000_000
    assert count(calls, ["cuMemcpyHtoDAsync"]) == 2  # the images; tables, which stay for others
    assert count(calls, ["cuLaunchHostFunc"]) == 2 * 2  # one to warm up, one that counts


def test_images_of_one_size_share_dense_calls(ensemble: list[Path], tmp_path: Path) -> None:
    """8 images of 375x500 px by `multicrop+dense`: 24 calls of crops, 6 dense ones of 8 views, and each image once."""
    code = f"""
    from cudasim import mark
    engine = TensorRTEngine(Path({str(ensemble[0])!r}))
    plan = plan_views(engine.spec, "multicrop+dense", (375, 500), [256, 384, 512])
    for first in (0, 8):
        mark()
        images = [noise(375, 500, seed) for seed in range(first, first + 8)]
        engine.run(engine.load(images), [plan] * 8)
    mark()
    engine.close()
    del engine
    """
    seen = run(code, tmp_path, settings={"FAKE_TENSORRT": "idle"})
    check(seen)
    _, calls = seen.between_marks()
    assert count(calls, ["cuLaunchHostFunc"]) == 8 * 3 + 2 * 3
    assert count(calls, ["cuMemcpyHtoDAsync"]) == 1
    assert copied_bytes(calls, "cuMemcpyHtoDAsync") == 2 * 4 * 384 * 500 * 3  # 375 rows and 9 up to a multiple of 256


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
        uploaded = max(place for place, call in enumerate(kind) if call.startswith("cuMemcpyHtoD"))
        timed = kind.index("cuEventRecord", kind.index("cuStreamWaitEvent", uploaded))
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


def test_the_evaluation_writes_the_same_posteriors(exported: Exported, miniature_dir: Path, tmp_path: Path) -> None:
    """evaluation.ilsvrc of an ensemble of two, as plans with their self-tests and as ONNX models."""
    onnx = [str(exported(net)) for net in ("A", "B")]
    plans = [str(write_plan(Path(path), tmp_path)) for path in onnx]
    code = f"""
    import pyarrow.parquet
    from evaluation.ilsvrc import main
    tables = []
    for engines, out in (({onnx!r}, "onnx"), ({plans!r}, "plans")):
        for protocols, limit in (("center,ten-crop", "10"), ("multicrop+dense,googlenet-144", "2")):
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
    """Of an ensemble: when the host waits for images, the next ones are on the GPU for all engines already."""
    plans = [str(write_plan(exported(net), tmp_path)) for net in ("A", "B")]
    code = f"""
    import evaluation.run.score
    from evaluation.ilsvrc import main
    evaluation.run.score.SMALL_BATCH = 1
    engines = [word for path in {plans!r} for word in ("--engine", path)]
    options = ["--protocol", "multicrop+dense", "--limit", "6", "--out", "out"]
    assert main([*engines, "--data", {str(miniature_dir)!r}, *options]) == 0
    """
    seen = run(code, tmp_path)
    check(seen)
    read_backs = [number for number, call in enumerate(seen.calls) if call.startswith("cuMemcpyDtoHAsync")]
    waits = [number for number, call in enumerate(seen.calls) if call.startswith("cuEventSynchronize")]
    closing = 2 * 3  # each engine waits for each stream
    assert len(read_backs) == 6 * 2 and len(waits) == 6 + closing  # one for an image
    for image in range(5):
        enqueued = sum(place < waits[image] for place in read_backs)
        assert enqueued == (image + 2) * 2, (image, enqueued)


def test_a_context_is_told_what_changes_alone(exported: Exported, tmp_path: Path) -> None:
    """Shapes once for images of one size, by each profile; all anew for another size, and memory where it moved."""
    code = f"""
    from collections import Counter
    told = Counter()
    def count(name):
        own = getattr(fake_tensorrt.IExecutionContext, name)
        def counted(self, *arguments):
            told[name] += 1
            return own(self, *arguments)
        setattr(fake_tensorrt.IExecutionContext, name, counted)
    shapes = ("set_input_shape", "infer_shapes", "update_device_memory_size_for_shapes")
    for name in (*shapes, "set_device_memory", "set_tensor_address"):
        count(name)

    onnx = Path({str(exported("A"))!r})
    engine, reference = TensorRTEngine(Path({str(write_plan(exported("A"), tmp_path))!r})), OnnxEngine(onnx)
    def run(size, seed, protocol="multicrop+dense"):
        told.clear()
        image = noise(*size, seed)
        plan = plan_views(engine.spec, protocol, size, [96])
        same(engine.run(engine.load([image]), [plan], OUTPUTS), reference.run(reference.load([image]), [plan], OUTPUTS))
        return [told[name] for name in shapes], told["set_device_memory"]

    assert run((90, 130), 0)[0] == [20, 2, 2]  # crops and landscape, ten inputs each
    for seed in (1, 2):
        assert run((90, 130), seed) == ([0, 0, 0], 0)
    assert told["set_tensor_address"] <= 2 * 13

    # another size, of portrait; then the first again, by contexts of which the crops' has other shapes now
    assert run((130, 90), 3)[0] == [20, 2, 2]
    assert run((90, 130), 4)[0] == [10, 1, 1]
    engine.close()
    reference.close()
    del engine, reference
    """
    check(run(code, tmp_path))


def test_contexts_follow_the_memory_that_engines_share(exported: Exported, tmp_path: Path) -> None:
    """The second engine's larger shapes move the memory for activations under the first, whose shapes stay."""
    small, large = (write_plan(exported(net), tmp_path) for net in ("A", "googlenet"))
    code = f"""
    engines = [TensorRTEngine(Path(path)) for path in ({str(small)!r}, {str(large)!r})]
    image, first = noise(90, 130), {{}}
    for which, protocol in ((0, "center"), (1, "center"), (0, "center"), (1, "multicrop+dense"), (0, "center")):
        engine = engines[which]
        found = engine.run(engine.load([image]), [plan_views(engine.spec, protocol, (90, 130))], OUTPUTS)
        same(found, first.setdefault((which, protocol), found))
    assert all(np.isfinite(found["posterior"]).all() for found in first.values())
    del engine
    while engines: engines.pop().close()
    """
    check(run(code, tmp_path))
