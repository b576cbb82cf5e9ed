"""infer/pixels/nvjpeg.py on a double that is NOT nvImageCodec, and its calls on the real library's CPU decoders."""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from typing import Any

import fake_nvimgcodec
import numpy as np
import pytest
from conftest import Photos
from fake_nvimgcodec import one_level_off
from helpers import encode
from image_files import encoded
from numpy.typing import NDArray
from PIL import Image

from infer.pixels import nvjpeg
from infer.pixels.decode import ImageError, decode
from infer.pixels.nvjpeg import DecoderError, NvJpeg, open_decoder


@pytest.fixture
def photo(photos: Photos) -> NDArray[np.uint8]:
    return np.ascontiguousarray(photos["cat"][:101, :153])


def outcome(decoder: nvjpeg.Decode, data: bytes, exif: Any) -> NDArray[np.uint8] | str:
    try:
        return decoder(data, exif=exif, name="a")
    except ImageError as error:
        return str(error)


def test_the_cpus_decoder_is_decode() -> None:
    assert open_decoder("cpu") is decode


def test_plain_jpegs_are_the_gpus(photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = fake_nvimgcodec.install(monkeypatch)
    decoder = open_decoder("nvjpeg")
    assert len(decoded) == 1  # the one by which it proves itself
    for options in ({}, {"progressive": True}, {"subsampling": 2}):
        data = encode(photo, "JPEG", **options)
        got = decoder(data)
        assert np.array_equal(got, one_level_off(decode(data)))
        assert (got.dtype, got.flags.owndata) == (np.uint8, True)
        assert decoded[-1] == data


@pytest.mark.parametrize("exif", ["ignore", "apply"])
def test_every_other_file_has_the_cpus_outcome(photos: Photos, exif: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """CMYK, rotations to apply, other kinds, files that end early, and what is no image."""
    decoded = fake_nvimgcodec.install(monkeypatch)
    decoder = NvJpeg()
    found = encoded(photos)
    for name, data in found.items():
        got, expected = outcome(decoder, data, exif), outcome(decode, data, exif)
        on_gpu = data in decoded
        assert type(got) is type(expected), name
        assert np.array_equal(got, one_level_off(expected) if on_gpu else expected), name  # type: ignore[arg-type]

    names = {name for name, data in found.items() if data in decoded}
    assert {"plain.jpg", "grey.jpg", "progressive.jpg", "subsampling2.jpg"} <= names
    assert ("exif6.jpg" in names) == (exif == "ignore")
    assert not {"cmyk.jpg", "cut5.jpg", "cut.png", "text.jpg", "empty.jpg", "plain.png"} & names


def test_what_the_gpu_refuses_is_the_cpus(photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(photo, "JPEG")
    fake_nvimgcodec.install(monkeypatch, refuses=lambda file: file == data)
    assert np.array_equal(NvJpeg()(data), decode(data))


def test_each_thread_has_its_own_decoder(photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvimgcodec.install(monkeypatch)
    decoder, data = NvJpeg(), encode(photo, "JPEG")
    found: list[NDArray[np.uint8]] = []
    threads = [threading.Thread(target=lambda: found.append(decoder(data))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    with pytest.raises(DecoderError, match=r"nvImageCodec is not installed .*pip install 'verydeep\[nvjpeg\]'"):
        open_decoder("nvjpeg")


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvimgcodec.install(monkeypatch)
    with pytest.raises(DecoderError, match=r"cannot decode on GPU 1 \(Internal error - Could not create decoder"):
        open_decoder("nvjpeg", device=1)


def test_without_nvjpeg_all_would_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvimgcodec.install(monkeypatch, refuses=lambda _: True)
    with pytest.raises(DecoderError, match="refuses a plain JPEG on GPU 0: it needs an NVIDIA driver, a GPU and nvJPE"):
        open_decoder("nvjpeg")


def test_channels_in_another_order_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvimgcodec.install(monkeypatch, picture=lambda pixels: pixels[..., ::-1])
    with pytest.raises(DecoderError, match=r"decodes a JPEG \d+ grey levels off, expected at most 2"):
        open_decoder("nvjpeg")


def test_a_gpu_that_fails_stops_the_run(photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than that some images of it had other pixels."""

    def fail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if pixels.shape == photo.shape:
            raise RuntimeError("CUDA Runtime failure: '#2'\nat device_buffer.cpp")
        return pixels

    fake_nvimgcodec.install(monkeypatch, picture=fail)
    decoder = NvJpeg()
    with pytest.raises(DecoderError, match=r"GPU 0 failed \(CUDA Runtime failure: '#2'\)$"):
        decoder(encode(photo, "JPEG"))


@pytest.mark.skipif(importlib.util.find_spec("nvidia") is None, reason="nvImageCodec is not installed")
def test_the_calls_are_the_real_librarys(photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    """nvImageCodec itself, on its own CPU decoders: the device that stands for none, libjpeg-turbo's pixels."""
    codec = pytest.importorskip("nvidia.nvimgcodec")
    assert tuple(map(int, codec.__version__.split(".")[:2])) >= (0, 9)
    monkeypatch.setattr(nvjpeg, "BACKENDS", ("CPU_ONLY",))
    decoder = NvJpeg(codec.NVIMGCODEC_DEVICE_CPU_ONLY)
    for image in (photo, Image.fromarray(photo).convert("L")):
        data = encode(image, "JPEG", subsampling=2)
        got = decoder._on_gpu(data, "ignore")
        assert got is not None
        assert np.array_equal(got, decode(data))

    whole = encode(photo, "JPEG")
    assert decoder._on_gpu(whole[:40] + b"\xff\xd9", "ignore") is None
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(decoder._on_gpu(whole, "ignore")))
    thread.start()
    thread.join()
    assert np.array_equal(found[0], decode(whole))


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_the_real_library_says_that_there_is_no_gpu() -> None:
    pytest.importorskip("nvidia.nvimgcodec")
    with pytest.raises(DecoderError, match=r"cannot decode on GPU 0 \(.*\): it needs an NVIDIA driver, a GPU and nvJP"):
        open_decoder("nvjpeg")


@pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="no GPU")
def test_on_a_gpu(photo: NDArray[np.uint8], record_property: Any) -> None:
    """How far nvJPEG is from libjpeg; the same pixels every time, and in every thread."""
    pytest.importorskip("nvidia.nvimgcodec")
    decoder = NvJpeg()
    for options in ({"subsampling": 0}, {"subsampling": 2}, {"progressive": True}):
        data = encode(photo, "JPEG", quality=90, **options)
        got = decoder._on_gpu(data, "ignore")
        assert got is not None
        difference = np.abs(got.astype(int) - decode(data))
        record_property(f"{options}", f"mean {difference.mean():.3f}, largest {difference.max()}")
        assert difference.mean() < nvjpeg.CLOSE

        again: list[NDArray[np.uint8]] = []
        thread = threading.Thread(target=lambda data=data, again=again: again.append(decoder(data)))
        thread.start()
        thread.join()
        assert np.array_equal(again[0], got)
