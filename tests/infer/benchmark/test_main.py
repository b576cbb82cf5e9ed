"""The benchmark: what it times, by a clock of our own; its figures, rows, table and errors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_nvimgcodec
import numpy as np
import pytest
from helpers import encode, noise, slim_spec
from on_double import run as run_on_double
from plans import write_plan

from infer.benchmark import measure, pipelined
from infer.benchmark import measure as benchmark
from infer.benchmark.__main__ import main
from infer.benchmark.measure import WARM_UP, Peak, figures, plan_flops, synthetic_jpeg, time_runs
from infer.engine import EngineError
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import decode
from infer.views import plan_views

Exported = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
CONTRACT = [
    *("engine", "protocol", "device", "runs", "latency_ms", "images_per_second", "split_ms", "flops_per_image"),
    "share_of_peak_percent",
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_matrix_product", lambda: 1e12)
    monkeypatch.setattr(benchmark, "LEAST_S", 0.0)
    monkeypatch.setattr(pipelined, "LEAST_S", 0.0)


class ClockedEngine:
    """Decoding takes 1 s an image, `load` 3 s, `start` 2 s, `result` 11 s and each time 1 s more; the runtime 7 s."""

    spec = slim_spec("A")
    seconds = 100.0
    compute_s = 7

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.runs, self.batches = 0.0, 0, []  # type: float, int, list[int]
        monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: self.now))
        self.plan = partial(plan_views, self.spec, "center")

    def decode(self, data: bytes, *, exif: str = "ignore", name: str = "") -> Any:
        assert (data, exif) == (b"jpeg", "ignore")
        self.now += 1
        return np.zeros((100, 120, 3), np.uint8)

    def load(self, images: list[Any]) -> Any:
        assert len({id(image) for image in images}) == len(images)  # else a GPU would get only one of them
        self.now += 3
        return images

    def start(self, image: Any, plans: Any) -> Any:
        assert len(image) == len(plans)
        self.batches.append(len(plans))
        self.now += 2
        return self

    def result(self) -> Any:
        self.now += 11 + self.runs
        self.seconds += self.compute_s
        self.runs += 1
        return {"posterior": np.zeros((self.batches[-1], 8), np.float32)}


def test_each_step_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = ClockedEngine(monkeypatch)
    found = time_runs(engine, b"jpeg", engine.plan, 3, 4, engine.decode)
    assert engine.batches == [3] * (WARM_UP + 4)
    assert found.tolist() == [[3, 5, 7, 4 + WARM_UP + number] for number in range(4)]


def test_what_overlaps_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU begins while the host still hands over: of 5 s for that, 1 s was not computed in."""
    engine: Any = ClockedEngine(monkeypatch)
    engine.compute_s = 15 + WARM_UP
    found = time_runs(engine, b"jpeg", engine.plan, 3, 1, engine.decode)
    assert found.tolist() == [[3, 1, 15 + WARM_UP, 0]]


