"""Every kind of file that we read, damaged at random: the right answer, or one line that refuses it; nothing else.

Each kind has a maker of one good file and a reader. Files that carry digests must be read as the same or refused;
the others may mean something else now, but no damage may raise what is not an error of ours, take long or much memory.

    VERYDEEP_FUZZ_EXAMPLES=500 python -m pytest tests/fuzz           `make test-fuzz` does so for an hour
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import resource
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.io
import torch
from feature_tables import noisy, write_table
from helpers import encode, noise, slim_spec, write_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_runs import scores_of, write_run
from torch import nn

from evaluation.features import table as feature_tables
from evaluation.localization.table import LocatedImage, UnfinishedBoxes, read_located
from evaluation.report.results import read_mistakes, read_run
from evaluation.run.loop import Effort, Shard
from evaluation.run.submission import read_submission
from evaluation.scores import table as score_tables
from export.foreign.program import copy_program
from export.importing.classes import read_classes
from infer.boxes.finding import Guess
from infer.data.annotations import Box, read_annotation
from infer.data.dataset import open_dataset
from infer.data.devkit import DEVKIT, read_synsets
from infer.data.folder import File, open_folder
from infer.data.label_file import read_label_file
from infer.errors import Refused
from infer.pixels.decode import decode
from infer.spec import ModelSpec
from trainer.checkpoint import load
from trainer.data.colours import Statistics

EXAMPLES = int(os.environ.get("VERYDEEP_FUZZ_EXAMPLES", "20"))
MOST_SECONDS = 20.0
MOST_MB = 1500
"""Growth of the process's largest memory in one example."""


class Kind(NamedTuple):
    """A kind of file. make: writes a good one; read: its content, comparable; exact: damage is noticed or harmless."""

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], Any]
    exact: bool = False


def write_image(path: Path, kind: str = "JPEG", **options: Any) -> None:
    path.write_bytes(encode(noise((40, 56)), kind, **options))


def write_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": encode(noise((20, 24), n), "PNG"), "path": f"{n}.png"} for n in range(12)]
    pq.write_table(pa.table({"image": rows, "label": [n % 3 for n in range(12)]}), path, row_group_size=5)


def write_tar(path: Path, *names: str) -> None:
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            data = b"1" if name.endswith(".cls") else encode(noise((20, 24), number), "PNG")
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_report(path: Path) -> None:
    write_run(path.parent / "run", [scores_of(unreadable=3)])
    path.write_bytes((path.parent / "run" / "report.json").read_bytes())


def write_index(path: Path) -> None:
    """With thumbnails, in the folder where `beside` puts it."""
    write_run(path.parent / "as", [scores_of(unreadable=3)])
    path.write_bytes((path.parent / "as" / "mistakes" / "index.json").read_bytes())


def write_meta(path: Path) -> None:
    dtype = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    rows = np.array([(n + 1, f"n0000000{n}", f"word {n}", 0) for n in range(5)], dtype)
    scipy.io.savemat(path, {"synsets": rows.reshape(-1, 1)})


def write_labels(path: Path) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label"), *((f"{n}.jpg", f"class {n % 3}") for n in range(20))])


def write_classes(path: Path) -> None:
    path.write_text("\n".join(f"n0144076{n} tench, fish" for n in range(9)))


def write_statistics(path: Path) -> None:
    axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    path.write_text(Statistics((90.0,) * 3, (0.1,) * 3, (0.2, 0.1, 0.05), axes, 100).to_json())


def scores(path: Path) -> Any:
    found = score_tables.read(path)
    same = found.images, found.labels.tobytes(), found.statuses, found.pixel_digests, found.posterior.tobytes()
    return *same, found.metadata["spec"], found.metadata["dataset_id"]


def write_boxes(path: Path) -> None:
    guess = Guess(1, 0.5, Box(1, 2, 3, 4))
    rows = [LocatedImage(f"{n}.jpg", 1, "ok", "0f", (9, n), (guess,) * (n % 3), guess) for n in range(8)]
    run = UnfinishedBoxes(path.parent / "boxes", {"protocol": "dense"}, 8, resume=False)
    run.add(Shard(0, 8, rows, Effort(0, (0.0,), 0.0)))
    run.finish(path)


def features(path: Path) -> Any:
    found = feature_tables.read([path])
    return found.images, found.statuses, found.labels.tobytes(), found.features.tobytes(), found.splits.tolist()


def weights(path: Path) -> Any:
    found = load(path)
    return found.spec, {name: tensor.numpy().tobytes() for name, tensor in found.weights.items()}


def write_program(path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)).eval()
    with path.open("wb") as file:
        torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), file)


def program(path: Path) -> Any:
    copy = path.with_suffix(".copy")
    copy_program(path, copy)
    with zipfile.ZipFile(copy) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def every_image(path: Path) -> Any:
    dataset = open_dataset(path)
    contents = []
    for item in dataset.items:
        try:
            contents.append(item.read_bytes())
        except OSError as error:
            assert error.strerror
    return contents


