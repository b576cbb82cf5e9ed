"""WebDataset's and Parquet's shards: the same items as class folders, and the same scores; what is refused."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Photos
from helpers import encode
from paths import ROOT
from scoring import evaluate, resolve

from evaluation.errors import RunError
from evaluation.ilsvrc import main
from infer.data import parquet
from infer.data.dataset import ILSVRC2012_FIRST_LABELS, Dataset, DatasetError, find_shards, open_dataset
from infer.onnx_engine import OnnxEngine
from trainer.miniature import WNIDS

Named = Sequence[tuple[str, bytes]]


@pytest.fixture(scope="module")
def folder(photos: Photos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of ten classes with two images each, of several kinds and sizes."""
    root = tmp_path_factory.mktemp("folder") / "data"
    for number, wnid in enumerate(WNIDS):
        (root / wnid).mkdir(parents=True)
        for image in range(2):
            piece = photos["cat"][number * 5 : number * 5 + 70 + 9 * image, 30 : 120 + number]
            name, kind = (f"b{image}.png", "PNG") if number % 3 else (f"a{image}.JPEG", "JPEG")
            (root / wnid / name).write_bytes(encode(np.ascontiguousarray(piece), kind))
    return root


def images(folder: Path) -> Named:
    return [(str(path.relative_to(folder)), path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()]


def write_shards(paths: Sequence[Path], samples: Iterable[Sequence[tuple[str, bytes]]]) -> None:
    """Samples of (member, bytes), dealt to the shards in turn."""
    with contextlib.ExitStack() as stack:
        archives = [stack.enter_context(tarfile.open(path, "w")) for path in paths]
        for number, sample in enumerate(samples):
            for name, data in sample:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archives[number % len(archives)].addfile(info, io.BytesIO(data))


def with_label(name: str, data: bytes, label: object, ending: str = "cls") -> list[tuple[str, bytes]]:
    return [(name, data), (f"{name.rpartition('.')[0]}.{ending}", str(label).encode())]


def write_parquet(
    path: Path, rows: Named, labels: Sequence[int | str], names: Sequence[str] = (), group: int = 7
) -> None:
    """As `datasets.Dataset.to_parquet` does for an Image and a ClassLabel."""
    image = pa.array([{"bytes": data, "path": name} for name, data in rows])
    table = pa.table({"image": image, "label": pa.array(labels)})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)


def wnid(name: str) -> str:
    return name.split("/")[0]


