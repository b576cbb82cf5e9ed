"""The footer of a Parquet file against pyarrow's reading of it, and with every bit of it flipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from paths import ROOT

from infer.data.footer import read_groups

TABLE = pa.table(
    {
        "image": [{"bytes": bytes([n]) * 9, "path": f"{n}.jpg"} for n in range(70)],
        "label": pa.array(range(70), pa.int32()),
        "posterior": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(140, dtype=np.float32)), 2),
        "known": [n % 3 == 0 for n in range(70)],
    }
)


def test_it_says_what_pyarrow_says(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE.replace_schema_metadata({"key": "é" * 300}), path, row_group_size=4)
    theirs = pq.ParquetFile(path).metadata
    ours = read_groups(path)
    assert len(ours) == theirs.num_row_groups == 18
    for number, group in enumerate(ours):
        other = theirs.row_group(number)
        assert (group.rows, group.uncompressed_bytes) == (other.num_rows, other.total_byte_size)
        assert len(group.columns) == other.num_columns == 5
        for place, column in enumerate(group.columns):
            own = other.column(place)
            expected = own.path_in_schema, own.num_values, own.total_uncompressed_size
            assert (column.path, column.values, column.uncompressed_bytes) == expected
            assert (column.kind == 6) == (own.physical_type == "BYTE_ARRAY")
    assert ours[0].declared_bytes("label") == theirs.row_group(0).column(2).total_uncompressed_size
    assert ours[0].declared_bytes("none") == theirs.row_group(0).total_byte_size


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1\xff\xff\xff\x7fPAR1", b"PAR1\x00\x00\x00\x00PAR1", b"PAR1" * 9]
)
def test_what_is_no_footer(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="footer is damaged"):
        read_groups(tmp_path / "a.parquet")


def test_depth_and_sizes_are_bounded(tmp_path: Path) -> None:
    for footer in (b"\x1c" * 5000, b"\x19\xfc\xff\xff\xff\xff\x0f", b"\x49\xf9" + b"\xff" * 20):
        (tmp_path / "a.parquet").write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
        with pytest.raises(ValueError, match="footer is damaged"):
            read_groups(tmp_path / "a.parquet")


def test_every_number_is_one(tmp_path: Path) -> None:
    """A flipped bit in the head of a field makes text or a list of a number, or changes its sign."""
    pq.write_table(TABLE, tmp_path / "good.parquet", write_statistics=False, store_schema=False)
    good = (tmp_path / "good.parquet").read_bytes()
    start, refused = len(good) - 8 - int.from_bytes(good[-8:-4], "little"), 0
    for place in range(start, len(good) - 8):
        for bit in range(8):
            changed = bytearray(good)
            changed[place] ^= 1 << bit
            (tmp_path / "a.parquet").write_bytes(changed)
            try:
                groups = read_groups(tmp_path / "a.parquet")
            except ValueError:
                refused += 1
                continue
            numbers = [number for group in groups for number in group[:2]]
            numbers += [number for group in groups for column in group.columns for number in column[1:]]
            assert all(type(number) is int and number >= 0 for number in numbers)
    assert refused > 100


READ = """
import sys
from pathlib import Path
from infer.data import own_parquet as parquet
from evaluation.errors import ScoresError
from infer.data import parquet as images
from infer.data.dataset import DatasetError
path, good = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
start, refused = len(good) - 8 - int.from_bytes(good[-8:-4], "little"), 0
for place in range(start, len(good)):
    changed = bytearray(good)
    changed[place] ^= 1 << place % 8
    path.write_bytes(changed)
    try:
        with parquet.opened(path, "a table", "a command", ScoresError) as table:
            table.read()
        for sample in images.read_samples(path, images.choose_columns(path, {})[0]):
            sample.file.read_bytes()
    except (ScoresError, DatasetError, OSError):
        refused += 1
print(refused, len(good) - start)
"""


def test_no_bit_of_it_ends_the_process(tmp_path: Path) -> None:
    """pyarrow's own classes abort here: statistics of a column that contradict its type, for example."""
    pq.write_table(TABLE.slice(0, 3), tmp_path / "good.parquet")
    command = [sys.executable, "-c", READ, tmp_path / "a.parquet", tmp_path / "good.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    refused, flips = map(int, done.stdout.split())
    assert flips > 1000 and refused > 300
