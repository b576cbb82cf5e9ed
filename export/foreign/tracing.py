"""PyTorch's nets as ONNX files, by torch.onnx: a program of torch.export, or what a callable of the user's returns."""

from __future__ import annotations

import contextlib
import importlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from ..model.file import ONE_FILE_BYTES
from .named import Call
from .program import copy_program
from .surgery import ForeignError

VIEWS = 2
"""Of the example: torch takes a batch of one for a number that stays."""
OPEN = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}, {0: Dim.AUTO}, None)
"""Which sizes of [views, 3, height, width] may differ from call to call: the first of these that a net admits."""
MOST_LETTERS = 200


def write_program(path: Path, out: Path) -> None:
    """Writes a program of torch.export as ONNX. Raises ForeignError."""
    with tempfile.TemporaryDirectory() as folder, _quietly():
        copy = Path(folder, "program.pt2")
        copy_program(path, copy)
        try:
            program = torch.export.load(copy)
        except Exception as error:  # AssertionError, KeyError, ... of whatever does not fit together
            raise ForeignError(f"torch.export cannot read it ({_said(error)})") from None
        _write(program, out)


def write_callable(call: Call, crop_px: int, out: Path) -> None:
    """Runs a callable of the user's, and writes the net that it returns as ONNX. Raises ForeignError."""
    write_net(_made(call), crop_px, out)


def write_net(net: nn.Module, crop_px: int, out: Path) -> None:
    """Writes a net in evaluation mode as ONNX; sizes that it fixes by itself stay fixed. Raises ForeignError."""
    kinds = [tensor.dtype for tensor in net.parameters() if tensor.dtype.is_floating_point]
    example = torch.zeros((VIEWS, 3, crop_px, crop_px), dtype=kinds[0] if kinds else torch.float32)

    reason = ""
    for sizes in OPEN:
        with _quietly(), torch.inference_mode(False), torch.no_grad():
            try:
                shapes = None if sizes is None else (sizes,)
                program = torch.export.export(net, (example[: VIEWS if sizes else 1],), dynamic_shapes=shapes)
                views, *sides = _open(program)
                if views == (sizes is not None) and sides[0] == sides[1]:  # a single open side fits no protocol
                    _write(program, out)
                    return
            except Exception as error:  # torch has a class of its own for each failure
                reason = reason or _said(error)
    raise ForeignError(f"torch.onnx cannot export it ({reason}): export it yourself, and use export.from_onnx")


def _made(call: Call) -> nn.Module:
    """The net of a callable, in evaluation mode. Raises ForeignError; what the user's code raises is put into words."""
    try:
        found: Any = importlib.import_module(call.module)
    except ImportError as error:
        raise ForeignError(
            f"{call.module} cannot be imported ({_said(error)}): install it, or run where it lies"
        ) from None
    except (Exception, SystemExit) as error:  # the user's own
        raise ForeignError(f"{call.module} cannot be imported ({type(error).__name__}: {_said(error)})") from None

    try:
        for name in call.name.split("."):
            found = getattr(found, name)
    except AttributeError as error:
        raise ForeignError(f"{call.module} has no such callable ({_said(error)})") from None
    try:
        net = found if isinstance(found, nn.Module) else found(*call.arguments, **call.options)
    except (Exception, SystemExit) as error:  # the user's own
        raise ForeignError(f"{call.name} failed ({type(error).__name__}: {_said(error)})") from None
    if not isinstance(net, nn.Module):
        raise ForeignError(f"{call.name} returned a {type(net).__name__}, expected a torch.nn.Module")
    try:
        return net.cpu().eval()
    except Exception as error:  # NotImplementedError of a net without weights, and what a net's own eval() raises
        raise ForeignError(f"{call.name} returned a net that cannot be put on the CPU ({_said(error)})") from None


def _open(program: ExportedProgram) -> list[bool]:
    """Which of the number of views, the height and the width are open."""
    image = program.graph_signature.user_inputs[0]
    (node,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.name == image)
    views, _, *sides = node.meta["val"].shape
    return [not isinstance(size, int) for size in (views, *sides)]


def _write(program: ExportedProgram, out: Path) -> None:
    """Raises ForeignError for a program that has operators without an ONNX form."""
    try:
        written = torch.onnx.export(program, dynamo=True, verbose=False)
    except Exception as error:  # torch.onnx has a class of its own for each failure
        raise ForeignError(f"torch.onnx cannot write it ({_said(error)}): export it yourself") from None
    assert written is not None
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    written.save(str(out), external_data=size > ONE_FILE_BYTES)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps back torch's warnings, of operators that no classifier has, and of its own deprecations."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _said(error: Exception) -> str:
    """The first line of what a library says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:MOST_LETTERS]
