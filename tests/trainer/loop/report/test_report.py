"""trainer/loop/report: the page of a run, what it shows of the images, and the commands that fit the run."""

from __future__ import annotations

import dataclasses
import html
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import Browser, open_browser

import evaluation.ilsvrc
import export.to_onnx
import infer.__main__
import trainer.loop.report.write
from trainer import checkpoint as checkpoints
from trainer.__main__ import main
from trainer.checkpoint import Checkpoint
from trainer.data.augment import augmentation_from_recipe
from trainer.data.batches import Crops, batches
from trainer.data.examples import Examples
from trainer.loop.report.curves import rate_curve
from trainer.loop.report.shown import Answers, as_picture, draw_confusion, draw_samples, lost_and_won, read_answers
from trainer.loop.report.write import HTML, reopen, try_to_report
from trainer.loop.schedule import phase_at
from trainer.recipe import Recipe, override
from trainer.recipes import RECIPES

SMALL = ["width=0.0625", "fc_width=16", "batch=8", "epochs=3", "learning_rate=0.002"]
STRANGE = """<b>'one' & "two" <i>"""
"""A class that would be markup, in a folder that a shell would take apart."""


@dataclasses.dataclass(frozen=True)
class Run:
    data: Path
    out: Path
    recipe: Recipe

    @property
    def checkpoint(self) -> Checkpoint:
        return checkpoints.load(self.out / "ckpt.pt")

    @property
    def page(self) -> str:
        return (self.out / HTML).read_text(encoding="utf-8")

    def examples(self) -> tuple[Examples, Examples]:
        training, held_out = reopen(self.recipe, self.data, {}, self.checkpoint)
        assert held_out is not None
        return training, held_out


@pytest.fixture(scope="module")
def run(miniature_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Class folders, as people have them, of which a quarter is kept for validation."""
    top = tmp_path_factory.mktemp("a run's folders")
    data, out = top / "my photos", top / "out"
    for number, folder in enumerate(sorted((miniature_dir / "ILSVRC2012_img_train").iterdir())[:4]):
        shutil.copytree(folder, data / (f"class {number}" if number else STRANGE))
    settings = [*SMALL, "val_split=0.25", "keep=best"]
    argv = ["--recipe", "mini-a", "--data", str(data), "--out", str(out), "--final-protocol", "none"]
    assert main([*argv, "--set", *settings]) == 0
    return Run(data, out, override(RECIPES["mini-a"], settings))


def commands(page: str) -> list[str]:
    return [html.unescape(found) for found in re.findall(r'<pre tabindex="0">(.*?)</pre>', page, re.DOTALL)]


def test_the_commands_of_the_page_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is exported and evaluated on the images that were kept out of training, as the page says."""
    lines = [shlex.split(line) for line in commands(run.page)]
    modules = [line[2] for line in lines]
    assert modules == ["export.to_onnx", "export.to_trt", "evaluation.ilsvrc", "evaluation.ilsvrc", "infer"]
    assert all(line[:2] == ["python", "-m"] for line in lines)
    assert lines[1][-4:] == ["--verify", str(run.data), "--only", str(run.out / "held-out.txt")]

    assert export.to_onnx.main(lines[0][3:]) == 0
    assert evaluation.ilsvrc.main(lines[2][3:]) == 0
    report = (run.out / "evaluation-onnx" / "report.json").read_text()
    assert f'"images": {len(run.examples()[1].dataset.items)}' in report
    photo = next(run.data.rglob("*.JPEG"))
    assert infer.__main__.main([str(photo), *lines[4][4:]]) == 0


def test_what_the_page_says_of_the_run(run: Run) -> None:
    page, checkpoint = run.page, run.checkpoint
    epoch, error, _ = checkpoint.best
    _, held_out = run.examples()
    assert f"Epoch {epoch} of 3 is kept: {error:.2f}&nbsp;% of {len(held_out.dataset.items)} validation images" in page
    assert "This error is optimistic" in page
    assert page.count("<svg") == 4  # three curves and the confusion
    assert "our choice: a run of minutes" in page and '<th scope="row">val_split</th><td><code>0.25</code>' in page
    for name in ("training", "validation", "validation top-1", "learning rate"):
        assert f">{name}</text>" in page


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]


def test_what_strangers_named_is_text(run: Run) -> None:
    """The class's name stands on the page, in texts, commands and figures, and is no markup in any."""
    tags = _Tags()
    tags.feed(run.page)
    assert not {"b", "i", "script", "iframe", "object"} & set(tags.found)
    assert "&lt;b&gt;&#39;one&#39; &amp; &#34;two&#34; &lt;i&gt;" in run.page
    assert all(source.startswith(("data:", "#")) for source in tags.sources)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in run.page


def test_the_samples_are_what_the_run_drew(run: Run) -> None:
    training, _ = run.examples()
    spec, recipe = run.checkpoint.spec, run.recipe
    steps_per_epoch = len(training.dataset.items) // recipe.batch
    drawn = set()
    for epoch in range(3):
        phase = phase_at(recipe, epoch * steps_per_epoch / recipe.steps(steps_per_epoch))
        crops = Crops(training.dataset, augmentation_from_recipe(recipe, phase, spec), seed=recipe.seed, epoch=epoch)
        for pixels, shifts, *_ in batches(crops, 1):
            drawn.add(as_picture((pixels[0].float() + shifts[0]).clamp(0, 255).round().byte().numpy()))

    samples = list(draw_samples(recipe, run.checkpoint, training))
    assert len(samples) == 4 and len({sample.label for sample in samples}) == 4
    for sample in samples:
        assert len(sample.crops) == len(set(sample.crops)) == 3 and drawn.issuperset(sample.crops)
        assert sample.whole in run.page and all(crop in run.page for crop in sample.crops)


