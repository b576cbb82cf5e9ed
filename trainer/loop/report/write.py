"""OUT/report.html of a run: what metrics.jsonl, ckpt.pt and the images say of it, and what can be done next."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from infer.drawing.page import page_environment
from infer.files import replacing

from ... import checkpoint as checkpoints
from ...checkpoint import Checkpoint
from ...data.examples import Examples, ValSplit, open_examples, open_multibox_examples
from ...processes import say
from ...recipe import FIELDS, Recipe
from ..progress import METRICS, read_metrics
from ..train import HELD_OUT
from .curves import error_curve, loss_curve, rate_curve
from .shown import draw_confusion, draw_samples, lost_and_won, read_answers

HTML = "report.html"


def try_to_report(path: Path, recipe: Recipe, data: Path, reading: Mapping[str, Any]) -> None:
    """Writes the page of a run beside its checkpoint `path`, unless there is a younger one.

    Whatever hinders it is said in a line: a run is not lost for its page. reading: the options of open_dataset that the
    run had.
    """
    page = path.with_name(HTML)
    try:
        if not page.exists() or page.stat().st_mtime < path.stat().st_mtime:
            write_report(path, recipe, data, reading)
    except Exception as error:
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        say(f"{page}: not written ({said}): the net is trained all the same")


def write_report(path: Path, recipe: Recipe, data: Path, reading: Mapping[str, Any]) -> None:
    """Writes the page. Raises CheckpointError, MetricsError, DatasetError, OSError."""
    checkpoint = checkpoints.load(path)
    history = read_metrics(path.with_name(METRICS))
    training, held_out = reopen(recipe, data, reading, checkpoint)

    kept = checkpoint.best[0] if recipe.keep == "best" and checkpoint.best[0] else checkpoint.epochs_done
    answers = read_answers(checkpoint, held_out)
    lost, won = lost_and_won(answers, checkpoint, held_out) if answers and held_out else ([], [])
    figure, pairs = draw_confusion(answers, checkpoint) if answers else ("", [])

    values = msgspec.to_builtins({name: getattr(recipe, name) for name in FIELDS})
    page = (
        page_environment(__package__)
        .get_template("run.html.jinja")
        .render(
            recipe=recipe,
            spec=checkpoint.spec,
            fields=[(name, json.dumps(value), recipe.sources.get(name, "")) for name, value in values.items()],
            epochs=checkpoint.epochs_done,
            kept=kept,
            kept_metrics=next((metrics for metrics in history if metrics["epoch"] == kept), None),
            chosen=recipe.keep == "best" and checkpoint.best[0] > 0,
            images=len(training.dataset.items),
            held_out=len(held_out.dataset.items) if held_out is not None else 0,
            split=bool(recipe.val_split),
            curves=[loss_curve(history, kept), error_curve(history, kept), rate_curve(history)] if history else [],
            samples=list(draw_samples(recipe, checkpoint, training)),
            confusion=figure,
            pairs=pairs,
            lost=lost,
            won=won,
            answered=answers is not None,
            wrong=int((answers.kept != answers.labels).sum()) if answers else 0,
            commands=next_commands(path, recipe, data, reading, evaluates=held_out is not None),
        )
    )
    with replacing(path.with_name(HTML)) as unfinished:
        unfinished.write_text(page, encoding="utf-8")


def reopen(
    recipe: Recipe, data: Path, reading: Mapping[str, Any], checkpoint: Checkpoint
) -> tuple[Examples, Examples | None]:
    """The images of a run, as it saw them; what there is to say of them was said when it began. Raises DatasetError."""
    if recipe.task == "multibox":
        with contextlib.redirect_stderr(io.StringIO()):
            return open_multibox_examples(data, recipe, reading)
    split = ValSplit(recipe.val_split, recipe.split_seed, checkpoint.held_out) if recipe.val_split else None
    with contextlib.redirect_stderr(io.StringIO()):
        return open_examples(data, recipe.task, reading, known=checkpoint.spec.classes, split=split)


def next_commands(
    path: Path, recipe: Recipe, data: Path, reading: Mapping[str, Any], *, evaluates: bool
) -> list[tuple[str, str]]:
    """(what it does, command line) of what can be done with the net of this run; `evaluates`: it has images for it."""
    out = path.parent
    model, engine = out / "model.onnx", out / "model.engine"
    found: list[tuple[str, list[Any]]] = [("an ONNX model for a CPU", ["export.to_onnx", path, "-o", model])]
    if recipe.task != "classify":
        return [(what, _line(words)) for what, words in found]

    # As the run read its images: --limit was of training alone.
    columns = ",".join(f"{key}={name}" for key, name in (reading.get("columns") or {}).items())
    only = out / HELD_OUT if recipe.val_split else reading.get("only")
    options: list[str | Path] = []
    for name, value in (("--labels", reading.get("labels")), ("--columns", columns), ("--only", only)):
        options += [name, value] if value else []

    verify = ["--verify", data, *options] if evaluates else []
    build = ["export.to_trt", path, "-o", engine, *verify]
    found.append(("an FP16 engine, built only if it answers as FP32 does", build))
    for made, what in ((model, "its errors by the papers' protocol"), (engine, "the same of the engine, on a GPU")):
        place = out / f"evaluation-{made.suffix[1:]}"
        words = ["evaluation.ilsvrc", "--engine", made, "--data", data, "--protocol", "dense", "--out", place, *options]
        found += [(what, words)] if evaluates else []
    found.append(("the answers to a photograph", ["infer", "photo.jpg", "--engine", model]))
    return [(what, _line(words)) for what, words in found]


def _line(words: list[Any]) -> str:
    return shlex.join(["python", "-m", *map(str, words)])
