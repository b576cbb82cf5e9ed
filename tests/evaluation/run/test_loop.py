"""evaluation/run/loop.py: few decoded pixels are held at once, and how many that are changes no byte of a table."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scoring import evaluate, resolve

from evaluation.run import loop
from evaluation.run.loop import make_shards
from evaluation.run.score import ScoreMaker
from evaluation.run.submission import Protocol
from infer.data.dataset import Dataset, open_dataset
from infer.onnx_engine import OnnxEngine
from infer.pixels import decode
from trainer.miniature import WNIDS
from trainer.torch_engine import TorchEngine

PIXELS = 400 * 600


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Twenty images of 0.7 MB decoded, and one that cannot be read."""
    root, random = tmp_path_factory.mktemp("large"), np.random.default_rng(3)
    for wnid in WNIDS:
        (root / wnid).mkdir()
    for number in range(20):
        pixels = random.integers(0, 255, (20, 30, 3), np.uint8).repeat(20, 0).repeat(20, 1)
        Image.fromarray(pixels).save(root / WNIDS[number % 10] / f"{number}.png")
    (root / WNIDS[4] / "broken.png").write_bytes(b"text")
    return open_dataset(root)


class Watch:
    """Counts decoded originals that are alive, by their weight in images."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self.alive = 0
        self._lock = threading.Lock()
        monkeypatch.setattr(loop, "decode", self._decode)

    def _decode(self, *args: Any, **options: Any) -> Any:
        import weakref

        pixels = decode.decode(*args, **options).copy()
        with self._lock:
            self.alive += 1
            self.most = max(self.most, self.alive)
        weakref.finalize(pixels, self._gone)
        return pixels

    def _gone(self) -> None:
        with self._lock:
            self.alive -= 1


class OnDevice(OnnxEngine):
    """An engine that needs the images themselves, as one of a GPU does; each has calls of its own."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, rescale="graph")
        self.device = "cuda:0"


@pytest.mark.parametrize("opened", [OnnxEngine, OnDevice, "torch"])
def test_how_many_bytes_are_held_changes_no_answer(
    opened: Any,
    exported: Callable[..., Path],
    slim_checkpoint: Callable[..., Path],
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch of 21 images, then batches of two or none held at all: rows are the same to the bit."""
    engine = TorchEngine.open(slim_checkpoint("D")) if opened == "torch" else opened(exported("D"))
    protocols = [resolve(["center", "ten-crop"], engine.spec, [88])]
    ((*whole,),) = evaluate([engine], protocols, dataset).scores

    monkeypatch.setattr(loop, "DECODED_BYTES", 3 * PIXELS + 1)
    watch = Watch(monkeypatch)
    ((*few,),) = evaluate([engine], protocols, dataset).scores
    for before, after in zip(whole, few, strict=True):
        assert before.posterior.tobytes() == after.posterior.tobytes()
        assert (before.statuses, before.pixel_digests) == (after.statuses, after.pixel_digests)
        assert sum(status != "ok" for status in after.statuses) == 1
    # ahead, in a batch that one more image ended, and in the batch before it
    assert watch.most <= (1 + 2 + 2 if opened is OnDevice else 2)


def test_a_protocol_of_many_views_holds_few_images(
    exported: Callable[..., Path], dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "DECODED_BYTES", 2 * 3 * PIXELS)
    watch = Watch(monkeypatch)
    engine = OnnxEngine(exported("D"))
    maker = ScoreMaker([engine], [[Protocol("dense", (88,))]], dataset, "scores")
    assert sum(shard.images for shard in make_shards(maker, dataset.items, decoders=8)) == 21
    assert watch.most <= 2 + 1 + 1


def test_whatever_ends_a_run_no_thread_goes_on_waiting(
    exported: Callable[..., Path], dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "DECODED_BYTES", 1)
    engine = OnnxEngine(exported("D"))
    maker = ScoreMaker([engine], [[Protocol("dense", (88,))]], dataset, "scores")
    before = threading.active_count()
    with contextlib.closing(make_shards(maker, dataset.items, decoders=4)) as shards:
        next(shards)

    def fail(*_: Any) -> Any:
        raise ValueError("not today")

    monkeypatch.setattr(maker, "begin", fail)
    with pytest.raises(ValueError, match="not today"):
        list(make_shards(maker, dataset.items, decoders=4))
    assert threading.active_count() <= before + 1
