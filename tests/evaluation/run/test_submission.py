"""Submissions: read strictly, run as said, and the papers' own ship as examples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import full_spec
from paths import ROOT

from evaluation.ilsvrc import main
from evaluation.published.papers import EvaluatedNet, find_paper_row
from evaluation.run import loop
from evaluation.run.engines import KnownEngine, open_any
from evaluation.run.submission import SubmissionError, plan_every_engine, read_submission
from evaluation.scores.table import fuse, read
from infer.engine import Engine

EXAMPLES = ROOT / "examples" / "submissions"
TRAINED = {"256": 256, "384": 384, "256-512": (256, 512)}


@pytest.mark.parametrize(
    ("name", "top1", "top5"), [("vgg-ilsvrc-2014", 24.7, 7.5), ("vgg-d-and-e", 23.7, 6.8), ("googlenet-7", None, 6.67)]
)
def test_the_examples_are_rows_of_the_papers(name: str, top1: float | None, top5: float) -> None:
    submission = read_submission(EXAMPLES / f"{name}.yaml")
    assert submission.name == name
    entries = []
    for member in submission.members:
        net, _, trained = member.engine.stem.partition("-")
        is_googlenet = net == "googlenet"
        spec = full_spec(net if is_googlenet else net.upper(), train_short_px=TRAINED.get(trained, 256))
        entries.append(EvaluatedNet(spec, member.protocol, member.scales or ()))
    row = find_paper_row(entries)
    assert row is not None
    assert (row.top1_error_percent, row.top5_error_percent) == (top1, top5)


def test_every_example_is_tested() -> None:
    assert sorted(path.stem for path in EXAMPLES.iterdir()) == ["googlenet-7", "vgg-d-and-e", "vgg-ilsvrc-2014"]


def test_a_submission_runs(
    slim_checkpoint: Callable[..., Path], miniature_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three members of two engines; the fused row is the mean of the three tables."""
    for net in "AB":
        (tmp_path / f"{net}.pt").write_bytes(slim_checkpoint(net).read_bytes())
    (tmp_path / "mine.yaml").write_text(
        "name: mine\npooling: posteriors\nmembers:\n"
        "  - {engine: A.pt, protocol: dense, scales: [72, 96]}\n"
        "  - {engine: B.pt, protocol: center}\n"
        "  - {engine: A.pt, protocol: ten-crop}\n"
    )
    out = tmp_path / "out"
    assert main(["--submission", str(tmp_path / "mine.yaml"), "--data", str(miniature_dir), "--out", str(out)]) == 0
    assert "| mine" in capsys.readouterr().out
    results = json.loads((out / "report.json").read_text())["results"]
    rows = [(row["model"], row["protocol"], row["scales"], row["pooling"]) for row in results]
    assert rows[:3] == [
        ("slim-a", "dense", [72, 96], "posteriors"),
        ("slim-a", "ten-crop", [96], "posteriors"),
        ("slim-b", "center", [96], "posteriors"),
    ]
    assert rows[3][:2] == ("mine", "dense+center+ten-crop")
    tables = [read(path) for path in (out / "scores").iterdir()]
    mean = np.mean([table.posterior for table in tables], 0)
    assert np.abs(fuse(tables).posterior - mean).max() < 1e-7
    wrong = (mean.argmax(1) != tables[0].labels).mean()
    assert results[3]["top1_error_percent"] == pytest.approx(100 * wrong)


GOOD = "name: x\nmembers: [{engine: a.onnx, protocol: dense}, {engine: b.onnx, protocol: center}]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the submission is NoneType, expected members, name"),
        ("[1, 2]", "the submission is list"),
        ("name: x", "the submission has no 'members', expected members, name, pooling"),
        (GOOD + "weights: [1, 2]", "the submission has unknown 'weights'"),
        (GOOD + "pooling: max", "pooling 'max', expected one of scores, posteriors"),
        (GOOD + "pooling: [scores]", "pooling ['scores'], expected one of scores, posteriors"),
        (GOOD.replace("name: x", "name: a/b"), "name 'a/b', expected a word of letters, digits and .+-_"),
        (GOOD.replace("name: x", "name: '| --- |'"), "name '| --- |', expected a word"),
        (GOOD.replace("name: x", "name: 2014"), "name 2014, expected a word"),
        (GOOD.replace("name: x", "name: 2001-99-99"), "not YAML (month must be in 1..12)"),
        (GOOD + "name: y", "says 'name' twice in one place, expected each once"),
        (GOOD.replace("center}", "center, protocol: dense}"), "says 'protocol' twice in one place"),
        ("{}", "the submission has no 'members'"),
        (GOOD.replace("dense", "danse"), "member 1: protocol 'danse', expected one of center, ten-crop"),
        (GOOD.replace("dense", "[dense]"), "member 1: protocol ['dense'], expected one of"),
        (GOOD.replace("center}", "center, scales: 256}"), "member 2: scales 256, expected a list of pixels"),
        (GOOD.replace("center}", "center, scales: [yes]}"), "member 2: scales [True], expected a list of pixels"),
        (GOOD.replace("center}", "center, scales: [" + 5000 * "9" + "]}"), "not YAML"),
        (GOOD.replace("center}", "center, scales: [" + 999 * "9," + "0]}"), "scales [9, 9, 9, 9, 9, 9, ...], expected"),
        (GOOD.replace("b.onnx", '"b\\0.onnx"'), "member 2: engine 'b\\x00.onnx', expected the name of a file"),
        (GOOD.replace("engine: b.onnx", "engine: 3"), "member 2: engine 3, expected the name of a file"),
        (GOOD.replace("b.onnx, protocol: center", "a.onnx, protocol: dense"), "takes part twice by dense"),
        ("name: x\nmembers: [{engine: a.onnx, protocol: dense}]", "1 member, expected two or more to fuse"),
        ("a: &a [x]\nb: [*a, *a]", "uses YAML aliases"),
        ("name: [", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("[" * 100_000, "lists in lists in lists"),
        ("- " * 20_000, "not YAML (maximum recursion depth exceeded"),
        ("a" * 100_001, "100001 bytes, expected at most 100000"),
    ],
)
def test_what_is_no_submission(text: str, said: str, tmp_path: Path, one_line: Callable[[], str]) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(SubmissionError) as error:
        read_submission(path)
    assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(SystemExit, match="2"):
        main(["--submission", str(path), "--data", str(tmp_path)])
    assert said in one_line()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\0"])
