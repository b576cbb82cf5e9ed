"""trainer/data/batches.py: crops that depend on seed, epoch and index alone, however they are shared; central views."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import TRAIN_DIGITS
from helpers import noise, slim_spec
from PIL import Image

import trainer.data.batches
from infer.data.dataset import TRAIN, Dataset, DatasetError, open_dataset
from infer.data.known_images import image_number
from infer.pixels.decode import ImageError, decode
from infer.pixels.render import render
from infer.views import plan_views
from trainer.data.augment import Augmentation, Placement
from trainer.data.batches import (
    Centers,
    Crops,
    ProcessLost,
    batches,
    center_batches,
    cores_here,
    loader_workers,
    share_draws,
)
from trainer.miniature import RENDERINGS
from trainer.recipes import RECIPES

IMAGES = TRAIN_DIGITS * RENDERINGS
AUGMENTATION = Augmentation(64, (72, 100), True, 0.1, "bicubic")
MINI_A = RECIPES["mini-a"]


@pytest.fixture(scope="module")
def dataset(miniature_dir: Path) -> Dataset:
    return open_dataset(miniature_dir, "train")


def crops_of(dataset: Dataset, *, seed: int = 0, epoch: int = 0) -> Crops:
    return Crops(dataset, AUGMENTATION, seed=seed, epoch=epoch)


def test_a_crop_depends_on_seed_epoch_and_index(dataset: Dataset) -> None:
    crop, shift, label, _ = crops_of(dataset)[5]
    assert (crop.shape, crop.dtype, shift.shape, shift.dtype) == ((64, 64, 3), torch.uint8, (3,), torch.float32)
    assert label == dataset.items[5].label
    again = crops_of(dataset)[5]
    assert torch.equal(crop, again[0])
    assert torch.equal(shift, again[1])
    for other in (crops_of(dataset, seed=1)[5], crops_of(dataset, epoch=1)[5]):
        assert not torch.equal(crop, other[0])
        assert not torch.equal(shift, other[1])


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(dataset: Dataset) -> None:
    """A crop is known by its colour shift."""

    def order(epoch: int) -> list[int]:
        crops = crops_of(dataset, epoch=epoch)
        index = {tuple(crops[i][1].tolist()): i for i in range(len(crops))}
        assert len(index) == IMAGES
        seen = []
        for pixels, shifts, labels, images in batches(crops, 8):
            assert (pixels.shape, shifts.shape, labels.shape) == ((8, 64, 64, 3), (8, 3), (8,))
            for crop, shift, label, number in zip(pixels, shifts, labels, images, strict=True):
                place = index[tuple(shift.tolist())]
                assert number == image_number(dataset.items[place].path.read_bytes())
                assert torch.equal(crop, crops[place][0])
                assert label == dataset.items[place].label
                seen.append(place)
        return seen

    first, second = order(0), order(1)
    assert sorted(first) == sorted(second) == list(range(IMAGES))
    assert first != second
    assert first != list(range(IMAGES))
    assert order(0) == first


def test_what_does_not_fill_a_batch_is_dropped(dataset: Dataset) -> None:
    assert [len(labels) for _, _, labels, _ in batches(crops_of(dataset), 20)] == [20, 20, 20]


@pytest.mark.parametrize(("world", "parts"), [(2, 1), (1, 4), (2, 2), (4, 2)])
def test_processes_and_pieces_share_each_batch_of_one_process(dataset: Dataset, world: int, parts: int) -> None:
    whole = list(batches(crops_of(dataset), 16))
    shares = [list(batches(crops_of(dataset), 16, rank=rank, world=world, parts=parts)) for rank in range(world)]
    assert all(len(share) == len(whole) * parts for share in shares)
    for number, batch in enumerate(whole):
        pieces = [share[number * parts + part] for share in shares for part in range(parts)]
        for one, together in zip(batch, zip(*pieces, strict=True), strict=True):
            assert torch.equal(one, torch.cat(together))


def test_crops_are_the_same_however_many_processes_make_them(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    of_one, of_two = [], []
    for made, workers in ((of_one, 1), (of_two, 2)):
        monkeypatch.setattr(trainer.data.batches, "loader_workers", lambda workers=workers: workers)
        made += list(batches(crops_of(dataset), 8))
    for one, other in zip(of_one, of_two, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("cores", "processes", "cores_each", "workers"), [(2, "", 2, 1), (16, "", 16, 8), (24, "8", 3, 1), (4, "8", 1, 1)]
)
def test_half_of_the_cores_that_a_process_has_are_for_loading(
    cores: int, processes: str, cores_each: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert (cores_here(), loader_workers()) == (cores_each, workers)


def test_the_first_batches_can_be_left_out(dataset: Dataset) -> None:
    whole, later = list(batches(crops_of(dataset), 8)), list(batches(crops_of(dataset), 8, start=3))
    assert len(later) == len(whole) - 3
    for one, other in zip(whole[3:], later, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_balanced_sampling_draws_as_many_of_each_class() -> None:
    """12 images of 3 classes, 8 of one: 4 draws each; a class of two images comes twice, each time another crop."""
    labels = [0] * 8 + [1] * 2 + [2] * 2
    draws = share_draws((0, 0), labels, 4, sampling="balanced").reshape(-1)
    assert draws.shape == (12,) and len(set(draws.tolist())) == 12
    assert sorted(labels[draw % 12] for draw in draws) == [0] * 4 + [1] * 4 + [2] * 4
    assert sorted(draws[[labels[draw % 12] == 1 for draw in draws]].tolist()) == [8, 9, 20, 21]
    assert draws.tolist() != share_draws((0, 1), labels, 4, sampling="balanced").reshape(-1).tolist()
    halves = [share_draws((0, 0), labels, 4, rank=rank, world=2, sampling="balanced") for rank in (0, 1)]
    assert np.concatenate(halves, 2).reshape(-1).tolist() == draws.tolist()

    # over many epochs every image of the frequent class is seen
    seen = {int(draw) for epoch in range(20) for draw in share_draws((0, epoch), labels, 4, sampling="balanced").flat}
    assert set(range(8)) < seen


def test_a_second_draw_of_an_image_is_another_crop(dataset: Dataset) -> None:
    crops = crops_of(dataset)
    first, second = crops[5], crops[5 + len(crops)]
    assert not torch.equal(first[0], second[0])
    assert first[2:] == second[2:]


def test_a_batch_that_cannot_be_shared_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="a batch of 8 for 3 processes with 1 pieces each"):
        batches(crops_of(dataset), 8, world=3)


def test_a_target_knows_where_the_crop_lies(dataset: Dataset) -> None:
    """Here it says so itself; the region's pixels, resized, are the crop."""

    def target(index: int, at: Placement) -> torch.Tensor:
        return torch.tensor([index, at.left, at.top, at.right, at.bottom, at.mirrored, *at.image_px])

    crops = Crops(dataset, Augmentation(64, (72, 100), True, 0.0, "bicubic"), seed=0, epoch=0, target=target)
    for pixels, _, targets, _ in batches(crops, 8):
        for crop, row in zip(pixels, targets, strict=True):
            index, *box, mirrored, height, width = row.tolist()
            image = decode(dataset.items[int(index)].read_bytes())
            assert image.shape[:2] == (height, width)
            assert 0 <= box[0] < box[2] <= width + 1e-6 and 0 <= box[1] < box[3] <= height + 1e-6
            region = (box[0], box[1], min(box[2], width), min(box[3], height))
            cut = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC, region))
            difference = np.abs((cut[:, ::-1] if mirrored else cut).astype(int) - crop.numpy()).max()
            assert difference <= 1  # the edges are rounded to f32 here