@pytest.fixture(scope="module")
def containers(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images, packed."""
    root, rows = tmp_path_factory.mktemp("packed"), images(folder)
    found = {name: root / name for name in ("tar", "shards", "names", "json", "parquet")}
    for name in ("tar", "shards", "names", "json", "parquet"):
        found[name].mkdir()
    with tarfile.open(root / "tar" / "data.tar", "w") as archive:
        archive.add(folder, "data")
    found["tar"] = root / "tar" / "data.tar"
    numbered = [with_label(name, data, WNIDS.index(wnid(name))) for name, data in rows]
    write_shards([found["shards"] / f"val-{i:06d}.tar" for i in range(3)], numbered)
    write_shards([found["names"] / "one.tar"], [with_label(name, data, wnid(name)) for name, data in rows[::-1]])
    as_json = [
        with_label(n, data, json.dumps({"label": WNIDS.index(wnid(n)), "text": "x"}), "json") for n, data in rows
    ]
    write_shards([found["json"] / f"{i}.tar" for i in range(2)], as_json)
    labels = [WNIDS.index(wnid(name)) for name, _ in rows]
    for i, part in enumerate((slice(0, 9), slice(9, None))):
        path = found["parquet"] / f"validation-{i:05d}-of-00002.parquet"
        write_parquet(path, rows[part], labels[part], WNIDS)
    write_parquet(found["parquet"] / "train-00000-of-00001.parquet", rows[:1], labels[:1], WNIDS)
    return found


def content(dataset: Dataset) -> list[tuple[str, int, bytes]]:
    return [(item.name, item.label, item.read_bytes()) for item in dataset.items]


@pytest.mark.parametrize("container", ["tar", "shards", "names", "json", "parquet"])
def test_items_are_those_of_the_folder(container: str, containers: dict[str, Path], folder: Path) -> None:
    packed = open_dataset(containers[container])
    assert content(packed) == content(open_dataset(folder))
    assert pickle.loads(pickle.dumps(packed)).items == packed.items
    assert len(open_dataset(containers[container], limit=3).items) == 3


def test_scores_are_the_same_bytes(
    containers: dict[str, Path], folder: Path, exported: Callable[..., Path], tmp_path: Path
) -> None:
    found = []
    for number, data in enumerate((folder, *containers.values())):
        out = tmp_path / str(number)
        argv = ["--engine", str(exported("A")), "--data", str(data), "--protocol", "center,dense", "--out", str(out)]
        assert main([*argv, "--workers", "3"]) == 0
        found.append({path.name: path.read_bytes() for path in (out / "scores").iterdir()})
    assert len(found[0]) == 2
    assert all(each == found[0] for each in found[1:])


def test_bare_keys_and_other_names_are_the_same_images(
    folder: Path, exported: Callable[..., Path], tmp_path: Path
) -> None:
    """Names that say nothing and another order: the same identity, and the same answers image by image."""
    rows = images(folder)
    bare = [with_label(f"{i:05d}.jpg", data, WNIDS.index(wnid(name))) for i, (name, data) in enumerate(rows[::-1])]
    write_shards([tmp_path / "bare.tar"], bare)
    labels = [WNIDS.index(wnid(name)) for name, _ in rows]
    write_parquet(tmp_path / "words.parquet", [("", data) for _, data in rows], labels)
    engine = OnnxEngine(exported("A"))
    own = resolve(["center"], engine.spec, None)
    first, *others = (
        evaluate([engine], [own], open_dataset(root)).scores[0][0]
        for root in (folder, tmp_path / "bare.tar", tmp_path / "words.parquet")
    )
    for other, order in zip(others, (slice(None, None, -1), slice(None)), strict=True):
        assert other.metadata["dataset_id"] == first.metadata["dataset_id"]
        assert np.array_equal(other.labels, first.labels[order])
        assert np.array_equal(other.posterior, first.posterior[order])
    rows[3] = (rows[3][0], rows[4][1])
    write_shards([tmp_path / "changed.tar"], [with_label(n, data, WNIDS.index(wnid(n))) for n, data in rows])
    changed = evaluate([engine], [own], open_dataset(tmp_path / "changed.tar")).scores[0][0]
    assert changed.metadata["dataset_id"] != first.metadata["dataset_id"]


def test_splits_and_patterns(containers: dict[str, Path], tmp_path: Path) -> None:
    shards = containers["shards"]
    expected = [shards / f"val-{i:06d}.tar" for i in range(3)]
    for root in (shards, shards / "val-{000000..000002}.tar", shards / "val-00000{0,1,2}.tar", shards / "val-*.tar"):
        assert find_shards(root, "val") == expected
    assert len(open_dataset(shards / "val-{000000..000001}.tar").items) == 14
    assert find_shards(shards, "train") == []
    parquet = containers["parquet"]
    assert [path.name for path in find_shards(parquet, "train")] == ["train-00000-of-00001.parquet"]
    assert len(find_shards(parquet, "val")) == 2
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "data").symlink_to(parquet)
    assert len(find_shards(tmp_path / "hub", "val")) == 2
    with pytest.raises(DatasetError, match=r"no such file as .*val-000003\.tar"):
        open_dataset(shards / "val-{000002..000003}.tar")
    with pytest.raises(DatasetError, match="more than 1000000 shards"):
        open_dataset(shards / "val-{0..99999999}.tar")


def test_unknown_labels_and_rows_without_bytes(folder: Path, tmp_path: Path, exported: Callable[..., Path]) -> None:
    rows = images(folder)[:3]
    image = pa.array(
        [{"bytes": rows[0][1], "path": "a.png"}, {"bytes": None, "path": "b.png"}, {"bytes": b"", "path": "c"}]
    )
    pq.write_table(pa.table({"image": image, "label": [-1, 2, 9]}), tmp_path / "test.parquet")
    dataset = open_dataset(tmp_path / "test.parquet")
    assert [item.label for item in dataset.items] == [-1, 2, 9]
    engine = OnnxEngine(exported("A"))
    scores = evaluate([engine], [resolve(["center"], engine.spec, None)], dataset).scores[0][0]
    assert scores.statuses[0] == "ok" and list(scores.labels) == [-1, 2, 9]
    assert "the row holds no bytes" in scores.statuses[1] and "is empty" in scores.statuses[2]


def test_many_threads_read_rows_with_few_groups_in_memory(containers: dict[str, Path]) -> None:
    dataset, wrong = open_dataset(containers["parquet"]), []
    expected = [item.read_bytes() for item in dataset.items]

    def read(step: int) -> None:
        for place in range(0, len(expected) * step, step):
            if dataset.items[place % len(expected)].read_bytes() != expected[place % len(expected)]:
                wrong.append(place)

    threads = [threading.Thread(target=read, args=(step,)) for step in (1, 3, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_that_was_changed_is_no_bad_image(containers: dict[str, Path], tmp_path: Path) -> None:
    source = next(containers["parquet"].glob("validation-*"))
    copy = tmp_path / "val.parquet"
    copy.write_bytes(source.read_bytes())
    dataset = open_dataset(copy)
    copy.write_bytes(source.read_bytes() + b" ")
    with pytest.raises(OSError, match="the Parquet file was changed"):
        dataset.items[0].read_bytes()


def refused(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        open_dataset(root)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_shards_that_are_refused(folder: Path, tmp_path: Path) -> None:
    (name, data), (other, more), *_ = images(folder)
    path = tmp_path / "x.tar"
    write_shards([path], [with_label(name, data, 0), [(other, more)]])
    assert f"{other.rpartition('.')[0]} has no label, expected" in refused(path)
    write_shards([path], [with_label(name, data, 0), with_label(name, data, 1)])
    assert "twice" in refused(path)
    write_shards([path, tmp_path / "y.tar"], [with_label(name, data, 0), with_label(name, data, 1)])
    assert f"{name} is there twice" in refused(tmp_path)
    (tmp_path / "y.tar").unlink()
    write_shards([path], [with_label(name, data, 0), with_label(other, more, "cat")])
    assert "labels are numbers and names (e.g. 'cat'" in refused(path)
    write_shards([path], [with_label(name, data, -2)])
    assert "label -2 of" in refused(path)
    for bad in ("", "\xff"):
        write_shards([path], [[(name, data), (f"{name.rpartition('.')[0]}.cls", bad.encode("latin-1"))]])
        assert "expected a number or a name" in refused(path)
    for bad in ("[]", "{}", '{"label": 1.5}', '{"label": true}', "{", "null"):
        write_shards([path], [with_label(name, data, bad, "json")])
        assert "expected a number or a name" in refused(path)
    write_shards([path], [with_label(name, data, 0)])
    path.write_bytes(path.read_bytes()[:700])
    assert str(path) in refused(path)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{000000..999999}.tar", "no such file as .*000000.tar"),
        ("{000000..999999}{000000..999999}.tar", "no such file as .*000000000000.tar"),
        ("{0..999999999}.tar", "more than 1000000 shards"),
        ("{0..9999999999999999999999}.tar", "no such file as"),
        ("{a,b}" * 30 + ".tar", "30 braces, expected at most 20"),
    ],
)
def test_a_pattern_of_too_many_shards_ends_at_once(pattern: str, message: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path / pattern)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("label", ["9" * 5000, "9" * 40, "-" + "9" * 5000])
def test_a_label_of_many_digits(label: str, folder: Path, tmp_path: Path) -> None:
    rows = images(folder)[:2]
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        for number, (_, data) in enumerate(rows):
            for ending, content in ((".jpg", data), (".cls", label.encode())):
                member = tarfile.TarInfo(f"{number}{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    assert "0.cls: expected a number or a name" in refused(tmp_path / "val.tar")


def test_parquet_that_is_refused(folder: Path, tmp_path: Path) -> None:
    rows, path = images(folder)[:4], tmp_path / "x.parquet"
    write_parquet(path, rows, [0, 1, 2, 3], ["a", "b", "c"])
    assert "label 3 of" in refused(path) and "expected 0 to 2" in refused(path)
    pq.write_table(pa.table({"image": [b"x"], "kind": [1]}), path)
    assert f"{path}: columns image (binary), kind (int64), expected image" in refused(path)
    pq.write_table(pa.table({"photograph": [b"x"], "label": [1]}), path)
    assert f"{path}: columns photograph (binary), label (int64), expected image" in refused(path)
    assert "--columns image=NAME,label=NAME" in refused(path)
    pq.write_table(pa.table({"image": [b"x"], "label": [1.5]}), path)
    assert "row 0 has a label of type float" in refused(path)
    pq.write_table(pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}), path)
    assert "no images in 1 shards" in refused(path)
    pq.write_table(pa.table({"image": [b"x"], "two\nlines": [1]}), path)
    assert "two\\nlines (int64)" in refused(path)
    write_parquet(path, rows[:1], [5_000_000])
    assert f"label 5000000 of {rows[0][0]}, expected 0 to 99999" in refused(path)
    write_parquet(path, rows, [0, 1, 2, 3])
    whole = path.read_bytes()
    for damaged in (whole[:-20], b"", b"PAR1", whole[:-8] + b"\xff\xff\xff\x7f" + b"PAR1"):
        path.write_bytes(damaged)
        assert "not a Parquet file that can be read" in refused(path)


@pytest.mark.parametrize(
    ("image", "label", "asked"),
    [("img", "fine_label", {}), ("picture", "labels", {}), ("scan", "kind", {"image": "scan", "label": "kind"})],
)
def test_columns_of_other_names(image: str, label: str, asked: dict[str, str], folder: Path, tmp_path: Path) -> None:
    rows = images(folder)
    labels = [WNIDS.index(wnid(name)) for name, _ in rows]
    content = {image: [{"bytes": data, "path": name} for name, data in rows], label: labels, "coarse": labels[::-1]}
    features = {"features": {label: {"names": list(WNIDS), "_type": "ClassLabel"}}}
    table = pa.table(content).replace_schema_metadata({"huggingface": json.dumps({"info": features})})
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=6)
    dataset = open_dataset(tmp_path / "train.parquet", columns=asked)
    assert [(item.name, dataset.classes[item.label], item.read_bytes()) for item in dataset.items] == [
        (name, wnid(name), data) for name, data in rows
    ]
    said = [f"columns {image} and {label}, other columns: coarse (--columns image=NAME,label=NAME)"]
    assert list(dataset.remarks) == ([] if asked else said)
    if not asked:
        other = open_dataset(tmp_path / "train.parquet", columns={"label": "coarse"})
        assert [item.label for item in other.items] == labels[::-1]
    with pytest.raises(DatasetError, match=f"expected {image} .* and absent"):
        open_dataset(tmp_path / "train.parquet", columns={**asked, "label": "absent"})
    with pytest.raises(DatasetError, match="--columns names columns of Parquet files"):
        open_dataset(folder, columns={"label": "x"})


def test_a_damaged_row_group_stops_a_run(folder: Path, tmp_path: Path, exported: Callable[..., Path]) -> None:
    rows, path = images(folder), tmp_path / "x.parquet"
    write_parquet(path, rows, [WNIDS.index(wnid(name)) for name, _ in rows], WNIDS, group=5)
    data = bytearray(path.read_bytes())
    place = data.find(rows[6][1][:24])  # in the second group
    if place < 0:  # compressed
        chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
        place = chunk.data_page_offset + 40
    data[place : place + 400] = b"\x00" * 400
    path.write_bytes(data)
    dataset: Any = open_dataset(path)
    engine = OnnxEngine(exported("A"))
    said = r"x\.parquet: a damaged row group of the Parquet file \(.*\), which is no fault of the image"
    with pytest.raises(RunError, match=said) as caught:
        evaluate([engine], [resolve(["center"], engine.spec, None)], dataset)
    assert "\n" not in str(caught.value)


def test_many_samples_are_listed_by_their_headers(tmp_path: Path) -> None:
    """Headers alone, and labels of a few bytes; in one pass."""
    block = bytearray()
    for number in range(20_000):
        for name, data in ((f"{number:06d}.jpg", b"x"), (f"{number:06d}.cls", b"%d" % (number % 10))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            block += info.tobuf() + data.ljust(512, b"\0")
    (tmp_path / "many.tar").write_bytes(bytes(block) + bytes(1024))
    dataset = open_dataset(tmp_path / "many.tar")
    assert len(dataset.items) == 20_000
    assert dataset.items[12_345].label == 5


def test_images_by_their_last_ending_and_members_in_any_order(folder: Path, tmp_path: Path) -> None:
    """KEY.image.png is KEY's image, and KEY.mask.png is not where there is KEY.png."""
    rows = images(folder)
    keys = [(name.rpartition(".")[0], data, str(WNIDS.index(wnid(name))).encode()) for name, data in rows]
    (tmp_path / "endings").mkdir()
    samples = [[(f"{k}.image.PNG", d), (f"{k}.cls", n), (f"{k}.note.txt", b"x")] for k, d, n in keys]
    write_shards([tmp_path / "endings" / f"{i:06d}.tar" for i in range(2)], samples)
    apart = [[(f"{k}.png", d)] for k, d, _ in keys] + [[(f"{k}.cls", n), (f"{k}.mask.png", b"x")] for k, _, n in keys]
    write_shards([tmp_path / "apart.tar"], [*apart, [("README", b"x"), (".hidden/a.png", b"x")]])
    expected = [(item.label, item.read_bytes()) for item in open_dataset(folder).items]
    for data in (tmp_path / "endings", tmp_path / "apart.tar"):
        assert [(item.label, item.read_bytes()) for item in open_dataset(data).items] == expected


def test_shards_without_labels_are_no_class_archives(folder: Path, tmp_path: Path) -> None:
    samples = [[(f"{i:03d}.png", data), (f"{i:03d}.txt", b"a cat")] for i, (_, data) in enumerate(images(folder))]
    write_shards([tmp_path / f"{i:06d}.tar" for i in range(2)], samples)
    assert refused(tmp_path).startswith(f"{tmp_path / '000000.tar'}: 000 has no label, expected 000.cls")


def test_samples_that_are_refused(tmp_path: Path) -> None:
    whole, path = [("a.jpg", b"x"), ("a.cls", b"0")], tmp_path / "x.tar"
    for sample, message in (
        ([("b.cls", b"0")], "b has a label but no image, expected one like b.jpg"),
        (
            [("b.v2.jpeg", b"x"), ("b.v1.jpg", b"x"), ("b.cls", b"0")],
            "b has 2 images (.v2.jpeg, .v1.jpg), expected one",
        ),
        ([("b.jpg", b"x"), ("b.JPG", b"x"), ("b.cls", b"0")], "holds 'b.jpg' twice but for capital letters"),
        ([("b\nc.jpg", b"x")], "b\\nc has no label, expected b\\nc.cls"),
        ([("b.jpg", b"x"), ("b.cls", b"123456789")], "label 123456789 of b.jpg, expected 0 to 99999"),
        ([("b.jpg", b"x"), ("b.cls", b"9" * 5000)], "b.cls: expected a number or a name"),
        ([("b.jpg", b"x"), ("b.json", b"[" * 100_000)], "b.json: expected a number or a name"),
        ([("b.jpg", b"x"), ("b.json", b'{"label": [1, 2]}')], "b.json: a label of type list, expected a number"),
        ([("b.jpg", b"x"), ("b.cls", b"0" * (1 << 20) + b"0")], "b.cls: 1048577 bytes, expected a label"),
        ([("../b.jpg", b"x"), ("../b.cls", b"0")], "names '../b.jpg', which is not inside of it"),
    ):
        write_shards([path], [whole, sample])
        assert message in refused(path)


def test_links_in_a_shard_are_never_followed(tmp_path: Path) -> None:
    for link, other in (("a.jpg", "a.cls"), ("a.cls", "a.jpg")):
        with tarfile.open(tmp_path / "x.tar", "w") as archive:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
            archive.addfile(info)
            info = tarfile.TarInfo(other)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"0"))
        if link == "a.cls":
            assert "a.cls: is a symbolic link in the archive, not a file, expected a label" in refused(
                tmp_path / "x.tar"
            )
        else:
            with pytest.raises(OSError, match="is a symbolic link in the archive"):
                open_dataset(tmp_path / "x.tar").items[0].read_bytes()


