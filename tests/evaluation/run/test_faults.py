"""evaluation/run/loop.py: an image is blamed for its own faults alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from helpers import encode, noise

from evaluation.errors import RunError
from evaluation.run.loop import read_image
from evaluation.scores.table import OK
from infer.data import folder
from infer.data.dataset import Item
from infer.data.folder import File


def item(path: Path) -> Item:
    return Item(path.name, 0, File(path))


def test_an_image_s_own_faults_are_its_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode(noise((80, 90)), "JPEG")
    (tmp_path / "text.jpg").write_bytes(b"no image")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "large.jpg").write_bytes(whole + bytes(99_999))
    (tmp_path / "whole.jpg").write_bytes(whole)
    monkeypatch.setattr(folder, "LARGEST_BYTES", 99_999)

    found = {path.stem: read_image(item(path), ["ignore"], False).status for path in tmp_path.iterdir()}
    assert found.pop("whole") == OK
    expected = {
        "text": "text.jpg: is not an image we can decode",
        "cut": "cut.jpg: truncated or damaged JPEG",
        "empty": "empty.jpg: is empty (0 bytes)",
        "folder": "folder.jpg: cannot be read (Is a directory)",
        "pipe": "pipe.jpg: cannot be read (is a pipe, not a file)",
        "large": f"large.jpg: cannot be read ({len(whole) + 99_999} bytes, more than the 99999 of the largest image "
        "we read)",
    }
    assert found == expected
    for name in expected:
        with pytest.raises(RunError, match="--strict stops at the first unreadable image"):
            read_image(item(tmp_path / f"{name}.jpg"), ["ignore"], True)


@pytest.mark.parametrize(
    "number",
    [errno.EACCES, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EINTR, errno.EREMOTEIO],
)
def test_what_is_no_fault_of_an_image_stops_the_run(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A permission, a limit, a disk, a network: whatever is not known to be the image's own."""
    (tmp_path / "a.jpg").write_bytes(encode(noise((80, 90)), "JPEG"))

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RunError, match=r"a\.jpg: .*, which is no fault of the image: .* go on with --resume") as caught:
        read_image(item(tmp_path / "a.jpg"), ["ignore"], False)
    assert os.strerror(number) in str(caught.value)


def test_a_store_behind_links_that_is_gone_stops_the_run(tmp_path: Path) -> None:
    """A hub's cache, DVC, git-annex: the link is there, what it leads to is not."""
    (tmp_path / "a.jpg").symlink_to(tmp_path / "store" / "0123")
    with pytest.raises(RunError, match=r"a\.jpg: No such file or directory, which is no fault of the image"):
        read_image(item(tmp_path / "a.jpg"), ["ignore"], False)
