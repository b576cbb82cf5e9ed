"""infer/data/known_images.py: what is kept of a set of images, whatever the order, and what is said of others."""

from __future__ import annotations

import base64
import hashlib
import random

import pytest
from helpers import slim_spec

from infer.data.known_images import (
    EVERY,
    MOST_KEPT,
    TRAINED_ON,
    KnownImages,
    image_number,
    known_images,
    number_of_sha256,
    say_trained_on,
    with_trained_on,
)
from infer.spec import ModelSpec, SpecError

MANY = [image_number(str(number).encode()) for number in range(10_000)]


def test_a_number_is_of_the_files_bytes() -> None:
    digest = hashlib.sha256(b"an image").hexdigest()
    assert image_number(b"an image") == number_of_sha256(digest) == int(digest, 16) >> 193
    assert 0 <= image_number(b"an image") < EVERY == 2**63


def test_few_images_are_all_kept() -> None:
    known = KnownImages().with_more(MANY[:MOST_KEPT]).with_more(MANY[:10])
    assert known.is_whole and known.numbers == set(MANY[:MOST_KEPT])
    assert KnownImages.from_text(known.to_text()) == known
    assert len(known.to_text()) < 22_000


def test_of_many_the_smallest_are_kept_in_whatever_order_and_parts() -> None:
    whole = KnownImages().with_more(MANY)
    assert whole.numbers == set(sorted(MANY)[:MOST_KEPT]) and whole.limit == sorted(MANY)[MOST_KEPT]
    assert whole.limit / EVERY == pytest.approx(MOST_KEPT / len(MANY), rel=0.1)
    assert KnownImages.from_text(whole.to_text()) == whole

    mixed = random.Random(0).sample(MANY, len(MANY))
    slowly = KnownImages()
    for start in range(0, len(mixed), 32):
        slowly = slowly.with_more(mixed[start : start + 32])
    one, other = KnownImages().with_more(mixed[:7000]), KnownImages().with_more(mixed[3000:])
    assert slowly == one.united(other) == other.united(one) == whole
    assert whole.united(whole) == whole.united(KnownImages()) == whole


def test_what_a_sample_would_have_is_known() -> None:
    known, others = KnownImages().with_more(MANY[:8000]), MANY[4000:]
    comparable = [number for number in others if known.admits(number)]
    found = [number for number in others if number in known]
    assert found == [number for number in comparable if number in set(MANY[:8000])]
    assert len(found) / len(comparable) == pytest.approx(4000 / 6000, abs=0.05)


def test_a_spec_carries_it_in_json() -> None:
    spec = slim_spec("A")
    assert known_images(spec) is None and with_trained_on(spec, KnownImages()) == spec
    marked = with_trained_on(spec, KnownImages().with_more(MANY))
    assert known_images(ModelSpec.from_json(marked.to_json())) == KnownImages().with_more(MANY)
    assert with_trained_on(marked, None) == spec


NUMBERS = base64.b64encode((5).to_bytes(8, "big") + (9).to_bytes(8, "big")).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        f"{EVERY:x}",
        f"{EVERY + 1:x} {NUMBERS}",
        f"9 {NUMBERS}",
        f"{EVERY:x} {NUMBERS[:-4]}",
        f"{EVERY:x} {NUMBERS[:3]}",
        f"{EVERY:x} {NUMBERS} ",
        f"{EVERY:x} {base64.b64encode(bytes(16)).decode()}",
        f"{EVERY:x} {base64.b64encode(b''.join(n.to_bytes(8, 'big') for n in range(MOST_KEPT + 1))).decode()}",
        f"{EVERY:x} {'A' * 10_000_000}",
    ],
)
def test_a_damaged_text_is_one_line(text: str) -> None:
    spec = with_trained_on(slim_spec("A"), None)
    damaged = ModelSpec.from_json(spec.to_json().replace('"source": {', f'"source": {{"{TRAINED_ON}": "{text}"'))
    with pytest.raises(SpecError, match=f"{spec.name}: source.trained_on is no sample of images .* it is damaged$"):
        known_images(damaged)
    assert KnownImages.from_text(f"{EVERY:x} {NUMBERS}").numbers == {5, 9}


@pytest.mark.parametrize(
    ("trained", "comparable", "images", "said"),
    [
        (0, 150, 150, None),
        (30, 150, 150, "mini-d was trained on 30 of these 150 images: its error on them says little"),
        (150, 150, 150, "mini-d was trained on 150 of these 150 images: its error on them says little"),
        (8, 10, 150, "mini-d was trained on about 120 of these 150 images: its error on them says little"),
        (0, 0, 150, None),
    ],
)
def test_what_is_said(trained: int, comparable: int, images: int, said: str | None) -> None:
    assert say_trained_on("mini-d", trained, comparable, images) == said
