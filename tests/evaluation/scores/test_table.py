"""evaluation/scores/table.py: one Parquet table a model and protocol, without loss and without anything that varies."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import make_scores

from evaluation import ilsvrc
from evaluation.errors import ScoresError
from evaluation.scores.table import file_name, read, read_labels, write


def test_file_name() -> None:
    scores = make_scores(
        [[0.5, 0.5]], [0], model="d", runtime="onnxruntime-fp32", protocol="multicrop+dense", scales="256,384,512"
    )
    assert file_name(scores.metadata) == "d.onnxruntime-fp32.multicrop+dense.q256-384-512.scores.parquet"
    single = make_scores([[0.5, 0.5]], [0], model="mini-a", pooling="posteriors")
    assert file_name(single.metadata) == "mini-a.torch-fp32.center.q88.posteriors.parquet"


def test_round_trip(tmp_path: Path) -> None:
    posterior = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    scores = make_scores(posterior, [2, -1, 0], ("ok", "é: truncated or damaged JPEG", "ok"))
    write([scores], tmp_path / "scores" / "a.parquet")
    again = read(tmp_path / "scores" / "a.parquet")
    assert again.images == scores.images
    assert again.statuses == scores.statuses
    assert again.pixel_digests == scores.pixel_digests
    assert again.labels.dtype == np.int32
    assert again.labels.tolist() == [2, -1, 0]
    assert again.posterior.dtype == np.float32
    assert np.array_equal(again.posterior, posterior)
    assert again.metadata == scores.metadata
    assert (again.model, again.scales) == ("hand", (88,))
    assert again.readable.tolist() == [True, False, True]
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["a.parquet"]


def test_the_table_is_the_contracts(tmp_path: Path) -> None:
    write([make_scores([[0.25, 0.75]], [1])], tmp_path / "a.parquet")
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert schema.names == ["image", "label", "status", "pixels", "posterior"]
    assert [schema.field(name).type for name in ("image", "label", "status", "pixels")] == [
        pa.string(),
        pa.int32(),
        pa.string(),
        pa.string(),
    ]
    assert schema.field("posterior").type.value_type == pa.float32()
    assert schema.field("posterior").type.list_size == 2


def test_two_runs_of_one_command_write_the_same_bytes(
    slim_checkpoint: Callable[..., Path], miniature_dir: Path, tmp_path: Path
) -> None:
    argv = ["--engine", str(slim_checkpoint("A")), "--data", str(miniature_dir), "--protocol", "center,dense"]
    for out in ("one", "two"):
        assert ilsvrc.main([*argv, "--scales", "72", "--limit", "4", "--out", str(tmp_path / out)]) == 0
    one, two = (sorted((tmp_path / out / "scores").iterdir()) for out in ("one", "two"))
    assert [path.name for path in one] == [
        "slim-a.torch-fp32.center.q72.scores.parquet",
        "slim-a.torch-fp32.dense.q72.scores.parquet",
    ]
    assert [path.name for path in one] == [path.name for path in two]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    fields = ("spec", "runtime", "arithmetic", "protocol", "scales", "pooling", "dataset_id", "engine_sha256", "commit")
    assert set(read(one[0]).metadata) == set(fields)  # and no time
    assert len(set(read(one[0]).pixel_digests)) == 4  # each image has its own digest


@pytest.mark.parametrize("content", [b"", b"not parquet at all", b"PAR1 and then PAR1"])
def test_files_that_are_no_tables(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    with pytest.raises(ScoresError, match=r"not a score table of evaluation\.ilsvrc") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_that_contradict_themselves(tmp_path: Path) -> None:
    """Written whole, so that every digest is right: a label, a number of classes, and metadata that cannot be."""
    good = make_scores([[0.9, 0.1], [0.2, 0.8]], [0, 1])
    spec = json.loads(good.metadata["spec"])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"labels": np.array([0, 2], np.int32)}, "label 2 of 2 classes"),
        ({"labels": np.array([0, -2], np.int32)}, "label -2 of 2 classes"),
        ({"posterior": np.ones((2, 3), np.float32)}, "posteriors of 3 classes for 2"),
        ({"images": ("a.jpg", None)}, "or no name"),
        *(({"metadata": {key: None}}, f"its metadata has no {key}") for key in ("runtime", "pooling", "commit")),
        ({"metadata": {"scales": "72,x"}}, "invalid literal for int"),
        ({"metadata": {"spec": "[]"}}, "Expected `object`, got `array`"),
        ({"metadata": {"spec": json.dumps({**spec, "classes": []})}}, "its spec has no classes"),
        ({"metadata": {"spec": json.dumps({**spec, "classes": [0, 1]})}}, "Expected `str`, got `int`"),
        ({"metadata": {"spec": json.dumps({**spec, "class_names": 1})}}, "Expected `array | null`, got `int`"),
        ({"metadata": {"spec": "[" * 100_000}}, "its spec"),
    ]
    for changes, said in cases:
        own = changes.pop("metadata", {})
        metadata = {key: value for key, value in {**good.metadata, **own}.items() if value is not None}
        path = tmp_path / "a.parquet"
        write([dataclasses.replace(good, **changes, metadata=metadata)], path)
        with pytest.raises(ScoresError, match=f"not a score table of evaluation.ilsvrc .*{re.escape(said)}"):
            read(path)
        if "labels" in changes:
            with pytest.raises(ScoresError, match=re.escape(said)):
                read_labels(path)


def test_missing_and_foreign_tables(tmp_path: Path) -> None:
    with pytest.raises(ScoresError, match=r"missing\.parquet: no such file, expected a score table"):
        read(tmp_path / "missing.parquet")
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "foreign.parquet")
    with pytest.raises(ScoresError, match=r"foreign\.parquet: not a score table"):
        read(tmp_path / "foreign.parquet")
    with pytest.raises(ScoresError):
        read(tmp_path)  # a folder
