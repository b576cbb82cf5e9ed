"""Caffe's two files as a list of layers: the net's description (prototxt, text) and its weights (caffemodel, binary).

Both generations of messages are read: `layers` (V1LayerParameter, 2014) and `layer`. Layers that only train are left
out, and layers that work in place become a chain of their own, so that each has the layers it reads from.

Caffe itself is no dependency: nobody maintains it, and all that we need are its messages and a few kinds of layers.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from infer.errors import Refused
from infer.files import read_file
from infer.spec import Rgb

from . import caffe_pb2

messages: Any = caffe_pb2
"""Generated: its classes are made when it is imported, so mypy does not see them."""

MAX_DESCRIPTION_BYTES = 1_000_000
"""The longest of Caffe's own are 80 kB."""
MAX_WEIGHTS_BYTES = 2**31 - 1
"""Protobuf's own limit."""
COMMENT = re.compile(rb"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|#[^\n]*""")
"""A string, which may hold a #, or a comment."""
MAX_LAYERS = 1000
MAX_AXES = 32
"""Axes of a blob, as in Caffe."""

SOURCES = {"Data", "Input", "ImageData", "HDF5Data", "MemoryData", "WindowData", "DummyData"}
READERS = {"Data", "ImageData", "WindowData"}
"""Sources that read images, and so say all that is done to them."""
ENDS = {"Softmax", "SoftmaxWithLoss", "Accuracy", "Silence", "ArgMax"}
IDLE = {"Dropout", "Split", "Flatten"}
"""Layers that compute nothing when a trained net is used."""

V1_TYPES = {
    **{name.upper(): name for name in ("Convolution", "Pooling", "ReLU", "LRN", "Dropout", "Concat", "Split")},
    **{name.upper(): name for name in ("Flatten", "Softmax", "Accuracy", "Silence", "ArgMax", "Data")},
    "INNER_PRODUCT": "InnerProduct",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "IMAGE_DATA": "ImageData",
    "HDF5_DATA": "HDF5Data",
    "MEMORY_DATA": "MemoryData",
    "WINDOW_DATA": "WindowData",
    "DUMMY_DATA": "DummyData",
}
"""Old names of layer types by new; others keep their old name, which no net of ours has."""


class CaffeError(Refused):
    """A file that is not Caffe's, or a net that is none of ours; one line."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a description with the layers it reads from."""

    name: str
    type: str
    message: Any = field(repr=False, compare=False)
    inputs: tuple[Layer, ...] = field(default=(), repr=False, compare=False)


class Transform(NamedTuple):
    """The arithmetic of a source of images: (grey level - mean) * scale. Its channels are in the net's own order.

    mean_file: an image that is subtracted instead; warped: the one size that all images are brought to before.
    """

    mean: Rgb = (0.0, 0.0, 0.0)
    mean_file: str = ""
    scale: float = 1.0
    crop_px: int = 0
    warped: str = ""


class Description(NamedTuple):
    """A net's last layer with weights, its classifier; and what its source says of images, None where it has none."""

    classifier: Layer
    transform: Transform | None


Blobs = dict[str, list[NDArray[np.float32]]]
"""Weights and biases of every layer, by its name."""


