"""evaluation/detection/report: the page says its values, loads nothing, and no name of a stranger becomes markup."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from chromium import find_chromium, open_browser
from PIL import Image

from evaluation.detection.intervals import Mean
from evaluation.detection.metric import Curve, Detections, Truth, truth_of
from evaluation.detection.mistakes import Mistakes, sort_mistakes
from evaluation.detection.report.figures import NAMED, envelope, outcomes, precision_recall
from evaluation.detection.report.page import write_page
from evaluation.detection.report.pictures import LONGEST_PX, choose_images, encode_picture, marks_of
from evaluation.detection.report.values import ClassValues, Mark, PageValues, Picture, SystemValues
from evaluation.published.detection import TABLE_4, TABLE_5, is_det, rows_beside
from infer.data.annotations import Box
from infer.data.detection import Object

EVIL = "<script>alert(1)</script>\u202e\n"
COUNTS = {"right": 5, "duplicate": 1, "other class": 2, "place": 3, "background": 4, "missed": 6}


def of_class(number: int, ap: float = 0.5, objects: int = 15) -> ClassValues:
    curve = Curve(np.array([0.2, 0.4, 0.4, 0.6]), np.array([1.0, 0.5, 0.4, 0.7]), np.array([9, 8, 7, 6], np.float32))
    return ClassValues(f"n{number}", f"class {number}", objects, ap, curve, COUNTS)


def page_values() -> PageValues:
    jpeg = encode_picture(np.zeros((90, 120, 3), np.uint8))
    marks = [
        Mark("right", Box(1, 1, 60, 45), "class 1 0.93"),
        Mark("wrong", Box(61, 1, 100, 45), "class 0 0.41: place"),
        Mark("missed", Box(10.5, 50, 30, 80), "class 2: missed"),
    ]
    return PageValues(
        title="Detection by A and B",
        rule="ilsvrc",
        rule_in_words="ILSVRC's rule: area under the envelope",
        images=44,
        objects=120,
        not_counted=3,
        systems=[
            SystemValues("A + B", 2, Mean(61.234, (57.1, 65.4)), COUNTS),
            SystemValues("A", 1, Mean(58.5, (54, 63)), {**COUNTS, "right": 4}, Mean(-2.734, (-4.1, -1.3))),
        ],
        classes=[of_class(0, 0.25), of_class(1, 0.75), of_class(2, math.nan, 0)],
        pictures=[Picture("val/one.JPEG", jpeg, (90, 120), marks)],
        published=(),
        remarks=["2 images could not be read"],
        facts={"data set": "0123456789abcdef", "proposals": "selective search, 2 x superpixels"},
        command="python -m evaluation.detection --engine a.onnx",
    )


class Reader(HTMLParser):
    """Text of the page, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style"):
            return
        self.text += data.replace("\xa0", " ")