def test_lost_and_won(run: Run) -> None:
    _, held_out = run.examples()
    labels = np.array([item.label for item in held_out.dataset.items])
    others = (labels + 1) % 4
    answers = Answers(labels, labels.copy(), labels.copy(), np.linspace(0.5, 0.6, len(labels), dtype=np.float32))
    answers.kept[[0, 2]] = others[[0, 2]]  # lost, the second surer
    answers.first[[1, 2]] = others[[1, 2]]  # of which the kept epoch has one right
    answers.kept[3], answers.first[3], answers.probability[3] = -1, -1, 0  # cannot be read
    lost, won = lost_and_won(answers, run.checkpoint, held_out)

    names = [item.name for item in held_out.dataset.items]
    assert [one.name for one in lost] == [names[2], names[0], names[3]]
    assert [one.name for one in won] == [names[1]]
    assert lost[2].answer is None and lost[2].first is None
    assert won[0].label == won[0].answer != won[0].first and won[0].percent == pytest.approx(
        100 * answers.probability[1]
    )
    assert won[0].picture.startswith("data:image/jpeg;base64,")

    _, pairs = draw_confusion(answers, run.checkpoint)
    counts = {(label, answer): count for label, answer, count in pairs}
    assert sum(counts.values()) == 2 and (lost[0].label, lost[0].answer) in counts


def test_answers_of_other_images_are_not_shown(run: Run) -> None:
    training, held_out = run.examples()
    assert read_answers(run.checkpoint, held_out) is not None
    assert read_answers(run.checkpoint, training) is None and read_answers(run.checkpoint, None) is None
    assert read_answers(dataclasses.replace(run.checkpoint, answers={}), held_out) is None
    partly = {"first": torch.zeros(len(held_out.dataset.items), dtype=torch.int64)}
    assert read_answers(dataclasses.replace(run.checkpoint, answers=partly), held_out) is None


def test_a_page_that_is_missing_is_made_anew(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = run.page
    (run.out / HTML).unlink()
    argv = ["--recipe", "mini-a", "--data", str(run.data), "--out", str(run.out), "--final-protocol", "none"]
    assert main([*argv, "--resume", "--set", *SMALL, "val_split=0.25", "keep=best"]) == 0
    assert run.page == before
    assert capsys.readouterr().err == ""  # what there is to say of the data was said when the run began


def test_no_run_is_lost_for_its_page(
    run: Run, monkeypatch: pytest.MonkeyPatch, one_line: Callable[[], str], tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no\nluck")

    monkeypatch.setattr(trainer.loop.report.write, "write_report", fail)
    try_to_report(tmp_path / "ckpt.pt", run.recipe, run.data, {})
    assert one_line() == f"{tmp_path / HTML}: not written (no): the net is trained all the same"


def test_a_run_without_validation_images(run: Run, tmp_path: Path) -> None:
    argv = ["--recipe", "mini-a", "--data", str(run.data), "--out", str(tmp_path), "--set", *SMALL, "epochs=1"]
    assert main(argv) == 0
    page = (tmp_path / HTML).read_text()
    assert "nothing says how good it is" in page and "a run with --val-split 0.2" in page
    assert "Confusion" not in page and "optimistic" not in page
    assert [line.split()[2] for line in commands(page)] == ["export.to_onnx", "export.to_trt", "infer"]


def test_a_box_net(miniature_dir: Path, tmp_path: Path) -> None:
    argv = ["--recipe", "mini-d-loc-scr", "--data", str(miniature_dir), "--out", str(tmp_path)]
    assert main([*argv, "--set", "width=0.0625", "fc_width=16", "batch=16", "epochs=1"]) == 0
    page = (tmp_path / HTML).read_text()
    assert ">validation iou50</text>" in page and "Confusion" not in page
    assert [line.split()[2] for line in commands(page)] == ["export.to_onnx"]


@pytest.mark.parametrize(
    ("rates", "label", "marks"),
    [
        ([0.01, 0.008, 0.004], "learning rate", ["0.000", "0.002", "0.004", "0.006", "0.008", "0.010"]),
        ([0.01, 0.001, 0.0], "learning rate (log)", ["0.001", "0.002", "0.005", "0.01"]),
    ],
)
def test_an_axis_is_marked_by_plain_numbers(rates: list[float], label: str, marks: list[str]) -> None:
    history = [{"epoch": epoch, "learning_rate": rate} for epoch, rate in enumerate(rates, 1)]
    shown = re.findall(r"<text [^>]*>([^<]*)</text>", rate_curve(history))
    assert [text for text in shown if text in marks] == marks
    assert label in shown and shown[:3] == ["1", "2", "3"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("chromium") / "profile") as opened:
        yield opened


@pytest.mark.processes
def test_nothing_is_loaded_and_nothing_complains(browser: Browser, run: Run) -> None:
    browser.open_page(run.out / HTML)
    document, *others = browser.requests()
    assert document == (run.out / HTML).as_uri()
    assert all(url.startswith("data:") for url in others) and browser.complaints() == []
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


@pytest.mark.processes
def test_a_phone_and_the_dark(browser: Browser, run: Run) -> None:
    browser.open_page(run.out / HTML, width=390, dark=True)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    paper, ink = (
        browser.evaluate(f"getComputedStyle(document.querySelector('{place}')).{what}")
        for place, what in (("body", "backgroundColor"), (".chart text", "fill"))
    )
    assert paper == "rgb(20, 23, 27)" and ink == "rgb(231, 234, 238)"
    reachable = "[...document.querySelectorAll('.scroll, pre')].every(e => e.tabIndex === 0)"
    assert browser.evaluate(reachable)
