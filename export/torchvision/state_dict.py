"""Weights files of other libraries, .pth and .safetensors, read as what a stranger sent: {name: tensor}.

No code of the file runs, and memory stays bounded by the file's size: sizes that a file declares are compared with
what it holds, compressed archives are refused, and reading happens below a limit of address space.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infer.errors import Refused

from ..bounded import bounded_memory

MAX_HEADER_BYTES = 1_000_000
"""The longest header of a safetensors file: VGG-19 with batch norms takes 12,000."""
MEMORY_BYTES = 1_000_000_000
"""Memory that reading may take beside COPIES of the file."""
COPIES = 3

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WRAPPERS = ("state_dict", "model")
DATA_PARALLEL = "module."


class WeightsError(Refused):
    """A file that holds no weights that can be used; one line, without the file's name."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Floating-point tensors by name, in the file's own types; batch norms' counters are left out.

    Takes what torch.save wrote, of either format, or safetensors; weights may lie in an entry "state_dict" or "model",
    and their names may begin with DataParallel's "module.". Raises WeightsError.
    """
    if not path.is_file():
        raise WeightsError("no such file, expected weights (.pth, .safetensors)")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)

    try:
        with bounded_memory(MEMORY_BYTES + COPIES * size):
            state = _read_safetensors(path, start) if start[8:] == b"{" else _read_torch(path, start)
    except MemoryError:
        raise WeightsError("its contents take much more memory than the file is large: refused") from None
    return _checked(_unwrapped(state), size)


def _read_safetensors(path: Path, start: bytes) -> Any:
    import safetensors
    from safetensors.torch import load_file

    header = int.from_bytes(start[:8], "little")
    if header > min(MAX_HEADER_BYTES, path.stat().st_size - 8):
        raise WeightsError(f"declares a safetensors header of {header} bytes: truncated, or no safetensors file")
    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"not a readable safetensors file ({_first_line(error)})") from None


def _read_torch(path: Path, start: bytes) -> Any:
    if start.startswith(b"PK"):
        _check_archive(path)
    elif not start.startswith(b"\x80"):  # a pickle
        raise WeightsError("neither a file of torch.save (.pth) nor a safetensors file")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles, before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError("refused, it holds pickled code (expected a state dict: tensors by name)") from None
    except MemoryError:
        raise
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError ... on damaged files
        if "can't allocate memory" in str(error):
            raise MemoryError from None
        raise WeightsError(f"not a readable file of torch.save ({_first_line(error)})") from None


def _check_archive(path: Path) -> None:
    """torch.save stores without compression, so the entries together are no larger than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise WeightsError(f"not a readable file of torch.save ({_first_line(error)})") from None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError("a compressed archive, expected a file of torch.save (.pth), which is not")
    held = sum(entry.file_size for entry in entries)
    if held > path.stat().st_size:
        raise WeightsError(f"declares {held} bytes in a file of {path.stat().st_size}: refused")


def _unwrapped(content: Any) -> dict[str, Any]:
    state = content
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(name, str) for name in state):
        raise WeightsError(f"holds a {type(state).__name__}, expected a state dict: tensors by name")
    if all(name.startswith(DATA_PARALLEL) for name in state):
        state = {name.removeprefix(DATA_PARALLEL): value for name, value in state.items()}
    return dict(state)


def _checked(state: dict[str, Any], file_bytes: int) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    claimed = 0
    for name, value in state.items():
        if name.rpartition(".")[2] == "num_batches_tracked":
            continue
        if type(value) not in (Tensor, nn.Parameter):
            raise WeightsError(f"entry {_short(name)} is a {type(value).__name__}, expected tensors by name")
        if value.dtype not in FLOATS or value.layout != torch.strided:
            kind = f"{value.dtype} {value.layout}".replace("torch.", "")
            raise WeightsError(f"tensor {_short(name)} is {kind}, expected floating-point numbers")

        # tensors may share their numbers, and a stride of 0 makes one number many
        claimed += value.numel() * value.element_size()
        if claimed > file_bytes:
            raise WeightsError(
                f"tensor {_short(name)} of {list(value.shape)} and those before it claim {claimed} bytes "
                f"in a file of {file_bytes}: refused"
            )
        tensors[name] = value.detach()
    return tensors


def _short(name: str) -> str:
    return repr(name[:80])


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
