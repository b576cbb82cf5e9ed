"""report.html in a browser: nothing is loaded or complained of, the numbers, on a phone, on paper, in the dark."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Browser, find_chromium, open_browser
from pypdf import PdfReader
from report_runs import scores_of, write_run

from evaluation.report.__main__ import main

pytestmark = pytest.mark.processes

A4_PX = (703, 1016)  # width and height between the margins of page.css, at 96 px an inch
PHONE_PX = 390
CHART_WIDTHS = "[...document.querySelectorAll('.chart')].map(e => e.getBoundingClientRect().width)"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("chromium") / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that the page can show."""
    folder = tmp_path_factory.mktemp("run")
    single = scores_of("a-model-with-a-long-name", unreadable=3)
    half = dataclasses.replace(single, metadata={**single.metadata, "runtime": "torch-fp16"})
    scales = [scores_of("two", seed=q, right=0.8, scales=str(q), unreadable=3) for q in (72, 96, 120)]
    remarks = ["the classes are in another order than the data set's"]
    write_run(folder, [single, half, *scales], mistakes=8, fused=True, names=WORDS, remarks=remarks)
    return folder


@pytest.fixture(scope="module", params=["report.html", "comparison.html"])
def page(request: pytest.FixtureRequest, out: Path) -> Path:
    """Of the run, and of it and another one compared."""
    path = out / str(request.param)
    if not path.exists():
        other = out.parent / "another-run-with-a-rather-long-name"
        write_run(other, [scores_of("two", scales="96", seed=7, unreadable=3)], remarks=["a remark"])
        assert main([str(out), str(other), "-o", str(path)]) == 0
    return path


def test_nothing_is_loaded_and_nothing_complains(browser: Browser, page: Path) -> None:
    browser.open_page(page)
    document, *others = browser.requests()
    assert document == page.as_uri()
    assert all(url.startswith("data:") for url in others)
    assert browser.complaints() == []


def test_what_a_page_loads_and_complains_of_is_seen(browser: Browser, tmp_path: Path) -> None:
    """The test above can fail."""
    page = tmp_path / "bad.html"
    page.write_text("<img src='gone.png'><script>console.log('said'); nothing.there()</script>")
    browser.open_page(page)
    assert browser.requests() == [page.as_uri(), (tmp_path / "gone.png").as_uri()]
    kinds = {method for method, _ in browser.events}
    assert {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"} <= kinds
    assert len(browser.complaints()) == 3
    page.write_text("<div style='width:2000px'>wide</div>")
    browser.open_page(page, width=PHONE_PX)
    assert overflow_px(browser, PHONE_PX) > 1000


def test_the_numbers_shown_are_those_of_report_json(browser: Browser, out: Path) -> None:
    browser.open_page(out / "report.html")
    cells = "[...document.querySelectorAll('#results-table tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
    shown = browser.evaluate(cells)
    results = json.loads((out / "report.json").read_text())["results"]
    assert len(shown) == len(results) == 6
    for row, result in zip(shown, results, strict=True):
        assert row[0].split("\n")[0] == result["model"]
        assert row[1].split("\n") == [result["protocol"], ", ".join(map(str, result["scales"]))]
        for cell, k in ((row[2], 1), (row[4], 5)):
            percent, interval = cell.replace("\xa0", " ").split("\n")
            assert float(percent) == pytest.approx(result[f"top{k}_error_percent"], abs=0.005)
            assert json.loads(interval) == pytest.approx(result[f"top{k}_interval95_percent"], abs=0.05)
    # the circle of each drawn interval is where its number says, the line from end to end of the interval
    drawn = browser.evaluate(
        "[...document.querySelectorAll('#results-table .whisker')].map(svg => {"
        "const box = svg.getBoundingClientRect(), at = x => (x - box.left) / box.width;"
        "const line = svg.querySelectorAll('line')[1].getBoundingClientRect();"
        "const circle = svg.querySelector('circle').getBoundingClientRect();"
        "return [at(line.left), at((circle.left + circle.right) / 2), at(line.right)]})"
    )
    ends = [
        (r["top1_interval95_percent"][0], r["top1_error_percent"], r["top1_interval95_percent"][1]) for r in results
    ]
    places, numbers = np.array(drawn), np.array(ends)
    assert places.shape == numbers.shape
    scale = numbers[0, 1] / places[0, 1]
    assert np.allclose(places * scale, numbers, atol=0.01 * scale)
    end = browser.evaluate("document.querySelector('th.drawn').innerText.match(/\\d+/g)[1]")
    assert scale == pytest.approx(float(end), rel=1e-3)


def test_the_pairs_shown_are_those_of_report_json(browser: Browser, out: Path) -> None:
    browser.open_page(out / "report.html")
    cells = "[...document.querySelectorAll('#pairs tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
    pairs = sorted(json.loads((out / "report.json").read_text())["pairs"], key=lambda pair: pair["top1_holm_p"])
    found = browser.evaluate(cells)
    assert len(found) == len(pairs) == 6
    assert [float(row[5]) for row in found] == pytest.approx([pair["top1_holm_p"] for pair in pairs], rel=0.05)
    assert sorted(float(row[4]) for row in found) == pytest.approx(
        sorted(pair["top1_mcnemar_p"] for pair in pairs), rel=0.05
    )
    for row in found:
        difference, interval = row[2].replace("\xa0", " ").split("\n")
        low, high = json.loads(interval.replace("+", ""))
        assert low < float(difference) < high
        assert (row[6] != "no difference shown") == (float(row[5]) < 0.05)


def test_a_table_is_sorted_by_the_column_that_is_clicked(browser: Browser, out: Path) -> None:
    browser.open_page(out / "report.html")
    results = json.loads((out / "report.json").read_text())["results"]
    errors = sorted(round(result["top1_error_percent"], 2) for result in results)
    column = "[...document.querySelectorAll('#results-table tbody tr')].map(r => parseFloat(r.cells[2].innerText))"
    click = "document.querySelectorAll('#results-table thead button')[2].click()"
    browser.evaluate(click)
    assert browser.evaluate(column) == errors
    browser.evaluate(click)
    assert browser.evaluate(column) == errors[::-1]
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [320, PHONE_PX, 768, 1200])
def test_it_is_as_wide_as_the_window(browser: Browser, page: Path, width: int) -> None:
    browser.open_page(page, width=width)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert overflow_px(browser, width) == 0
    beyond = (
        "[...document.querySelectorAll('svg, figure, pre, .mistakes li, .key > div')]"
        ".filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > WIDTH).length"
    )
    assert browser.evaluate(beyond.replace("WIDTH", str(width))) == 0
    tables = (
        "[...document.querySelectorAll('table')].every(t => getComputedStyle(t.closest('.scroll')).overflowX == 'auto')"
    )
    assert browser.evaluate(tables)


