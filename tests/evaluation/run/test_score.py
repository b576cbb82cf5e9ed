"""Every protocol through the runner, on torch and FP32 ONNX, against loops over single views as the papers say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import reference
from conftest import Photos
from numpy.typing import NDArray
from PIL import Image
from scoring import evaluate, resolve

from evaluation.run.submission import Pooling
from evaluation.scores.table import OK, fuse
from infer.data.dataset import Dataset, open_dataset
from infer.engine import Engine
from infer.onnx_engine import OnnxEngine
from infer.spec import Preprocessing
from infer.views import PROTOCOLS, plan_views
from trainer import checkpoint
from trainer.miniature import WNIDS
from trainer.torch_engine import TorchEngine

IMAGES = 3
SHAPES = {"landscape": (75, 113), "portrait": (141, 90), "square": (97, 97), "below the crop": (40, 61)}
"""Height and width of the images that runner and reference are compared on."""


@pytest.fixture(scope="module")
def dataset(miniature_dir: Path) -> Dataset:
    """Three images, one of them grey; enough to see an image take another's place."""
    return open_dataset(miniature_dir, limit=IMAGES)


def run(
    engine: Engine,
    protocols: Sequence[str],
    dataset: Dataset,
    scales: Sequence[int] | None = None,
    pooling: Pooling = "scores",
) -> dict[str, NDArray[np.float32]]:
    """Posterior [images, classes] of each protocol."""
    own = resolve(protocols, engine.spec, scales)
    tables = evaluate([engine], [own], dataset, pooling=pooling).scores[0]
    assert all(status == OK for scores in tables for status in scores.statuses)
    return {protocol.name: scores.posterior for protocol, scores in zip(own, tables, strict=True)}


@pytest.fixture(scope="module")
def shapes(photos: Photos) -> dict[str, NDArray[np.uint8]]:
    """Pieces of one photograph, by their names in a data set."""
    return {
        f"{name}.png": np.ascontiguousarray(photos["cat"][20 * i : 20 * i + height, 50 * i : 50 * i + width])
        for i, (name, (height, width)) in enumerate(SHAPES.items())
    }


