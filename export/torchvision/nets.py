"""State dicts of torchvision's and timm's VGG nets and of torchvision's GoogLeNet, as weights of our nets.

vgg11, 13, 16 and 19 are the paper's A, B, D and E; googlenet is a net of its own, see trainer/nets/googlenet_tv.py.
Batch norms are folded into the convolutions before them.

Files, .pth and .safetensors, are read as what a stranger sent. No code of the file runs, and memory stays bounded by
the file's size: sizes that a file declares are compared with what it holds, compressed archives are refused, and
reading happens below a limit of address space.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from infer.errors import Refused
from trainer.nets import googlenet, vgg

from ..importing.bounded import bounded_memory

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


GOOGLENET = "googlenet-tv"
THEIRS = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19", GOOGLENET: "googlenet"}
AUXILIARY = ("aux1", "aux2")

VGG_EPSILON, GOOGLENET_EPSILON = 1e-5, 1e-3  # torch's default; torchvision's BasicConv2d
LAST_MAP_PX = 7  # of VGG, for crops of 224


class Layer(NamedTuple):
    """A convolution of ours, what it is called in the file, and the batch norm behind it there, if any."""

    ours: str
    theirs: str
    norm: str = ""


@dataclass(frozen=True, slots=True)
class Converted:
    """Weights in our names, FP32, and what they show of their net."""

    net: str
    layers: tuple[Layer, ...]
    weights: dict[str, Tensor]
    ignored: tuple[str, ...]

    @property
    def classes(self) -> int:
        return len(self.weights[f"{self.layers[-1].ours}.bias"])

    @property
    def width(self) -> float:
        """The factor, by the widest 3x3 convolution: 512 channels in the paper's VGG nets, 384 in its GoogLeNet."""
        if self.net == GOOGLENET:
            return len(self.weights["inception.5b.conv3x3.bias"]) / 384
        return len(self.weights["conv5_1.bias"]) / 512

    @property
    def fc_width(self) -> int:
        """GoogLeNet has fully connected layers in its auxiliary heads alone: the paper's."""
        return 1024 if self.net == GOOGLENET else len(self.weights["fc7.bias"])

    @property
    def origin(self) -> str:
        return THEIRS[self.net] + ("_bn" if self.net != GOOGLENET and self.layers[0].norm else "")


def weights_from_torchvision(state: dict[str, Tensor], crop_px: int = 224) -> Converted:
    """The weights of a state dict. Raises WeightsError for one that is no net of theirs, or not whole."""
    net, layers = recognise(state)
    rest = dict(state)
    ignored = tuple(head for head in AUXILIARY if net == GOOGLENET and _drop(rest, f"{head}."))
    weights: dict[str, Tensor] = {}
    for layer in layers:
        weights[f"{layer.ours}.weight"], weights[f"{layer.ours}.bias"] = _folded(layer, rest, net)
    if rest:
        raise WeightsError(f"unknown tensor {min(rest)[:80]!r}, which {THEIRS[net]} does not have")
    return Converted(net, tuple(layers), weights, ignored)


def recognise(state: dict[str, Tensor]) -> tuple[str, list[Layer]]:
    """The net whose tensors are called so, and its layers. Raises WeightsError."""
    if "inception3a.branch1.conv.weight" in state:
        return GOOGLENET, list(_googlenet_layers())
    found = {match[1] for name in state if (match := re.fullmatch(r"(features\.\d+)\.weight", name))}
    for net in vgg.TABLE.keys() & THEIRS.keys():
        for batch_norms in (False, True):
            layers = list(_vgg_features(net, batch_norms))
            if found == {name for layer in layers for name in (layer.theirs, layer.norm) if name}:
                return net, [*layers, *_vgg_head(state)]
    names = ", ".join(repr(name[:40]) for name in list(state)[:3])
    raise WeightsError(f"expected a VGG net of torchvision or timm, or torchvision's GoogLeNet, got {names} ...")


def _vgg_features(net: str, batch_norms: bool) -> Iterator[Layer]:
    """Convolution, batch norm if any, ReLU, pool: all numbered through."""
    index, block, number = 0, 1, 1
    for item in vgg.TABLE[net]:
        if item == vgg.POOL:
            index, block, number = index + 1, block + 1, 1
        else:
            norm = f"features.{index + 1}" if batch_norms else ""
            yield Layer(f"conv{block}_{number}", f"features.{index}", norm)
            index, number = index + (3 if batch_norms else 2), number + 1


