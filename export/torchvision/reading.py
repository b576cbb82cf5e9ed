"""Files of torch.save and safetensors as the tensors of one net, read as what a stranger sent.

No code of a file runs: values that a training script leaves beside its weights (its arguments, paths, dates) are known
by name and become nothing. trainer/torch_file.py keeps memory bounded by the file's size, and verifies checksums.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from infer.errors import Refused
from infer.files import POINTER, is_pointer
from trainer import torch_file
from trainer.torch_file import TorchFileError, first_line, short

MAX_HEADER_BYTES = 1_000_000
"""The longest header of a safetensors file: VGG-19 with batch norms takes 12,000."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTERS = ("num_batches_tracked", "n_averaged")
"""Counters of batch norms, and of torch.optim.swa_utils.AveragedModel."""
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "model_state", "weights", "params")
"""Entries that training scripts keep weights in, the likeliest first."""
AVERAGED = re.compile(r"ema|swa|averag|polyak|shadow|teacher|momentum|target", re.IGNORECASE)
"""Names of weights that are not what the last step left."""
TRANSPARENT = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of a name that DataParallel, torch.compile and FSDP put in, at any depth."""
BESIDE = re.compile(
    r"(.*_)?(criterion|loss|loss_fn|metric|acc|accuracy|auroc|f1|class_weight|pos_weight)s?(_fn|_func|_top\d+|\d*)",
    re.IGNORECASE,
)
"""Modules of a training program that have tensors and no part in the net: weights of a loss, counts of a metric."""
ANCHORS = ("features.0.weight", "inception3a.branch1.conv.weight")
"""A tensor that each net of torchvision's and timm's has, behind whatever prefix."""
DEPTH, MOST_ENTRIES = 3, 1000
"""Depth of entries within entries that are looked through for nets."""


class WeightsError(Refused):
    """A file that holds no weights that can be used; one line, without the file's name."""


class StateDict(NamedTuple):
    """Floating-point tensors by name, in the file's own types; and what was taken, where there was a choice."""

    tensors: dict[str, Tensor]
    remarks: tuple[str, ...] = ()


def read_state_dict(path: Path, entry: str = "") -> StateDict:
    """The tensors of a net; counters are left out, and prefixes of wrappers are taken off.

    Takes what torch.save wrote, of either format, or safetensors: a state dict, or a training checkpoint with one in
    it, of several the one called `entry`. Raises WeightsError.
    """
    if not path.is_file():
        raise WeightsError("no such file, expected weights (.pth, .safetensors)")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(200)
    if is_pointer(start):
        raise WeightsError(POINTER)

    try:
        with torch_file.memory_of(path):
            content = _read_safetensors(path, start) if start[8:9] == b"{" else _read_torch(path, start)
        state, remarks = _net_in(content, entry)
        torch_file.check_tensors(state, FLOATS, size)
    except TorchFileError as error:
        raise WeightsError(str(error)) from None
    return StateDict({name: tensor.detach() for name, tensor in state.items()}, remarks)


# The file


def _read_safetensors(path: Path, start: bytes) -> Any:
    import safetensors
    from safetensors.torch import load_file

    header = int.from_bytes(start[:8], "little")
    if header > min(MAX_HEADER_BYTES, path.stat().st_size - 8):
        raise WeightsError(f"declares a safetensors header of {header} bytes: truncated, or no safetensors file")
    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"not a readable safetensors file ({first_line(error)})") from None


def _read_torch(path: Path, start: bytes) -> Any:
    if start.startswith(torch_file.ARCHIVE):
        entries = torch_file.list_entries(path)
        _refuse_programs(path, [entry.filename.partition("/")[2] for entry in entries])
        torch_file.check_entries(path, entries)
    elif not start.startswith(b"\x80"):  # a pickle
        raise WeightsError("neither a file of torch.save (.pth) nor a safetensors file")

    try:
        return torch_file.load_values(path, _harmless())
    except pickle.UnpicklingError as error:
        raise WeightsError(_code_refused(path, str(error))) from None


def _refuse_programs(path: Path, names: Sequence[str]) -> None:
    """Raises WeightsError for an archive that holds a program, by the names of its entries."""
    instead = "export the model with torch.onnx.export and import that with python -m export.from_onnx"
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        save = f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
        raise WeightsError(f"a TorchScript archive, which is a program: save its weights, {save}, or {instead}")
    if any(name.startswith(("models/", "serialized_exported_program")) for name in names):
        raise WeightsError(f"a program of torch.export: save model.state_dict() with torch.save, or {instead}")


# Values beside the weights, by name. torch's own unpickler refuses every name but its own and these, and these are
# classes of this file: what a pickle calls and sets is lost, whatever it was.