def read_description(path: Path) -> Description:
    """The net that a description gives for testing. Raises CaffeError."""
    text = _read(path, MAX_DESCRIPTION_BYTES, "a Caffe net's description (.prototxt)")
    try:
        text = COMMENT.sub(rb"\1", text)  # in any encoding
        net = text_format.Parse(text.decode("utf-8-sig"), messages.NetParameter(), allow_unknown_field=True)
    except (text_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise CaffeError(f"{path}: not a Caffe net's description (.prototxt): {said}") from None

    blobs: dict[str, Layer] = {name: Layer(name, "Input", None) for name in net.input}
    classifier: Layer | None = None
    after: list[Layer] = []
    transforms: set[Transform] = set()
    messages_of_layers = _layers(path, net)
    if len(messages_of_layers) > MAX_LAYERS:
        raise CaffeError(f"{path}: {len(messages_of_layers)} layers, expected {MAX_LAYERS} at most")

    # each layer with those that made what it reads
    for message in messages_of_layers:
        if not _is_included(message, net.state):
            continue
        kind = _type(message)
        if kind in READERS or (kind in SOURCES and message.HasField("transform_param")):
            transforms.add(_transform(path, message))
        missing = [name for name in message.bottom if name not in blobs]
        if missing and kind not in ENDS:
            raise CaffeError(f"{path}: layer {message.name} reads {missing[0]!r}, which no layer before it makes")
        layer = Layer(message.name, kind, message, tuple(blobs[name] for name in message.bottom if name in blobs))
        blobs.update(dict.fromkeys(message.top, layer))

        if kind in ("Convolution", "InnerProduct"):
            classifier, after = layer, []
        elif kind not in ENDS | IDLE | SOURCES:
            after.append(layer)

    if classifier is None:
        raise CaffeError(f"{path}: a description without convolutions or inner products, expected a deploy.prototxt")
    if after:
        raise CaffeError(
            f"{path}: layer {after[0].name} ({after[0].type}) follows the classifier {classifier.name}, "
            "expected nothing but a Softmax"
        )
    if len(transforms) > 1:
        raise CaffeError(f"{path}: {len(transforms)} sources to test with, of different transform_param, expected one")
    return Description(classifier, transforms.pop() if transforms else None)


def _is_included(message: Any, state: Any) -> bool:
    """Caffe's own rule (Net::FilterNet) for a net that is tested."""
    rules = message.include or message.exclude
    meets = any(_meets(rule, state) for rule in rules)
    return meets if message.include else not meets


def _meets(rule: Any, state: Any) -> bool:
    """True where the state of the net, in phase TEST, is as a rule says (Net::StateMeetsRule)."""
    stages = set(state.stage)
    return (
        (not rule.HasField("phase") or rule.phase == messages.TEST)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and stages.issuperset(rule.stage)
        and stages.isdisjoint(rule.not_stage)
    )


def _transform(path: Path, message: Any) -> Transform:
    """Reads what a source does to its images, by transform_param or, until 2014, by its own parameters."""
    own = [getattr(message, f"{kind}_param") for kind in ("data", "image_data", "window_data")]
    parameters = [message.transform_param, *own]

    def said(name: str, default: Any) -> Any:
        return next((getattr(one, name) for one in parameters if one.HasField(name)), default)

    if message.transform_param.force_gray or not all(one.is_color for one in own):
        raise CaffeError(f"{path}: layer {message.name} reads grey images, expected colours")
    values = [_shortest(value) for value in message.transform_param.mean_value]
    if len(values) not in (0, 1, 3) or not all(map(math.isfinite, values)):
        raise CaffeError(f"{path}: layer {message.name}: mean_value {values}, expected one number or three")
    one, two, three = values if len(values) == 3 else (values or [0.0]) * 3

    scale = _shortest(said("scale", 1.0))
    if not 0 < scale < math.inf:
        raise CaffeError(f"{path}: layer {message.name}: scale {scale:g}, expected a number above 0")
    warped = next((f"{source.new_width}x{source.new_height}" for source in own if source.new_width), "")
    return Transform((one, two, three), said("mean_file", ""), scale, int(said("crop_size", 0)), warped)


def _shortest(value: float) -> float:
    """The number that was written, 103.939, and not the FP32 number next to it, 103.93900299072266."""
    return float(str(np.float32(value)))


def read_weights(path: Path) -> Blobs:
    """The blobs of every layer that has some, by the layer's name. Raises CaffeError."""
    data = _read(path, MAX_WEIGHTS_BYTES, "a Caffe model's weights (.caffemodel)")
    net = messages.NetParameter()
    try:
        check_wire(data)
        net.ParseFromString(data)
        del data  # the message holds it all
        layers = [(layer.name, layer.blobs) for layer in _layers(path, net) if layer.blobs]
    except (WireError, DecodeError, UnicodeDecodeError) as error:
        said = f": {error}" if isinstance(error, WireError) else ""
        raise CaffeError(
            f"{path}: not a Caffe model's weights (.caffemodel), or only a part of the file{said}"
        ) from None

    if not layers:
        raise CaffeError(f"{path}: no layers with weights in it, expected a Caffe model's weights (.caffemodel)")
    return {name: [_array(path, name, blob) for blob in blobs] for name, blobs in layers}


def blobs_of(blobs: Blobs, name: str) -> list[NDArray[np.float32]]:
    """Weights and biases of a layer. Raises CaffeError where there are none."""
    if name not in blobs:
        raise CaffeError(f"layer {name} has no weights in the caffemodel: it belongs to another net or is incomplete")
    return blobs[name]


def _read(path: Path, most: int, what: str) -> bytes:
    try:
        return read_file(path, most, CaffeError)
    except OSError as error:
        raise CaffeError(f"{path}: cannot be read ({error.strerror}), expected {what}") from None


def _layers(path: Path, net: Any) -> list[Any]:
    if any(layer.HasField("layer") for layer in net.layers):
        raise CaffeError(
            f"{path}: messages of 2013 (V0LayerParameter), which are not read: convert both files by Caffe's "
            "upgrade_net_proto_text and upgrade_net_proto_binary"
        )
    return [*net.layers, *net.layer]


def _type(message: Any) -> str:
    if isinstance(message, messages.LayerParameter):
        return str(message.type)
    old = str(messages.V1LayerParameter.LayerType.Name(message.type))
    return V1_TYPES.get(old, old)


def _array(path: Path, name: str, blob: Any) -> NDArray[np.float32]:
    """A blob's values in its shape: [out, in, h, w] of a convolution, [out, in] of an inner product, [out] of a bias.

    Old files say four sizes of everything, ones in front.
    """
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    width, raw = (8, blob.double_data) if blob.double_data else (4, blob.data)

    # the shape is compared before anything is allocated
    if len(shape) > MAX_AXES:
        raise CaffeError(f"{path}: layer {name} says a shape of {len(shape)} axes, expected {MAX_AXES} at most")
    if min(shape, default=1) < 1 or math.prod(shape) * width != len(raw):
        raise CaffeError(
            f"{path}: layer {name} says a shape of {'x'.join(map(str, shape)) or 'nothing'} and holds {len(raw)} bytes "
            f"of {width}-byte numbers: the file is damaged, or its weights are of a kind that is not read"
        )

    with np.errstate(over="ignore"):  # doubles beyond FP32, found next
        values = np.frombuffer(raw, f"<f{width}").astype(np.float32)
    if not np.isfinite(values).all():
        raise CaffeError(f"{path}: layer {name} has weights that are no finite numbers, expected FP32 ones")
    return values.reshape(shape)


def side(message: Any, name: str, what: Literal["kernel", "stride", "pad"]) -> int:
    """A size of a convolution or pool that is the same both ways. Raises CaffeError otherwise."""
    single = getattr(message, "kernel_size" if what == "kernel" else what)
    both = [f"{what}_h", f"{what}_w"]
    if any(map(message.HasField, both)):
        sizes = [getattr(message, axis) for axis in both]
    else:
        sizes = [single] if isinstance(single, int) else list(single)
    if len(set(sizes)) > 1:
        raise CaffeError(f"layer {name} has a {what} of {'x'.join(map(str, sizes))}, expected the same both ways")
    return int(sizes[0]) if sizes else {"kernel": 0, "stride": 1, "pad": 0}[what]


# A bound on what a caffemodel becomes as messages, before it is read: two bytes can say an empty layer of 130. Only the
# wire format is looked at (protobuf.dev/programming-guides/encoding): keys, and lengths.

MAX_FIELDS = 100_000
"""A GoogLeNet with its auxiliary heads has 4,000."""

Nested = dict[int, "Nested"]
NESTED: Nested = {2: {6: {7: {}}}, 100: {7: {7: {}}}}
"""By field number, layers or layer { blobs { shape } }: what there can be many of in few bytes."""

VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5


class WireError(Refused):
    """Not a message of protobuf, only a part of one, or one of more fields than any net has."""


def check_wire(data: bytes) -> None:
    """Raises WireError unless `data` is a NetParameter of at most MAX_FIELDS fields in layers, blobs and shapes."""
    fields = 0
    waiting = [(0, len(data), NESTED)]
    while waiting:
        at, end, nested = waiting.pop()
        while at < end:
            key, at = _varint(data, at)
            number, kind = key >> 3, key & 7
            fields += 1
            size = {EIGHT_BYTES: 8, FOUR_BYTES: 4}.get(kind, 0)
            if kind in (VARINT, LENGTH):
                value, at = _varint(data, at)
                size = value if kind == LENGTH else 0
            elif not size:
                raise WireError(f"a field of wire type {kind}")

            if at + size > end:
                raise WireError("ends within a field")
            if number in nested and kind == LENGTH:
                waiting.append((at, at + size, nested[number]))
            elif not nested:
                fields += size  # of a shape each byte may be a number
            if fields > MAX_FIELDS:
                raise WireError(f"more than {MAX_FIELDS} fields")
            at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, place behind it)."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise WireError("not a number")