def test_names_of_several_files_must_agree(folder: Path, tmp_path: Path) -> None:
    rows = images(folder)
    write_parquet(tmp_path / "val-0.parquet", rows[:2], [0, 1], ["cat", "dog"])
    write_parquet(tmp_path / "val-1.parquet", rows[2:4], [0, 1], ["dog", "eel"])
    assert "val-1.parquet: its 2 classes (dog, eel ...) are not the 2 of val-0.parquet (cat, dog" in refused(tmp_path)


def test_wnids_are_looked_up_whatever_their_numbers(
    folder: Path, tmp_path: Path, exported: Callable[..., Path]
) -> None:
    """The model's last three classes, numbered 0 to 2, are no others."""
    rows, engine = [row for row in images(folder) if wnid(row[0]) in WNIDS[-3:]], OnnxEngine(exported("A"))
    path, own = tmp_path / "x.parquet", resolve(["center"], engine.spec, None)
    write_parquet(path, rows, [WNIDS.index(wnid(name)) - 7 for name, _ in rows], WNIDS[-3:])
    assert not open_dataset(path).numbered
    assert list(evaluate([engine], [own], open_dataset(path)).scores[0][0].labels) == [7, 7, 8, 8, 9, 9]
    write_parquet(path, rows, [0] * len(rows), ["n99999999"])
    with pytest.raises(RunError, match="1 of 1 others"):
        evaluate([engine], [own], open_dataset(path))


