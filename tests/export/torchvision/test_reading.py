"""export/torchvision/reading.py: what training scripts save, and what is refused with the line that helps."""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import re
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision_nets
from torch import Tensor, nn

from export.from_torchvision import main
from export.torchvision.reading import WeightsError, read_state_dict

STATE = torchvision_nets.make("vgg11").state_dict()
OTHER = {name: tensor * 1.01 for name, tensor in STATE.items()}
DEEP = torchvision_nets.make("googlenet").state_dict()


def prefixed(prefix: str, state: Mapping[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def assert_same(got: Mapping[str, Tensor], expected: Mapping[str, Tensor] = STATE) -> None:
    floats = {name: t for name, t in expected.items() if t.is_floating_point()}
    assert got.keys() == floats.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in floats.items())


def read(content: Any, folder: Path, entry: str = "") -> Any:
    torch.save(content, folder / "file.pth")
    return read_state_dict(folder / "file.pth", entry)


@pytest.mark.parametrize("state", [STATE, DEEP], ids=["vgg", "googlenet"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.model.module.", "module._orig_mod.net."])
def test_prefixes(prefix: str, state: Any, tmp_path: Path) -> None:
    assert_same(read(prefixed(prefix, state), tmp_path).tensors, state)


def test_wrappers_within_a_name(tmp_path: Path) -> None:
    inner = {re.sub(r"^(features|classifier)\.", r"\1.module._orig_mod.", name): t for name, t in STATE.items()}
    assert_same(read(inner, tmp_path).tensors)
    with pytest.raises(WeightsError, match="is there twice, with a wrapper's prefix and without"):
        read({**STATE, "features.module.0.bias": STATE["features.0.bias"]}, tmp_path)


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        ({"state_dict": STATE, "state_dict_ema": OTHER}, "weights from entry state_dict, not state_dict_ema (--entry)"),
        ({"model_ema": OTHER, "model": STATE}, "weights from entry model, not model_ema (--entry)"),
        ({"epoch": 3, "model_state_dict": STATE}, "weights from entry model_state_dict"),
        ({"net": prefixed("module."), "acc": 91.2}, "weights from entry net"),
        ({"best": STATE, "model_ema": OTHER}, "weights from entry best, not model_ema (--entry)"),
        ({"checkpoint": {"model": {"state_dict": STATE}}}, "weights from entry checkpoint.model.state_dict"),
        ({"model_ema": {**prefixed("module."), "n_averaged": torch.tensor(7)}}, "weights from entry model_ema"),
        ({**prefixed("student."), **prefixed("teacher.", OTHER)}, "weights from entry student, not teacher (--entry)"),
        ({**STATE, **prefixed("ema.", OTHER)}, "weights from entry the file itself, not ema (--entry)"),
        ({**STATE, "criterion.weight": torch.ones(3), "val_acc.total": torch.ones(1)}, "without criterion, val_acc"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_entries(content: Any, remark: str, tmp_path: Path) -> None:
    found = read(content, tmp_path)
    assert_same(found.tensors)
    assert remark in ", ".join(found.remarks)


def test_the_entry_that_is_asked_for(tmp_path: Path) -> None:
    content = {"model": STATE, "model_ema": {"module": OTHER}}
    assert_same(read(content, tmp_path, "model_ema.module").tensors, OTHER)
    with pytest.raises(WeightsError, match=r"--entry ema: expected one of model, model_ema\.module"):
        read(content, tmp_path, "ema")
    both = {**STATE, **prefixed("ema.", OTHER)}
    assert_same(read(both, tmp_path, "ema").tensors, OTHER)


def test_nothing_tells_which_is_meant(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds 2 nets: choose one with --entry, of first, second"):
        read({"first": STATE, "second": OTHER}, tmp_path)


def test_what_may_be_a_part_of_the_net(tmp_path: Path) -> None:
    """A second head behind a whole VGG: the net in it alone would be another function."""
    with pytest.raises(WeightsError, match=r"tensor 'head\.weight' lies beside the net 'backbone' and may be a part"):
        read({**prefixed("backbone."), "head.weight": torch.ones(5, 10)}, tmp_path)


class AttributeDict(dict[str, Any]):
    """Lightning's, which is not installed here: a dict of another name."""


AttributeDict.__module__, AttributeDict.__qualname__ = "lightning.fabric.utilities.data", "AttributeDict"


def test_values_that_training_scripts_leave_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """argparse's, paths, dates, NumPy's scalars and arrays, dicts and lists of other kinds, old and new format."""
    import sys
    import types

    for name in ("lightning", "lightning.fabric", "lightning.fabric.utilities", "lightning.fabric.utilities.data"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["lightning.fabric.utilities.data"].AttributeDict = AttributeDict  # type: ignore[attr-defined]
    counts: Any = defaultdict(list, {"a": [1]})
    content = {
        "args": argparse.Namespace(lr=0.1, data=pathlib.PurePosixPath("/data"), out=pathlib.PureWindowsPath("c:/x")),
        "hyper_parameters": AttributeDict(data=pathlib.Path("/data"), width=np.float64(0.5)),
        "started": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
        "took": datetime.timedelta(seconds=5),
        "best": np.float32(71.5),
        "rng": np.arange(5),
        "history": deque([1, 2]),
        "counts": counts,
        "callbacks": OrderedDict(checkpoint={"dirpath": pathlib.PosixPath("/runs")}),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "state_dict": STATE,
    }
    for new in (True, False):
        torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=new)
        assert_same(read_state_dict(tmp_path / "file.pth").tensors)


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.mark.parametrize("command", [exec, pathlib.Path.write_text, getattr, os.system])
def test_code_beside_the_weights_does_not_run(command: Any, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    arguments: Any = {exec: (f"open({str(ran)!r}, 'w')",), getattr: ("x", "upper")}.get(command, (f"touch {ran}",))
    if command is pathlib.Path.write_text:
        arguments = (ran, "x")
    with pytest.raises(WeightsError, match="refused, it holds pickled code"):
        read({"state_dict": STATE, "args": Call(command, *arguments)}, tmp_path)
    assert not ran.exists()


def test_a_whole_model_and_a_checkpoint_with_code(tmp_path: Path) -> None:
    for new in (True, False):
        torch.save(nn.Linear(2, 2), tmp_path / "whole.pth", _use_new_zipfile_serialization=new)
        with pytest.raises(WeightsError, match=r"a whole model, torch\.nn\.modules\.linear\.Linear") as caught:
            read_state_dict(tmp_path / "whole.pth")
        saves = r"torch.save(torch.load('whole.pth', weights_only=False).state_dict(), 'weights.pth')"
        assert saves in str(caught.value)
        torch.save(
            {"state_dict": STATE, "net": nn.Linear(2, 2)}, tmp_path / "c.pth", _use_new_zipfile_serialization=new
        )
        saves = r"torch.save(torch.load('c.pth', weights_only=False)['state_dict'], 'weights.pth')"
        with pytest.raises(WeightsError, match=re.escape(saves)):
            read_state_dict(tmp_path / "c.pth")
    torch.save({"model": STATE, "net": nn.Linear(2, 2)}, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"weights_only=False\)\['model'\], 'weights\.pth'\)"):
        read_state_dict(tmp_path / "c.pth")
    torch.save(STATE, tmp_path / "c.pth", pickle_protocol=4)
    with pytest.raises(WeightsError, match=r"pickled by protocol 4 or later, .*torch\.save\(torch\.load\('c\.pth'"):
        read_state_dict(tmp_path / "c.pth")


def test_the_line_that_helps_makes_a_file_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision_nets.make("vgg11"), "whole.pth")
    with pytest.raises(WeightsError) as caught:
        read_state_dict(Path("whole.pth"))
    line = re.search(r"torch\.save\(.*?'weights\.pth'\)", str(caught.value))
    assert line is not None
    exec(line[0])
    assert_same(read_state_dict(Path("weights.pth")).tensors)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive(tmp_path: Path) -> None:
    torch.jit.trace(torchvision_nets.make("vgg11"), torch.zeros(1, 3, 224, 224)).save(str(tmp_path / "script.pt"))
    with pytest.raises(
        WeightsError, match=r"a TorchScript archive, which is a program: save its weights, torch\.save\("
    ):
        read_state_dict(tmp_path / "script.pt")
    torch.save(torch.jit.load(tmp_path / "script.pt").state_dict(), tmp_path / "weights.pth")
    assert_same(read_state_dict(tmp_path / "weights.pth").tensors)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_pointer_of_git_lfs(name: str, tmp_path: Path, one_line: Callable[[], str]) -> None:
    path = tmp_path / name
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 553433881\n")
    assert main([str(path), "-o", str(tmp_path / "a.pt")]) == 1
    assert one_line() == f"{path}: a git-lfs pointer, not the file: git lfs pull"
