"""Which class index of the model each class of the data is: by name, or by position where the model has no names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import slim_spec

from evaluation.errors import RunError
from evaluation.ilsvrc import main
from evaluation.run.engines import map_labels
from evaluation.scores.table import read
from infer.data.dataset import open_dataset
from infer.spec import placeholder_classes
from trainer.checkpoint import load, save

Checkpoints = Callable[..., Path]


def test_by_name_in_any_order(miniature_dir: Path) -> None:
    dataset = open_dataset(miniature_dir)
    backwards = slim_spec("A", classes=(*dataset.classes[::-1], "another"))
    assert map_labels(dataset, backwards).tolist() == list(range(9, -1, -1))


def test_a_class_that_the_model_does_not_know(miniature_dir: Path) -> None:
    spec = slim_spec("A", classes=("cat", "dog"))
    with pytest.raises(RunError, match=r"slim-a knows 2 classes \(cat \.\.\. dog\), but the data set has 10 of 10"):
        map_labels(open_dataset(miniature_dir), spec)
    with pytest.raises(RunError, match=r"knows 11 classes \(class_0000 \.\.\. class_0010\)"):
        map_labels(open_dataset(miniature_dir), slim_spec("A", classes=placeholder_classes(11)))


def test_a_model_without_names_is_taken_in_the_order_of_the_data(
    slim_checkpoint: Checkpoints, miniature_dir: Path, tmp_path: Path, one_line: Callable[[], str]
) -> None:
    named = load(slim_checkpoint("A"))
    spec = dataclasses.replace(named.spec, name="nameless", classes=placeholder_classes(10))
    save(dataclasses.replace(named, spec=spec), tmp_path / "nameless.pt")
    common = ["--data", str(miniature_dir), "--protocol", "center", "--out", str(tmp_path)]
    both = ["--engine", str(slim_checkpoint("A")), "--engine", str(tmp_path / "nameless.pt")]
    assert main([*both, *common]) == 1
    assert "have different classes: they cannot be fused" in one_line()
    assert not (tmp_path / "unfinished").exists()  # found before the work, not after
    for path in (slim_checkpoint("A"), tmp_path / "nameless.pt"):
        assert main(["--engine", str(path), *common]) == 0
    one, other = (read(path) for path in sorted((tmp_path / "scores").iterdir()))
    assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(one.posterior, other.posterior)


def test_numbers_are_the_models_own_unless_their_names_say_otherwise(miniature_dir: Path) -> None:
    dataset = open_dataset(miniature_dir)
    spec = slim_spec("A")

    def numbered(*classes: str) -> list[int]:
        return map_labels(dataclasses.replace(dataset, classes=classes, numbered=True), spec).tolist()

    assert numbered("0", "1", "2") == [0, 1, 2]  # fewer: the last classes have no image
    assert numbered(*(f"word {i}" for i in range(10))) == list(range(10))
    assert numbered(*spec.classes[::-1]) == list(range(9, -1, -1))
    assert numbered(*spec.classes[3:5]) == [3, 4]
    for others in (("tench", "English springer", "cassette player"), tuple(map(str, range(11)))):
        with pytest.raises(RunError, match="knows 10 classes"):
            numbered(*others)
