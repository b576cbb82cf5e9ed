"""Names of others in what is printed and written: they stay text, on their line, whatever they hold."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import Exported, encode, make_scores, noise
from onnx import helper

from evaluation.analyse import main as analyse
from evaluation.compare import main as compare
from evaluation.fuse import main as fuse
from evaluation.ilsvrc import main as evaluate
from evaluation.report.__main__ import main as report
from evaluation.scores import table as tables
from evaluation.text import cell, code, csv_field
from infer.__main__ import main as infer

NASTY = (
    "\x1b[2J\x1b[31mred",
    "bell\x07\x9b2J",
    "two\nlines\r\tand",
    "left\u202eright\u2066",
    "line\u2028end\u2029\x85",
    "a|b\\|c",
    "`code` ``more``",
    "<script>alert(1)</script>",
    "[link](http://x) ![i](j)",
    "*bold* ~~gone~~",
    "</td></table><h1>&lt;",
    "--> {{ 7*7 }} {% x %}",
    "0012",
    "1e5",
)
"""What a name may do to a terminal, to Markdown, to HTML, to a template, and to a table of numbers."""
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""All that moves a cursor or turns text around, but the line end."""
Capture = pytest.CaptureFixture[str]


def safe(text: str, *, lines: int | None = None) -> str:
    """The text, of which nothing but a line end is a control character."""
    assert not CONTROL.search(text), ascii(CONTROL.search(text))
    assert lines is None or text.count("\n") == lines, text
    return text


def without_code(markdown: str) -> str:
    """Markdown without what is escaped, and without code."""
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", re.sub(r"\\[\\`*\[\]<>|~]", "", markdown))


@pytest.mark.parametrize("name", NASTY)
def test_a_cell_and_code_are_text(name: str) -> None:
    assert not re.search(r"[`*\[\]<>|~\n]", without_code(safe(cell(name))))
    assert re.fullmatch(r"(`+)( ?).+\2\1", safe(code(name)))
    assert without_code(code(name)) == ""


@pytest.mark.parametrize("name", ['=HYPERLINK("http://x")', "+cmd|'/C calc'!A1", "-2+3", "@SUM(A1)", "=1", "--1", "-"])
def test_a_field_of_csv_is_no_formula(name: str) -> None:
    """None of what a spreadsheet takes for one stands first (owasp.org, CSV Injection)."""
    assert csv_field(name) == f"'{name}"
    assert [csv_field(one) for one in ("-1", "+1.5e-3", "a=b", "'=1", "")] == ["-1", "+1.5e-3", "a=b", "'=1", ""]
    assert csv_field("\t=1") == "\\t=1"


@pytest.fixture
def odd_tables(tmp_path: Path) -> list[Path]:
    """Two tables whose model, classes and images all have such names."""
    rng, paths = np.random.default_rng(0), []
    for number in range(2):
        posterior = rng.dirichlet([1.0] * 10, len(NASTY))
        scores = make_scores(posterior, [place % 10 for place in range(len(NASTY))], scales="88")
        spec = {"name": NASTY[0] + NASTY[5] + str(number), "classes": [*NASTY[:10]]}
        metadata = {**scores.metadata, "spec": json.dumps(spec), "runtime": NASTY[2], "protocol": NASTY[3]}
        paths.append(tmp_path / f"{number}.parquet")
        tables.write([dataclasses.replace(scores, images=NASTY, metadata=metadata)], paths[-1])
    return paths


def test_tables_of_odd_names(odd_tables: list[Path], capsys: Capture) -> None:
    one, other = map(str, odd_tables)
    for command in (compare, analyse):
        given = [one, other] if command is compare else [one]
        assert command(given) == 0
        printed = safe(capsys.readouterr().out)
        rows = [line for line in printed.splitlines() if line.startswith("|")]
        assert rows and len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 2  # columns of each table
        assert command([*given, "--json"]) == 0
        text = safe(capsys.readouterr().out, lines=1)
        assert any(name in json.dumps(json.loads(text), ensure_ascii=False) for name in NASTY)


def test_fuse_says_odd_names(odd_tables: list[Path], tmp_path: Path, capsys: Capture) -> None:
    assert fuse([*map(str, odd_tables), "-o", str(tmp_path / "two\nlines\x1b[2J.parquet")]) == 0
    safe(capsys.readouterr().out, lines=1)
    assert fuse([str(odd_tables[0]), str(tmp_path / "none\n\x1b[2J.parquet"), "-o", str(tmp_path / "f.parquet")]) == 1
    safe(capsys.readouterr().err, lines=1)


@pytest.fixture
def odd_model(exported: Exported, tmp_path: Path) -> Path:
    """A model whose name and classes in words are odd, as far as a spec has them."""
    model = onnx.load(exported("A"))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    words = [name.translate({code: None for code in range(32) if not chr(code).isspace()}) for name in NASTY]
    words = [re.sub("[\x7f-\x9f]", "", word) for word in words][:10]
    spec = {**json.loads(metadata["spec"]), "class_names": words, "name": "a|b`<b>\u202e[x] *y*"}
    helper.set_model_props(model, {**metadata, "spec": json.dumps(spec)})
    onnx.save(model, tmp_path / "odd.onnx")
    return tmp_path / "odd.onnx"


def test_infer_says_odd_names(odd_model: Path, tmp_path: Path, capsys: Capture) -> None:
    image = tmp_path / "two\nlines\x1b[2J\u202e.png"
    image.write_bytes(encode(noise((80, 90)), "PNG"))
    broken = tmp_path / "no\nimage\x1b[2J.png"
    broken.write_bytes(b"no")
    assert infer([str(image), str(broken), "--engine", str(odd_model)]) == 1
    said = capsys.readouterr()
    safe(said.out, lines=1), safe(said.err, lines=1)
    assert infer([str(image), "--engine", str(odd_model), "--json"]) == 0
    assert json.loads(safe(capsys.readouterr().out, lines=1))["image"] == str(image)


def test_a_report_of_odd_names(odd_model: Path, miniature_dir: Path, tmp_path: Path, capsys: Capture) -> None:
    """Images of such names, of which one cannot be read; the page is made anew from the folder, too."""
    data, out = tmp_path / "data" / "val", tmp_path / "out `x` \n"
    for number, folder in enumerate(sorted((miniature_dir / "ILSVRC2012_img_train").iterdir())):
        (data / folder.name).mkdir(parents=True)
        source = next(iter(sorted(folder.iterdir())))
        shutil.copy(source, data / folder.name / f"{NASTY[number].replace('/', ':')}.JPEG")
    broken = f"{NASTY[7].replace('/', ':')}.JPEG"
    (data / folder.name / broken).write_bytes(b"no image")

    words = ["--engine", str(odd_model), "--data", str(tmp_path / "data"), "--protocol", "center", "--out", str(out)]
    assert evaluate(words) == 0
    printed = capsys.readouterr()
    safe(printed.out), safe(printed.err)
    markdown = safe((out / "report.md").read_text())
    assert len(re.findall(r"(?m)^- ", markdown)) == 1
    assert not re.search(r"<|\[[^\]]*\]\(", without_code(markdown))

    assert report([str(out)]) == 0
    safe(capsys.readouterr().out, lines=1)
    page = safe((out / "report.html").read_text())
    assert (
        page.count("<script") == page.count("<script>// Sorts a table") == 1
        and "<b>" not in page
        and "<h1>&lt;" not in page
    )
    assert "&lt;script&gt;" in page and "a|b`&lt;b&gt;\\u202e[x] *y*" in page
