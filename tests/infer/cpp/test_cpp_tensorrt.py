"""libverydeep's TensorRT backend: real headers, a real library as far as the missing driver, and a double of the
runtime on the simulated CUDA driver for the rest. `make cpp` builds what is run here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cudasim
import numpy as np
import pytest
from box_engines import box_net, classifier
from helpers import encode, noise, slim_spec, write_checkpoint
from plans import build_whole, write_plan

from export.model.source import read_source
from export.tensorrt.build import BuildOptions
from export.to_onnx import export_onnx
from infer.views import PROTOCOLS, default_shapes, few_crops_shape
from trainer.checkpoint import load

Exported = Callable[..., Path]

BUILDS = {kind: os.environ.get(f"VERYDEEP_CPP_{kind.upper()}") for kind in ("double", "lean")}
VERSION = "tensorrt 10.14.1.48"
"""Of the headers that the double is built with."""
pytestmark = pytest.mark.skipif(not all(BUILDS.values()), reason="built and run by `make cpp`")


def classify(
    folder: Path, *arguments: object, kind: str = "double", driver: bool = True, fail: str = "", returns: str = ""
) -> cudasim.Seen:
    """Runs the app on the simulated driver, work of streams as late as may be.

    fail: errors of the driver; returns: what calls of the double return, `inferShapes=-1`.
    """
    log, report = folder / "cusim.log", folder / "cusim.report"
    for path in (log, report):
        path.unlink(missing_ok=True)
    environment = {**os.environ, "CUSIM_LOG": str(log), "CUSIM_REPORT": str(report), "CUSIM_DEFER": "1"}
    if driver:
        environment["LD_LIBRARY_PATH"] = str(cudasim.library())
    environment |= {"CUSIM_FAIL": fail} if fail else {}
    environment |= {"FAKE_TENSORRT_RETURNS": returns} if returns else {}
    command = [f"{BUILDS[kind]}/verydeep-classify", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    lines = log.read_text().splitlines() if log.is_file() else []
    calls = tuple(line.partition("] ")[2] if line.startswith("[") else line.strip() for line in lines)
    return cudasim.Seen(done.returncode, done.stdout, done.stderr, report.read_text() if report.exists() else "", calls)


def check(seen: cudasim.Seen) -> None:
    assert "BREACH" not in seen.stderr, seen.stderr
    left = seen.left()
    assert left.pop("peak") >= 0 and len(left) == 6 and not any(left.values()), f"{seen.report}\n{seen.stderr}"


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = []
    for number, size in enumerate([(90, 130), (140, 80), (75, 75), (300, 200)]):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encode(noise(size, number), "PNG"))
    return paths


@pytest.mark.parametrize("interface", ["views", "images", "nchw"])
def test_every_protocol_answers_as_the_onnx_backend(
    interface: str, exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    onnx = exported("A", interface=interface)
    plan = write_plan(onnx, tmp_path, builder=VERSION)
    for protocol in PROTOCOLS:
        options = ["--protocol", protocol, "--top", "10", "--json"]
        one, other = (classify(tmp_path, *images, "--engine", engine, *options) for engine in (onnx, plan))
        assert (one.code, other.code) == (0, 0), other.stderr
        check(other)
        for expected, found in zip(one.stdout.splitlines(), other.stdout.splitlines(), strict=True):
            rows = [json.loads(line) for line in (expected, found)]
            assert rows[0]["image"] == rows[1]["image"] and rows[1]["status"] == "ok"
            probabilities = [{p["index"]: p["probability"] for p in row["predictions"]} for row in rows]
            assert max(abs(probabilities[0][c] - probabilities[1][c]) for c in range(10)) < 1e-6
            assert [p["index"] for p in rows[0]["predictions"]] == [p["index"] for p in rows[1]["predictions"]]


def test_the_whole_path(exported: Exported, images: list[Path], tmp_path: Path) -> None:
    """A plan and sidecar by the real builder, which is TensorRT-RTX's and here called TensorRT, by every protocol."""
    onnx = exported("A")
    plan = build_whole(onnx, tmp_path, builder=VERSION)
    for protocol in PROTOCOLS:
        options = ["--protocol", protocol, "--top", "10", "--json", "--self-test"]
        one, other = (classify(tmp_path, *images, "--engine", engine, *options) for engine in (onnx, plan))
        assert (one.code, other.code) == (0, 0), other.stderr
        check(other)
        for rows in zip(one.stdout.splitlines(), other.stdout.splitlines(), strict=True):
            answers = [{p["index"]: p["probability"] for p in json.loads(row)["predictions"]} for row in rows]
            assert answers[1] == pytest.approx(answers[0], abs=1e-6)