def test_figures_can_be_read_on_a_phone(browser: Browser, page: Path) -> None:
    browser.open_page(page, width=PHONE_PX)
    sizes_px = browser.evaluate(
        "[...document.querySelectorAll('.chart text')].map(t => parseFloat(getComputedStyle(t).fontSize)"
        " * t.ownerSVGElement.getBoundingClientRect().width / t.ownerSVGElement.viewBox.baseVal.width)"
    )
    assert len(sizes_px) > 20 and min(sizes_px) > 8.5


def test_texts_of_a_figure_do_not_lie_on_each_other(browser: Browser, page: Path) -> None:
    browser.open_page(page)
    overlapping = browser.evaluate(
        "[...document.querySelectorAll('.chart')].flatMap(chart => {"
        "const boxes = [...chart.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);"
        "return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>"
        "Math.min(p.right, q.right) - Math.max(p.left, q.left) > 2 &&"
        "Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 4).map(([b, q]) => [a, b]))})"
    )
    assert overlapping == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_in_light_and_in_the_dark(browser: Browser, out: Path, dark: bool) -> None:
    browser.open_page(out / "report.html", dark=dark)
    colors = browser.evaluate(
        "['body', '.note', 'a', '.chart text'].map(name => getComputedStyle(document.querySelector(name))).map(style =>"
        "[style.fill == 'rgb(0, 0, 0)' ? style.color : style.fill, getComputedStyle(document.body).backgroundColor])"
    )
    contrasts = [contrast(*pair) for pair in colors]
    assert contrasts[0] > 12 and min(contrasts) > 4.5  # WCAG 2.2, 1.4.3
    assert (luminance(colors[0][1]) < 0.1) == dark


def test_it_prints_with_nothing_cut(browser: Browser, page: Path) -> None:
    browser.open_page(page, width=A4_PX[0], media="print")
    boxes = (
        "[...document.querySelectorAll('table, .chart, pre')].map(e => [e.innerText, e.getBoundingClientRect().right])"
    )
    assert [text for text, right in browser.evaluate(boxes) if right > A4_PX[0]] == []
    tall = browser.evaluate(
        "[...document.querySelectorAll('figure, .mistakes li')].map(e => e.getBoundingClientRect().height)"
    )
    assert tall and max(tall) < A4_PX[1]
    assert min(browser.evaluate(CHART_WIDTHS)) > 300
    pdf = PdfReader(io.BytesIO(browser.pdf()))
    assert len(pdf.pages) >= 2
    text = " ".join(" ".join(sheet.extract_text() for sheet in pdf.pages).split())
    results = json.loads((page.parent / "report.json").read_text())["results"]
    for result in results:
        assert result["model"] in text
        assert f"{result['top1_error_percent']:.2f}" in text
    assert "Errors in percent with 95 % intervals" in text
    assert "Sections" not in text
    if page.name == "report.html":
        assert text.count("folded, not printed") == 4
        assert text.count("Most confident mistakes") == 0
        assert "top-1 error %" in text and "accuracy %" in text  # figures, with their text


def test_a_figure_alone_prints_as_large_as_two(browser: Browser, tmp_path: Path) -> None:
    write_run(tmp_path, [scores_of()])
    browser.open_page(tmp_path / "report.html", width=A4_PX[0], media="print")
    assert min(browser.evaluate(CHART_WIDTHS)) > 300


def test_figures_and_images_have_names(browser: Browser, out: Path) -> None:
    browser.open_page(out / "report.html")
    nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
    images = [node for node in nodes if node.get("role", {}).get("value") in ("image", "img")]
    assert len(images) >= 4 + 8
    assert all(node["name"]["value"] for node in images)
    assert browser.evaluate("document.documentElement.lang") == "en"
    levels = browser.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    targets = browser.evaluate("[...document.querySelectorAll('nav a')].map(a => !!document.querySelector(a.hash))")
    assert len(targets) == 9 and all(targets)


def test_without_a_browser_it_is_skipped_but_not_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no chromium on the PATH: apt-get install"):
        find_chromium()
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="no chromium on the PATH"):
        find_chromium()


def overflow_px(browser: Browser, width: int) -> Any:
    return max(0, browser.evaluate("document.documentElement.scrollWidth") - width)


def luminance(color: str) -> float:
    channels = [int(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