def test_central_views_are_those_of_the_protocol(dataset: Dataset) -> None:
    spec = slim_spec("A")
    seen = list(center_batches(Centers(dataset, spec), 10))
    assert [len(labels) for _, labels, _ in seen] == [10] * 6 + [4]
    pixels, labels, places = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert labels.tolist() == [item.label for item in dataset.items]
    assert places.tolist() == list(range(64))
    for index in (0, 7, 63):
        image = decode(dataset.items[index].read_bytes())
        view = plan_views(spec, "center", image.shape[:2]).views[0]
        assert np.array_equal(render(image, [view], spec)[0], pixels[index].numpy())
    others = [list(center_batches(Centers(dataset, spec), 10, rank=rank, world=3)) for rank in range(3)]
    for rank, share in enumerate(others):
        assert torch.equal(torch.cat([labels for _, labels, _ in share]), labels[rank::3])
        assert torch.equal(torch.cat([places for *_, places in share]), places[rank::3])


def test_central_views_turn_images_as_the_spec_says(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(noise((90, 120))).save(tmp_path / "a" / "1.png", exif=exif)
    plain = slim_spec("A")
    turning = dataclasses.replace(plain, preprocessing=dataclasses.replace(plain.preprocessing, exif="apply"))
    seen = [Centers(open_dataset(tmp_path), spec)[0] for spec in (plain, turning)]
    assert seen[0] is not None and seen[1] is not None
    assert not torch.equal(seen[0][0], seen[1][0])
    difference = np.abs(np.rot90(seen[0][0].numpy(), -1).astype(int) - seen[1][0].numpy())
    assert np.median(difference) <= 2  # resized the other way round first


def test_crops_are_of_the_turned_image_where_a_recipe_says_so(tmp_path: Path) -> None:
    seen = []
    for turned in (False, True):
        folder = tmp_path / str(turned) / "a"
        folder.mkdir(parents=True)
        exif = Image.Exif()
        exif[0x0112] = 1 if turned else 6  # to be turned by 90 degrees
        pixels = noise((90, 120))
        Image.fromarray(np.rot90(pixels, -1) if turned else pixels).save(folder / "1.png", exif=exif)
        crops = Crops(open_dataset(folder.parent), AUGMENTATION, seed=0, epoch=0, exif="apply")
        seen.append(crops[0][0])
    assert torch.equal(*seen)

    spec = dataclasses.replace(MINI_A, exif="apply").spec(("a", "b"), (), (1.0, 2.0, 3.0))
    assert spec.preprocessing.exif == "apply" and MINI_A.spec(("a", "b"), (), (1.0,) * 3).preprocessing.exif == "ignore"
    assert '"exif"' not in MINI_A.to_json()  # or no run from before could be gone on with


def test_a_central_view_s_target_knows_where_it_lies(dataset: Dataset) -> None:
    def target(index: int, at: Placement) -> torch.Tensor:
        return torch.tensor([at.left + at.right, at.top + at.bottom, at.right - at.left, at.bottom - at.top])

    spec = slim_spec("A")
    for index, (_, found, _) in enumerate(Centers(dataset, spec, target)[i] for i in range(8)):
        height, width = decode(dataset.items[index].read_bytes()).shape[:2]
        pixel = min(height, width) / spec.test_short_px
        assert found[:2].tolist() == pytest.approx([width, height], abs=2 * pixel)
        assert found[2:].tolist() == pytest.approx([64 * pixel] * 2, rel=0.02)


def test_central_views_leave_out_what_cannot_be_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a" / "1.png")
    (tmp_path / "b" / "2.png").write_bytes(b"no image")
    seen = list(center_batches(Centers(open_dataset(tmp_path), slim_spec("A")), 1))
    assert [(labels.tolist(), places.tolist()) for _, labels, places in seen] == [([0], [0])]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (cut_short, ImageError, r"^a/1\.png: truncated or damaged PNG$"),
        (Path.unlink, DatasetError, r"^a/1\.png: cannot be read \(No such file or directory\) from /\S*/a/1\.png$"),
    ],
)
def test_an_image_that_is_no_good_is_named_in_one_line(
    spoil: Callable[[Path], None], error: type[Exception], said: str, tmp_path: Path
) -> None:
    """Though it is another process that finds it."""
    (tmp_path / "a").mkdir()
    for name in "12":
        Image.fromarray(noise((90, 90))).save(tmp_path / "a" / f"{name}.png")
    dataset = open_dataset(tmp_path)
    spoil(tmp_path / "a" / "1.png")
    with pytest.raises(error, match=said):
        list(batches(crops_of(dataset), 2))


