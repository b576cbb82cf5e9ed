"""--decoder nvjpeg, on a double that is NOT nvImageCodec: what the tables, the report and other commands say of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_nvimgcodec
import pyarrow.parquet as pq
import pytest

from evaluation import compare, fuse
from evaluation.features.__main__ import main as features
from evaluation.ilsvrc import main
from evaluation.run import loop
from evaluation.scores import table as tables

Checkpoints = Callable[..., Path]
GPU = ["--decoder", "nvjpeg"]


@pytest.fixture
def arguments(slim_checkpoint: Checkpoints, miniature_copy: Path) -> list[str]:
    return ["--engine", str(slim_checkpoint("A")), "--data", str(miniature_copy), "--protocol", "center"]


def table_of(out: Path) -> Path:
    (path,) = (out / "scores").glob("*.parquet")
    return path


def test_tables_and_report_name_the_decoder_where_it_is_not_the_usual(
    arguments: list[str],
    miniature_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    decoded = fake_nvimgcodec.install(monkeypatch)
    assert main([*arguments, "--out", str(tmp_path / "usual")]) == 0
    assert not decoded
    assert main([*arguments, *GPU, "--workers", "2", "--out", str(tmp_path / "gpu")]) == 0
    assert len(set(decoded)) == 1 + 22  # its own test, and all but a PNG and a CMYK JPEG
    assert "decoded by nvjpeg (--decoder): pixels may differ by a grey level" in capsys.readouterr().err

    usual, gpu = (tables.read(table_of(tmp_path / name)) for name in ("usual", "gpu"))
    assert "decoder" not in usual.metadata and "decoder" not in pq.read_schema(table_of(tmp_path / "usual")).metadata
    assert gpu.metadata["decoder"] == gpu.decoder == "nvjpeg"
    assert usual.decoder == "cpu"
    assert {key: value for key, value in gpu.metadata.items() if key != "decoder"} == usual.metadata
    for name, one, other in zip(usual.images, usual.pixel_digests, gpu.pixel_digests, strict=True):
        (path,) = miniature_copy.rglob(name)
        assert (one == other) == (path.read_bytes() not in decoded), name
    remarks = [json.loads((tmp_path / name / "report.json").read_text())["remarks"] for name in ("usual", "gpu")]
    assert [sum("decoded by nvjpeg" in remark for remark in own) for own in remarks] == [0, 1]


@pytest.mark.parametrize(("first", "then"), [([], GPU), (GPU, [])])
def test_a_run_goes_on_with_its_own_decoder_only(
    first: list[str],
    then: list[str],
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_nvimgcodec.install(monkeypatch)
    assert main([*arguments, *first, "--out", str(tmp_path / "whole")]) == 0

    # begun, with its shards there: as if it had been killed before the end
    out = [*arguments, "--protocol", "center,dense", "--out", str(tmp_path / "out")]
    real, seen = loop.read_image, []

    def read_image(item: Any, **rules: Any) -> Any:
        seen.append(item)
        if len(seen) > 12:
            raise OSError("the disk is gone")
        return real(item, **rules)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "read_image", read_image)
        assert main([*out, *first]) == 1
    capsys.readouterr()
    assert main([*out, *then, "--resume"]) == 1
    was, is_now = ("cpu", "nvjpeg") if then else ("nvjpeg", "cpu")
    assert f"--resume: the decoder of slim-a changed from {was} to {is_now} since" in capsys.readouterr().err
    assert main([*out, *first, "--resume"]) == 0
    one, other = (tables.read(path) for path in (table_of(tmp_path / "whole"), *_center(tmp_path / "out")))
    assert one.pixel_digests == other.pixel_digests


def _center(out: Path) -> list[Path]:
    return list((out / "scores").glob("*.center.*.parquet"))


def test_compare_and_fuse_say_that_pixels_differ(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_nvimgcodec.install(monkeypatch)
    for name, options in (("usual", []), ("gpu", GPU)):
        assert main([*arguments, *options, "--out", str(tmp_path / name)]) == 0
    usual, gpu = (str(table_of(tmp_path / name)) for name in ("usual", "gpu"))
    capsys.readouterr()

    assert compare.main([usual, gpu]) == 0
    said = capsys.readouterr().out
    assert "B: slim-a (torch-fp32, center at 96, decoded by nvjpeg)" in said
    assert "A was decoded by cpu, B by nvjpeg: their pixels may differ by a grey level" in said
    assert "pixels: the same for 2 of 24 images" in said
    assert compare.main([usual, gpu, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decoders"] == ["cpu", "nvjpeg"]
    assert compare.main([gpu, gpu]) == 0
    assert "A was decoded" not in capsys.readouterr().out

    assert fuse.main([usual, gpu, "-o", str(tmp_path / "fused.parquet")]) == 0
    assert "the tables were decoded by cpu and nvjpeg: their pixels may differ" in capsys.readouterr().err
    assert tables.read_head(tmp_path / "fused.parquet").decoder == "cpu+nvjpeg"
    assert fuse.main([gpu, gpu, "-o", str(tmp_path / "same.parquet")]) == 0
    assert capsys.readouterr().err == ""
    assert tables.read_head(tmp_path / "same.parquet").decoder == "nvjpeg"
    assert fuse.main([usual, usual, "-o", str(tmp_path / "usual.parquet")]) == 0
    assert "decoder" not in tables.read_head(tmp_path / "usual.parquet").metadata


def test_features_name_it_too(
    exported: Checkpoints, miniature_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvimgcodec.install(monkeypatch)
    engine = exported("A")
    data = [
        "--data",
        str(miniature_copy / "ILSVRC2012_img_train"),
        "--kind",
        "folders",
        "--scales",
        "96",
        "--limit",
        "8",
    ]
    for name, options in (("usual", []), ("gpu", GPU)):
        assert features(["extract", "--engine", str(engine), *data, *options, "-o", str(tmp_path / name)]) == 0
    usual, gpu = (pq.read_schema(tmp_path / name).metadata for name in ("usual", "gpu"))
    assert b"decoder" not in usual
    assert gpu[b"decoder"] == b"nvjpeg"


def test_a_missing_package_and_a_missing_gpu_are_a_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: Callable[[], str]
) -> None:
    run = [*arguments, *GPU, "--out", str(tmp_path / "out")]
    fake_nvimgcodec.install(monkeypatch, gpus=0)
    assert main(run) == 1
    assert one_line().startswith("--decoder nvjpeg: nvImageCodec cannot decode on GPU 0 (Internal error")
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    assert main(run) == 1
    assert one_line().startswith("--decoder nvjpeg: nvImageCodec is not installed (")
    assert not (tmp_path / "out" / "scores").exists()