def _vgg_head(state: dict[str, Tensor]) -> list[Layer]:
    timm = ("pre_logits.fc1", "pre_logits.fc2", "head.fc")
    names = timm if f"{timm[0]}.weight" in state else ("classifier.0", "classifier.3", "classifier.6")
    last = state.get(f"{names[-1]}.weight")
    if last is None or last.isnan().all():
        raise WeightsError("has no classifier, like torchvision's IMAGENET1K_FEATURES: use weights with one")
    return [Layer(ours, theirs) for ours, theirs in zip(("fc6", "fc7", "fc8"), names, strict=True)]


def _googlenet_layers() -> Iterator[Layer]:
    for ours, theirs in (("conv1", "conv1"), ("conv2_reduce", "conv2"), ("conv2", "conv3")):
        yield Layer(ours, f"{theirs}.conv", f"{theirs}.bn")

    branches = {
        "conv1x1": "branch1",
        "conv3x3_reduce": "branch2.0",
        "conv3x3": "branch2.1",
        "second3x3_reduce": "branch3.0",
        "second3x3": "branch3.1",
        "pool_proj": "branch4.1",
    }
    for block in googlenet.TABLE:
        for ours, branch in branches.items():
            theirs = f"inception{block}.{branch}"
            yield Layer(f"inception.{block}.{ours}", f"{theirs}.conv", f"{theirs}.bn")
    yield Layer("classifier", "fc")


def _folded(layer: Layer, rest: dict[str, Tensor], net: str) -> tuple[Tensor, Tensor]:
    """FP32 weight [out, in, k, k] and bias [out] of a layer, taken out of `rest`, with its batch norm folded in.

    y = (x * w + b - mean) / sqrt(variance + epsilon) * gain + shift, computed in double precision.
    """
    weight = _as_convolution(layer, _take(rest, f"{layer.theirs}.weight"))
    channels = len(weight)
    has_bias = not layer.norm or f"{layer.theirs}.bias" in rest
    bias = _take_vector(rest, f"{layer.theirs}.bias", channels) if has_bias else torch.zeros(channels)
    if not layer.norm:
        return weight, bias

    gain, shift, mean, variance = (
        _take_vector(rest, f"{layer.norm}.{name}", channels).double()
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gain / (variance + (GOOGLENET_EPSILON if net == GOOGLENET else VGG_EPSILON)).sqrt()
    folded = (weight * scale[:, None, None, None]).float(), ((bias - mean) * scale + shift).float()
    if not all(tensor.isfinite().all() for tensor in folded):
        raise WeightsError(f"{layer.norm} cannot be folded: it gives weights that are not finite (variances below 0?)")
    return folded


def _as_convolution(layer: Layer, weight: Tensor) -> Tensor:
    """Weights [out, in] of a linear layer as [out, in, 1, 1]; VGG's first sees a 7x7 map: [out, in / 49, 7, 7]."""
    if weight.dim() == 2:
        side = LAST_MAP_PX if layer.ours == "fc6" and weight.shape[1] % LAST_MAP_PX**2 == 0 else 1
        return weight.reshape(len(weight), weight.shape[1] // side**2, side, side)
    if weight.dim() != 4:
        raise WeightsError(f"{layer.theirs}.weight is {list(weight.shape)}, expected two sizes or four")
    return weight


def _take_vector(rest: dict[str, Tensor], name: str, channels: int) -> Tensor:
    vector = _take(rest, name)
    if vector.shape != (channels,):
        raise WeightsError(f"{name} is {list(vector.shape)}, expected [{channels}], as many as the layer has channels")
    return vector


def _take(rest: dict[str, Tensor], name: str) -> Tensor:
    if name not in rest:
        raise WeightsError(f"lacks {name}: a truncated or changed state dict")
    tensor = rest.pop(name).float().clone()
    if not tensor.isfinite().all():
        raise WeightsError(f"{name} holds values that are not finite")
    return tensor


def _drop(rest: dict[str, Tensor], prefix: str) -> bool:
    """Takes out all tensors of this prefix; True where there were some."""
    names = [name for name in rest if name.startswith(prefix)]
    for name in names:
        del rest[name]
    return bool(names)