def beside(name: str, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """A reader of the folder that holds the file under a name of its own."""

    def renamed(path: Path) -> Any:
        place = path.parent / "as" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
        return read(path.parent / "as")

    return renamed


SUBMISSION = """
name: two
pooling: scores
members:
  - {engine: a.onnx, protocol: center, scales: [256]}
  - {engine: b.onnx, protocol: dense, scales: [256, 384]}
"""
XML = """<annotation><size><width>500</width><height>375</height></size><object><name>n01440764</name>
<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>200</xmax><ymax>300</ymax></bndbox></object></annotation>"""


KINDS = [
    Kind("score table", lambda p: score_tables.write([scores_of(unreadable=3)], p), scores, exact=True),
    Kind("feature table", lambda p: write_table(p, noisy()), features, exact=True),
    Kind("box table", write_boxes, lambda p: list(read_located(p)), exact=True),
    Kind("checkpoint", lambda p: write_checkpoint(p, slim_spec("A")), weights, exact=True),
    Kind("program", write_program, program, exact=True),
    Kind("spec", lambda p: p.write_text(slim_spec("A").to_json()), lambda p: ModelSpec.from_json(p.read_bytes())),
    Kind("submission", lambda p: p.write_text(SUBMISSION), read_submission),
    Kind("XML", lambda p: p.write_text(XML), lambda p: read_annotation(File(p), p.name)),
    Kind("meta.mat", write_meta, beside(f"{DEVKIT}/data/meta.mat", lambda p: read_synsets(open_folder(p)))),
    Kind("Parquet", write_parquet, beside("val.parquet", every_image)),
    Kind("tar", lambda p: write_tar(p, "val/cat/1.png", "val/dog/2.png"), beside("val.tar", every_image)),
    Kind("WebDataset", lambda p: write_tar(p, "1.png", "1.cls", "2.png", "2.cls"), beside("val-0.tar", every_image)),
    Kind("labels", write_labels, read_label_file),
    Kind("classes", write_classes, lambda p: read_classes(p, 9)),
    Kind("statistics", write_statistics, Statistics.read),
    Kind("report", write_report, beside("report.json", read_run)),
    Kind("mistakes", write_index, beside("mistakes/index.json", read_mistakes)),
    *(
        Kind(kind, lambda p, kind=kind: write_image(p, kind), lambda p: decode(p.read_bytes()).tobytes())  # type: ignore[misc]
        for kind in ("JPEG", "PNG", "WebP", "TIFF", "GIF", "BMP", "PPM")
    ),
]

NASTY = [
    *("-1", "0", "1e999", "NaN", "null", "true", "[]", "{}", '""', "1.5", "9" * 5000, "-" + "9" * 400, "1" + "0" * 30),
    *("[" * 50_000, '{"a":' * 20_000, '"\\ud800"', '"a\\u0000b"', '"\\u202e"', "\x00"),
    *("&a", "*a", "!!python/object:os.system x"),
]
"""What stands in the place of a number or a word of a text."""

place = st.floats(0, 1, exclude_max=True)
MUTATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), place, st.integers(0, 7)),
        st.tuples(st.just("cut"), place, st.just(0)),
        st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=9)),
        st.tuples(st.just("delete"), place, st.integers(1, 40)),
        st.tuples(st.just("zero"), place, st.integers(1, 64)),
        st.tuples(st.just("repeat"), place, st.integers(1, 3000)),
        st.tuples(st.just("word"), place, st.sampled_from(NASTY)),
    ),
    min_size=1,
    max_size=3,
)


def mutated(data: bytes, changes: list[Any]) -> bytes:
    """The bytes with each change made: (what, where from 0 to 1, by what)."""
    for what, where, by in changes:
        at = int(where * max(1, len(data)))
        if what == "flip" and data:
            data = data[:at] + bytes([data[at] ^ 1 << by]) + data[at + 1 :]
        elif what == "cut":
            data = data[:at]
        elif what == "insert":
            data = data[:at] + by + data[at:]
        elif what == "delete":
            data = data[:at] + data[at + by :]
        elif what == "zero":
            data = data[:at] + bytes(len(data[at : at + by])) + data[at + by :]
        elif what == "repeat":
            data = data[:at] + data[at : at + 16] * by + data[at:]
        elif what == "word":
            words = list(re.finditer(rb'"[^"]{0,80}"|-?\d[\d.eE+-]*|\w+', data))
            if words:
                word = words[int(where * len(words))]
                data = data[: word.start()] + by.encode() + data[word.end() :]
    return data


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], tuple[Path, bytes, Any]]:
    """A good file of each kind, its bytes and what is read from it."""
    made: dict[str, tuple[Path, bytes, Any]] = {}

    def make(kind: Kind) -> tuple[Path, bytes, Any]:
        if kind.name not in made:
            path = tmp_path_factory.mktemp("fuzz") / ("file.pt" if kind.name == "checkpoint" else "file.parquet")
            kind.make(path)
            made[kind.name] = path, path.read_bytes(), kind.read(path)
        return made[kind.name]

    return make


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_damaged_file_is_read_rightly_or_refused(kind: Kind, good: Callable[[Kind], tuple[Path, bytes, Any]]) -> None:
    path, data, truth = good(kind)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=EXAMPLES <= 20,
        suppress_health_check=list(HealthCheck),
    )
    @given(MUTATIONS)
    def check(changes: list[Any]) -> None:
        path.write_bytes(mutated(data, changes))
        started, before = time.monotonic(), peak_mb()
        try:
            found = kind.read(path)
        except Refused as error:
            assert str(error) and "\n" not in str(error)
        except OSError as error:
            assert error.strerror
        else:
            assert not kind.exact or found == truth, "read as something else"
        assert time.monotonic() - started < MOST_SECONDS
        assert peak_mb() - before < MOST_MB

    check()


def test_the_mutations_change_every_kind_of_byte() -> None:
    data = json.dumps({"a": 1, "b": "word"}).encode()
    assert mutated(data, [("flip", 0.0, 0)])[0] == data[0] ^ 1
    assert mutated(data, [("cut", 0.5, 0)]) == data[: len(data) // 2]
    assert mutated(data, [("word", 0.3, "null")]) == b'{"a": null, "b": "word"}'
    assert len(mutated(data, [("repeat", 0.0, 3)])) == len(data) + 48