class _Nothing:
    def __new__(cls, *_: Any, **__: Any) -> _Nothing:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None: ...


class _Mapping:
    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


class _List:
    def __new__(cls, *_: Any, **__: Any) -> Any:
        return []


PROTOCOL_4 = range(0x8C, 0x99)
"""Operators that came with protocols 4 and 5 (Python's pickletools), which torch's unpickler does not know."""
PATHS = ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
HARMLESS: dict[type, tuple[str, ...]] = {
    _Nothing: (
        *("argparse.Namespace", "types.SimpleNamespace", "uuid.UUID", "decimal.Decimal", "fractions.Fraction"),
        *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in PATHS),
        *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
        *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple", "slice", "range")),
        *(f"__builtin__.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple", "long")),
        *(f"numpy.{name}" for name in ("dtype", "ndarray", "float64", "float32", "int64", "int32", "bool_")),
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
        *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
        *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Float16", "Int64", "Int32", "Bool", "Str")),
        *("torch.torch_version.TorchVersion", "typing.Any"),
        *(f"omegaconf.base.{name}" for name in ("ContainerMetadata", "Metadata")),
        *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Boolean", "Float", "Integer", "String", "Path")),
        *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    ),
    _Mapping: (
        *("collections.defaultdict", "easydict.EasyDict", "yacs.config.CfgNode", "addict.addict.Dict"),
        *("pytorch_lightning.utilities.parsing.AttributeDict", "lightning_fabric.utilities.data.AttributeDict"),
        *("lightning.fabric.utilities.data.AttributeDict", "lightning.pytorch.utilities.parsing.AttributeDict"),
    ),
    _List: ("collections.deque",),
}


def _harmless() -> list[Any]:
    return [(stands_for, name) for stands_for, names in HARMLESS.items() for name in names]


def _code_refused(path: Path, said: str) -> str:
    """The refusal of a pickle: what code it wants, and how its sender saves what can be read."""
    refused = "refused, it holds pickled code (expected a state dict: tensors by name)"
    loaded = f"torch.load({path.name!r}, weights_only=False)"
    trusted = "If you trust the file, save what is read:"
    operand = re.search(r"Unsupported operand (\d+)", said)
    if operand and int(operand[1]) in PROTOCOL_4:
        newer = "pickled by protocol 4 or later, expected torch.save's own, 2"
        return f"{newer}. {trusted} torch.save({loaded}, 'weights.pth')"

    match = re.search(r"GLOBAL ([\w.]+)", said)
    if not match or match[1].split(".")[0] in ("builtins", "os", "posix", "nt", "sys", "subprocess", "shutil", "exec"):
        return refused
    if "." not in match[1]:  # of builtins, without its module
        return f"{refused}: {match[1]}"

    entry = _entry_of_a_dict(path)
    if entry:
        return (
            f"{refused}: {match[1][:80]}. {trusted} torch.save({loaded}[{entry!r}], 'weights.pth'), or the state_dict "
            "under another key"
        )
    return (
        f"{refused}: a whole model, {match[1][:80]}. {trusted} torch.save({loaded}.state_dict(), 'weights.pth'); of "
        "another net torch.onnx.export, for export.from_onnx"
    )


def _entry_of_a_dict(path: Path) -> str:
    """The likeliest entry with weights where the pickle of a file is a dict; "" where it is another object."""
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                    with archive.open(name) as data:
                        return _likeliest_entry(data)
            for _ in range(3):  # an old file's magic number, version and machine
                list(pickletools.genops(file))
            return _likeliest_entry(file)
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile):
        return ""


def _likeliest_entry(file: IO[bytes]) -> str:
    strings: set[str] = set()
    first = ""
    for code, argument, _ in pickletools.genops(file):
        if not first and code.name not in ("PROTO", "FRAME", "MARK"):
            first = "OrderedDict" if argument == "collections OrderedDict" else code.name
            if first not in ("EMPTY_DICT", "OrderedDict"):
                return ""
        if isinstance(argument, str) and len(strings) < MOST_ENTRIES * 100:
            strings.add(argument)
    return next((key for key in WRAPPERS if key in strings), WRAPPERS[0])


# The net in it


class Found(NamedTuple):
    """A net in a file: the entry that holds it, the prefix of its names there, and the entry's tensors."""

    entry: str
    prefix: str
    state: Mapping[str, Any]

    @property
    def name(self) -> str:
        return ".".join(part for part in (self.entry, self.prefix.rstrip(".")) if part)


