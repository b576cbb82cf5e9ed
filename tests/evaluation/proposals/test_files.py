"""Proposals that others made, as CSV and as R-CNN's MATLAB files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from evaluation.proposals.files import match_images, read_file_proposals
from infer.boxes.proposed import ProposalsError


def cells(values: list[Any]) -> Any:
    """A cell array, one column, as MATLAB saves it."""
    found = np.empty((len(values), 1), object)
    for place, value in enumerate(values):
        found[place, 0] = value
    return found


def write_csv(folder: Path, *rows: str) -> Path:
    path = folder / "p.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_csv_with_scores_is_put_in_order(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path, "image,xmin,ymin,xmax,ymax,score", "a.jpg,1,2,3,4,0.1", "b,5,6,7,8,1", "a.jpg,2,3,4,5.5,0.9"
    )
    found = read_file_proposals(path)
    assert found["a.jpg"].boxes.tolist() == [[2, 3, 4, 5.5], [1, 2, 3, 4]]
    assert found["a.jpg"].scores.tolist() == [0.9, 0.1] and found["b"].boxes.tolist() == [[5, 6, 7, 8]]


def test_a_csv_without_scores_stays_in_its_order(tmp_path: Path) -> None:
    found = read_file_proposals(write_csv(tmp_path, "a,1,2,3,4", "", "a,2,3,4,5"))
    assert found["a"].boxes.tolist() == [[1, 2, 3, 4], [2, 3, 4, 5]] and found["a"].scores.tolist() == [-1, -2]


def test_rcnns_matlab_files_have_rows_before_columns(tmp_path: Path) -> None:
    boxes = [
        np.array([[2, 1, 40, 30], [5, 6, 7, 8]], np.float64),
        np.zeros((0, 4)),
        np.array([[1, 1, 9, 20]], np.uint16),
    ]
    scipy.io.savemat(tmp_path / "p.mat", {"images": cells(["a", "b", "c"]), "boxes": cells(boxes)})
    found = read_file_proposals(tmp_path / "p.mat")
    assert found["a"].boxes.tolist() == [[1, 2, 30, 40], [6, 5, 8, 7]] and found["a"].scores.tolist() == [-1, -2]
    assert found["b"].boxes.shape == (0, 4) and found["c"].boxes.tolist() == [[1, 1, 20, 9]]


def test_images_are_known_by_their_names_or_parts_of_them(tmp_path: Path) -> None:
    found = read_file_proposals(write_csv(tmp_path, "n1/a.jpg,1,2,3,4", "b.jpg,1,2,3,5", "c,1,2,3,6", "else,1,2,3,7"))
    matched, notes = match_images(found, ["n1/a.jpg", "n2/b.jpg", "n2/c.jpg", "n2/d.jpg"], Path("p.csv"))
    assert [own and own.boxes[0, 3] for own in matched] == [4, 5, 6, None]
    assert notes == [
        "p.csv: lacks 1 of 4 images (n2/d.jpg): no proposals there",
        "p.csv: 1 of its 4 images are none of these (else), left out",
    ]
    assert not match_images(found, ["n1/a.jpg", "b.jpg", "c.jpg", "else.png"], tmp_path).notes


def test_two_names_of_an_image_are_refused(tmp_path: Path) -> None:
    """The boxes of one of them would be lost."""
    found = read_file_proposals(write_csv(tmp_path, "n1/a.jpg,1,2,3,4", "a,1,2,3,5"))
    with pytest.raises(ProposalsError, match=r"has n1/a\.jpg under two names, n1/a\.jpg and a: expected one"):
        match_images(found, ["n1/a.jpg"], tmp_path)
    path = tmp_path / "p.mat"
    scipy.io.savemat(path, {"images": cells(["a", "a"]), "boxes": cells([np.ones((1, 4)), np.ones((2, 4))])})
    with pytest.raises(ProposalsError, match=r"p\.mat: has a 2 times, expected each image once"):
        read_file_proposals(path)


@pytest.mark.parametrize("shape", [(4, 5), (4, 2), (2, 2)])
def test_matlab_boxes_of_another_layout_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """As many numbers as so many boxes have: with scores behind, or a column each."""
    boxes = np.cumsum(np.ones(shape), 0)
    scipy.io.savemat(tmp_path / "p.mat", {"images": cells(["a"]), "boxes": cells([boxes])})
    with pytest.raises(ProposalsError, match=r"the boxes of a are \(.*\), not N x 4: ymin, xmin, ymax, xmax"):
        read_file_proposals(tmp_path / "p.mat")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "has no rows, expected rows image,xmin,ymin,xmax,ymax or with a score behind"),
        (["a,1,2,3"], "row 1 is 'a,1,2,3', expected rows image"),
        (["a,1,2,3,4", "a,1,2,3,x"], "row 2 is 'a,1,2,3,x', expected rows"),
        (["a,1,2,3,4", "a,1,2,3,4,5"], "row 2 is 'a,1,2,3,4,5', expected rows"),
        (["a,1,2,3,nan"], "row 1 is 'a,1,2,3,nan', expected rows"),
        (["a,3,2,1,4"], "a box of a is 3,2,1,4, expected xmin,ymin,xmax,ymax"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[str], said: str) -> None:
    with pytest.raises(ProposalsError, match=said):
        read_file_proposals(write_csv(tmp_path, *rows))


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ProposalsError, match=r"none\.csv: no such file, expected proposals as \.csv, or \.mat"):
        read_file_proposals(tmp_path / "none.csv")
    (tmp_path / "p.txt").write_text("a,1,2,3,4")
    with pytest.raises(ProposalsError, match=r"p\.txt: expected proposals as \.csv, or \.mat"):
        read_file_proposals(tmp_path / "p.txt")

    (tmp_path / "p.mat").write_text("no MATLAB")
    with pytest.raises(ProposalsError, match=r"p\.mat: not proposals as R-CNN's \(.*expected the cell arrays"):
        read_file_proposals(tmp_path / "p.mat")
    scipy.io.savemat(tmp_path / "p.mat", {"boxes": cells([np.ones((1, 4))])})
    with pytest.raises(ProposalsError, match="has no images"):
        read_file_proposals(tmp_path / "p.mat")
    scipy.io.savemat(tmp_path / "p.mat", {"images": cells(["a", "b"]), "boxes": cells([np.ones((1, 4))])})
    with pytest.raises(ProposalsError, match="2 images, but boxes of 1"):
        read_file_proposals(tmp_path / "p.mat")
    (tmp_path / "p.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(200))
    with pytest.raises(ProposalsError, match=r"a file of MATLAB 7\.3: load it there and save it again with -v7"):
        read_file_proposals(tmp_path / "p.mat")


def test_names_that_are_no_images_are_said(tmp_path: Path) -> None:
    found = read_file_proposals(write_csv(tmp_path, "x,1,2,3,4"))
    with pytest.raises(ProposalsError, match=r"no proposals of these images \(it has x\), expected .* n/a\.jpg"):
        match_images(found, ["n/a.jpg"], tmp_path)
    with pytest.raises(ProposalsError, match="x is the name of several images: expected names with folders"):
        match_images(found, ["n1/x.jpg", "n2/x.jpg"], tmp_path)