def test_an_image_goes_up_once_and_buffers_stay(exported: Exported, tmp_path: Path) -> None:
    """Of the second image of one size nothing is allocated; its pixels are copied once for six calls."""
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encode(noise((90, 130), number), "PNG"))
    plan = write_plan(exported("A"), tmp_path, builder=VERSION)
    seen = classify(tmp_path, *paths, "--engine", plan, "--protocol", "multicrop+dense", "--json")
    check(seen)
    uploads = [int(call.split(",")[2]) for call in seen.calls if call.startswith("cuMemcpyHtoDAsync")]
    assert uploads.count(90 * 130 * 3) == 3 and len(uploads) == 3 * (1 + 6)
    assert seen.count("cuMemcpyDtoHAsync") == seen.count("cuStreamSynchronize") - 1 == 3 * 6
    assert seen.count("cuStreamCreate") == 1 and not any("pageable" in call for call in seen.calls)
    last_allocation = max(i for i, call in enumerate(seen.calls) if call.startswith(("cuMemAlloc", "cuMemHostAlloc")))
    second_image = [i for i, call in enumerate(seen.calls) if call.startswith("cuMemcpyDtoHAsync")][6]
    assert last_allocation < second_image


@pytest.mark.parametrize("interface", ["views", "images", "nchw"])
def test_objects(interface: Any, images: list[Path], tmp_path: Path) -> None:
    """Of regions that the host draws, many in a call, by engines whose views are regions, too."""
    classes = tuple(f"n{i}" for i in range(9))
    specs = [
        slim_spec("A", classes=(*classes, "background"), name="det"),
        slim_spec("googlenet", task="multibox", boxes=40, fixed_size=True, name="multibox"),
    ]
    onnx = [tmp_path / f"{spec.name}.onnx" for spec in specs]
    for path, spec in zip(onnx, specs, strict=True):
        export_onnx(load(write_checkpoint(path.with_suffix(".pt"), spec)), path, interface=interface)
    rng = np.random.default_rng(1)
    corners = rng.uniform(-20, 150, (120, 2))
    np.savetxt(
        tmp_path / "boxes.csv", np.concatenate([corners, corners + rng.uniform(1, 99, (120, 2))], 1), "%.17g", ","
    )

    plans = [write_plan(path, tmp_path, builder=VERSION) for path in onnx]
    for more in (["--regions", tmp_path / "boxes.csv"], ["--multibox"]):
        rows = []
        for regions, proposes in (onnx, plans):
            words = [*more, proposes] if more == ["--multibox"] else more
            words += ["--detect", "--least", "0.11", "--json", "--self-test"]
            seen = classify(tmp_path, images[3], "--engine", regions, *words)
            assert seen.code == 0, seen.stderr
            rows.append(json.loads(seen.stdout)["objects"])
        check(seen)
        assert len(rows[0]) == len(rows[1]) > (10 if more[0] == "--regions" else 0)
        for mine, theirs in zip(*rows, strict=True):
            assert mine["index"] == theirs["index"] and theirs["box"] == pytest.approx(mine["box"], abs=1e-3)
            assert theirs["score"] == pytest.approx(mine["score"], abs=1e-6)
    seen = classify(tmp_path, images[3], "--engine", plans[0], "--detect", "--multibox", plans[0])
    assert seen.code == 1 and "det is no MultiBox net, it has no boxes" in seen.stderr
    check(seen)


@pytest.mark.parametrize("kind", ["box-scr", "box-pcr"])
def test_boxes(kind: str, images: list[Path], tmp_path: Path) -> None:
    onnx = [classifier(tmp_path), box_net(tmp_path, "net", slim_spec("D", task=kind), seed=1)]
    plans = [write_plan(path, tmp_path, builder=VERSION) for path in onnx]
    rows = []
    for rater, net in (onnx, plans):
        seen = classify(tmp_path, *images, "--engine", rater, "--box-engine", net, "--top", "3", "--json")
        assert seen.code == 0, seen.stderr
        rows.append([json.loads(line) for line in seen.stdout.splitlines()])
    check(seen)
    for one, other in zip(*rows, strict=True):
        for mine, theirs in zip(one["predictions"], other["predictions"], strict=True):
            assert mine["index"] == theirs["index"] and theirs["box"] == pytest.approx(mine["box"], abs=1e-3)
    seen = classify(tmp_path, images[0], "--engine", plans[0], "--box-engine", plans[0])
    assert seen.code == 1 and "slim-a is no box net" in seen.stderr
    check(seen)


