"""infer/data/tar.py and folder.py: archives read in place as if unpacked, hostile ones in one line."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import TRAIN_DIGITS, VAL_DIGITS

from infer.data.dataset import TRAIN, VAL, Dataset, DatasetError, open_dataset
from infer.data.devkit import DEVKIT, META
from infer.data.folder import File, OwnFault, printable
from infer.data.tar import list_members
from trainer.miniature import RENDERINGS

JPEG = b"\xff\xd8 not decoded here \xff\xd9"


def pack(path: Path, folder: Path, names: list[str] | None = None, **options: int) -> Path:
    """An archive of what is in a folder, in any order, by the names there."""
    with tarfile.open(path, "w", **options) as archive:  # type: ignore[call-overload]
        for name in names or sorted(os.listdir(folder), reverse=True):
            archive.add(folder / name, name)
    return path


def pack_bytes(path: Path, files: dict[str, bytes], format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format, encoding="utf-8", errors="surrogateescape") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def content(dataset: Dataset) -> list[tuple[str, int, bytes]]:
    return [(item.name, item.label, item.read_bytes()) for item in dataset.items]


def check_same(one: Dataset, other: Dataset) -> None:
    """What score tables are made of."""
    assert content(one) == content(other)
    assert (one.listing_digest, one.classes, one.class_names) == (
        other.listing_digest,
        other.classes,
        other.class_names,
    )


@pytest.fixture
def distributed(miniature_dir: Path, tmp_path: Path) -> Path:
    """The miniature as ILSVRC-2012 is distributed: two archives, one of archives, and the packed devkit."""
    folder = tmp_path / "distributed"
    folder.mkdir()
    pack(folder / f"{VAL}.tar", miniature_dir / VAL)
    inner = tmp_path / "inner"
    inner.mkdir()
    for each in (miniature_dir / TRAIN).iterdir():
        pack(inner / f"{each.name}.tar", each)
    pack(folder / f"{TRAIN}.tar", inner)
    with tarfile.open(folder / f"{DEVKIT}.tar.gz", "w:gz") as archive:
        archive.add(miniature_dir / DEVKIT, DEVKIT)
    return folder


def test_as_distributed_is_the_same_data_set(miniature_dir: Path, distributed: Path) -> None:
    val, train = open_dataset(distributed), open_dataset(distributed, "train")
    assert (len(val.items), len(train.items)) == (VAL_DIGITS, TRAIN_DIGITS * RENDERINGS)
    check_same(val, open_dataset(miniature_dir))
    check_same(train, open_dataset(miniature_dir, "train"))
    assert {item.path for item in train.items} == {(distributed / f"{TRAIN}.tar").resolve()}
    assert [path.name for path in distributed.iterdir() if path.is_dir()] == []


def test_the_archive_itself_with_the_devkit_beside_it(miniature_dir: Path, distributed: Path) -> None:
    (distributed / VAL).mkdir()  # empty: of no concern, since the archive was named
    check_same(open_dataset(distributed / f"{VAL}.tar"), open_dataset(miniature_dir))
    check_same(open_dataset(distributed / f"{TRAIN}.tar", "train"), open_dataset(miniature_dir, "train"))
    with pytest.raises(DatasetError, match=rf"{VAL}\.tar: no {TRAIN} folder or {TRAIN}\.tar"):
        open_dataset(distributed / f"{VAL}.tar", "train")


def test_the_devkit_unpacked_beside_archives(miniature_dir: Path, distributed: Path) -> None:
    (distributed / f"{DEVKIT}.tar.gz").unlink()
    shutil.copytree(miniature_dir / DEVKIT, distributed / DEVKIT)
    check_same(open_dataset(distributed), open_dataset(miniature_dir))


def test_a_folder_of_class_archives(miniature_dir: Path, distributed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half" / TRAIN
    folder.mkdir(parents=True)
    with tarfile.open(distributed / f"{TRAIN}.tar") as archive:
        for member in archive.getmembers():
            data = archive.extractfile(member)
            assert data
            (folder / member.name).write_bytes(data.read())
    check = open_dataset(folder.parent, "train")
    assert check.listing_digest == open_dataset(miniature_dir, "train").listing_digest
    assert check.class_names == check.classes  # no devkit here


def test_all_of_it_in_one_archive(miniature_dir: Path, tmp_path: Path) -> None:
    pack(tmp_path / "mini.tar", miniature_dir)
    pack(tmp_path / "miniature.tar", miniature_dir.parent, ["miniature"])
    for path in tmp_path.glob("*.tar"):
        check_same(open_dataset(path), open_dataset(miniature_dir))
        check_same(open_dataset(path, "train"), open_dataset(miniature_dir, "train"))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("below", ["", "./", "pets/"])
def test_class_folders_in_an_archive(tmp_path: Path, format: int, below: str) -> None:
    files = {
        "dog/2.png": JPEG + b"2",
        "cat/1.jpg": JPEG,
        "cat/.hidden.jpg": JPEG,
        "cat/notes.txt": b"",
        "dog/1.gif": b"",
    }
    for name, data in files.items():
        path = tmp_path / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    archive = pack_bytes(tmp_path / "pets.tar", {below + name: data for name, data in files.items()}, format)
    check_same(open_dataset(archive), open_dataset(tmp_path / "pets"))
    (tmp_path / "both").mkdir()
    os.rename(archive, tmp_path / "both" / "val.tar")
    if not below.startswith("pets"):
        in_split = open_dataset(tmp_path / "both")
        assert in_split.listing_digest == open_dataset(tmp_path / "pets").listing_digest
        assert in_split.items[0].name == "val/cat/1.jpg"


def test_a_stray_archive_among_class_folders_is_no_class(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").write_bytes(JPEG)
    pack_bytes(tmp_path / "backup.tar", {"1.jpg": JPEG})
    assert open_dataset(tmp_path).classes == ("cat",)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_strange_names(tmp_path: Path, format: int) -> None:
    long = "a" * 300
    strange = {
        f"{long}/{long}.jpg": b"1",
        "é/日本.jpg": b"2",
        "x/a\nb\u202e.jpg": b"3",
        "x/\udcff.jpg": b"4",
        "x/\\n.jpg": b"",
    }
    archive = pack_bytes(tmp_path / "a.tar", strange, format)
    dataset = open_dataset(archive)
    expected = {f"{long}/{long}.jpg", "é/日本.jpg", "x/a\\nb\\u202e.jpg", "x/\\udcff.jpg", "x/\\\\n.jpg"}
    assert {item.name for item in dataset.items} == expected
    assert {item.read_bytes() for item in dataset.items} == set(strange.values())
    for name in strange:
        if len(name) < 250:
            (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "a" / name).write_bytes(strange[name])
    folder = open_dataset(tmp_path / "a")
    assert [row[2:] for row in content(folder)] == [row[2:] for row in content(dataset) if len(row[0]) < 250]
    assert {item.name for item in folder.items} == expected - {f"{long}/{long}.jpg"}
    for item in (*dataset.items, *folder.items):
        item.name.encode()
        assert len(item.name.splitlines()) == 1


def test_printable_is_one_line_and_tells_names_apart() -> None:
    names = ["a", "a\\n", "a\n", "a\r", "\x85", "\u2028", "\u200b", "\udc80", "ü", "\x1b[31m", "\t"]
    shown = [printable(name) for name in names]
    assert len(set(shown)) == len(names)
    assert shown[0] == "a"
    assert shown[8] == "ü"
    for name in shown:
        name.encode()
        assert name.isprintable()
        assert len(name.splitlines()) == 1


def test_threads_read_at_once_what_one_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = {f"c{i % 3}/{i}.jpg": rng.bytes(int(rng.integers(0, 40_000))) for i in range(200)}
    items = open_dataset(pack_bytes(tmp_path / "a.tar", files)).items
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda item: item.read_bytes(), list(items) * 5))
    assert got == [files[item.name] for item in items] * 5
    assert [item.file.read_bytes(10) for item in items] == [files[item.name][:10] for item in items]


def test_an_archive_that_goes_or_changes_is_gone(tmp_path: Path) -> None:
    """With the errors by which evaluation/run/loop.py knows a data set that has vanished, also behind a link."""
    real = pack_bytes(tmp_path / "real.tar", {"c/1.jpg": JPEG})
    (tmp_path / "link.tar").symlink_to(real)
    (item,) = open_dataset(tmp_path / "link.tar").items
    assert item.read_bytes() == JPEG
    assert not item.path.is_symlink()
    pack_bytes(real, {"c/1.jpg": JPEG, "c/2.jpg": JPEG * 1000})
    with pytest.raises(OSError, match="the archive was changed") as caught:
        item.read_bytes()
    assert caught.value.errno == errno.ESTALE
    real.unlink()
    with pytest.raises(FileNotFoundError):
        item.read_bytes()


def test_what_is_no_file_in_an_archive_is_an_unreadable_image(tmp_path: Path) -> None:
    kinds = {
        "link": (tarfile.SYMTYPE, "is a symbolic link in the archive, not a file"),
        "hard": (tarfile.LNKTYPE, "is a hard link in the archive, not a file"),
        "device": (tarfile.CHRTYPE, "is a device in the archive, not a file"),
        "disk": (tarfile.BLKTYPE, "is a device in the archive, not a file"),
        "pipe": (tarfile.FIFOTYPE, "is a pipe in the archive, not a file"),
        "folder": (tarfile.DIRTYPE, "is a folder in the archive, not a file"),
        "sparse": (tarfile.GNUTYPE_SPARSE, "is stored sparse"),
    }
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, (kind, _) in kinds.items():
            info = tarfile.TarInfo(f"c/{name}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("c/good.jpg")
        info.size = len(JPEG)
        archive.addfile(info, io.BytesIO(JPEG))
        info = tarfile.TarInfo("c/folder.jpg/in.jpg")
        archive.addfile(info)
    found = {Path(item.name).stem: item for item in open_dataset(tmp_path / "a.tar").items}
    assert found.pop("good").read_bytes() == JPEG
    assert found.keys() == kinds.keys()
    for name, item in found.items():
        assert item.file.size_bytes() == 0
        with pytest.raises(OSError, match=kinds[name][1]) as caught:
            item.read_bytes()
        assert caught.value.errno == errno.EINVAL


def test_gnu_tars_own_archives(tmp_path: Path) -> None:
    """Also sparse ones, in each of GNU's formats: their other members stay right."""
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(JPEG)
    with (folder / "hole.jpg").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x" * 5000)
    (folder / "z.jpg").write_bytes(JPEG * 99)
    for format in (["--format=gnu"], *(["--format=posix", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))):
        path = tmp_path / "a.tar"
        subprocess.run(["tar", "--sparse", *format, "-cf", path, "-C", tmp_path, "c"], check=True)
        first, hole, last = open_dataset(path).items
        assert (first.read_bytes(), last.read_bytes()) == (JPEG, JPEG * 99)
        with pytest.raises(OSError, match="is stored sparse in the archive"):
            hole.read_bytes()


