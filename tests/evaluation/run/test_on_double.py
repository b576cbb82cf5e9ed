"""Evaluations by a plan, on the double of TensorRT: the CPU's pixels and answers, the same bytes with any workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import Exported, encode, noise, slim_spec
from on_double import check, run
from plans import write_plan

from evaluation import ilsvrc
from evaluation.scores import table
from infer.views import default_shapes

pytestmark = pytest.mark.processes

SIZES = [(90, 130), (90, 130), (131, 89), (90, 130), (300, 211), (33, 80), (90, 130)]
"""Of four images of one size, of which a call takes some, and of three others."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sizes")
    for number, size in enumerate(SIZES):
        path = root / f"n9900000{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(noise(size, number), "PNG"))
    return root


@pytest.mark.parametrize(
    ("net", "protocol", "regions"),
    [
        ("A", "center,dense", True),
        ("A", "multicrop+dense", True),
        ("googlenet", "googlenet-144", True),
        ("A", "center,googlenet-144", False),  # an engine built before views were regions
    ],
)
def test_the_cpus_pixels_and_answers(
    net: str, protocol: str, regions: bool, data: Path, exported: Exported, tmp_path: Path
) -> None:
    plan = write_plan(exported(net), tmp_path, () if regions else default_shapes(slim_spec(net)))
    options = ["--data", str(data), "--protocol", protocol]
    assert ilsvrc.main(["--engine", str(exported(net)), *options, "--out", str(tmp_path / "cpu")]) == 0
    code = f"""
    from evaluation.ilsvrc import main
    for workers in ("1", "3"):
        options = [*{options!r}, "--workers", workers, "--out", "gpu" + workers]
        assert main(["--engine", {str(plan)!r}, *options]) == 0
    """
    check(run(code, tmp_path))

    files = sorted((tmp_path / "cpu" / "scores").iterdir())
    assert len(files) == len(protocol.split(","))
    for right in map(table.read, files):
        name = f"*{right.metadata['protocol']}*"
        one, three = (next((tmp_path / out / "scores").glob(name)) for out in ("gpu1", "gpu3"))
        assert one.read_bytes() == three.read_bytes()
        found = table.read(one)
        assert found.images == right.images and found.statuses == right.statuses
        assert found.pixel_digests == right.pixel_digests and all(found.pixel_digests)
        np.testing.assert_allclose(found.posterior, right.posterior, rtol=0, atol=1e-6)
