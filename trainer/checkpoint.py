"""ckpt.pt: tensors and JSON only, so that loading it runs no code; written to a temporary name and renamed."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor

from infer.errors import Refused
from infer.files import refuse_pointer, replacing
from infer.spec import ModelSpec, SpecError

from . import torch_file
from .nets.zoo import Net, build_net
from .torch_file import TorchFileError, first_line, short

FORMAT = 1
AUXILIARY = "auxiliary."
NONE_BEST = (0, math.inf, math.inf)
ANSWERS = ("first", "kept", "probability")
Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class CheckpointError(Refused):
    """A file that is not a checkpoint of ours; one line."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A net with everything that is needed to go on training it.

    weights, auxiliary: of inference, and of the auxiliary heads alone. unfolded: `weights` with batch norms beside the
    convolutions that they are folded into. iterate: tensors that the next step starts from, where `weights` have others
    (an average, those of an earlier epoch, rounded ones). average: the same of the average over the steps, of which
    `averaged` are in it. steps_of_epoch, sums: the steps done in an epoch under way, and their loss, wrong answers and
    images, summed up. best: the epoch with the best validation so far, its error in percent and its loss; 0 where none
    is kept. answers: to the validation images, `first` and `kept` i64 [V], of the first epoch and of the kept one with
    its `probability` f32 [V]; -1 where an image cannot be read. images, listing: the number of training images, and a
    digest of their names and labels. held_out: names of images that were kept out of training, for validation.
    """

    spec: ModelSpec
    weights: dict[str, Tensor]
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    momentum: dict[str, Tensor] = field(default_factory=dict)
    epochs_done: int = 0
    recipe: str = ""
    steps_of_epoch: int = 0
    sums: tuple[float, float, float] = (0.0, 0.0, 0.0)
    iterate: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    averaged: int | None = None
    unfolded: dict[str, Tensor] = field(default_factory=dict)
    plateau: tuple[int, float, int] = (0, math.inf, 0)
    best: tuple[int, float, float] = NONE_BEST
    answers: dict[str, Tensor] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    images: int = 0
    listing: str = ""
    held_out: tuple[str, ...] = ()
    finished: bool = False

    def build(self) -> Net:
        """The net with its weights, in eval mode."""
        net = build_net(self.spec)
        _load_strictly(net, self.weights)
        return net.eval()


def split_weights(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(weights of inference, weights of the auxiliary heads) from a net's state dict."""
    weights = {name: t for name, t in state.items() if not name.startswith(AUXILIARY)}
    auxiliary = {name: t for name, t in state.items() if name.startswith(AUXILIARY)}
    return weights, auxiliary


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a checkpoint. Raises OSError where it cannot be written; an older file stays then."""
    content: dict[str, Any] = {"format": FORMAT}
    content |= {one.name: getattr(checkpoint, one.name) for one in fields(checkpoint)}
    content["spec"] = checkpoint.spec.to_json()

    with replacing(path) as unfinished:
        try:
            torch.save(content, unfinished)
        except RuntimeError as error:  # torch's for a write that failed; it does not say why
            raise OSError(f"{path}: cannot be written ({first_line(error)[:100]}): is the disk full?") from None


def load(path: Path) -> Checkpoint:
    """A checkpoint from its file. Raises CheckpointError for a missing, foreign, damaged or code-carrying one."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, expected a checkpoint (.pt)")
    refuse_pointer(path, CheckpointError)
    try:
        with torch_file.memory_of(path):
            content = _read(path)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: refused, it holds pickled code or is no checkpoint of ours (expected tensors and JSON only): "
            "what other programs trained is for python -m export.from_torchvision"
        ) from None
    except TorchFileError as error:
        raise CheckpointError(f"{path}: {error}") from None

    ours = isinstance(content, dict) and {"format", "spec", "weights"} <= content.keys()
    if not ours or not isinstance(content["weights"], dict):
        raise CheckpointError(
            f"{path}: a torch file, but not a checkpoint of ours: convert it with python -m export.from_torchvision"
        )
    if type(content["format"]) is not int or content["format"] != FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {short(str(content['format']))[1:-1]}, expected {FORMAT}")

    # Older files lack some fields. The weights are compared with a net that takes no memory.
    try:
        known = _checked(content, path.stat().st_size)
        checkpoint = Checkpoint(**known, spec=ModelSpec.from_json(content["spec"]))
        with torch.device("meta"):
            _load_strictly(build_net(checkpoint.spec), checkpoint.weights)
            if checkpoint.unfolded:
                _load_strictly(build_net(checkpoint.spec, batch_norms=True), checkpoint.unfolded)
    except (SpecError, CheckpointError, TorchFileError, msgspec.ValidationError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    return checkpoint


def _read(path: Path) -> Any:
    """What a file holds. Raises TorchFileError, pickle.UnpicklingError, MemoryError."""
    with path.open("rb") as file:
        if not file.read(2).startswith(torch_file.ARCHIVE):
            raise pickle.UnpicklingError("no archive of torch.save, which the trainer writes")
    torch_file.check_entries(path, torch_file.list_entries(path))
    return torch_file.load_values(path)


TENSORS: dict[str, tuple[torch.dtype, ...]] = {
    "weights": (torch.float32,),
    "auxiliary": (torch.float32,),
    "unfolded": (torch.float32,),
    "momentum": (torch.float32, torch.float64),
    "iterate": (torch.float32, torch.float64),
    "average": (torch.float32, torch.float64),
    "answers": (torch.int64, torch.float32),
}
"""Fields that are tensors by name, and their types: a training in double keeps its own."""


class _State(msgspec.Struct, frozen=True):
    """The fields of a checkpoint that say how far a run came; bounds keep out what no run reaches."""

    epochs_done: Count = 0
    recipe: Annotated[str, msgspec.Meta(max_length=100_000)] = ""
    steps_of_epoch: Count = 0
    sums: tuple[float, float, float] = (0.0, 0.0, 0.0)
    averaged: Count | None = None
    plateau: tuple[Count, float, Count] = (0, math.inf, 0)
    best: tuple[Count, float, float] = NONE_BEST
    scaler: dict[str, int | float | None] = {}
    images: Count = 0
    listing: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    held_out: tuple[str, ...] = ()
    finished: bool = False


def _checked(content: dict[Any, Any], file_bytes: int) -> dict[str, Any]:
    """The fields of a checkpoint that a file has, but its spec, of the types that they are written with.

    Raises TorchFileError, and CheckpointError that names the field.
    """
    found: dict[str, Any] = {}
    for name, dtypes in TENSORS.items():
        if name in content:
            if not isinstance(content[name], dict):
                said = type(content[name]).__name__
                raise CheckpointError(f"its {name} is {said}, expected tensors by name: it is damaged")
            torch_file.check_tensors(content[name], dtypes, file_bytes)
            found[name] = dict(content[name])

    plain = {name: content[name] for name in _State.__struct_fields__ if name in content}
    try:
        state = msgspec.convert(plain, _State)
        if not all(math.isfinite(number) and number >= 0 for number in state.sums):
            raise ValueError(f"sums are {state.sums}")
        if not state.plateau[1] >= 0:
            raise ValueError(f"plateau is {state.plateau}")
        if not all(number >= 0 for number in state.best):
            raise ValueError(f"best is {state.best}")
        if not set(ANSWERS) >= found.get("answers", {}).keys():
            raise ValueError(f"answers are {', '.join(map(short, found['answers']))}")
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise CheckpointError(f"what it says of its run cannot be ({error}): it is damaged") from None
    return found | {name: getattr(state, name) for name in plain}


def _load_strictly(net: Net, weights: dict[str, Tensor]) -> None:
    """Gives the net its weights. Raises CheckpointError that names one missing, unexpected or of another shape."""
    expected = {name: tuple(t.shape) for name, t in net.state_dict().items()}
    got = {name: tuple(t.shape) for name, t in weights.items()}
    for name in sorted(expected.keys() | got.keys()):
        if expected.get(name) != got.get(name):
            raise CheckpointError(
                f"weights do not fit the net: {name[:80]} is {got.get(name, 'missing')}, "
                f"expected {expected.get(name, 'no such tensor')}"
            )
    net.load_state_dict(weights, assign=True)
