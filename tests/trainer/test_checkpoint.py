"""trainer/checkpoint.py: what is saved comes back, and everything else is refused in one line."""

from __future__ import annotations

import io
import math
import os
import pickle
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import network_input, noise, random_net, slim_spec

from trainer.checkpoint import Checkpoint, CheckpointError, load, save, split_weights
from trainer.nets.zoo import build_net


def saved(path: Path, **changes: Any) -> Path:
    """A good checkpoint with changed content, below our own `save`."""
    save(Checkpoint(slim_spec("A"), random_net(slim_spec("A")).state_dict()), path)
    content = {**torch.load(path, weights_only=True), **changes}
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    return path


def refusal(path: Path) -> str:
    """The single line with which a file is refused; it starts with the file's name."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("net", ["A", "A-LRN", "googlenet"])
def test_round_trip(net: str, tmp_path: Path) -> None:
    spec = slim_spec(net, source={"recipe": "{}"}, class_names=tuple("0123456789"))
    model = random_net(spec)
    momentum = {name: torch.randn(tensor.shape) for name, tensor in model.named_parameters()}
    auxiliary = {"auxiliary.aux1.conv.weight": torch.randn(4, 4)}
    save(Checkpoint(spec, model.state_dict(), auxiliary, momentum, 7, '{"name": "x"}'), tmp_path / "ckpt.pt")
    again = load(tmp_path / "ckpt.pt")
    assert again.spec == spec
    assert (again.epochs_done, again.recipe) == (7, '{"name": "x"}')
    for before, after in (
        (model.state_dict(), again.weights),
        (auxiliary, again.auxiliary),
        (momentum, again.momentum),
    ):
        assert before.keys() == after.keys()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    built = again.build()
    assert not built.training
    x = network_input(noise((spec.crop_px, spec.crop_px)), spec)
    with torch.inference_mode():
        assert torch.equal(built(x), model(x))
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pt"]  # nothing unfinished


def test_content_is_what_the_contract_says(tmp_path: Path) -> None:
    spec = slim_spec("A")
    save(Checkpoint(spec, random_net(spec).state_dict()), tmp_path / "ckpt.pt")
    content = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    assert content["format"] == 1
    assert content["spec"] == spec.to_json()
    assert all(isinstance(tensor, torch.Tensor) for tensor in content["weights"].values())


def test_saving_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    path = saved(tmp_path / "ckpt.pt")
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        save(Checkpoint(slim_spec("A"), {"a": lambda: None}), path)  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pt"]


def test_inference_weights_have_no_auxiliary_heads() -> None:
    state = build_net(slim_spec("googlenet"), auxiliary_heads=True).state_dict()
    weights, auxiliary = split_weights(state)
    assert weights.keys() == build_net(slim_spec("googlenet")).state_dict().keys()
    assert len(auxiliary) == 2 * 3 * 2
    assert weights.keys() | auxiliary.keys() == state.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("conv3_2.bias"), "conv3_2.bias is missing, expected (32,)"),
        (lambda w: w.update({"conv3_3.bias": torch.zeros(3)}), "conv3_3.bias is (3,), expected no such tensor"),
        (lambda w: w.update({"fc6.weight": torch.zeros(32, 256)}), "fc6.weight is (32, 256), expected (32, 64, 2, 2)"),
        (lambda w: w.update({"fc8.bias": torch.zeros(1000)}), "fc8.bias is (1000,), expected (10,)"),
    ],
    ids=["missing", "unexpected", "flattened", "other classes"],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    weights = dict(random_net(slim_spec("A")).state_dict())
    change(weights)
    assert refusal(saved(tmp_path / "ckpt.pt", weights=weights)) == f"weights do not fit the net: {message}"


def test_a_net_of_another_name_is_refused(tmp_path: Path) -> None:
    message = refusal(saved(tmp_path / "ckpt.pt", spec=slim_spec("D").to_json()))
    assert message.startswith("weights do not fit the net: conv1_2.bias is missing")
    message = refusal(saved(tmp_path / "ckpt.pt", spec=slim_spec("F").to_json()))
    assert message.startswith("unknown net 'F'")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": None}, "a torch file, but not a checkpoint of ours"),
        ({"weights": None}, "a torch file, but not a checkpoint of ours"),
        ({"format": 2}, "checkpoint format 2, expected 1"),
        ({"spec": "{}"}, "not a model spec"),
        ({"spec": 5}, "not a model spec"),
        ({"spec": None}, ""),
        ({"weights": torch.zeros(3)}, ""),
        ({"weights": {"conv1_1.weight": "a string"}}, ""),
        ({"weights": ["a", "list"]}, ""),
    ],
    ids=str,
)
def test_a_torch_file_that_is_not_ours(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    got = refusal(saved(tmp_path / "ckpt.pt", **changes))
    assert got.startswith(message)
    assert len(got.split()) > 3, "a sentence, not the name of what is wrong"


@pytest.mark.parametrize("content", [{"state_dict": {"conv.weight": torch.zeros(2)}}, torch.zeros(3), [1, 2], 5])
def test_any_other_torch_file_names_the_importer(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "vgg16.pth")
    assert "export.from_torchvision" in refusal(tmp_path / "vgg16.pth")


class Malicious:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, pickle.DEFAULT_PROTOCOL])
@pytest.mark.parametrize("wrapped", [True, False])
def test_pickled_code_is_refused_and_does_not_run(tmp_path: Path, wrapped: bool, protocol: int) -> None:
    """Inside an otherwise good checkpoint, or a bare pickle. A warning of torch would be a second line."""
    trap, path = tmp_path / "trap", tmp_path / "ckpt.pt"
    code = Malicious(trap)
    if wrapped:
        saved(path)
        torch.save({**torch.load(path, weights_only=True), "recipe": code}, path, pickle_protocol=protocol)
    else:
        path.write_bytes(pickle.dumps(code, protocol))
    assert "pickled code" in refusal(path)
    assert not trap.exists()
    pickle.loads(pickle.dumps(code, protocol))  # the trap works
    assert trap.exists()


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(data: bytes) -> bytes:
    return b""


def text(data: bytes) -> bytes:
    return b"<html>404 not found</html>\n"


def other_zip(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "hello")
    return buffer.getvalue()


@pytest.mark.parametrize("damage", [truncate, empty, text, other_zip])
def test_damaged_and_foreign_files(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = saved(tmp_path / "ckpt.pt")
    path.write_bytes(damage(path.read_bytes()))
    assert refusal(path)


def test_a_flipped_bit_is_never_another_weight(tmp_path: Path) -> None:
    """The zip has a CRC-32 of each entry; torch.load does not look at it (a bit in the middle is in a tensor)."""
    path = saved(tmp_path / "ckpt.pt")
    whole = path.read_bytes()
    weights = load(path).weights
    noticed = 0
    for place in random.Random(1).sample(range(len(whole)), 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            again = load(path).weights
        except CheckpointError:
            noticed += 1
        else:  # padding between entries
            assert all(torch.equal(tensor, weights[name]) for name, tensor in again.items())
    assert noticed > 30
    path.write_bytes(whole)
    assert load(path)


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    """Compressed entries, and numbers that a stride of 0 makes many."""
    path = saved(tmp_path / "ckpt.pt")
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    assert refusal(path).startswith("a compressed archive, expected")

    spec = slim_spec("A", fc_width=20_000)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in build_net(spec).state_dict().items()}
    expanded = {name: torch.full((1,), 0.1).expand(shape) for name, shape in shapes.items()}
    message = refusal(saved(path, spec=spec.to_json(), weights=expanded))
    assert re.search(r"tensor '.*' of .* claim \d+ bytes in a file of \d+: refused", message)
    assert "tensor 'x' of [1000000000]" in refusal(saved(path, momentum={"x": torch.zeros(1).expand(10**9)}))


def test_the_format_before_zip_is_refused(tmp_path: Path) -> None:
    """The trainer never wrote it; it has no checksums, and declares sizes."""
    path = saved(tmp_path / "ckpt.pt")
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    assert "no checkpoint of ours" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {5: torch.zeros(3)}}, "a tensor is called '5', a int, expected a string"),
        ({"weights": {"a": torch.zeros(3).to_sparse()}}, "tensor 'a' is float32 sparse_coo, expected FP32 numbers"),
        ({"weights": {"a": torch.zeros(3).double()}}, "tensor 'a' is float64 strided, expected FP32 numbers"),
        ({"momentum": [torch.zeros(3)]}, "its momentum is list, expected tensors by name: it is damaged"),
        ({"average": {"a": 5}}, "entry 'a' is a int, expected tensors by name"),
        ({"format": torch.zeros(2)}, "checkpoint format tensor([0., 0.]), expected 1"),
    ],
    ids=str,
)
def test_an_entry_of_the_wrong_kind_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert refusal(saved(tmp_path / "ckpt.pt", **changes)) == message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing.pt") == "no such file, expected a checkpoint (.pt)"
    assert refusal(tmp_path) == "no such file, expected a checkpoint (.pt)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": 5}, "its momentum is int, expected tensors by name: it is damaged"),
        ({"momentum": {"fc8.bias": 5}}, "entry 'fc8.bias' is a int, expected tensors by name"),
        ({"iterate": {5: torch.zeros(1)}}, "a tensor is called '5', a int, expected a string"),
        ({"average": {"fc8.bias": torch.zeros(1, dtype=torch.int8)}}, "tensor 'fc8.bias' is int8 strided, expected"),
        ({"epochs_done": "x"}, "what it says of its run cannot be (Expected `int`, got `str` - at `$.epochs_done`)"),
        ({"epochs_done": -3}, "what it says of its run cannot be (Expected `int` >= 0 - at `$.epochs_done`)"),
        (
            {"steps_of_epoch": 10**30},
            "what it says of its run cannot be (Expected `int` <= 1000000000000 - at `$.s",
        ),
        ({"steps_of_epoch": torch.zeros(1)}, "what it says of its run cannot be (Expected `int`, got `Tensor` - at"),
        ({"sums": (1.0, math.nan, 1.0)}, "what it says of its run cannot be (sums are (1.0, nan, 1.0))"),
        ({"sums": (1.0, 2.0)}, "what it says of its run cannot be (Expected `array` of length 3, got 2 - at `$.sums`)"),
        ({"plateau": (0, math.nan, 0)}, "what it says of its run cannot be (plateau is (0, nan, 0))"),
        (
            {"plateau": (0.5, 1.0, 0)},
            "what it says of its run cannot be (Expected `int`, got `float` - at `$.plateau",
        ),
        ({"recipe": ["x"]}, "what it says of its run cannot be (Expected `str`, got `array` - at `$.recipe`)"),
        (
            {"scaler": {"scale": "x"}},
            "what it says of its run cannot be (Expected `int | float | null`, got `str` - at",
        ),
        ({"finished": 1}, "what it says of its run cannot be (Expected `bool`, got `int` - at `$.finished`)"),
    ],
    ids=str,
)
def test_a_state_of_a_run_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert refusal(saved(tmp_path / "ckpt.pt", **changes)).startswith(message)