def fake_header(name: str, size: bytes, kind: bytes = tarfile.REGTYPE, real_size: bytes = bytes(12)) -> bytes:
    """A header with any 12 bytes for the size and a right checksum; `real_size`: of a GNU sparse file unpacked."""
    buffer = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    buffer[483:495] = real_size
    buffer[124:136], buffer[156:157], buffer[148:156] = size, kind, b" " * 8
    buffer[148:156] = b"%06o\0 " % sum(buffer[:512])
    return bytes(buffer[:512])


def pax(text: bytes, kind: bytes = b"x") -> bytes:
    return fake_header("pax", b"%011o\0" % len(text), kind) + text.ljust(-(-len(text) // 512) * 512, b"\0")


def pax_record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d" % length + body


END = bytes(1024)
ONE = fake_header("c/1.jpg", b"%011o\0" % 5) + b"12345".ljust(512, b"\0")
TWO = fake_header("c/2.jpg", b"%011o\0" % 5) + b"67890".ljust(512, b"\0")

HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "is not a tar archive"),
    "text": (b"hello\n" * 500, "is not a tar archive"),
    "zeros but one block": (bytes(512) + b"x" * 512, "is not a tar archive"),
    "a photograph": (b"\xff\xd8\xff\xe0" + bytes(range(256)) * 20, "is not a tar archive"),
    "gzip": (gzip.compress(ONE + END), "is compressed, .* gunzip"),
    "bzip2": (b"BZh91AY" + bytes(600), "is compressed, .* bunzip2"),
    "xz": (b"\xfd7zXZ\0" + bytes(600), "is compressed, .* unxz"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(600), "is compressed, .* unzstd"),
    "no end": (ONE + TWO, r"is damaged or incomplete at byte 2048"),
    "cut in the data": ((ONE + TWO)[:-300], r"is incomplete: it ends within 'c/2\.jpg'"),
    "cut in a header": ((ONE + TWO)[:1300], r"is damaged or incomplete at byte 1024"),
    "damaged header": (ONE + TWO.replace(b"c/2", b"c/3") + END, r"is damaged or incomplete at byte 1024"),
    "damaged first header": (ONE.replace(b"c/1", b"c/3") + END, "is not a tar archive"),
    "absolute": (fake_header("/etc/1.jpg", b"0" * 12) + END, r"names '/etc/1\.jpg', which is not inside of it"),
    "above": (ONE + fake_header("c/../../1.jpg", b"0" * 12) + END, r"names 'c/\.\./\.\./1\.jpg', which is not inside"),
    "above, strange": (fake_header("../\x1b[31m\n.jpg", b"0" * 12) + END, r"names '\.\./\\x1b\[31m\\n\.jpg', which"),
    "twice": (ONE + TWO + ONE + END, r"holds 'c/1\.jpg' twice"),
    "twice, differently": (ONE + fake_header("./c/1.jpg", b"0" * 12) + END, r"holds '\./c/1\.jpg' twice"),
    "size -1": (ONE + fake_header("c/2.jpg", b"\xff" * 12) + END, r"is damaged: the size of 'c/2\.jpg'"),
    "back to the start": (
        ONE + fake_header("c/2.jpg", b"\xff" * 8 + (-1024).to_bytes(4, "big", signed=True)) + END,
        "is incomplete|is damaged",
    ),
    "huge size": (fake_header("c/2.jpg", b"\x80" + b"\0" * 3 + b"\xff" * 8) + END, "is incomplete|is damaged"),
    "size over all files": (pax(pax_record(b"size", b"2000"), b"g") + ONE + TWO + END, "is damaged: the size of 'c/1"),
    "size of one": (pax(pax_record(b"size", b"99999")) + ONE + TWO + END, r"is incomplete: it ends within 'c/1\.jpg'"),
    "negative size of one": (pax(pax_record(b"size", b"-512")) + ONE + TWO + END, "is incomplete|is damaged"),
    "huge header": (fake_header("p", b"%011o\0" % (1 << 30), b"x") + ONE + END, "is not a tar archive .*header of"),
    "negative header": (fake_header("p", b"\xff" * 10 + b"\xf0\0", b"x") + ONE + END, "is not a tar archive"),
    "many headers for one file": (pax(pax_record(b"a", b"b")) * 3000 + ONE + END, "RecursionError"),
    "long name": (ONE + pax(pax_record(b"path", b"c/" + b"x" * 9000)) + TWO + END, "a name of 9002 characters"),
    "sparse, back to the start": (
        ONE + fake_header("c/2.jpg", b"\xff" * 10 + b"\xf4\0", b"S", b"%011o\0" % 5) + END,
        r"is incomplete: it ends within 'c/2\.jpg'",
    ),
    "sparse without its map": (
        ONE + fake_header("c/2.jpg", b"%011o\0" % 5, b"S")[:482] + b"\1" + bytes(29) + END,
        "is damaged|is incomplete",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    data, message = HOSTILE[kind]
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=rf"a\.tar: .*({message})") as caught:
        open_dataset(path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600


def test_a_header_that_is_none_of_our_business_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(pax(pax_record(b"comment", b"git's commit"), b"g") + ONE + TWO + END)
    assert [item.read_bytes() for item in open_dataset(path).items] == [b"12345", b"67890"]


def test_a_nested_archive_cannot_reach_out_of_its_own_bytes(tmp_path: Path) -> None:
    """Its last member claims bytes that are there, but belong to the archive around it."""
    inner = ONE + fake_header("c/2.jpg", b"%011o\0" % 2000)
    path = pack_bytes(tmp_path / "a.tar", {"n1.tar": inner, "n2.tar": ONE + END})
    with pytest.raises(DatasetError, match=r"a\.tar/n1\.tar: is incomplete: it ends within 'c/2\.jpg'"):
        open_dataset(path)


def test_a_nested_archive_ends_where_it_ends(tmp_path: Path) -> None:
    """What follows an inner archive without an end is no member of it."""
    path = pack_bytes(tmp_path / "a.tar", {"n1.tar": ONE, "n2.tar": ONE + END})
    with pytest.raises(DatasetError, match=r"a\.tar/n1\.tar: is damaged or incomplete at byte 1024"):
        open_dataset(path)


def test_a_folder_called_like_an_image_is_no_class(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "dog.jpg/2.jpg"):
        (tmp_path / "a" / name).parent.mkdir(parents=True)
        (tmp_path / "a" / name).write_bytes(JPEG)
    check_same(open_dataset(pack(tmp_path / "b.tar", tmp_path / "a")), open_dataset(tmp_path / "a"))
    check_same(
        open_dataset(pack_bytes(tmp_path / "c.tar", {"cat/1.jpg": JPEG, "dog.jpg/2.jpg": JPEG})),
        open_dataset(tmp_path / "a"),
    )


def test_a_class_called_as_the_archive_is_a_class(tmp_path: Path) -> None:
    path = pack_bytes(tmp_path / "pets.tar", {"pets/1.jpg": JPEG, "wild/2.jpg": JPEG})
    assert open_dataset(path).classes == ("pets", "wild")


def test_the_number_of_members_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infer.data.tar.MOST_MEMBERS", 9)
    path = pack_bytes(tmp_path / "a.tar", {f"c/{i}.jpg": b"" for i in range(10)})
    with pytest.raises(DatasetError, match=r"a\.tar: has more than 9 members"):
        open_dataset(path)


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_archive_gives_its_images_or_one_line(tmp_path: Path, seed: int) -> None:
    """Bytes changed at random: never another error, never an image beyond the archive, the same every time."""
    files = {f"c{i % 2}/{'n' * i * 11}{i}.jpg": bytes([i]) * 700 for i in range(12)}
    whole = pack_bytes(tmp_path / "a.tar", files, (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)[seed % 2]).read_bytes()
    rng = np.random.default_rng(seed)
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 1 + seed):
            data[place] = rng.integers(256)
        (tmp_path / "a.tar").write_bytes(data[: len(data) - int(rng.integers(0, 3)) * int(rng.integers(5000))])
        said = []
        for _ in range(2):
            try:
                dataset = open_dataset(tmp_path / "a.tar")
                said.append(str([(item.name, item.label, len(item.read_bytes())) for item in dataset.items]))
            except DatasetError as error:
                said.append(str(error))
            except OSError as error:
                assert error.errno == errno.EINVAL  # an image that became a link
                said.append(str(error))
        assert said[0] == said[1]
        assert len(said[0].splitlines()) == 1


def test_members_agree_with_tarfile(distributed: Path) -> None:
    path = distributed / f"{VAL}.tar"
    with path.open("rb") as file:
        ours = [(str(m.path), m.offset, m.size_bytes) for m in list_members(file, 0, path.stat().st_size)]
    with tarfile.open(path) as archive:
        assert ours == [(m.name, m.offset_data, m.size) for m in archive.getmembers()]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def inflate_without_end(path: Path) -> None:
    path.write_bytes(gzip.compress(bytes(65 << 20), 1))


def write_text(path: Path) -> None:
    path.write_text("not found")


def without_data(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(f"{DEVKIT}/readme.txt"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"tar\.gz: damaged or incomplete \(.*\): copy or download it again"),
        (inflate_without_end, r"tar\.gz: unpacks to more than 67108864 bytes"),
        (write_text, r"tar\.gz: damaged or incomplete \(Not a gzipped file"),
        (without_data, rf"{META}: missing, and flat validation images have their labels there"),
        (Path.unlink, rf"{META}: missing, and flat validation images have their labels there"),
    ],
)
def test_a_damaged_devkit_archive(distributed: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(distributed / f"{DEVKIT}.tar.gz")
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(distributed)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_is_read_only_where_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = tmp_path / "big.jpg"
    with big.open("wb") as file:
        file.truncate((1 << 28) + 1)
    with pytest.raises(OSError, match="268435457 bytes, more than the 268435456") as caught:
        File(big).read_bytes()
    assert isinstance(caught.value, OwnFault)
    assert File(big).read_bytes(5) == bytes(5)
    with pytest.raises(OSError, match="is a device, not a file"):
        File(Path("/dev/zero")).read_bytes()
