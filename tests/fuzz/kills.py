"""Kills every long command at random moments until it gets through, and compares what it leaves with a run of its own.

    python tests/fuzz/kills.py [KILLS] [SEED]     `make test-kills`: 200 kills; prints a line for each command

A kill is kill -9 of the command alone (its helpers must end by themselves) or of all its processes. Evaluation,
localisation, features, proposals, detection, training and the chain go on with --resume and must end with the bytes of
a run that was left alone; to_trt and the miniature begin again. Whatever has its final name after a kill must be whole.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import torch  # noqa: E402
from box_engines import make_box_engine  # noqa: E402
from detection_sets import make_scenes, write_proposals  # noqa: E402
from helpers import WNIDS, slim_spec, write_checkpoint  # noqa: E402

from evaluation.scores.table import read as read_scores  # noqa: E402
from export.to_onnx import main as to_onnx  # noqa: E402
from infer.tensorrt.sidecar import read_sidecar  # noqa: E402
from trainer import miniature  # noqa: E402
from trainer.checkpoint import load  # noqa: E402

MOST_SECONDS = 60
"""A helper process ends so long after the command that started it, at the latest."""
SMALL = ["width=0.0625", "fc_width=16", "batch=8"]


class Command(NamedTuple):
    """A command and what it leaves: the digests of its results by name; goes_on: it takes --resume."""

    words: list[str]
    results: Callable[[Path], dict[str, object]]
    goes_on: bool = True


def tables(out: Path) -> dict[str, object]:
    return {path.name: (read_scores(path).images, path.read_bytes()) for path in out.rglob("*.scores.parquet")}


def parquet(out: Path) -> dict[str, object]:
    unfinished = ("unfinished", "parts")
    found = (path for path in out.rglob("*.parquet") if not any(word in str(path.parent) for word in unfinished))
    return {path.name: path.read_bytes() for path in found}


def weights(out: Path) -> dict[str, object]:
    """The weights of finished checkpoints; an unfinished one need only be whole."""
    found: dict[str, object] = {}
    for path in out.rglob("ckpt.pt"):
        checkpoint = load(path)
        if checkpoint.finished:
            found[str(path.relative_to(out))] = {k: v.numpy().tobytes() for k, v in checkpoint.weights.items()}
    return found


def plan(out: Path) -> dict[str, object]:
    """A plan is whole where it has a sidecar, which says its digest."""
    pairs = [path for path in out.glob("*.engine") if path.with_name(path.name + ".json").exists()]
    return {path.name: read_sidecar(path).spec for path in pairs}


def images(out: Path) -> dict[str, object]:
    made = out / "mini"
    return {str(p.relative_to(made)): p.read_bytes() for p in made.rglob("*") if p.is_file()} if made.is_dir() else {}


def commands(folder: Path) -> dict[str, Command]:
    """All of them, on a small miniature with slim nets; {out} stands for the folder of a run."""
    data = folder / "data"
    miniature.make(data, train_digits=24, val_digits=96)
    classes = tuple(sorted(path.name for path in (data / "ILSVRC2012_img_train").iterdir()))
    checkpoint = write_checkpoint(folder / "a.pt", slim_spec("A", classes=classes))
    model, boxes = folder / "a.onnx", folder / "boxes.onnx"
    assert to_onnx([str(checkpoint), "-o", str(model), "--outputs", "score_map,features"]) == 0
    make_box_engine(model, boxes, [0, 0, 0.7, 0.9])

    at = ["--data", str(data)]
    train = ["--set", *SMALL, "epochs=3", "--save-minutes", "0"]
    evaluate = ["-m", "evaluation.ilsvrc", "--engine", str(model), *at, "--protocol", "center,dense", "--out", "{out}"]
    locate = ["-m", "evaluation.localization", "--boxes", str(boxes), *at, "--protocol", "given-class"]
    extract = ["-m", "evaluation.features", "extract", "--engine", str(model), *at, "--scales", "72,96"]
    alone = ["-m", "trainer", "--recipe", "mini-a", *at, "--out", "{out}", *train, "--final-protocol", "none"]
    fine = ["-m", "trainer", "--recipe", "mini-vgg-finetune", "--init", str(checkpoint), "--val-split", "0.25"]
    fine += ["--data", str(data / "ILSVRC2012_img_train"), "--out", "{out}", "--final-protocol", "none"]
    fine += ["--set", "batch=8", "epochs=3", "--save-minutes", "0"]
    scenes = make_scenes(folder / "scenes", train=12, val=24)
    regions = {split: write_proposals(scenes, split, folder / f"{split}.parquet") for split in ("train", "val")}
    of_regions = write_checkpoint(folder / "r.pt", slim_spec("A", name="r", classes=(*WNIDS, "background")))
    look = ["--data", str(scenes), "--proposals"]
    propose = ["-m", "evaluation.proposals", "--data", str(scenes), "-o", "{out}/p.parquet", "--jobs", "2"]
    detect = ["-m", "evaluation.detection", "--engine", str(of_regions), *look, str(regions["val"]), "--out", "{out}"]
    learn = ["-m", "trainer", "--recipe", "mini-vgg-det", "--init", str(checkpoint), *look, str(regions["train"])]
    learn += ["--out", "{out}", "--save-minutes", "0", "--set", "batch=64", "iterations=6"]
    chain = ["-m", "trainer.chain", "--mini", "--nets", "A,B", *at, "--out", "{out}", *train]
    return {
        "evaluation": Command(evaluate, tables),
        "evaluation, two processes": Command([*evaluate, "--device", "0,1"], tables),
        "localization": Command([*locate, "--out", "{out}"], parquet),
        "features": Command([*extract, "-o", "{out}/F.parquet"], parquet),
        "trainer": Command(alone, weights),
        "fine-tuning": Command(fine, weights),
        "fine-tuning on features": Command([*fine, "--freeze", "features"], weights),
        "proposals": Command(propose, parquet),
        "detection": Command(detect, parquet),
        "nets of regions": Command(learn, weights),
        "chain": Command(chain, weights),
        "to_trt": Command(["-m", "export.to_trt", str(checkpoint), "-o", "{out}/a.engine"], plan, goes_on=False),
        "miniature": Command(["-m", "trainer.miniature", "{out}/mini"], images, goes_on=False),
    }


def start(command: Command, out: Path, *more: str) -> subprocess.Popen[str]:
    words = [word.replace("{out}", str(out)) for word in command.words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *words, *more],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def killed(command: Command, folder: Path, kills: int, chance: random.Random) -> Iterator[str]:
    """Runs the command once alone, then as often as `kills` says with a kill each, to its end; yields what is wrong."""
    began = time.monotonic()
    whole = start(command, folder / "whole")
    _, said = whole.communicate()
    assert whole.returncode == 0, said
    seconds, expected = time.monotonic() - began, command.results(folder / "whole")
    assert expected

    done, out = 0, folder / "run"
    while done < kills:
        process = start(command, out, *["--resume"] * command.goes_on)
        try:
            _, said = process.communicate(timeout=chance.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            done += 1
            process.kill() if chance.random() < 0.5 else os.killpg(process.pid, signal.SIGKILL)
            try:
                process.communicate(timeout=MOST_SECONDS)  # all that write to its stderr have ended
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                yield f"processes that it had started were there {MOST_SECONDS} s later"
            for name, found in command.results(out).items():
                if command.goes_on and found != expected.get(name):
                    yield f"{name} is there after a kill, and is another"
            continue

        if process.returncode != 0:
            yield f"status {process.returncode}: {said.strip().splitlines()[-1:]}"
        elif command.goes_on and command.results(out) != expected:
            yield "the results are not those of a run that was left alone"
        shutil.rmtree(out, ignore_errors=True)

    # what is left unfinished ends, too
    process = start(command, out, *["--resume"] * command.goes_on)
    _, said = process.communicate()
    if process.returncode != 0:
        yield f"status {process.returncode} at the end: {said.strip().splitlines()[-1:]}"
    elif command.results(out).keys() != expected.keys():
        yield f"at the end there is {sorted(command.results(out))}, expected {sorted(expected)}"


def main() -> int:
    kills, seed = (int(word) for word in [*sys.argv[1:], "200", "0"][:2])
    torch.set_num_threads(1)
    chance, wrong, total = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        every = commands(Path(folder))
        for number, (name, command) in enumerate(every.items()):
            share = (kills * (number + 1)) // len(every) - (kills * number) // len(every)
            own = Path(folder, name.replace(" ", ""))
            own.mkdir()
            began = time.monotonic()
            found = list(killed(command, own, share, chance))
            wrong, total = wrong + len(found), total + share
            print(json.dumps({"command": name, "kills": share, "wrong": found, "s": round(time.monotonic() - began)}))
            sys.stdout.flush()
    print(f"{total} kills, {wrong} things wrong (seed {seed})")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