def test_an_archive_that_was_changed_meanwhile_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        picture = tmp_path / "1.png"
        Image.fromarray(noise((90, 90))).save(picture)
        archive.add(picture, "a/1.png")
        picture.unlink()
    dataset = open_dataset(tmp_path, "train")
    os.utime(tmp_path / "train.tar", ns=(0, 0))
    with pytest.raises(
        DatasetError, match=r"^train/a/1\.png: cannot be read \(the archive was changed\) from /\S*tar$"
    ):
        list(batches(crops_of(dataset), 1))
    with pytest.raises(DatasetError, match="the archive was changed"):  # which is not one bad image
        list(center_batches(Centers(dataset, slim_spec("A")), 1))


@pytest.mark.parametrize("kind", ["nested tars", "webdataset", "parquet"])
def test_archives_train_as_folders_do(kind: str, dataset: Dataset, miniature_dir: Path, tmp_path: Path) -> None:
    """ILSVRC2012_img_train.tar with a tar of each class inside, as it is distributed; nothing is unpacked."""
    folders = sorted(path for path in (miniature_dir / TRAIN).iterdir())
    if kind == "nested tars":
        with tarfile.open(tmp_path / f"{TRAIN}.tar", "w") as whole:
            for folder in folders:
                inner = tmp_path / f"{folder.name}.tar"
                with tarfile.open(inner, "w") as archive:
                    for image in sorted(folder.iterdir()):
                        archive.add(image, image.name)
                whole.add(inner, inner.name)
                inner.unlink()
        packed = open_dataset(tmp_path / f"{TRAIN}.tar", "train")
    elif kind == "parquet":
        rows = [{"bytes": item.read_bytes(), "path": item.name} for item in dataset.items]
        table = pa.table({"image": rows, "label": [item.label for item in dataset.items]})
        pq.write_table(table, tmp_path / "train-00000-of-00001.parquet", row_group_size=7)
        packed = open_dataset(tmp_path, "train")
    else:
        with tarfile.open(tmp_path / "train-000000.tar", "w") as archive:
            for label, folder in enumerate(folders):
                for image in sorted(folder.iterdir()):
                    archive.add(image, f"{image.stem}.jpg")
                    info = tarfile.TarInfo(f"{image.stem}.cls")
                    info.size = len(str(label))
                    archive.addfile(info, io.BytesIO(str(label).encode()))
        packed = open_dataset(tmp_path, "train")
    assert [item.label for item in packed.items] == [item.label for item in dataset.items]
    for one, other in zip(batches(crops_of(dataset), 16), batches(crops_of(packed), 16), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "Connection reset by peer"),
        EOFError(),
        RuntimeError("DataLoader worker (pid 5) exited"),
    ],
)
def test_whatever_tells_of_a_killed_process_its_end_is_said(
    error: Exception, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which error comes depends on where the process was: in a message, or between two."""

    def receive(batches: Any) -> Iterator[Any]:
        os.kill(batches._workers[0].pid, signal.SIGKILL)
        raise error
        yield

    monkeypatch.setattr(trainer.data.batches, "ahead", receive)
    with pytest.raises(ProcessLost, match=r"that decodes images was ended by SIGKILL, .* go on with --resume"):
        list(batches(crops_of(dataset), 8))