@pytest.fixture(scope="module")
def odd_dataset(shapes: dict[str, NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("odd")
    for wnid in WNIDS:
        (root / wnid).mkdir()
    for name, pixels in shapes.items():
        Image.fromarray(pixels).save(root / WNIDS[0] / name)
    return open_dataset(root)


@pytest.mark.parametrize("pooling", ["scores", "posteriors"])
@pytest.mark.parametrize(
    ("net", "protocol", "scales"),
    [
        ("A", "center", [88]),
        ("D", "center", [64, 99]),
        ("A-LRN", "ten-crop", [88]),
        ("B", "dense", [72, 96, 120]),
        ("D", "dense", [101]),
        ("C", "multicrop", [72, 96]),
        ("E", "multicrop+dense", [72, 96]),
        ("A", "googlenet-144", [73, 91]),
        ("googlenet", "center", [97]),
        ("googlenet", "ten-crop", [108]),
        ("googlenet", "dense", [108, 144]),
        ("googlenet", "multicrop+dense", [111]),
        ("googlenet", "googlenet-144", [109, 150]),
    ],
)
def test_posterior_equals_the_papers_words(
    slim_checkpoint: Callable[..., Path],
    exported: Callable[..., Path],
    shapes: dict[str, NDArray[np.uint8]],
    odd_dataset: Dataset,
    net: str,
    protocol: str,
    scales: list[int],
    pooling: Pooling,
) -> None:
    plain = checkpoint.load(slim_checkpoint(net)).build()
    engines: list[Engine] = [TorchEngine.open(slim_checkpoint(net)), OnnxEngine(exported(net))]
    spec = engines[0].spec
    names = [item.name.rpartition("/")[2] for item in odd_dataset.items]
    assert sorted(names) == sorted(shapes)
    expected = [reference.posterior(plain, spec, shapes[name], protocol, scales, pooling) for name in names]
    assert np.ptp(expected, 0).max() > 1e-3, "the images look all alike to this net: the comparison shows nothing"
    for engine in engines:
        got = run(engine, [protocol], odd_dataset, scales, pooling)[protocol]
        assert got.shape == (len(SHAPES), len(spec.classes))
        assert np.abs(got - expected).max() < 1e-5, engine.runtime


def test_the_two_poolings_differ_in_dense_views_only(slim_checkpoint: Callable[..., Path], dataset: Dataset) -> None:
    engine = TorchEngine.open(slim_checkpoint("D"))
    by_scores, by_posteriors = (run(engine, ["multicrop", "dense"], dataset, [80], p) for p in ("scores", "posteriors"))
    assert np.abs(by_scores["multicrop"] - by_posteriors["multicrop"]).max() < 1e-6
    assert np.abs(by_scores["dense"] - by_posteriors["dense"]).max() > 1e-4


def test_protocols_that_run_together_give_what_each_gives_alone(
    slim_checkpoint: Callable[..., Path], dataset: Dataset
) -> None:
    engine = TorchEngine.open(slim_checkpoint("A"))
    together = run(engine, list(PROTOCOLS), dataset, [72])
    for protocol in PROTOCOLS:
        alone = run(engine, [protocol], dataset, [72])[protocol]
        assert np.abs(together[protocol] - alone).max() < 1e-6


@pytest.mark.parametrize("net", ["D", "googlenet"])
def test_the_dense_view_of_a_crop_sized_image_is_the_centre_crop(
    slim_checkpoint: Callable[..., Path], photos: Photos, net: str
) -> None:
    """The crop in the middle of a photograph, and the same pixels as an image of their own."""
    engine = TorchEngine.open(slim_checkpoint(net))
    crop, image = engine.spec.crop_px, photos["cat"]
    middle = reference.centre_crop(image, crop)
    center = plan_views(engine.spec, "center", image.shape[:2], [300])  # as large as it is
    dense = plan_views(engine.spec, "dense", middle.shape[:2], [crop])
    assert (len(center), len(dense)) == (1, 2)
    results = engine.run(engine.load([image, middle]), [center, dense])["posterior"]
    assert not dense.views[0].mirrored
    assert np.abs(results[0] - results[1]).max() < 1e-6
    assert np.abs(results[0] - results[2]).max() > 1e-4  # the mirror


@pytest.mark.parametrize("protocols", [["center"], ["multicrop+dense"]])
def test_order_and_batches_of_images_change_nothing(
    slim_checkpoint: Callable[..., Path], miniature_dir: Path, protocols: list[str]
) -> None:
    """`center` shares calls between 16 images, the others do not: 20 images make two uneven batches."""
    engine = TorchEngine.open(slim_checkpoint("A"))
    count = 20 if protocols == ["center"] else 4
    every = open_dataset(miniature_dir)
    whole = dataclasses.replace(every, items=every.items[:count])
    (forwards,) = run(engine, protocols, whole, [80]).values()
    backwards = dataclasses.replace(whole, items=whole.items[::-1])
    (reversed_,) = run(engine, protocols, backwards, [80]).values()
    (fewer,) = run(engine, protocols, dataclasses.replace(every, items=every.items[: count - 1]), [80]).values()
    assert np.abs(forwards - reversed_[::-1]).max() < 1e-6
    assert np.abs(forwards[:-1] - fewer).max() < 1e-6
    assert np.ptp(forwards, 0).max() > 1e-3


def test_fusing_a_model_with_itself_changes_nothing(slim_checkpoint: Callable[..., Path], dataset: Dataset) -> None:
    engine = TorchEngine.open(slim_checkpoint("A"))
    ((scores,),) = evaluate([engine], [resolve(["dense"], engine.spec, None)], dataset).scores
    for members in ([scores], [scores, scores], [scores] * 3):
        assert np.abs(fuse(members).posterior - scores.posterior).max() < 1e-7
    assert fuse([scores, scores]).statuses == scores.statuses


def test_each_model_reads_images_by_its_own_exif_rule(
    slim_checkpoint: Callable[..., Path], miniature_dir: Path
) -> None:
    """Evaluated together or alone, a model sees the rotated image (number 13) as its own spec says."""
    rotated = open_dataset(miniature_dir)
    rotated = dataclasses.replace(rotated, items=rotated.items[12:13])
    engines = [
        TorchEngine.open(
            slim_checkpoint("A", name=exif, preprocessing=Preprocessing((90, 90, 90), (64, 64, 64), exif=exif))
        )
        for exif in ("ignore", "apply")
    ]
    alone = [run(engine, ["center"], rotated)["center"] for engine in engines]
    assert np.abs(alone[0] - alone[1]).max() > 1e-4
    together = evaluate(engines, [resolve(["center"], engine.spec, None) for engine in engines], rotated).scores
    for (scores,), expected in zip(together, alone, strict=True):
        assert np.abs(scores.posterior - expected).max() < 1e-6