def test_bytes_that_are_no_text(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(content)
    with pytest.raises(SubmissionError, match="not YAML"):
        read_submission(tmp_path / "s.yaml")


def test_each_engine_is_opened_once(
    slim_checkpoint: Callable[..., Path], miniature_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def counted(path: Path, **options: Any) -> Engine:
        opened.append(path)
        return open_any(path, **options)

    monkeypatch.setattr(loop, "open_any", counted)
    for net in "AB":
        (tmp_path / f"{net}.pt").write_bytes(slim_checkpoint(net).read_bytes())
    members = [f"{{engine: {net}.pt, protocol: {protocol}}}" for protocol in ("center", "ten-crop") for net in "BA"]
    (tmp_path / "s.yaml").write_text(f"name: s\nmembers: [{', '.join(members)}]")
    argv = ["--submission", str(tmp_path / "s.yaml"), "--data", str(miniature_dir), "--limit", "2"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    assert opened == [tmp_path / "B.pt", tmp_path / "A.pt"]
    assert len(list((tmp_path / "out" / "scores").iterdir())) == 4


def test_a_member_that_is_another_by_its_own_scales(
    slim_checkpoint: Callable[..., Path], miniature_dir: Path, tmp_path: Path, one_line: Callable[[], str]
) -> None:
    """center at 96 is what the model does by itself: both members would write the same file."""
    (tmp_path / "A.pt").write_bytes(slim_checkpoint("A").read_bytes())
    members = "{engine: A.pt, protocol: center}, {engine: A.pt, protocol: center, scales: [96]}"
    (tmp_path / "s.yaml").write_text(f"name: s\nmembers: [{members}]")
    argv = ["--submission", str(tmp_path / "s.yaml"), "--data", str(miniature_dir), "--out", str(tmp_path / "out")]
    assert main(argv) == 1
    assert "A.pt takes part twice by the same protocol and scales" in one_line()
    assert not (tmp_path / "out").exists()


def test_usage(tmp_path: Path, miniature_dir: Path, one_line: Callable[[], str]) -> None:
    (tmp_path / "s.yaml").write_text(GOOD)
    for arguments, said in (
        (["--submission", str(tmp_path / "s.yaml"), "--protocol", "dense"], "--protocol is said by the --submission"),
        (["--protocol", "dense"], "expected --engine ENGINE --protocol P, or --submission FILE.yaml"),
        (["--submission", str(tmp_path / "none.yaml")], "none.yaml: cannot be read"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*arguments, "--data", str(miniature_dir)])
        assert said in one_line()
    assert main(["--submission", str(tmp_path / "s.yaml"), "--data", str(miniature_dir)]) == 1
    assert "a.onnx: no such file" in one_line()


ENGINES = {
    "a.onnx": ("A", "onnxruntime-fp32"),
    "a-half.onnx": ("A", "onnxruntime-fp16"),
    "a.pt": ("A", "torch-fp32"),
    "d.onnx": ("D", "onnxruntime-fp32"),
    "d-half.onnx": ("D", "onnxruntime-fp16"),
}


@pytest.mark.parametrize(
    ("files", "fused"),
    [
        (["a.onnx"], []),
        (["a.onnx", "d.onnx"], [[0, 1]]),
        (["a.onnx", "d-half.onnx"], [[0, 1]]),
        (["a.onnx", "a-half.onnx"], []),
        (["a.onnx", "a.pt"], []),
        (["a.onnx", "a-half.onnx", "d.onnx", "d-half.onnx"], [[0, 2], [1, 3]]),
        (["a.onnx", "a-half.onnx", "d.onnx"], [[0, 2]]),
    ],
)
def test_a_model_is_not_fused_with_itself(files: list[str], fused: list[list[int]]) -> None:
    plan = plan_every_engine([Path(file) for file in files], ["center", "dense"], None, "scores")
    engines = [
        KnownEngine(full_spec(net), runtime, runtime[-4:], "0") for net, runtime in (ENGINES[file] for file in files)
    ]
    found = [(fusion.name, fusion.members) for fusion in plan.fusions_of(engines)]
    assert found == [("fused", [(i, j) for i in own]) for own in fused for j in (0, 1)]