def _net_in(content: Any, entry: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(values by name, remarks): the net of a file's content, of several the likeliest, and then it is said which."""
    found = [Found(name, prefix, state) for name, state in _entries(content) for prefix in _prefixes(state)]
    if not found:  # of another net, which is named later, or nothing
        if entry:
            raise WeightsError(f"--entry {entry}: holds no net of torchvision's or timm's")
        return _fallback(content), ()

    names = [one.name for one in found]
    if entry:
        if entry not in names:
            raise WeightsError(f"--entry {entry}: expected one of {_listed(names)}")
        taken = found[names.index(entry)]
    else:
        taken = _likeliest(found)

    state, left_out = _without_prefix(taken, [one.prefix for one in found if one.state is taken.state])
    others = [one.name or "the file itself" for one in found if one is not taken]
    remarks = []
    if others:
        remarks.append(f"weights from entry {taken.name or 'the file itself'}, not {_listed(others)} (--entry)")
    elif taken.entry:
        remarks.append(f"weights from entry {taken.name}")
    if left_out:
        remarks.append(f"without {_listed(left_out)}")
    return state, tuple(remarks)


def _entries(content: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every dict of tensors by name, with the names of the entries that lead to it, the outermost first."""
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    for name, value, depth in waiting:
        if not isinstance(value, dict):
            continue
        if value and all(isinstance(key, str) for key in value):
            yield name, value
        if depth < DEPTH:
            inner = [(key, one) for key, one in value.items() if isinstance(key, str) and isinstance(one, dict)]
            waiting += [(f"{name}.{key}" if name else key, one, depth + 1) for key, one in inner[:MOST_ENTRIES]]
        if len(waiting) > MOST_ENTRIES:
            return


def _prefixes(state: Mapping[str, Any]) -> list[str]:
    """The text that stands before the names of each net among these."""
    found = []
    for name, value in state.items():
        plain = _plain(name)
        for anchor in ANCHORS:
            prefix = plain.removesuffix(anchor)
            if isinstance(value, Tensor) and plain.endswith(anchor) and (not prefix or prefix.endswith(".")):
                found.append(prefix)
    return list(dict.fromkeys(found))


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in TRANSPARENT)


def _likeliest(found: list[Found]) -> Found:
    """The one that the last step left. Raises WeightsError where nothing tells which that is."""
    last = [one for one in found if not AVERAGED.search(one.name)] or found

    def rank(one: Found) -> int:
        key = one.name.split(".")[0]
        return WRAPPERS.index(key) if key in WRAPPERS else len(WRAPPERS) if key else -1

    best = min(map(rank, last))
    likeliest = [one for one in last if rank(one) == best]
    if len(likeliest) > 1:
        raise WeightsError(f"holds {len(found)} nets: choose one with --entry, of {_listed([o.name for o in found])}")
    return likeliest[0]


def _without_prefix(taken: Found, prefixes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """(values of the net by its own names, what lies beside it). Raises WeightsError for what may be a part of it."""
    others = [prefix for prefix in prefixes if prefix.startswith(taken.prefix) and prefix != taken.prefix]
    elsewhere = [prefix for prefix in prefixes if not taken.prefix.startswith(prefix)]
    is_inner = any(taken.prefix.startswith(prefix) for prefix in prefixes if prefix != taken.prefix)
    state: dict[str, Any] = {}
    left_out: dict[str, None] = {}
    for full, value in taken.state.items():
        name = _plain(full)
        own = name.removeprefix(taken.prefix)
        if name.rpartition(".")[2] in COUNTERS or (others and name.startswith(tuple(others))):
            continue
        if (elsewhere and name.startswith(tuple(elsewhere))) or (is_inner and not name.startswith(taken.prefix)):
            continue
        inside = name.startswith(taken.prefix)
        module = (own if inside else name).split(".")[0]
        if BESIDE.fullmatch(module):
            left_out[module] = None
            continue
        if not inside:
            raise WeightsError(
                f"tensor {short(full)} lies beside the net {taken.prefix.rstrip('.')!r} and may be a part of it: save "
                "the net's own state_dict(), or export all with torch.onnx.export for export.from_onnx"
            )
        if own in state:
            raise WeightsError(f"tensor {short(full)} is there twice, with a wrapper's prefix and without")
        state[own] = value
    return state, list(left_out)


def _fallback(content: Any) -> dict[str, Any]:
    """Values by name of what is no net that we know."""
    state = content
    for key in WRAPPERS[:3]:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(name, str) for name in state):
        raise WeightsError(f"holds a {type(state).__name__}, expected a state dict: tensors by name")
    return {name: value for name, value in state.items() if name.rpartition(".")[2] not in COUNTERS}


def _listed(names: list[str]) -> str:
    return ", ".join(name[:60] for name in names[:4]) + (" ..." if len(names) > 4 else "")
