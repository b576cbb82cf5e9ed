"""`evaluation.ilsvrc --engine ckpt.pt --provider cuda` by every protocol, beside the CPU; images/s at full size."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import HELPERS

NEEDS = (*HELPERS, "sklearn")
DIFFERENCE = 1e-3
"""Largest difference of a posterior of FP32 on two devices."""


def run(folder: Path, rehearse: bool) -> tuple[dict[str, Any], list[str]]:
    import numpy as np
    import pyarrow.parquet
    from helpers import slim_spec, write_checkpoint

    from infer.views import PROTOCOLS
    from trainer.miniature import WNIDS

    found: dict[str, Any] = {}
    wrong: list[str] = []
    data = folder / "miniature"
    subprocess.run([sys.executable, "-m", "trainer.miniature", str(data)], check=True)
    net = write_checkpoint(folder / "slim.pt", slim_spec("A", classes=tuple(WNIDS)))

    # the same command on both devices
    protocols = list(PROTOCOLS)
    places = {"cpu": [], "again" if rehearse else "cuda": [] if rehearse else ["--provider", "cuda"]}
    tables = []
    for place, options in places.items():
        out = folder / place
        command = [sys.executable, "-m", "evaluation.ilsvrc", "--engine", str(net), "--data", str(data), *options]
        started = time.monotonic()
        subprocess.run([*command, "--protocol", ",".join(protocols), "--limit", "10", "--out", str(out)], check=True)
        found[f"{place}: seconds for 10 images by {len(protocols)} protocols"] = round(time.monotonic() - started, 1)
        tables.append(sorted((out / "scores").glob("*.parquet")))

    worst = 0.0
    for one, other in zip(*tables, strict=True):
        expected, got = (pyarrow.parquet.read_table(path) for path in (one, other))
        for column in ("image", "label", "status", "pixels"):
            if got[column].to_pylist() != expected[column].to_pylist():
                wrong.append(f"{other.name}: another {column} than on the CPU")
        difference = np.array(got["posterior"].to_pylist()) - np.array(expected["posterior"].to_pylist())
        worst = float(np.maximum(worst, np.abs(difference).max()))
    found["largest difference of a posterior"] = worst
    if not worst <= DIFFERENCE:
        wrong.append(f"a posterior differs by {worst:.2g}, at most {DIFFERENCE}")
    found |= full_size(folder, rehearse)
    return found, wrong


def full_size(folder: Path, rehearse: bool) -> dict[str, Any]:
    """Images a second of the torch engine, decoding and rescaling left out: one JPEG's pixels again and again."""
    from helpers import full_spec, noise, slim_spec, write_checkpoint

    from infer.views import plan_views
    from trainer.torch_engine import TorchEngine

    found = {}
    for net in ("D", "googlenet"):
        path = write_checkpoint(folder / f"{net}.pt", slim_spec(net) if rehearse else full_spec(net))
        engine = TorchEngine.open(path, place="cpu" if rehearse else "cuda:0")
        image = noise((375, 500))
        for protocol in ("center", "dense", "multicrop+dense"):
            plan = plan_views(engine.spec, protocol, (375, 500))
            engine.run(engine.load([image]), [plan])
            runs, started = 2 if rehearse else 10, time.monotonic()
            for _ in range(runs):
                engine.run(engine.load([image]), [plan])
            rate = runs / (time.monotonic() - started)
            found[f"{net}, {protocol}: images/s of torch in FP32, host's rescaling included"] = round(rate, 1)
        path.unlink()
    return found