@pytest.mark.parametrize("label", [pa.array([-1, -1]), pa.array([None, None], pa.string())])
def test_images_without_any_label_are_scored(
    folder: Path, label: Any, tmp_path: Path, exported: Callable[..., Path]
) -> None:
    image = [{"bytes": data, "path": name} for name, data in images(folder)[:2]]
    pq.write_table(pa.table({"image": image, "label": label}), tmp_path / "test.parquet")
    engine = OnnxEngine(exported("A"))
    dataset = open_dataset(tmp_path / "test.parquet")
    scores = evaluate([engine], [resolve(["center"], engine.spec, None)], dataset).scores[0][0]
    assert list(scores.labels) == [-1, -1] and scores.statuses == ("ok", "ok")


def test_metadata_and_paths_that_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"image": [{"bytes": b"x", "path": 3}, None], "label": [0, 1]})
    for said in ("[" * 100_000, "{", "[]", '{"info": {"features": {"label": {"names": "abc"}}}}'):
        pq.write_table(table.replace_schema_metadata({"huggingface": said}), path)
        dataset = open_dataset(path)
        assert [item.name for item in dataset.items] == ["x/00000000", "x/00000001"]
        assert dataset.classes == ("0", "1")
        assert dataset.items[0].read_bytes() == b"x"
        with pytest.raises(OSError, match="the row holds no bytes"):
            dataset.items[1].read_bytes()
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": "a"}, None], "label": [0, 1]}), path)
    assert [item.name for item in open_dataset(path).items] == ["a", "x/00000001"]


