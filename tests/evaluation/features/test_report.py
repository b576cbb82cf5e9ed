"""What evaluation.features svm says beside its numbers, and what it writes for VOC's server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_tables import noisy, write_table

from evaluation.features.__main__ import main
from evaluation.features.collection import one_of
from evaluation.features.paper import ACTIONS, OBJECTS, rows_beside
from evaluation.features.table import Table
from evaluation.scores.table import OK

OneLine = Callable[[], str]


def of_classes(kind: str, names: tuple[str, ...]) -> Table:
    """Ten examples of each class, easily told."""
    table = noisy(kind, counts=(10 * len(names),), width=len(names))
    places = np.arange(10 * len(names)) // 10
    features = one_of(len(names), places).astype(np.float32)
    metadata = {"kind": kind, "classes": json.dumps(names)}
    return replace(table, labels=one_of(len(names), places), features=features, metadata=(metadata,))


@pytest.mark.parametrize(
    ("kind", "classes", "sizes", "shown", "why"),
    [
        ("voc2007", OBJECTS, (None, None), 7, ""),
        ("voc2012", OBJECTS, (None, None), 7, ""),
        ("voc2007", OBJECTS[:3], (None, None), 0, "they are of 20 classes, this data set has 3"),
        ("voc2007", (*OBJECTS[:19], "zebra"), (None, None), 0, "zebra is none of the classes that they are of"),
        ("voc-action", ACTIONS, (None, None), 5, ""),
        ("voc-action", OBJECTS[:11], (None, None), 0, "aeroplane is none of the classes"),
        ("caltech-101", ("c",) * 102, (30, 50), 6, ""),
        ("caltech-101", ("c",) * 4, (30, 50), 0, "they are of 102 classes, this data set has 4"),
        ("caltech-101", ("c",) * 102, (10, 50), 0, "30 and 50 images of a class train and test there, 10 and 50 here"),
        ("caltech-256", ("c",) * 257, (60, None), 5, ""),
        ("caltech-256", ("c",) * 257, (60, 9), 0, "60 and all others images of a class train and test there, 60 and 9"),
        ("folders", ("c",) * 20, (None, None), 0, ""),
    ],
)
def test_the_papers_rows_stand_beside_its_own_data_sets(
    kind: str, classes: Any, sizes: Any, shown: int, why: str
) -> None:
    rows, said = rows_beside(kind, classes, *sizes)
    assert len(rows) == shown and {row.kind for row in rows} <= {kind}
    assert why in said and bool(said) == bool(why)


def test_rows_say_which_set_they_are_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_table(tmp_path / "f.parquet", of_classes("voc2007", OBJECTS)))
    for tested, theirs in (("test", "VGG net D"), ("val", "VGG net D (test)")):
        assert main(["svm", path, "--c", "1", "--test", tested]) == 0
        text = capsys.readouterr().out
        rows = [cell.strip() for cell in text.split("|")]
        assert {f"hand, all-point ({tested})", theirs} <= set(rows) and "not shown" not in text


def test_classes_that_nothing_tested_has_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = noisy("voc2007")
    table.labels[(table.splits == "test") & (table.labels[:, 1] > 0), 1] = -1
    path = str(write_table(tmp_path / "f.parquet", table))
    line = "no image that is tested has b: without AP, 1 of 3 classes are not in the mAP"
    assert main(["svm", path, "--c", "1"]) == 0
    assert line in capsys.readouterr().out.splitlines()
    assert main(["svm", path, "--c", "1", "--test", "val"]) == 0
    assert "without AP" not in capsys.readouterr().out


def test_the_server_gets_numbers_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = noisy("voc2012")
    lost = int(np.flatnonzero(table.splits == "test")[2])
    table = replace(table, statuses=tuple("gone" if i == lost else OK for i in range(len(table.images))))
    path = str(write_table(tmp_path / "f.parquet", table))
    assert main(["svm", path, "--results", str(tmp_path / "out"), "--c", "0.1,1"]) == 0
    said = capsys.readouterr()
    assert said.err == "1 of 48 test images have no features: in each file they stand last, 1 below the lowest score\n"
    first, *remarks = said.out.splitlines()
    assert first.startswith(f"{tmp_path / 'out'}: scores of 48 test images for 3 classes; C = ")
    assert "is at the end of what was tried" in remarks[0]
    for name in table.classes:
        lines = (tmp_path / "out" / f"comp2_cls_test_{name}.txt").read_text().splitlines()
        scores = {image: float(score) for image, score in map(str.split, lines)}
        last = scores.pop(str(lost))
        assert last == pytest.approx(min(scores.values()) - 1, abs=2e-6)
