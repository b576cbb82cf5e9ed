"""evaluation.detection.svm: which regions speak for a class and against it, and the checkpoint that is made of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from detection_sets import make_scenes, write_proposals
from helpers import WNIDS, Checkpoints

from evaluation.detection import svm
from evaluation.detection.svm import fit_posterior, label_examples, main
from evaluation.features.svm import train
from infer.boxes.proposed import ProposedImage
from infer.data.annotations import Box
from infer.data.detection import DetectionData, Object
from infer.data.detection.objects import NEGATIVE, PARTLY, UNLISTED
from trainer.checkpoint import load
from trainer.torch_engine import TorchEngine


def test_labels_of_regions() -> None:
    """For a class: its objects' own boxes; against it: what overlaps none of them by 0.3, of all that count or not."""
    objects = (
        Object(0, Box(1, 1, 20, 20)),
        Object(1, Box(41, 41, 60, 60)),
        Object(1, Box(71, 1, 90, 20), ignored=True),
    )
    data = DetectionData(Path("d"), "voc", "train", ("cat", "dog"), (), [], (objects,), (None,))
    proposed = [
        [1, 1, 20, 20],  # the cat, but not its own box: neither
        [1, 1, 20, 6],  # 120 of 400: 0.3 is enough to be neither
        [1, 1, 20, 5],  # less
        [71, 1, 90, 20],  # a dog that does not count
        [41, 41, 60, 46],
        [80, 80, 99, 99],
        [200, 200, 210, 210],  # outside the image: no example
    ]
    image = ProposedImage("a", "ok", (100, 100), np.array(proposed, np.float32), np.zeros(7, np.float32), [])
    boxes, labels, count = label_examples(data, 0, image)
    assert count == 2 and boxes[:2].tolist() == [[1, 1, 20, 20], [41, 41, 60, 60]] and len(boxes) == 8
    assert labels.tolist() == [[1, -1], [-1, 1], [0, -1], [0, -1], [-1, -1], [-1, 0], [-1, 0], [-1, -1]]

    listed = np.array([[PARTLY, NEGATIVE]], np.int8)
    _, labels, _ = label_examples(dataclasses.replace(data, listed=listed), 0, image)
    assert labels[:, 0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0] and labels[-1, 1] == -1
    _, labels, _ = label_examples(dataclasses.replace(data, listed=np.full((1, 2), UNLISTED, np.int8)), 0, image)
    assert labels.tolist() == [[1, 0], [0, 1], *[[0, 0]] * 6]


def test_the_posterior_is_the_likeliest() -> None:
    """Scores drawn by a softmax of factor 2 and a background of 0.5 give these back."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1.5, (40_000, 3))
    logits = np.concatenate([2 * scores, np.full((len(scores), 1), 0.5)], 1)
    drawn = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    labels = np.full(scores.shape, -1, np.int8)
    own = drawn < 3
    labels[own, drawn[own]] = 1
    labels[:50] = 0  # of no known class: no part of it
    scale, background = fit_posterior(scores, labels)
    assert scale == pytest.approx(2, rel=0.03) and background == pytest.approx(0.5, abs=0.04)


def test_the_last_layer_is_the_svms(
    slim_checkpoint: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logs of posteriors differ as the scores do, the net's classes being in another order than the data's."""
    classes = (*reversed(WNIDS), "background")
    net = slim_checkpoint("A", classes=classes, name="net")
    data = make_scenes(tmp_path / "data", train=24, val=2)
    proposals = write_proposals(data, "train", tmp_path / "train.parquet", near=2, anywhere=6)
    kept = []

    def keep(*args: object) -> object:
        kept.append(train(*args))  # type: ignore[arg-type]
        return kept[-1]

    monkeypatch.setattr(svm, "train", keep)
    out = tmp_path / "svm.pt"
    words = [str(net), "--data", str(data), "--proposals", str(proposals), "--mine", "2", "-o", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "linear SVMs, C=" in said and "hard negatives" in said
    made, old = load(out), load(net)
    assert made.spec.name == "net-svm" and made.spec.classes == classes and "SVMs" in made.spec.source["last_layer"]
    assert all((made.weights[name] == old.weights[name]).all() for name in old.weights if not name.startswith("fc8"))

    finder = svm.Finder(made, svm.open_detection(data, "train"))
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    boxes = np.array([[1, 1, 60, 60], [20, 30, 110, 80], [5, 5, 15, 85]], float)
    scores = svm.scores_of(kept[-1], finder.features(image, boxes))[:, ::-1]  # in the net's order
    engine = TorchEngine(made)
    plan = svm.plan_regions(boxes, (90, 120), made.spec)
    posterior = engine.run(engine.load([svm.make_picture(image, made.spec)]), [plan])["posterior"]
    logs = np.log(posterior)[:, :-1]
    wider, of_scores = logs[:, 1:] - logs[:, :1], scores[:, 1:] - scores[:, :1]
    factor = float((wider * of_scores).sum() / np.square(of_scores).sum())
    assert np.allclose(wider, factor * of_scores, rtol=1e-3, atol=1e-4)
    assert factor > 0

    # again, to the same bytes
    before = out.read_bytes()
    assert main(words) == 0 and out.read_bytes() == before


def test_what_cannot_be_used(
    slim_checkpoint: Checkpoints, scenes_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier, other = slim_checkpoint("A", classes=WNIDS), slim_checkpoint("A", classes=("a", "b", "background"))
    own = slim_checkpoint("A", classes=(*WNIDS, "background"))
    proposals = write_proposals(scenes_dir, "train", tmp_path / "train.parquet")
    wrong = write_proposals(scenes_dir, "val", tmp_path / "val.parquet")
    mine = tmp_path / "mine.pt"
    mine.write_bytes(b"something of mine")
    for net, table, out, said in (
        (classifier, proposals, tmp_path / "svm.pt", "background"),
        (other, proposals, tmp_path / "svm.pt", "classes are not those of"),
        (own, wrong, tmp_path / "svm.pt", "no proposals for an image of"),
        (own, proposals, mine, "not replaced"),
    ):
        words = [str(net), "--data", str(scenes_dir), "--proposals", str(table), "-o", str(out)]
        assert main(words) == 1 and said in capsys.readouterr().err.splitlines()[-1]
    before = own.read_bytes()
    with pytest.raises(SystemExit, match="2"):
        main([str(own), "--data", str(scenes_dir), "--proposals", str(proposals), "-o", str(own)])
    assert "is the net itself" in capsys.readouterr().err and own.read_bytes() == before
    assert not (tmp_path / "svm.pt").exists() and mine.read_bytes() == b"something of mine"
