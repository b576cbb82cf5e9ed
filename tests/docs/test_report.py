"""docs/report.md: its snippets log what report.json has, its events are those of a run, its picture is there."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from paths import ROOT
from PIL import Image
from report_runs import scores_of, write_run

from evaluation.run import store

PAGE = ROOT / "docs" / "report.md"


def snippet(what: str) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if what in block]
    return str(found)


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """report.json of a run that lies in ./results, of two tables and a fusion, which has no time."""
    monkeypatch.chdir(tmp_path)
    return write_run(Path("results"), [scores_of(), scores_of("two", seed=1, protocol="multicrop+dense")], fused=True)


def expected(result: Any, *keys: str) -> dict[str, float]:
    return {key: result[key] for key in keys if result[key] is not None}


def test_tensorboard_has_the_reports_numbers(report: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, float] = {}

    class SummaryWriter(contextlib.nullcontext[Any]):
        def __init__(self, folder: str) -> None:
            super().__init__(self)
            assert folder == "results/tensorboard"

        def add_scalar(self, tag: str, value: float) -> None:
            assert tag not in logged
            logged[tag] = value

    fake = ModuleType("tensorboard")
    fake.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    exec(snippet("SummaryWriter"), {})
    keys = ("top1_error_percent", "top5_error_percent", "protocol_engine_seconds")
    assert logged == {
        f"{result['model']}/torch-fp32/{result['protocol']}/q88/scores/{key}": value
        for result in report["results"]
        for key, value in expected(result, *keys).items()
    }
    assert len(logged) == 8


def test_mlflow_has_the_reports_numbers(report: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def start_run(run_name: str) -> Iterator[None]:
        runs.append({"name": run_name})
        yield

    fake = SimpleNamespace(
        set_experiment=lambda name: None,
        start_run=start_run,
        log_params=lambda params: runs[-1].update(params=params),
        log_metrics=lambda metrics: runs[-1].update(metrics=metrics),
        log_artifact=lambda path: runs[-1].update(artifact=Path(path).read_bytes()),
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    exec(snippet("mlflow"), {})
    assert len(runs) == len(report["results"]) == 3
    keys = ("top1_error_percent", "top5_error_percent", "engine_seconds", "protocol_engine_seconds")
    for run, result in zip(runs, report["results"], strict=True):
        assert run["name"] == f"{result['model']} {result['protocol']}"
        assert run["metrics"] == expected(result, *keys)
        assert run["params"]["scales"] == [88] and run["params"]["commit"] == "abc"
        assert run["artifact"] == Path("results/report.html").read_bytes()
        for key in run["metrics"]:
            assert re.fullmatch(r"[\w\-. /]+", key)  # what MLflow takes as the name of a metric
    assert "engine_seconds" not in runs[2]["metrics"]
    assert json.dumps(runs[0]["params"])


def test_its_picture_is_there_and_small() -> None:
    (name,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE.read_text())
    with Image.open(PAGE.parent / name) as picture:
        assert picture.width > 1200
    assert (PAGE.parent / name).stat().st_size < 300_000


def test_events_have_what_it_says_of_them(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LEAST_SECONDS", 0)
    with store.Watch(2, 0, log_json=True) as watched:
        watched.images(1)
        watched.say("end", images=2, of=2, report="report.json")  # as evaluation.ilsvrc says it
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    said = re.findall(r"^\| `(begin|progress|end)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert [name for name, _ in said] == [event.pop("event") for event in events]
    for event, (_, text) in zip(events, said, strict=True):
        named = {name for name in re.findall(r"`([a-z0-9_]+)`", text)}
        assert named == set(event)
