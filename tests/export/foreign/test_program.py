"""A .pt2 is copied without whatever torch.export.load would unpickle, evaluate or call."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from export.foreign.program import copy_program
from export.foreign.surgery import ForeignError

Change = Callable[[dict[str, bytes]], None]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)
        self.register_buffer("shift", torch.arange(3.0)[:, None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x + self.shift)).mean((2, 3)))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A program with open sizes, as torch.export.save writes it, and its net."""
    torch.manual_seed(0)
    path, net = tmp_path_factory.mktemp("program") / "net.pt2", Net().eval()
    auto = torch.export.Dim.AUTO
    sizes = ({0: auto, 2: auto, 3: auto},)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 16, 16),), dynamic_shapes=sizes), path)
    return path, net


def changed(path: Path, out: Path, change: Change, kind: int = zipfile.ZIP_STORED) -> Path:
    """The archive with other entries, by their names in its folder."""
    with zipfile.ZipFile(path) as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, content in entries.items():
            archive.writestr(f"net/{name}", content)
    return out


class Bomb:
    """Pickled, it makes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def put(name: str, content: bytes) -> Change:
    return lambda entries: entries.update({name: content})


def edited(name: str, edit: Callable[[Any], Any]) -> Change:
    def change(entries: dict[str, bytes]) -> None:
        content = json.loads(entries[name])
        edit(content)
        entries[name] = json.dumps(content).encode()

    return change


MODEL, WEIGHTS, CONSTANTS = (
    *("models/model.json", "data/weights/model_weights_config.json"),
    "data/constants/model_constants_config.json",
)


def nodes(model: Any) -> Any:
    return model["graph_module"]["graph"]["nodes"]


def test_the_copy_answers_the_same(program: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, net = program
    copy_program(path, tmp_path / "copy.pt2")
    loaded = torch.export.load(tmp_path / "copy.pt2")
    x = torch.randn(3, 3, 20, 31)
    assert torch.equal(loaded.module()(x), net(x))
    names = zipfile.ZipFile(tmp_path / "copy.pt2").namelist()
    assert "program/data/sample_inputs/model.pt" in names and "program/.data/serialization_id" not in names


def test_pickled_samples_are_left_out(program: tuple[Path, nn.Module], tmp_path: Path) -> None:
    """torch.export.load itself runs what lies there; of the copy it runs nothing."""
    mark = tmp_path / "was-run"
    planted = changed(
        program[0], tmp_path / "p.pt2", put("data/sample_inputs/model.pt", pickle.dumps(Bomb(mark), protocol=2))
    )
    with contextlib.suppress(Exception):  # of whatever kind, after it has run
        torch.export.load(planted)
    assert mark.exists()
    mark.unlink()
    copy_program(planted, tmp_path / "copy.pt2")
    torch.export.load(tmp_path / "copy.pt2")
    assert not mark.exists()


def pickled(name: str, listed: str, tensor: str, payload: str) -> Change:
    """An entry of a list of tensors that says it is a pickle."""

    def edit(config: Any) -> None:
        config["config"][tensor] |= {"path_name": payload, "use_pickle": True}

    def change(entries: dict[str, bytes]) -> None:
        edited(listed, edit)(entries)
        entries[name + payload] = pickle.dumps(Bomb(Path("/nowhere")), protocol=2)

    return change


def calls(target: str) -> Change:
    return edited(MODEL, lambda model: nodes(model)[0].update(target=target))


def sized(text: str) -> Change:
    def edit(model: Any) -> None:
        model["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0] = {"as_expr": {"expr_str": text, "hint": None}}

    return edited(MODEL, edit)


def takes(kind: Any, context: Any = None) -> Change:
    def edit(model: Any) -> None:
        spec = {"type": kind, "context": json.dumps(context), "children_spec": []}
        model["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps([1, spec])

    return edited(MODEL, edit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pickled("data/weights/", WEIGHTS, "head.bias", "weight_9"), "its 'head.bias' is a pickle, which is not read"),
        (pickled("data/constants/", CONSTANTS, "shift", "tensor_9"), "its 'shift' is a pickle"),
        (pickled("data/constants/", CONSTANTS, "shift", "custom_obj_0"), "its 'shift' is a pickle"),
        (pickled("data/constants/", CONSTANTS, "shift", "opaque_obj_0"), "its 'shift' is a pickle"),
        (
            edited(CONSTANTS, lambda config: config["config"]["shift"].update(path_name="opaque_obj_0")),
            "its 'shift' is a pickle",
        ),
        (
            edited(WEIGHTS, lambda config: config["config"]["head.bias"].update(path_name="../../weight_0")),
            "its 'head.bias' is a pickle",
        ),
        (lambda entries: entries.pop("data/weights/weight_0"), "lacks data/weights/weight_0, which its list names"),
        (lambda entries: entries.pop(WEIGHTS), "holds its weights as a pickle, which is not read"),
        (put("data/aotinductor/model/m.so", b"\x7fELF"), "holds compiled code (data/aotinductor/model/m.so)"),
        (put("models/other.json", b"{}"), "holds models/model.json, models/other.json, expected one program"),
        (put(MODEL, b"{"), "models/model.json: not readable ("),
        (put(MODEL, b"[]"), "models/model.json: no program"),
        (put(MODEL, b"[" * 100_000), "models/model.json: not readable ("),
        (calls("torch.hub.load"), "calls 'torch.hub.load', expected operators of ATen"),
        (calls("torch.ops.aten.from_file.default"), "calls 'torch.ops.aten.from_file.default'"),
        (calls("torch.ops.mine.load.default"), "calls 'torch.ops.mine.load.default'"),
        (calls("_operator.attrgetter"), "calls '_operator.attrgetter'"),
        (sized("__import__('os').system('true')"), "has the size \"__import__('os').system('true')\", expected a"),
        (sized("exec('1')"), "has the size \"exec('1')\""),
        (sized("(lambda: s0)()"), "has the size '(lambda: s0)()'"),
        (sized("Symbol('s0').__class__"), "has the size \"Symbol('s0').__class__\""),
        (sized("Symbol('__import__')"), "has the size \"Symbol('__import__')\""),
        (takes("collections.defaultdict", {"default_factory_module": "os"}), "takes or returns a collections.defaultd"),
        (takes("builtins.dict", {"enum": "os"}), "takes or returns its tensors by names that are none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_be_run_is_refused(
    change: Change, message: str, program: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    path = changed(program[0], tmp_path / "p.pt2", change)
    with pytest.raises(ForeignError, match=re.escape(message)) as caught:
        copy_program(path, tmp_path / "copy.pt2")
    assert "\n" not in str(caught.value)


def test_guards_are_left_out(program: tuple[Path, nn.Module], tmp_path: Path) -> None:
    """torch runs them as Python code when the program becomes a module."""
    mark = tmp_path / "was-run"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch() is None"
    path = changed(program[0], tmp_path / "p.pt2", edited(MODEL, lambda model: model.update(guards_code=[code])))
    copy_program(path, tmp_path / "copy.pt2")
    torch.export.load(tmp_path / "copy.pt2").module()(torch.randn(3, 3, 20, 31))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: torch.save({"a": torch.zeros(1)}, path), "no program of torch.export: expected a .pt2"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)), "not a readable program of torch.export ("),
        (lambda path: path.write_bytes(b""), "not a readable program of torch.export ("),
    ],
)
def test_files_that_are_no_programs(write: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / "p.pt2")
    with pytest.raises(ForeignError, match=re.escape(message)):
        copy_program(tmp_path / "p.pt2", tmp_path / "copy.pt2")


def test_the_form_of_before(program: tuple[Path, nn.Module], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        for name in ("version", "serialized_exported_program.json", "serialized_state_dict.pt"):
            archive.writestr(name, b"8.1")
    with pytest.raises(ForeignError, match=r"a program of torch before 2\.8, whose weights are pickles: load it with"):
        copy_program(tmp_path / "old.pt2", tmp_path / "copy.pt2")
    path = changed(program[0], tmp_path / "p.pt2", lambda entries: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(ForeignError, match=r"a compressed archive, expected one as torch\.export\.save writes it"):
        copy_program(path, tmp_path / "copy.pt2")
