"""Figures: the same bytes for the same data, text that stays text, the page's colours and no others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from report_runs import scores_of

from evaluation.report import charts
from evaluation.report.charts import Point
from evaluation.scores.metrics import details
from infer.drawing.figures import COLORS, confusion

STRANGE = "a $x_1$ <b> & 日本語 #010201"


def points(*, name: str = "one") -> list[Point]:
    return [
        Point(name, "center", 1.0, 10.0, (8.0, 12.0)),
        Point("other", "dense", 30.0, 8.0, (6.0, 10.0), True),
        Point("other", "center", 2.0, 9.0, (7.0, 11.0), True),
    ]


def scale() -> str:
    places = [Point("one", "dense", place, 10.0 - place, (5.0, 12.0)) for place in (0, 1, 2)]
    return charts.error_against_scale(places, ["256", "384", "256,384,512"])


FIGURES: dict[str, Callable[[], str]] = {
    "time": lambda: charts.error_against_time(points()),
    "rate": lambda: charts.error_against_rate([point._replace(label=str(int(point.x))) for point in points()]),
    "scale": scale,
    "reliability": lambda: charts.reliability(details([scores_of()])),
    "confusion": lambda: confusion(["a", "b"], np.array([[3, 1], [0, 2]]), np.array([4, 2])),
}


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_is_the_same_each_time_and_stands_alone(figure: str) -> None:
    svg = FIGURES[figure]()
    assert svg == FIGURES[figure]()
    root = ElementTree.fromstring(svg)
    assert [float(number) for number in root.attrib["viewBox"].split()][2] == pytest.approx(
        374.4 if figure in ("time", "rate") else 338.4
    )
    assert set(re.findall(r"https?:", svg)) == set() and "<style" not in svg and "<!--" not in svg
    colors = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg))
    assert colors <= {"none", *(f"var(--{name})" for name in COLORS)} and len(colors) > 3
    named = re.findall(r'id="([^"]*)"', svg)
    used = {match for pair in re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', svg) for match in pair if match}
    assert len(named) == len(set(named)) and used <= set(named)


def test_names_in_different_figures_do_not_meet() -> None:
    named = [set(re.findall(r'id="([^"]*)"', make())) for make in FIGURES.values()]
    assert sum(map(len, named)) == len(set().union(*named))


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter("text")]


def test_text_stays_text_whatever_it_says() -> None:
    """Warnings are errors here, so letters that matplotlib's font lacks are no trouble either."""
    assert STRANGE in texts(charts.error_against_time(points(name=STRANGE)))
    shown = texts(confusion([STRANGE, "b"], np.array([[3, 1], [0, 2]]), np.array([4, 2])))
    assert sum(text.startswith(f"{STRANGE[:15]}…") for text in shown) == 2
    assert [text for text in shown if text.isdigit()] == ["75", "25", "100"]  # percent of a row, none for no images


def test_rows_of_the_confusion_have_a_hundred_percent() -> None:
    """What is answered by a class that is not shown has a column; a class without images says so."""
    shown = texts(confusion(["a", "b", "c"], np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), np.array([10, 2, 0])))
    assert [text for text in shown if text.isdigit()] == ["30", "10", "60", "100"]
    assert shown.count("others") == 1 and {"a (10)", "b (2)", "c (no images)"} <= set(shown)


def test_a_single_point_is_no_figure() -> None:
    assert charts.error_against_time(points()[:1]) == ""


def test_the_points_that_no_other_beats_are_joined() -> None:
    """Of error and images a second: faster and less wrong is better; the dashed line goes through those alone."""
    at = {
        "fast": (900.0, 12.0),
        "middle": (300.0, 9.0),
        "beaten": (200.0, 10.0),
        "slow": (20.0, 7.0),
        "worst": (10, 11),
    }
    svg = charts.error_against_rate(
        [Point(name, "center", x, y, (y - 1, y + 1), label=name) for name, (x, y) in at.items()]
    )
    (dashed,) = re.findall(r'<path d="([^"]*)"[^>]*stroke-dasharray', svg)
    line = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", dashed), float)
    drawn = np.concatenate([circles(svg, f"c{1}")])
    assert line.shape == (3, 2)
    wanted = drawn[[list(at).index(name) for name in ("fast", "middle", "slow")]]
    assert np.allclose(line, wanted, atol=0.01)
    shown = texts(svg)
    assert set(at) <= set(shown) and "images per second (log)" in shown


def test_a_single_rate_is_a_figure() -> None:
    assert "<svg" in charts.error_against_rate(points()[:1])


def test_a_model_has_one_colour_whatever_its_precision() -> None:
    two = [
        Point("d, fp32", "center", 1.0, 10.0, (8.0, 12.0), color=2),
        Point("d, fp16", "center", 2.0, 9.0, (7.0, 11.0), True, color=2),
    ]
    svg = charts.error_against_time(two)
    assert "var(--c3)" in svg and "var(--c1)" not in svg and "var(--c2)" not in svg


def circles(svg: str, color: str) -> list[tuple[float, float]]:
    found = re.findall(rf'<use href="#\w+" x="([\d.]+)" y="([\d.]+)" style="fill: var\(--{color}\)', svg)
    return [(float(x), float(y)) for x, y in found]


def test_points_of_the_reliability_curve_are_where_the_bins_are() -> None:
    found = details([scores_of(images=600)])
    svg = charts.reliability(found)
    filled = found.bin_images > 0
    drawn = np.array(circles(svg, "c1"))
    assert len(drawn) == filled.sum() > 5
    for column, values, sign in ((0, found.bin_confidence, 1), (1, found.bin_accuracy, -1)):
        slope, _ = np.polyfit(values[filled], drawn[:, column], 1)
        assert np.sign(slope) == sign
        assert np.corrcoef(values[filled], drawn[:, column])[0, 1] * sign > 0.999999


def test_time_is_logarithmic_with_plain_numbers() -> None:
    shown = texts(charts.error_against_time(points()))
    assert shown[:5] == ["1", "2", "5", "10", "20"]
    wide = [Point("one", "center", 10.0**i, 10.0, (8.0, 12.0)) for i in (0, 5)]
    assert texts(charts.error_against_time(wide))[:3] == ["1", "10", "100"]


@pytest.mark.processes
def test_matplotlib_says_nothing_of_its_caches(tmp_path: Path) -> None:
    """Where it has no folder for them it would, on a command's stderr."""
    (tmp_path / "file").touch()
    code = (
        "from infer.drawing.figures import confusion; import numpy; "
        "print(len(confusion(['a'], numpy.ones((1, 1), int), numpy.ones(1, int))) > 0)"
    )
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "file")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("True\n", "")