def test_images_beyond_the_profiles_are_rescaled_on_the_host(exported: Exported, tmp_path: Path) -> None:
    """A source larger than the profile's, with the same answer."""
    (tmp_path / "large.png").write_bytes(encode(noise((2100, 300)), "PNG"))
    onnx = exported("A")
    plan = write_plan(onnx, tmp_path, builder=VERSION)
    answers = []
    for engine in (onnx, plan):
        seen = classify(tmp_path, tmp_path / "large.png", "--engine", engine, "--protocol", "ten-crop", "--json")
        assert seen.code == 0, seen.stderr
        answers.append([p["probability"] for p in json.loads(seen.stdout)["predictions"]])
    assert np.abs(np.subtract(*answers)).max() < 1e-6


def test_the_self_test(exported: Exported, images: list[Path], tmp_path: Path) -> None:
    wrong = {"pixel_sums": [[0] * 6] * 16, "log_posterior": [[0.0] * 10] * 16}
    good = write_plan(exported("A"), tmp_path, builder=VERSION)
    bad = write_plan(exported("B"), tmp_path, builder=VERSION, self_test=wrong)
    seen = classify(tmp_path, images[0], "--engine", good, "--self-test", "--json")
    assert seen.code == 0, seen.stderr
    check(seen)
    seen = classify(tmp_path, images[0], "--engine", bad, "--self-test", "--json")
    assert seen.code == 1 and "self-test of slim-b on tensorrt-fp32: image 0 gave other pixel sums" in seen.stderr
    check(seen)


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("cuInit:1=100", "cuInit failed: no CUDA-capable device"),
        ("cuDevicePrimaryCtxRetain:1=2", "cuDevicePrimaryCtxRetain failed: out of memory"),
        ("cuStreamCreate:1=2", "cuStreamCreate failed: out of memory"),
        *((f"cuMemAlloc_v2:{n}=2", r"cuMemAlloc of \d+ MB failed: out of memory") for n in (1, 2, 3)),
        *((f"cuMemHostAlloc:{n}=2", "cuMemHostAlloc failed: out of memory") for n in (1, 2)),
        ("cuMemcpyHtoDAsync_v2:1=719", "cuMemcpyHtoDAsync failed: unspecified launch failure"),
        ("cuMemcpyDtoHAsync_v2:1=1", "cuMemcpyDtoHAsync failed: invalid argument"),
        ("cuStreamSynchronize:1=700", "cuStreamSynchronize failed: an illegal memory access"),
        ("cuLaunchHostFunc:1=2", "tensorrt refused a run of profile crops: launch failed"),
    ],
    ids=lambda value: value.split("=")[0] if "=" in value else "",
)
def test_a_failure_is_told_in_one_line_and_everything_given_back(
    fail: str, message: str, exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    plan = write_plan(exported("A"), tmp_path, builder=VERSION)
    seen = classify(tmp_path, images[0], "--engine", plan, "--protocol", "ten-crop", "--json", fail=fail)
    assert seen.code == 1 and "BREACH" not in seen.stderr
    assert len(seen.stderr.splitlines()) == 1 and re.search(message, seen.stderr), seen.stderr
    check(seen)


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        ("createExecutionContext=0", "tensorrt refused a context: told to fail"),
        ("setOptimizationProfileAsync=0", "tensorrt refused profile 3: told to fail"),
        ("setInputShape=0", "tensorrt refused the shape of image: told to fail"),
        ("setTensorAddress=0", "tensorrt refused an address for image: told to fail"),
        ("inferShapes=-1", "tensorrt refused the inputs' shapes, which do not go together: told to fail"),
        ("inferShapes=2", "tensorrt refused a run without the shapes of 2 inputs: told to fail"),
        ("updateDeviceMemorySizeForShapes=0", "tensorrt refused to say how much memory a run needs: told to fail"),
        ("getTensorShape=-1", "tensorrt refused to say the shape of p[a-z_]+: told to fail"),
        ("getTensorLocation=1", "wants image on the host, expected all tensors on the GPU: python -m export.to_trt"),
        ("enqueueV3=0", "tensorrt refused a run of profile few crops: told to fail"),
    ],
)
def test_whatever_a_call_returns_is_looked_at(
    returns: str, message: str, exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    plan = write_plan(exported("A"), tmp_path, builder=VERSION)
    seen = classify(tmp_path, images[0], "--engine", plan, "--json", returns=returns)
    assert seen.code == 1 and len(seen.stderr.splitlines()) == 1, seen.stderr
    assert re.search(message, seen.stderr), seen.stderr
    check(seen)


@pytest.mark.parametrize("interface", ["views", "images"])
@pytest.mark.parametrize(("protocol", "profile"), [("center", 3), ("ten-crop", 0), ("multicrop", 0), ("dense", 1)])
def test_a_call_has_the_profile_tuned_for_its_number_of_views(
    interface: str, protocol: str, profile: int, exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    """Of engines with a profile of few crops and without; crops are in calls as large as either takes."""
    onnx = exported("A", interface=interface)
    spec = read_source(onnx).spec
    options = ["--protocol", protocol, "--json"]
    expected = classify(tmp_path, images[0], "--engine", onnx, *options)
    for shapes, number in (
        (default_shapes(spec), profile % 3),
        ((*default_shapes(spec), few_crops_shape(spec)), profile),
    ):
        plan = write_plan(onnx, tmp_path, shapes, builder=VERSION)
        found = classify(tmp_path, images[0], "--engine", plan, *options)
        assert (found.code, expected.code) == (0, 0), found.stderr
        check(found)
        rows = [json.loads(seen.stdout)["predictions"][0] for seen in (expected, found)]
        assert rows[0]["index"] == rows[1]["index"]
        assert rows[1]["probability"] == pytest.approx(rows[0]["probability"], abs=1e-6)
        refused = classify(tmp_path, images[0], "--engine", plan, *options, returns="setOptimizationProfileAsync=0")
        assert f"tensorrt refused profile {number}: told to fail" in refused.stderr


def test_an_engine_for_apps(slim_checkpoint: Exported, images: list[Path], tmp_path: Path) -> None:
    """Without pixel sums: it answers and passes its self-test, as the ONNX model does."""
    onnx = tmp_path / "app.onnx"
    export_onnx(load(slim_checkpoint("A")), onnx, outputs=["posterior"])
    plan = write_plan(onnx, tmp_path, default_shapes(read_source(onnx).spec), builder=VERSION)
    options = ["--protocol", "ten-crop", "--self-test", "--json"]
    one, other = (classify(tmp_path, images[0], "--engine", engine, *options) for engine in (onnx, plan))
    assert (one.code, other.code) == (0, 0), one.stderr + other.stderr
    check(other)
    assert json.loads(one.stdout)["predictions"][0]["index"] == json.loads(other.stdout)["predictions"][0]["index"]


def test_code_in_a_plan_is_allowed_where_the_sidecar_says_it(
    exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    options = BuildOptions(version_compatible=True)
    plan = write_plan(exported("A"), tmp_path, builder="tensorrt 10.9.0.34", build_options=options)
    seen = classify(tmp_path, images[0], "--engine", plan, "--json")
    assert seen.code == 0, seen.stderr
    check(seen)
    for said in ({}, {"version_compatible": "no"}):
        plan = write_plan(exported("A"), tmp_path, builder=VERSION, build_options=options, options=said)
        seen = classify(tmp_path, images[0], "--engine", plan, "--json")
        assert seen.code == 1 and "cannot load it: Cannot deserialize engine with lean runtime" in seen.stderr
        check(seen)


@pytest.mark.parametrize(
    ("version", "compatible", "opens"),
    [
        ("10.14.1.48.post1", False, True),  # as Python's package says it
        ("10.14.1.5", False, False),
        ("10.14.1.5.post1", True, True),
        ("10.14.1.480", True, False),
        ("10.14.2", True, False),
        ("9.99", True, True),
        ("", True, False),
    ],
)
def test_versions_are_compared_as_numbers(
    version: str, compatible: bool, opens: bool, exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    options = BuildOptions(version_compatible=compatible)
    plan = write_plan(exported("A"), tmp_path, builder=f"tensorrt {version}", build_options=options)
    seen = classify(tmp_path, images[0], "--engine", plan, "--json")
    assert seen.code == 0 if opens else (seen.code == 1 and "but here is 10.14.1.48" in seen.stderr), seen.stderr


def refusals(onnx: Path, folder: Path) -> dict[str, tuple[Path, str]]:
    """Plans that cannot be opened, and what is said of them."""
    made: dict[str, tuple[Path, str]] = {}

    def plan(name: str, message: str, **changes: Any) -> Path:
        (folder / name).mkdir()
        made[name] = write_plan(onnx, folder / name, builder=changes.pop("builder", VERSION), **changes), message
        return made[name][0]

    plan(
        "version", "built by tensorrt 10.9.0.34, but here is 10.14.1.48, .*export.to_trt", builder="tensorrt 10.9.0.34"
    )
    plan("rtx", "built by tensorrt-rtx, expected tensorrt", builder="tensorrt-rtx 1.7.1.116")
    plan("target", "built for sm75, sm90, but .* is sm86: python -m export.to_trt", targets=["sm75", "sm90"])
    plan("digest", "sha256 .*, but its sidecar says abcabcabcabc", sha256="abc" * 20)
    plan("changed", "sha256 .*the plan was changed").write_bytes(b"something else")
    path = plan("no sidecar", "missing, expected the sidecar")
    path.with_name(path.name + ".json").unlink()
    path = plan("no JSON", "damaged")
    path.with_name(path.name + ".json").write_text('{"sha256": "')
    plan("profiles", "damaged|out of order", profiles=[{"name": "crops"}])
    ranges = {key: {"min": 1, "opt": 2, "max": 3e84} for key in ("views", "height_px")}
    plan("float", "a range has a max that is no integer", profiles=[{"name": "crops", **ranges}])
    (folder / "folder.engine").mkdir()
    made["folder"] = folder / "folder.engine", "cannot be read"
    plan("spec", "not a model spec", spec={"name": "a"})
    return made


def test_what_cannot_be_opened_is_said_in_one_line(exported: Exported, images: list[Path], tmp_path: Path) -> None:
    for name, (plan, message) in refusals(exported("A"), tmp_path).items():
        seen = classify(tmp_path, images[0], "--engine", plan, "--json")
        assert seen.code == 1 and len(seen.stderr.splitlines()) == 1, (name, seen.stderr)
        assert re.search(message, seen.stderr), (name, seen.stderr)
        if seen.report:
            check(seen)


def test_another_plan_than_a_plan_is_refused_by_the_library(
    exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    import hashlib

    plan = write_plan(exported("A"), tmp_path, builder=VERSION, sha256=hashlib.sha256(b"no plan").hexdigest())
    plan.write_bytes(b"no plan")
    seen = classify(tmp_path, images[0], "--engine", plan, "--json")
    assert seen.code == 1 and "tensorrt cannot load it: Serialization assertion failed" in seen.stderr
    check(seen)


def test_an_image_out_of_range_is_explained(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "long.png").write_bytes(encode(noise((90, 3000)), "PNG"))
    plan = write_plan(exported("A"), tmp_path, builder=VERSION)
    seen = classify(tmp_path, tmp_path / "long.png", "--engine", plan, "--protocol", "dense", "--json")
    assert seen.code == 1 and "beyond the engine's range" in seen.stdout + seen.stderr
    check(seen)


def test_without_a_driver_the_real_library_is_not_even_started(
    exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    plan = write_plan(exported("A"), tmp_path, builder="tensorrt 10.16.1.11")
    seen = classify(tmp_path, images[0], "--engine", plan, "--json", kind="lean", driver=False)
    assert seen.code == 1 and len(seen.stderr.splitlines()) == 1
    assert "no NVIDIA driver (libcuda.so.1: cannot open" in seen.stderr


def test_the_real_library_says_why_it_does_not_start_on_the_simulated_driver(
    exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    """createInferRuntime returns what is no runtime: an error text, no crash."""
    plan = write_plan(exported("A"), tmp_path, builder="tensorrt 10.16.1.11")
    seen = classify(tmp_path, images[0], "--engine", plan, "--json", kind="lean")
    assert seen.code == 1 and len(seen.stderr.splitlines()) == 1, seen.stderr
    assert re.search("tensorrt cannot start: .*CUDA initialization failure with error: 500", seen.stderr), seen.stderr
