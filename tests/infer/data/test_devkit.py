"""infer/data/devkit.py: a meta.mat that was made to take memory, and lists with numbers that nothing has."""

from __future__ import annotations

import resource
import struct
import time
import zlib
from pathlib import Path

import pytest

from infer.data import devkit
from infer.data.dataset import DatasetError, open_dataset
from infer.data.devkit import DEVKIT, GROUND_TRUTH, META, read_synsets
from infer.data.folder import open_folder

MI_INT8, MI_INT32, MI_UINT32, MI_MATRIX, MI_COMPRESSED, MX_CHAR = 1, 5, 6, 14, 15, 4


def element(kind: int, data: bytes) -> bytes:
    """A data element of MATLAB's format 5."""
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def mat_file(*elements: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + b"".join(elements)


def huge_text(length: int) -> bytes:
    """An array of characters that are not there: scipy fills it with spaces."""
    flags = element(MI_UINT32, struct.pack("<II", MX_CHAR, 0))
    dims = element(MI_INT32, struct.pack("<ii", 1, length))
    return element(MI_MATRIX, flags + dims + element(MI_INT8, b"synsets") + element(MI_INT8, b""))


@pytest.mark.parametrize(
    "content",
    [
        mat_file(huge_text(2**31 - 8)),
        mat_file(element(MI_COMPRESSED, zlib.compress(element(MI_MATRIX, bytes(2 * 10**9 // 8)), 9))),
        bytes(devkit.META_BYTES + 1),
    ],
    ids=["declared", "compressed", "large"],
)
def test_a_meta_mat_that_takes_much_memory(content: bytes, tmp_path: Path) -> None:
    data = tmp_path / DEVKIT / "data"
    data.mkdir(parents=True)
    (data / META).write_bytes(content)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(DatasetError, match=r"not the devkit's meta\.mat|expected the devkit's meta\.mat") as caught:
        read_synsets(open_folder(tmp_path))
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 800_000  # kB
    assert time.monotonic() - started < 10


def test_an_id_of_thousands_of_digits(miniature_copy: Path) -> None:
    lines = miniature_copy / DEVKIT / "data" / GROUND_TRUTH
    lines.write_text("".join("9" * 5000 + "\n" for _ in lines.read_text().split()))
    with pytest.raises(DatasetError, match=r"is not the id of a leaf in meta\.mat") as caught:
        open_dataset(miniature_copy)
    assert len(str(caught.value)) < 300