def written(values: PageValues, folder: Path) -> Reader:
    write_page(values, folder / "report.html")
    return Reader((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_says_its_values(tmp_path: Path) -> None:
    page = written(page_values(), tmp_path)
    for said in (
        *("Detection by A and B", "120 objects of 2 classes in 44 images", "area under the envelope."),
        *("61.23 %", "[57.1, 65.4]", "58.50 %", "-2.73[-4.1, -1.3]", "Remark. 2 images could not be read"),
        *("class 1 n1", "75.00", "25.00", "val/one.JPEG", "class 0 0.41: place", "0123456789abcdef"),
        *("python -m evaluation.detection --engine a.onnx", "3 pairs of an image and a class"),
        "1 class has no object that counts, and no average precision: class 2.",
    ):
        assert said in page.text, said
    assert "Beside the paper" not in page.text
    boxes = [attributes for tag, attributes in page.tags if tag == "rect" and "class" in attributes]
    assert [(box["class"], box["x"], box["y"], box["width"], box["height"]) for box in boxes] == [
        ("right", "0.00", "0.00", "60.00", "45.00"),
        ("wrong", "60.00", "0.00", "40.00", "45.00"),
        ("missed", "9.50", "49.00", "20.50", "31.00"),
    ]
    order = [page.text.index(f"class {number} n{number}") for number in (0, 1)]
    assert order == sorted(order)  # the worst first


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    write_page(page_values(), tmp_path / "a.html")
    write_page(page_values(), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_tables_4_and_5_stand_beside_where_the_data_are_the_papers(tmp_path: Path) -> None:
    values = dataclasses.replace(page_values(), published=TABLE_4)
    text = written(values, tmp_path).text
    assert "Table 4" in text
    assert "43.9" in text and "+17.33" in text  # ours - GoogLeNet's
    assert "38.02" not in text
    single = dataclasses.replace(values, systems=values.systems[1:], published=TABLE_5)
    text = written(single, tmp_path).text
    assert "Table 5" in text and "38.02" in text and "+20.48" in text
    assert [row.mean_percent for row in TABLE_4] == [22.6, 40.5, 40.7, 43.9]
    assert [row.mean_percent for row in TABLE_5] == [31.6, 34.5, 35.4, 37.7, 38.02, 40.2]
    assert (rows_beside(1), rows_beside(6)) == (TABLE_5, TABLE_4)
    assert [is_det("ilsvrc-det", 200), is_det("ilsvrc-det", 10), is_det("voc", 200)] == [True, False, False]


def test_nothing_is_loaded_and_nothing_that_was_named_is_markup(tmp_path: Path) -> None:
    values, mark = page_values(), Mark("wrong", Box(1, 1, 2, 2), EVIL)
    evil = dataclasses.replace(
        values,
        title=EVIL,
        systems=[dataclasses.replace(values.systems[0], name=EVIL)],
        classes=[dataclasses.replace(one, name=EVIL, words=EVIL) for one in values.classes],
        pictures=[dataclasses.replace(values.pictures[0], name=f'"{EVIL}', marks=[mark])],
        remarks=[EVIL],
        facts={EVIL: EVIL},
        command=EVIL,
    )  # fmt: skip
    for one in (values, evil):
        page = written(one, tmp_path)
        assert [tag for tag, _ in page.tags].count("script") == 1
        for _, attributes in page.tags:
            for name in ("src", "href"):
                value = attributes.get(name) or "#"
                assert value.startswith(("#", "data:")), value
        text = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "default-src 'none'" in text
        assert "\u202e" not in text


def test_edges_have_a_page(tmp_path: Path) -> None:
    """No class with an object, no picture, no detection; one class."""
    nothing = Mean(math.nan, (math.nan, math.nan))
    zero = dict.fromkeys(COUNTS, 0)
    empty = dataclasses.replace(
        page_values(),
        systems=[SystemValues("A", 1, nothing, zero)],
        classes=[of_class(0, math.nan, 0)],
        pictures=[],
        remarks=[],
        facts={},
        command="",
    )
    page = written(empty, tmp_path)
    assert "%" not in page.text.split("mean average precision")[1].split("objects found")[0].replace("95 %", "")
    assert "nan" not in page.text.lower()
    assert [tag for tag, _ in page.tags].count("svg") == 0
    for rule in ("voc", "voc07", "coco"):
        written(dataclasses.replace(page_values(), rule=rule), tmp_path)


def test_curves_are_the_envelope() -> None:
    recall, precision = envelope(of_class(0))
    at = dict(zip(np.round(recall, 6), precision, strict=True))
    assert (recall[0], recall[-1], precision[-1]) == (0, 0.6, 0)
    assert [at[0.0], at[0.204], at[0.402]] == [1.0, 0.7, 0.7]
    assert np.all(np.diff(precision) <= 0)
    none = Curve(np.zeros(0), np.zeros(0), np.zeros(0, np.float32))
    assert envelope(dataclasses.replace(of_class(0), curve=none))[1].tolist() == [0, 0]


def test_of_many_classes_the_best_and_the_worst_are_named() -> None:
    svg = precision_recall([of_class(number, number / 200) for number in range(200)])
    named = re.findall(r"class (\d+) [\d.]+<", svg)
    assert len(named) == NAMED
    assert set(map(int, named)) == {0, 1, 2, 3, 196, 197, 198, 199}
    assert len(svg) < 1_500_000
    assert precision_recall([of_class(0, math.nan, 0)]) == ""
    assert outcomes([SystemValues("A", 1, Mean(0, (0, 0)), dict.fromkeys(COUNTS, 0))]) == ""


def test_pictures_are_small_jpegs() -> None:
    for shape in ((900, 1200, 3), (20, 10, 3), (1, 4000, 3)):
        image = Image.open(io.BytesIO(encode_picture(np.full(shape, 200, np.uint8))))
        assert image.format == "JPEG"
        assert max(image.size) == min(LONGEST_PX, max(shape[:2]))


HERE, THERE = Box(1, 1, 40, 40), Box(101, 1, 140, 40)


def found(*rows: tuple[int, float, Box]) -> Detections:
    boxes = np.array([row[2] for row in rows], np.float64).reshape(-1, 4)
    return Detections(
        np.array([row[0] for row in rows], np.int32), np.array([row[1] for row in rows], np.float32), boxes
    )


def sorted_case() -> tuple[Truth, list[Detections], list[Mistakes]]:
    truth = truth_of([[Object(0, HERE), Object(1, THERE), Object(0, THERE)], [Object(1, HERE)], []], 2)
    detections = [found((0, 0.9, HERE), (0, 0.8, HERE), (2, 0.7, HERE)), found((1, 0.6, HERE), (0, 0.5, HERE))]
    return truth, detections, sort_mistakes(truth, detections, "voc")


def test_marks_are_of_as_many_of_the_surest_as_there_are_objects() -> None:
    truth, detections, mistakes = sorted_case()
    marks = marks_of(truth, detections, mistakes, ["zero", "one"], 0)
    assert [(mark.kind, mark.text) for mark in marks] == [
        ("right", "zero 0.90"),
        ("wrong", "zero 0.80: duplicate"),
        ("missed", "zero: missed"),
        ("wrong", "one 0.50: is zero"),
        ("missed", "one: missed"),
    ]
    assert [mark.box for mark in marks] == [HERE, HERE, THERE, HERE, THERE]
    assert [mark.kind for mark in marks_of(truth, detections, mistakes, ["zero", "one"], 1)] == ["right"]
    assert marks_of(truth, detections, mistakes, ["zero", "one"], 2) == []


def test_images_are_those_of_the_surest_mistakes_and_others() -> None:
    _, _, mistakes = sorted_case()
    assert choose_images(mistakes, 3, 2) == [0, 1]
    assert choose_images(mistakes, 3, 9) == [0, 1, 2]
    assert choose_images(mistakes, 100, 6) == sorted({0, 2} | set(choose_images(mistakes, 100, 6)))
    assert len(choose_images(mistakes, 100, 6)) == 6


def test_a_browser_loads_nothing_and_has_no_complaint(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_page(dataclasses.replace(page_values(), published=TABLE_4), page)
    find_chromium()
    with open_browser(tmp_path / "profile") as browser:
        for width in (1200, 390):
            browser.open_page(page, width=width)
            assert browser.complaints() == []
            loaded = [url for url in browser.requests() if not url.startswith("data:")]
            assert loaded == [page.resolve().as_uri()]
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            boxes = "document.querySelectorAll('.boxes rect').length"
            assert browser.evaluate(boxes) == 3