def test_what_is_held_of_row_groups_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"{i:02d}.jpg", bytes([i]) * 1000) for i in range(40)]
    write_parquet(tmp_path / "x.parquet", rows, [0] * 40, group=4)
    dataset = open_dataset(tmp_path / "x.parquet")
    monkeypatch.setattr(parquet, "_groups", groups := parquet._Groups())
    for bound, kept in ((0, 1), (10_000, 2), (1 << 20, 10)):
        monkeypatch.setattr(parquet, "KEPT_BYTES", bound)
        assert [item.read_bytes() for item in dataset.items] == [data for _, data in rows]
        assert len(groups._kept) == kept
    monkeypatch.setattr(parquet, "LARGEST_GROUP_BYTES", 3000)
    assert "more than 3000, and it is read as a whole: write it again with row_group_size" in refused(
        tmp_path / "x.parquet"
    )


def test_what_a_file_unpacks_to_is_bounded_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is there once may be the value of any number of rows, by a dictionary."""
    monkeypatch.setattr(parquet, "BATCH_BYTES", 100_000)
    path = tmp_path / "x.parquet"

    def write(image: list[bytes], label: list[Any], rows: int) -> None:
        same = pa.array([0] * rows, pa.int32())
        columns = {"image": pa.array(image, pa.binary()), "label": pa.array(label)}
        columns = {name: pa.DictionaryArray.from_arrays(same, values) for name, values in columns.items()}
        pq.write_table(pa.table(columns), path, store_schema=False, row_group_size=rows)

    write([bytes(50_000)], ["a"], 3)
    assert [len(item.read_bytes()) for item in open_dataset(path).items] == [50_000] * 3
    write([bytes(50_000)], ["a"], 7)
    with pytest.raises(OSError, match=r"a row group of the Parquet file that unpacks to [23]\d{5} bytes and more"):
        open_dataset(path).items[0].read_bytes()

    write([b"x"], [0], 50_000)
    assert refused(path) == f"{path}: more than {10_000 + path.stat().st_size // 8} rows in {path.stat().st_size} " + (
        "bytes: no images are so small"
    )
    write([b"x"], ["l" * 5000], 3)
    assert refused(path) == f"{path}: row 0 has a label of 5000 characters, expected at most 4096"
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": "p" * 5000}], "label": [1]}), path)
    assert refused(path) == f"{path}: row 0 has a path of 5000 characters, expected at most 4096"


@pytest.mark.parametrize("codec", ["snappy", "zstd", "gzip", "none"])
def test_a_damaged_page_has_a_reason(codec: str, tmp_path: Path) -> None:
    """Some of pyarrow's errors are OSErrors that say nothing where others say why."""
    path = tmp_path / "x.parquet"
    rows = {"image": [bytes([i]) * 5000 for i in range(20)], "label": [0] * 20}
    pq.write_table(pa.table(rows), path, compression=codec, use_dictionary=False, row_group_size=10)
    data = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data[place : place + 8] = b"\xff" * 8
    path.write_bytes(data)
    items = open_dataset(path).items
    assert items[9].read_bytes() == rows["image"][9]
    with pytest.raises(OSError) as caught:
        items[10].read_bytes()
    assert str(caught.value.strerror).startswith("a damaged row group of the Parquet file (")