@pytest.mark.parametrize(("least_runs", "least_s", "expected"), [(3, 0.0, 3), (1, 100.0, 4)])
def test_without_a_number_runs_go_on_for_a_while(
    least_runs: int, least_s: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """19 s or more each: a fourth begins before 100 are over."""
    monkeypatch.setattr(benchmark, "LEAST_RUNS", least_runs)
    monkeypatch.setattr(benchmark, "LEAST_S", least_s)
    engine: Any = ClockedEngine(monkeypatch)
    engine.runs = 10
    assert len(time_runs(engine, b"jpeg", engine.plan, 1, None, engine.decode)) == expected


def test_figures() -> None:
    """Latencies of 1 to 101 ms, half of it compute."""
    latency = np.random.default_rng(0).permutation(np.arange(1, 102)) / 1e3
    seconds = np.stack([latency * share for share in (0.125, 0.25, 0.5, 0.125)], 1)
    found = figures(seconds, 4, 10**9, Peak("a peak", 1e12))
    assert found["runs"] == 101
    assert found["latency_ms"] == pytest.approx({"p50": 51, "p90": 91, "p99": 100})
    assert found["images_per_second"] == pytest.approx(4 * 101 / 5.151)
    assert found["split_ms"] == pytest.approx({"decode": 6.375, "upload": 12.75, "compute": 25.5, "readback": 6.375})
    assert found["compute_images_per_second"] == pytest.approx(4 * 101 / 2.5755)
    assert found["flops_per_image"] == 10**9
    assert found["share_of_peak_percent"] == pytest.approx(100 * 4e9 / 25.5e-3 / 1e12)
    assert figures(seconds, 4, 10**9, None)["share_of_peak_percent"] is None
    unknown = figures(seconds, 4, None, Peak("a peak", 1e12))
    assert unknown["flops_per_image"] is unknown["share_of_peak_percent"] is None


def test_json(exported: Exported, capsys: Capture) -> None:
    engine = str(exported("A"))
    argv = [
        "--engine",
        engine,
        "--protocol",
        "center,dense",
        "--batch",
        "1,3",
        "--scales",
        "64,80",
        "--runs",
        "2",
        "--workers",
        "2",
    ]
    assert main([*argv, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [(row["protocol"], row["batch"]) for row in rows] == [
        ("center", 1),
        ("center", 3),
        ("dense", 1),
        ("dense", 3),
    ]
    spec = OnnxEngine(Path(engine)).spec
    for row in rows:
        assert list(row)[: len(CONTRACT)] == CONTRACT
        assert list(row["latency_ms"]) == ["p50", "p90", "p99"]
        assert list(row["split_ms"]) == ["decode", "upload", "compute", "readback"]
        assert all(value > 0 for value in row["split_ms"].values())
        assert row["latency_ms"]["p50"] == pytest.approx(sum(row["split_ms"].values()))  # the mean of two runs
        assert row["images_per_second"] == pytest.approx(1e3 * row["batch"] / row["latency_ms"]["p50"])
        compute_s = row["split_ms"]["compute"] / 1e3
        assert row["compute_images_per_second"] == pytest.approx(row["batch"] / compute_s)
        assert row["pipelined_images_per_second"] > 0
        assert (row["workers"], row["decoder"], row["evaluated"]) == (2, "cpu", None)
        plan = plan_views(spec, row["protocol"], (375, 500), [64, 80])
        assert (row["views_per_image"], row["flops_per_image"]) == (len(plan), plan_flops(spec, plan))
        share = 100 * row["flops_per_image"] * row["batch"] / compute_s / row["peak"]["flops_per_second"]
        assert row["share_of_peak_percent"] == pytest.approx(share)
        assert row["peak"]["name"].startswith("float32 matrix product")
        assert (row["engine"], row["runtime"], row["scales"], row["runs"], row["warm_up_runs"]) == (
            engine,
            "onnxruntime-fp32",
            [64, 80],
            2,
            WARM_UP,
        )
        assert row["image"] == {"height_px": 375, "width_px": 500, "bytes": len(synthetic_jpeg())}


def test_the_table(exported: Exported, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two engines, an image of our own, a net whose FLOPs are not known."""
    image = tmp_path / "image.png"
    image.write_bytes(encode(noise((70, 90)), "PNG"))
    monkeypatch.setattr(benchmark, "plan_flops", lambda spec, plan: None if spec.precision == "fp16" else 10**9)
    engines = [str(exported("A")), str(exported("A", precision="fp16"))]
    argv = [word for engine in engines for word in ("--engine", engine)]
    assert main([*argv, "--image", str(image), "--runs", "1"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""
    assert lines[0].split()[:8] == ["engine", "runtime", "protocol", "scales", "batch", "runs", "p50", "ms"]
    assert [line.split()[:6] for line in lines[1:3]] == [
        [engine, f"onnxruntime-{precision}", "center", "96", "1", "1"]
        for engine, precision in zip(engines, ("fp32", "fp16"), strict=True)
    ]
    assert len({len(line) for line in lines[:3]}) == 1  # columns
    assert lines[1].split()[-2] == "1.00" and lines[2].split()[-2:] == ["-", "-"]
    assert "90x70 px" in lines[3]
    assert lines[4].startswith("images/s: compute, the runtime's own time alone; pipelined, decoding (")
    assert "1000 GFLOP/s (float32 matrix product by NumPy" in lines[5]
    said = "fp16, rounded by A.views.fp16.check.onnx: its times are not those of half precision"
    assert lines[6:] == [f"{engines[1]}: {said}"]


def test_one_engine_fails_the_other_is_measured(
    exported: Exported, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["--engine", str(tmp_path / "none.onnx"), "--engine", str(exported("A")), "--runs", "1"]
    assert main([*argv, "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [f"{tmp_path}/none.onnx: no such file, expected an engine (.onnx, .engine)"]
    assert [json.loads(line)["engine"] for line in captured.out.splitlines()] == [str(exported("A"))]
    assert main(argv[:2]) == 1
    assert capsys.readouterr().out == ""  # no table of nothing


@pytest.mark.processes
def test_a_plan(exported: Exported, tmp_path: Path) -> None:
    """On the double of TensorRT and the simulated driver: nothing but the Engine protocol is needed."""
    path = write_plan(exported("A", precision="fp16"), tmp_path)
    seen = run_on_double(
        f"""
        from infer.benchmark.__main__ import main
        assert main(["--engine", {str(path)!r}, "--batch", "1,4", "--runs", "1", "--json"]) == 0
        """,
        tmp_path,
    )
    seen.check()
    rows = [json.loads(line) for line in seen.stdout.splitlines()]
    assert [(row["runtime"], row["batch"], row["peak"]) for row in rows] == [
        ("tensorrt-fp16", batch, None) for batch in (1, 4)
    ]
    assert "NOT A GPU" in rows[0]["device"]
    assert all(row["split_ms"]["compute"] > 0 for row in rows)


def test_engines_are_closed(exported: Exported, one_line: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(OnnxEngine, "close", lambda self: closed.append(self))
    assert main(["--engine", str(exported("A")), "--runs", "1", "--json"]) == 0

    def fail(*_: Any) -> None:
        raise EngineError("out of memory")

    monkeypatch.setattr(OnnxEngine, "run", fail)
    assert main(["--engine", str(exported("A")), "--runs", "1", "--json"]) == 1
    assert len(closed) == 2
    assert one_line() == "out of memory"


def test_the_decoder_is_said(exported: Exported, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a double that is NOT nvImageCodec."""
    decoded = fake_nvimgcodec.install(monkeypatch)
    argv = ["--engine", str(exported("A")), "--runs", "1", "--workers", "1", "--decoder", "nvjpeg"]
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decoder"] == "nvjpeg"
    assert len(decoded) > 2 * (WARM_UP + 1)
    assert main(argv) == 0
    assert "pipelined, decoding (1 thread by nvjpeg) and the engine overlapped" in capsys.readouterr().out
    assert main([*argv, "--device", "1"]) == 1
    assert capsys.readouterr().err.startswith("--decoder nvjpeg: nvImageCodec cannot decode on GPU 1 (")


def test_progress_on_a_terminal_only(exported: Exported, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    argv = ["--engine", str(exported("A")), "--runs", "1", "--json"]
    assert main(argv) == 0
    said = capsys.readouterr().err
    assert "center, batch 1" in said and "\n" not in said and said.endswith("\r\033[K")


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--protocol", "center,all"], 2, "unknown protocol 'all', expected center, ten-crop"),
        (["--batch", "1,0"], 2, "expected positive numbers like 1,8, got '1,0'"),
        (["--batch", "x"], 2, "expected positive numbers like 1,8, got 'x'"),
        (["--runs", "0"], 2, "--runs: expected a positive number, got 0"),
        (["--scales", "10"], 2, "scale 10 px is below the crop of 64 px"),
        (["--image", "none.jpg"], 1, "none.jpg: cannot be read (No such file or directory)"),
        (["--image", __file__], 1, "is not an image"),
        (["--provider", "cuda"], 1, "ONNX Runtime did not load its cuda provider"),
    ],
)
def test_errors_are_one_line(
    more: list[str], status: int, message: str, exported: Exported, one_line: Callable[[], str]
) -> None:
    try:
        assert main(["--engine", str(exported("A")), "--runs", "1", *more]) == status
    except SystemExit as stop:
        assert stop.code == status
    assert message in one_line()


def test_an_image_beyond_the_engine(exported: Exported, tmp_path: Path, one_line: Callable[[], str]) -> None:
    (tmp_path / "long.png").write_bytes(encode(noise((64, 640)), "PNG"))
    argv = ["--engine", str(exported("A")), "--image", str(tmp_path / "long.png"), "--protocol", "dense"]
    assert main([*argv, "--runs", "1"]) == 1
    assert "image 64x640 px at Q=72 needs a view of 72x720 px" in one_line()


def test_the_synthetic_image() -> None:
    data = synthetic_jpeg()
    pixels = decode(data)
    assert pixels.shape == (375, 500, 3)
    assert data == synthetic_jpeg()
    assert 100_000 < len(data) < 150_000
    assert math.isclose(pixels.std(), 60, rel_tol=0.5)
