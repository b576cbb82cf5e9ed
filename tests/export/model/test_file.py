"""export/model/file.py: external data through the links of a hub's cache, as ONNX Runtime itself opens it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_nets import foreign_net, weights
from helpers import noise

from export.from_onnx import ImportRequest, import_model
from export.model import file as model_file
from export.model.file import ModelFileError
from infer.open import open_engine
from infer.spec import Preprocessing
from infer.views import plan_views

WEIGHTS = weights()
REQUEST = ImportRequest(Preprocessing((123.0, 116.0, 103.0), (58.0, 57.0, 56.0), "bilinear"))


def in_a_cache(folder: Path, where: str = "blobs") -> Path:
    """A model and its data as huggingface_hub keeps them: links in a snapshot to files called by their digests."""
    blobs, snapshot, data = folder / "blobs", folder / "snapshots" / "abc" / "onnx", folder / where
    for path in (blobs, snapshot, data):
        path.mkdir(parents=True, exist_ok=True)
    model = foreign_net(WEIGHTS, side=64)
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    (folder / "m.onnx").rename(blobs / "1111")
    (folder / "model.onnx_data").rename(data / "2222")
    (snapshot / "model.onnx").symlink_to("../../../blobs/1111")
    (snapshot / "model.onnx_data").symlink_to(os.path.relpath(data / "2222", snapshot))
    return snapshot / "model.onnx"


def test_a_hubs_cache(tmp_path: Path) -> None:
    path = in_a_cache(tmp_path)
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    engines = []
    onnx.save(foreign_net(WEIGHTS, side=64), tmp_path / "plain.onnx")
    for source in (path, tmp_path / "plain.onnx"):
        import_model(source, tmp_path / "ours.onnx", REQUEST)
        engines.append(open_engine(tmp_path / "ours.onnx"))
    image, plan = noise((80, 100)), plan_views(engines[0].spec, "ten-crop", (80, 100))
    one, other = (engine.run(engine.load([image]), [plan])["posterior"] for engine in engines)
    assert np.array_equal(one, other)


def test_a_link_out_of_the_cache(tmp_path: Path) -> None:
    """Refused by both: a stranger's archive could link to any file."""
    path = in_a_cache(tmp_path, "elsewhere")
    with pytest.raises(ModelFileError, match="outside the model's folder or through a link"):
        model_file.read(path)
    with pytest.raises(Exception, match=r"escapes|outside|External data path"):
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_external_data_that_is_a_pointer(tmp_path: Path) -> None:
    path = in_a_cache(tmp_path)
    (tmp_path / "blobs" / "2222").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ModelFileError, match=r"external data in 'model.onnx_data': a git-lfs pointer, not the file"):
        model_file.read(path)


def test_a_model_of_two_files_is_never_half_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash at any moment leaves the old pair, the new pair or no model, and both files are as readable."""
    monkeypatch.setattr(model_file, "ONE_FILE_BYTES", 100)
    old, new = foreign_net(WEIGHTS, side=64), foreign_net(weights(seed=1), side=64)
    path, crashes = tmp_path / "m.onnx", 0
    model_file.save(old, path)
    modes = [name.stat().st_mode & 0o777 for name in (path, tmp_path / "m.onnx.data")]
    assert modes == [0o666 & ~umask()] * 2

    def values(model: onnx.ModelProto) -> list[bytes]:
        return sorted(tensor.raw_data for tensor in model.graph.initializer)

    for step in range(12):
        model_file.save(old, path)
        with monkeypatch.context() as patch:
            crash_at(step, patch)
            try:
                model_file.save(new, path)
            except KeyboardInterrupt:
                crashes += 1
        if path.exists():
            assert values(model_file.read(path)) in (values(old), values(new)), step
        assert {found.name for found in tmp_path.iterdir()} <= {"m.onnx", "m.onnx.data"}
    assert 5 <= crashes < 12
    assert values(model_file.read(path)) == values(new)


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def crash_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Interrupts the call number `step` of those that change names."""
    calls = 0

    def watched(real: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step + 1:
                raise KeyboardInterrupt
            return real(*given, **named)

        return call

    for place, name in ((model_file.os, "replace"), (model_file, "sync"), (Path, "unlink")):
        patch.setattr(place, name, watched(getattr(place, name)))