def test_the_validation_images_of_ilsvrc_are_known_in_shards(tmp_path: Path) -> None:
    """By the labels of the first six of 50,000, whatever folders their names have."""
    labels = [*ILSVRC2012_FIRST_LABELS, *[i % 1000 for i in range(50_000 - 6)]]
    names = [f"{label:03d}/ILSVRC2012_val_{i:08d}_{label}.JPEG" for i, label in enumerate(labels, 1)]

    def known(labels: Sequence[int], **options: int) -> bool:
        image = [{"bytes": b"", "path": name} for name in names]
        pq.write_table(pa.table({"image": image, "label": labels}), tmp_path / "val.parquet", row_group_size=10_000)
        return open_dataset(tmp_path / "val.parquet", limit=options.get("limit")).is_ilsvrc2012_val

    assert known(labels)
    assert not known(labels, limit=49_999)
    assert not known([0, *labels[1:]])


def test_the_lines_in_the_documentation_make_shards(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path, data in images(folder):
        target = tmp_path / "imagenet" / "val" / Path(path).with_suffix(".JPEG")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    text = (ROOT / "docs" / "data.md").read_text()
    for code in (part.split("```")[0] for part in text.split("```python\n")[1:]):
        exec(code, {})
    expected = open_dataset(tmp_path / "imagenet" / "val")
    for shard in ("val-000000.tar", "validation-00000-of-00001.parquet"):
        assert content(open_dataset(tmp_path / shard)) == content(expected)
        assert open_dataset(tmp_path / shard).classes == expected.classes
    assert len([path for path in (tmp_path / "imagenet").rglob("*") if path.is_file()]) == len(expected.items)
