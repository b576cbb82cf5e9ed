"""infer/tensorrt/sidecar.py: plans that cannot be opened or asked, each refused in one line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import textwrap
from pathlib import Path

import cudasim
import msgspec
import pytest
from engines import Built
from helpers import Exported
from on_double import check, run
from plans import write_plan

from export.model.source import read_source
from export.tensorrt.build import BuildOptions
from export.tensorrt.elements import fit_shapes
from export.tensorrt.profiles import shapes_from_options
from infer.views import ShapeRange

pytestmark = pytest.mark.processes

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
    "profiles": ([], "has 4 profiles, but its sidecar names 0: python -m export"),
    "spec": ({}, r"\.json: cannot be understood \(not a model spec: Object missing required field `name`\), "),
    "outputs": ("", r"has outputs .*pixel_sums.*, but its spec says posterior: python -m export"),
    "regions": (
        False,
        r"has inputs .*, region_row_taps, .*, but its sidecar says col_first, col_taps, cols, image, row_first, "
        r"row_taps, rows: python -m",
    ),
    "no regions": (
        True,
        r"has inputs col_first, col_taps, cols, image, row_first, row_taps, rows, but its sidecar says .*, "
        r"region_row_taps, .*: python -m",
    ),
    "classes": (3, "its posterior.* has 10 values, expected 3 for the 3 classes that its spec names"),
    "plan": (
        b"something else",
        r"tensorrt cannot load it: Serialization assertion failed\. Magic tag does not match: python",
    ),
    "lazy": (
        {"lazy_kernels": True},
        "lazy_kernels is of tensorrt-rtx, and this plan is tensorrt's: leave it out",
    ),
    "options": (
        {"runtime_cache": "kernels.cache"},
        "runtime_cache is of tensorrt-rtx, and this plan is tensorrt's: leave it out",
    ),
}


def test_what_cannot_be_opened(exported: Exported, tmp_path: Path) -> None:
    """All in one process: nothing is left by any of them, and a good plan opens afterwards."""
    paths = []
    for case, (value, _) in REFUSALS.items():
        folder = tmp_path / case
        folder.mkdir()
        onnx, changes = exported("A"), {}
        shapes: tuple[ShapeRange, ...] = ()
        if case in ("builder", "version", "absent"):
            changes["builder"] = value
        elif case in ("targets", "profiles", "spec"):
            changes[case] = value
        elif case in ("regions", "no regions"):  # a sidecar with the lines of the other kind
            spec = read_source(onnx).spec
            kinds = shapes_from_options(spec), fit_shapes(onnx, spec, shapes_from_options(spec))[0]
            changes["profiles"] = [{**msgspec.to_builtins(shape), "inputs": {}} for shape in kinds[value]]
            shapes = kinds[not value]
        elif case == "sha256":
            changes["sha256"] = "0" * 64
        elif case == "outputs":
            spec = read_source(onnx).spec
            changes["spec"] = json.loads(dataclasses.replace(spec, outputs=("posterior",)).to_json())
        elif case == "classes":
            spec = read_source(onnx).spec
            changes["spec"] = json.loads(dataclasses.replace(spec, classes=spec.classes[:3]).to_json())
        path = write_plan(onnx, folder, shapes, **changes)
        if case == "plan":
            assert isinstance(value, bytes)
            path = write_plan(onnx, folder, sha256=hashlib.sha256(value).hexdigest())
            path.write_bytes(value)
        paths.append((str(path), value if case in ("options", "lazy") else {}))
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
    options = BuildOptions(version_compatible=True, hardware_compatible="ampere+")
    same = write_plan(exported("C"), tmp_path, builder="tensorrt 11.4.0.106.post1")  # of one version
    older = write_plan(exported("A"), tmp_path, builder="tensorrt 10.9.0.34", build_options=options, targets=["sm80"])
    newer = write_plan(exported("B"), tmp_path, builder="tensorrt 12.0.0.1", build_options=options, targets=["sm80"])
    code = f"""
    for path in ({str(older)!r}, {str(same)!r}):
        engine = TensorRTEngine(Path(path))
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


def test_code_in_a_plan_is_allowed_where_the_sidecar_says_it(exported: Exported, tmp_path: Path) -> None:
    """A version-compatible plan carries its own runtime; no other plan may bring code, and none that was changed."""
    paths = {}
    for case, changes in {
        "said": {},
        "not said": {"options": {}},
        "a word": {"options": {"version_compatible": "no"}},
    }.items():
        (tmp_path / case).mkdir()
        options = BuildOptions(version_compatible=True)
        paths[case] = str(write_plan(exported("A"), tmp_path / case, build_options=options, **changes))
    code = f"""
    from infer.tensorrt import sidecar
    paths = {paths!r}
    def attempt(case):
        try:
            TensorRTEngine(Path(paths[case])).close()
            print("opened")
        except EngineError as error:
            print(error)
    for case in paths: attempt(case)

    hashed = sidecar.file_sha256
    def exchanged(path):  # by another program, right after the digest was found right
        try:
            return hashed(path)
        finally:
            path.write_bytes(path.read_bytes() + b" ")
    sidecar.file_sha256 = exchanged
    attempt("said")
    """
    seen = run(code, tmp_path)
    check(seen)
    said, not_said, word, exchanged = seen.stdout.splitlines()
    assert said == "opened"
    for line in (not_said, word):
        assert re.search(r"cannot load it: Cannot deserialize engine with lean runtime since .* is false\.", line)
    assert re.search("sha256 .* but its sidecar says .*: the plan was changed", exchanged)


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
