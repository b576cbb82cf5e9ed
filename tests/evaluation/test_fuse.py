"""evaluation/fuse.py: the mean of posteriors, of tables that belong together."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import make_scores

from evaluation import fuse as command
from evaluation.errors import ScoresError
from evaluation.scores.table import Scores, fuse, read, write

OneLine = Callable[[], str]


@pytest.fixture
def pair() -> tuple[Scores, Scores]:
    one = make_scores([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], [0, 1, -1], model="one", engine_sha256="01")
    other = make_scores([[0.5, 0.5], [0.4, 0.6], [0.1, 0.9]], [0, 1, -1], model="other", engine_sha256="02")
    return one, other


def test_mean_by_hand(pair: tuple[Scores, Scores]) -> None:
    fused = fuse(pair)
    assert fused.posterior == pytest.approx(np.array([[0.7, 0.3], [0.3, 0.7], [0.3, 0.7]]), abs=1e-7)
    assert fused.posterior.dtype == np.float32
    assert fused.images == pair[0].images
    assert fused.labels.tolist() == [0, 1, -1]
    assert fused.model == "fused"
    assert [spec["name"] for spec in json.loads(fused.metadata["spec"])["members"]] == ["one", "other"]
    assert fused.metadata["protocol"] == "center"
    assert fused.metadata["engine_sha256"] == "01+02"
    three = fuse([*pair, pair[1]])
    assert three.posterior[0] == pytest.approx([1.9 / 3, 1.1 / 3], abs=1e-7)


def test_order_of_members_does_not_matter(pair: tuple[Scores, Scores]) -> None:
    assert np.array_equal(fuse(pair).posterior, fuse(pair[::-1]).posterior)


def test_an_image_that_one_member_could_not_score_is_not_scored(pair: tuple[Scores, Scores]) -> None:
    one, other = pair
    other = dataclasses.replace(other, statuses=("ok", "out of range", "ok"))
    for members in ((one, other), (other, one)):
        fused = fuse(members)
        assert fused.statuses == ("ok", "out of range", "ok")
        assert fused.posterior[1].tolist() == [0, 0]


def test_tables_of_other_data_are_refused(pair: tuple[Scores, Scores]) -> None:
    one = pair[0]
    elsewhere = make_scores(one.posterior, one.labels, model="elsewhere", dataset_id="fedcba9876543210")
    message = r"elsewhere was scored on data set fedcba9876543210 \(3 images\), one on 0123456789abcdef \(3\)"
    with pytest.raises(ScoresError, match=message):
        fuse([one, elsewhere])
    fewer = make_scores(one.posterior[:2], one.labels[:2], model="fewer")
    with pytest.raises(ScoresError, match="use tables of the same images"):
        fuse([one, fewer])
    with pytest.raises(ScoresError, match="use tables of the same images"):
        fuse([one, dataclasses.replace(pair[1], images=("2.jpg", "1.jpg", "0.jpg"))])


def test_models_of_other_classes_are_refused(pair: tuple[Scores, Scores]) -> None:
    other = make_scores([[0.2, 0.3, 0.5]] * 3, [0, 1, -1], model="three")
    with pytest.raises(ScoresError, match="three and one have different classes: their posteriors mean other things"):
        fuse([pair[0], other])


def test_command(pair: tuple[Scores, Scores], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for scores, path in zip(pair, paths, strict=True):
        write([scores], path)
    out = tmp_path / "new" / "f.parquet"
    assert command.main([*map(str, paths), "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: mean of 2 tables\n"
    assert np.array_equal(read(out).posterior, fuse(pair).posterior)
    assert read(out).metadata == fuse(pair).metadata


def test_command_errors(pair: tuple[Scores, Scores], tmp_path: Path, one_line: OneLine) -> None:
    good, bad, out = tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "f.parquet"
    write([pair[0]], good)
    for content, message in ((None, "no such file"), (b"text", "not a score table")):
        if content is not None:
            bad.write_bytes(content)
        assert command.main([str(good), str(bad), "-o", str(out)]) == 1
        line = one_line()
        assert str(bad) in line
        assert message in line
    write([dataclasses.replace(pair[1], metadata={**pair[1].metadata, "dataset_id": "x"})], bad)
    assert command.main([str(good), str(bad), "-o", str(out)]) == 1
    assert "use tables of the same images" in one_line()
    assert not out.exists()
    with pytest.raises(SystemExit) as caught:
        command.main(["-o", str(out)])
    assert caught.value.code == 2
    assert "TABLE.parquet" in one_line()


def test_a_fusion_is_unrounded_where_a_member_is(pair: tuple[Scores, Scores]) -> None:
    """Whether or not the other is of an earlier version, whose tables do not say what they were computed in."""
    said = {"runtime": "onnxruntime-fp16", "arithmetic": "fp16, rounded by b.check.onnx"}
    half = {"runtime": "onnxruntime-fp16"}
    for first, second, unrounded in (({}, said, False), (said, {}, False), (half, said, True), ({}, half, True)):
        members = [
            dataclasses.replace(one, metadata={**one.metadata, **own})
            for one, own in zip(pair, (first, second), strict=True)
        ]
        assert fuse(members).unrounded == unrounded
        assert fuse([fuse(members), pair[0]]).unrounded == unrounded
    assert fuse(pair).metadata["arithmetic"] == "fp32"


def test_no_table_is_lost_to_its_own_fusion(pair: tuple[Scores, Scores], tmp_path: Path, one_line: OneLine) -> None:
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, scores in zip(paths, pair, strict=True):
        write([scores], path)
    (tmp_path / "link.parquet").symlink_to(paths[1])
    before = [path.read_bytes() for path in paths]
    for out in (*paths, tmp_path / "link.parquet"):
        with pytest.raises(SystemExit, match="2"):
            command.main([*map(str, paths), "-o", str(out)])
        assert "is one of the tables to fuse, which would be lost" in one_line()
    assert [path.read_bytes() for path in paths] == before


def test_an_out_below_a_file_is_one_line(pair: tuple[Scores, Scores], tmp_path: Path, one_line: OneLine) -> None:
    write([pair[0]], tmp_path / "a.parquet")
    assert command.main([str(tmp_path / "a.parquet"), "-o", str(tmp_path / "a.parquet" / "f.parquet")]) == 1
    assert one_line()
