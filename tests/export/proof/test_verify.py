"""The gate: an FP16 graph that answers as FP32 does passes, one that overflows does not, and is mended by rescaling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import make_scores, random_net, slim_spec
from loud import LOUD, graphs, loud_net
from onnx import numpy_helper
from scoring import evaluate

from evaluation.run.submission import Protocol
from export.model.precision import check_graph, half_tensors
from export.model.source import Proof
from export.proof.calibrate import choose_exponents, measure_ranges, rescale
from export.proof.verdict import refusal
from export.proof.verify import VerifyError, judge, verify_graph
from infer.data.dataset import open_dataset
from infer.onnx_engine import OnnxEngine

Exported = Callable[..., Path]


def test_a_sound_net_passes_and_the_numbers_are_the_evaluations(
    exported: Exported, miniature_dir: Path, tmp_path: Path
) -> None:
    single, half = (onnx.load(exported("C", precision=precision)) for precision in ("fp32", "fp16"))
    verdict = verify_graph(single, half, Proof(verify=miniature_dir, protocol="ten-crop", limit=0))
    assert refusal(verdict, Proof(tolerance=0.02)) is None and refusal(verdict, Proof(tolerance=1e-7))
    onnx.save(check_graph(half), tmp_path / "check.onnx")
    engines = [OnnxEngine(exported("C")), OnnxEngine(tmp_path / "check.onnx")]
    run = evaluate(engines, [[Protocol("ten-crop", (96,))]] * 2, open_dataset(miniature_dir))
    one, other = (scores[0] for scores in run.scores)
    assert verdict.scales == one.scales
    assert verdict.largest_posterior_difference == np.abs(one.posterior - other.posterior).max() > 0
    same = (one.posterior.argmax(1) == other.posterior.argmax(1)).mean()
    assert verdict.top1_agreement_percent == 100 * same
    assert 1e-4 < verdict.largest_score_error < 0.1
    assert verdict.images == len(one.images) == 24
    first, second = verdict.lines()
    assert first.startswith(f"FP16 against FP32 on 24 images of {one.metadata['dataset_id']}, ten-crop at 96: largest ")
    assert "McNemar's exact test: p = 1" in second


def test_the_score_error_is_that_of_the_score_maps(exported: Exported, miniature_dir: Path, tmp_path: Path) -> None:
    """For views with a single position the class scores are the map."""
    single, half = (onnx.load(exported("A", precision=precision)) for precision in ("fp32", "fp16"))
    onnx.save(check_graph(half), tmp_path / "check.onnx")
    engines = [OnnxEngine(exported("A")), OnnxEngine(tmp_path / "check.onnx")]
    from infer.pixels.decode import read
    from infer.views import plan_views

    worst = 0.0
    for item in open_dataset(miniature_dir).items:
        image = read(item.path)
        plan = plan_views(engines[0].spec, "center", (image.shape[0], image.shape[1]))
        one, other = (e.run(e.load([image]), [plan], ["score_map"])["score_map"].ravel() for e in engines)
        worst = max(worst, np.abs(one - other).max() / one.std())
    assert verify_graph(
        single, half, Proof(verify=miniature_dir, protocol="center", limit=0)
    ).largest_score_error == pytest.approx(worst, rel=1e-3)


@pytest.mark.parametrize("net", LOUD)
def test_overflow_fails_before_rescaling_and_passes_after(net: str, miniature_dir: Path) -> None:
    single, half = graphs(*loud_net(net))
    before = verify_graph(single, half, Proof(verify=miniature_dir, protocol="center", limit=0))
    assert refusal(before, Proof(tolerance=1.0))
    assert before.top1_agreement_percent < 60
    measured = measure_ranges(single, half_tensors(half), miniature_dir, "center", 0)
    exact: Any = {tensor.name: numpy_helper.to_array(tensor) for tensor in single.graph.initializer}
    after = verify_graph(
        single,
        rescale(half, choose_exponents(half, measured.largest), exact),
        Proof(verify=miniature_dir, protocol="center", limit=0),
    )
    assert refusal(after, Proof(tolerance=0.02)) is None
    assert after.top1_agreement_percent == 100


def test_another_net_fails(miniature_dir: Path) -> None:
    """The gate compares what it is given: with other weights half precision is not what differs."""
    spec = slim_spec("A", interface="images")
    single, _ = graphs(random_net(spec, seed=0), spec)
    _, half = graphs(random_net(spec, seed=1), spec)
    assert refusal(verify_graph(single, half, Proof(verify=miniature_dir, limit=0)), Proof(tolerance=0.02))


def test_data_that_nothing_can_be_verified_with(exported: Exported, miniature_dir: Path, tmp_path: Path) -> None:
    single, half = (onnx.load(exported("A", precision=precision)) for precision in ("fp32", "fp16"))
    with pytest.raises(VerifyError, match=r"--verify: .*nowhere: no such folder"):
        verify_graph(single, half, Proof(verify=tmp_path / "nowhere", limit=0))
    folder = tmp_path / "data" / "n00000001"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"no image")
    with pytest.raises(VerifyError, match=r"--verify: .* knows 10 classes"):
        verify_graph(single, half, Proof(verify=tmp_path / "data", limit=0))


def test_verdict_without_labels_or_images() -> None:
    one = make_scores([[0.6, 0.4], [0.3, 0.7]], [-1, -1])
    other = dataclasses.replace(one, posterior=np.array([[0.4, 0.6], [0.3, 0.7]], np.float32))
    verdict = judge("FP16", "fp16", one, other, 0.5)
    assert verdict.largest_posterior_difference == pytest.approx(0.2)
    assert (verdict.top1_agreement_percent, verdict.top5_agreement_percent) == (50, None)  # of two classes
    assert "top-5" not in "".join(verdict.lines())
    assert (verdict.top1_error_percent, verdict.mcnemar_p, len(verdict.lines())) == (None, None, 1)
    unread = dataclasses.replace(one, statuses=("a.jpg: broken", "b.jpg: broken"))
    with pytest.raises(VerifyError, match=r"none of 2 images can be used, first a\.jpg: broken"):
        judge("FP16", "fp16", unread, unread, 0.0)
