"""The images that a model was trained on, as a spec says them: numbers by which their files are known again.

A number is of a file's bytes. Of many images a random sample is kept, whose share of them all is known.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from ..spec import ModelSpec, SpecError

TRAINED_ON = "trained_on"
"""The key of ModelSpec.source with the text of these images."""
MOST_KEPT = 2000
"""Images that are kept by their numbers: 21 kB of text, in every file that has the spec."""
EVERY = 1 << 63
"""A number is below this, so that an int64 holds it: two files of a million have the same by a chance of 5e-8."""
TEXT = re.compile(r"([0-9a-f]{1,16}) ([A-Za-z0-9+/=]*)", re.ASCII)


def image_number(data: bytes) -> int:
    """The number of a file with these bytes: the first 63 bits of their SHA-256."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 1


def number_of_sha256(sha256: str) -> int:
    """The number of a file by its SHA-256 in hexadecimal."""
    return int(sha256[:16], 16) >> 1


@dataclass(frozen=True, slots=True)
class KnownImages:
    """The numbers of a set of images, or of those of its images whose numbers are below `limit`.

    Numbers are digests, so that those below a limit are a random sample, of limit / EVERY of the set. The limit falls
    so that at most MOST_KEPT are kept: what is kept depends on the set alone, not on the order or the parts that it
    came in (a bottom-k sample).
    """

    numbers: frozenset[int] = field(default_factory=frozenset)
    limit: int = EVERY

    @property
    def is_whole(self) -> bool:
        """True where every image of the set is kept."""
        return self.limit == EVERY

    def admits(self, number: int) -> bool:
        """True for an image that would be kept if it belonged to the set."""
        return number < self.limit

    def __contains__(self, number: int) -> bool:
        return number in self.numbers

    def with_more(self, numbers: Iterable[int]) -> KnownImages:
        """The set with more images in it."""
        new = {number for number in numbers if number < self.limit} - self.numbers
        return _bounded(self.numbers | new, self.limit) if new else self

    def united(self, other: KnownImages) -> KnownImages:
        """The images of both sets."""
        return _bounded(self.numbers | other.numbers, min(self.limit, other.limit))

    def to_text(self) -> str:
        """A line of text: the limit in hexadecimal, the numbers in base64 of eight bytes each."""
        numbers = np.array(sorted(self.numbers), ">u8").tobytes()
        return f"{self.limit:x} {base64.b64encode(numbers).decode()}"

    @classmethod
    def from_text(cls, text: str) -> KnownImages:
        """What `to_text` wrote. Raises ValueError for any other text."""
        found = TEXT.fullmatch(text) if len(text) <= 16 * MOST_KEPT else None
        if found is None:
            raise ValueError(f"{len(text)} letters, not a limit and at most {MOST_KEPT} numbers")
        try:
            data = base64.b64decode(found[2], validate=True)
        except binascii.Error as error:
            raise ValueError(f"not base64: {error}") from None
        limit, whole = int(found[1], 16), len(data) % 8 == 0
        numbers = np.frombuffer(data, ">u8").tolist() if whole else []
        if not whole or limit > EVERY or any(a >= b for a, b in zip(numbers, [*numbers[1:], limit], strict=True)):
            raise ValueError("numbers that are cut, not in order or beyond their limit")
        if len(numbers) > MOST_KEPT:
            raise ValueError(f"{len(numbers)} numbers, expected at most {MOST_KEPT}")
        return cls(frozenset(numbers), limit)


def _bounded(numbers: frozenset[int], limit: int) -> KnownImages:
    """The numbers below the limit, and below the first that is too many."""
    kept = sorted(number for number in numbers if number < limit)
    if len(kept) > MOST_KEPT:
        limit = kept[MOST_KEPT]
    return KnownImages(frozenset(kept[:MOST_KEPT]), limit)


def known_images(spec: ModelSpec) -> KnownImages | None:
    """The images that a model was trained on; None where its spec does not say. Raises SpecError."""
    text = spec.source.get(TRAINED_ON)
    if text is None:
        return None
    try:
        return KnownImages.from_text(text)
    except ValueError as error:
        raise SpecError(f"{spec.name}: source.{TRAINED_ON} is no sample of images ({error}): it is damaged") from None


def with_trained_on(spec: ModelSpec, images: KnownImages | None) -> ModelSpec:
    """The spec of a model that was trained on these images; None or no image: that does not say."""
    source = {key: value for key, value in spec.source.items() if key != TRAINED_ON}
    if images is not None and images.numbers:
        source[TRAINED_ON] = images.to_text()
    return replace(spec, source=source)


def say_trained_on(name: str, trained: int, comparable: int, images: int) -> str | None:
    """A line that a model was trained on images of an evaluation; None where it knows none of them.

    trained, comparable: how many of `images` it was trained on, of those that its sample would have. Where these are
    fewer, the number is an estimate.
    """
    if not trained:
        return None
    many = f"{trained}" if comparable == images else f"about {max(1, round(trained / comparable * images))}"
    return f"{name} was trained on {many} of these {images} images: its error on them says little"
