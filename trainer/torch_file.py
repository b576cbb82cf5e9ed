"""Archives of torch.save as a stranger may have made them: nothing of one is believed before it was compared.

No code of a file runs. Memory stays bounded by the file's size: sizes that it declares are compared with what it holds,
compressed entries are refused, and reading happens below a limit of address space. torch.load does not look at the
checksums that torch.save writes (CRC-32, of each entry of the zip): here they are verified, since a flipped bit is
another weight. It knows nothing of nets, nor of what the tensors are.
"""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infer.errors import Refused
from infer.processes.bounded import bounded_memory

MEMORY_BYTES = 1_000_000_000
"""Memory that reading may take beside COPIES of the file."""
COPIES = 3
BLOCK_BYTES = 1 << 20
ARCHIVE = b"PK"
"""How the zip archive begins that torch.save has written since 1.6."""

BROKEN = (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, struct.error)
"""What zipfile raises for a damaged archive; RuntimeError and its NotImplementedError for entries by unknown rules."""


class TorchFileError(Refused):
    """A file that cannot be used; a phrase to stand after its name."""


@contextmanager
def memory_of(path: Path) -> Iterator[None]:
    """Bounds the memory that reading a file may take by its size. Raises TorchFileError where that is not enough."""
    try:
        with bounded_memory(MEMORY_BYTES + COPIES * path.stat().st_size):
            yield
    except MemoryError:
        raise TorchFileError("its contents take much more memory than the file is large: refused") from None


def list_entries(path: Path) -> list[zipfile.ZipInfo]:
    """The entries of an archive. Raises TorchFileError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except BROKEN as error:
        raise TorchFileError(f"not a readable file of torch.save ({first_line(error)})") from None


def check_entries(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Compares an archive with what it says of itself: sizes, and every checksum. Raises TorchFileError."""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise TorchFileError("a compressed archive, expected a file of torch.save (.pth), which is not")
    held = sum(entry.file_size for entry in entries)
    if held > path.stat().st_size:
        raise TorchFileError(f"declares {held} bytes in a file of {path.stat().st_size}: refused")

    # zipfile compares the checksum when it has read the whole entry
    with zipfile.ZipFile(path) as archive:
        for entry in entries:
            try:
                with archive.open(entry) as file:
                    while file.read(BLOCK_BYTES):
                        pass
            except BROKEN as error:
                raise TorchFileError(
                    f"damaged, or saved without checksums: {short(entry.filename)} is not what its CRC-32 says "
                    f"({first_line(error)}): copy or download it again"
                ) from None


def load_values(path: Path, known: Sequence[Any] = ()) -> Any:
    """What torch.save was given, on the host.

    known: classes that may stand in the file besides torch's own, as torch.serialization.safe_globals takes them.
    Raises pickle.UnpicklingError for code, TorchFileError for damage, MemoryError.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([*known]):
            warnings.simplefilter("ignore")  # about pickles, before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, MemoryError):
        raise
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError ... on damaged files
        if "can't allocate memory" in str(error):
            raise MemoryError from None
        raise TorchFileError(f"not a readable file of torch.save ({first_line(error)})") from None


def check_tensors(state: Mapping[Any, Any], dtypes: Sequence[torch.dtype], file_bytes: int) -> None:
    """Checks that all are dense tensors of these types by name, and no more numbers than a file of that size holds.

    Raises TorchFileError.
    """
    claimed = 0
    for name, value in state.items():
        if not isinstance(name, str):
            raise TorchFileError(f"a tensor is called {short(str(name))}, a {type(name).__name__}, expected a string")
        if type(value) not in (Tensor, nn.Parameter):
            raise TorchFileError(f"entry {short(name)} is a {type(value).__name__}, expected tensors by name")
        if value.dtype not in dtypes or value.layout != torch.strided:
            kind = f"{value.dtype} {value.layout}".replace("torch.", "")
            expected = "FP32" if tuple(dtypes) == (torch.float32,) else "floating-point"
            raise TorchFileError(f"tensor {short(name)} is {kind}, expected {expected} numbers")

        # tensors may share their numbers, and a stride of 0 makes one number many
        claimed += value.numel() * value.element_size()
        if claimed > file_bytes:
            raise TorchFileError(
                f"tensor {short(name)} of {list(value.shape)} and those before it claim {claimed} bytes "
                f"in a file of {file_bytes}: refused"
            )


def short(name: str) -> str:
    """A name of a file's as it can stand in a line."""
    return repr(name[:80])


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type's name."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]
