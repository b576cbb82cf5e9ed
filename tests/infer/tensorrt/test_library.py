"""infer/tensorrt/library.py: versions."""

from __future__ import annotations

import pytest

from infer.engine import version_numbers
from infer.tensorrt.library import LIBRARIES


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("11.4.0.106", (11, 4, 0, 106)),
        ("10.14.1.48.post1", (10, 14, 1, 48)),
        ("10.3.0", (10, 3, 0)),
        ("1.8rc1", (1, 8)),
        ("10.3.0.30+cuda12", (10, 3, 0, 30)),
        ("", ()),
        ("none", ()),
        ("٣.1", ()),  # a digit, but no version
    ],
)
def test_the_numbers_of_a_version(version: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(version) == numbers


def test_ten_is_newer_than_nine() -> None:
    assert version_numbers("10.10.1.post1") > version_numbers("10.9.0.34") >= LIBRARIES["tensorrt"].oldest
    assert version_numbers("9.9") < LIBRARIES["tensorrt"].oldest
