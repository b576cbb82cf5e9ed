"""PyTorch's nets as ONNX files, by torch.onnx: a program of torch.export, or what a callable of the user's returns."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import math
import re
import tempfile
import warnings
from collections import defaultdict
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
from .trial import larger_sides

VIEWS = 2
"""Of the example: torch takes a batch of one for a number that stays."""
OPEN = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}, {0: Dim.AUTO}, None)
"""Which sizes of [views, 3, height, width] may differ from call to call: the first of these that a net admits."""
MOST_LETTERS = 200
MOST_PX = 65_536
"""A limit beyond is none: no image is as large."""
FIXED = "the net fixes its sides where torch.export traces it"


def write_program(path: Path, out: Path) -> str:
    """Writes a program of torch.export as ONNX; says why it takes crops alone, or "". Raises ForeignError."""
    with tempfile.TemporaryDirectory() as folder, _quietly():
        copy = Path(folder, "program.pt2")
        copy_program(path, copy)
        try:
            program = torch.export.load(copy)
        except Exception as error:  # AssertionError, KeyError, ... of whatever does not fit together
            said = _said(error).partition(" Please check the warnings")[0]  # which are kept back
            raise ForeignError(f"torch.export cannot read it ({said}): a damaged file, or of another torch") from None
        _write(program, out)
        return _limit(program)


def write_callable(call: Call, crop_px: int, out: Path) -> str:
    """Runs a callable of the user's, and writes the net that it returns, as write_net does. Raises ForeignError."""
    return write_net(_made(call), crop_px, out)


def write_net(net: nn.Module, crop_px: int, out: Path) -> str:
    """Writes a net in evaluation mode as ONNX; sizes that it fixes by itself stay fixed.

    Says why its answers for larger views are not those of the net, which torch does not write into the file; "": they
    are. Raises ForeignError.
    """
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
                    return (_limit(program) or _branch(program, crop_px)) if sides[0] else FIXED
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
    views, _, *sides = _sizes(program)
    return [not isinstance(size, int) for size in (views, *sides)]


def _sizes(program: ExportedProgram) -> Any:
    """The sizes of the image that a program takes: numbers, or symbols of torch's."""
    image = program.graph_signature.user_inputs[0]
    (node,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.name == image)
    return node.meta["val"].shape


def _limit(program: ExportedProgram) -> str:
    """The largest side for which a program was traced, in words; "": there is none."""
    for size in _sizes(program)[2:]:
        symbol = None if isinstance(size, int) else size.node.expr
        limits = program.range_constraints.get(symbol)
        if limits is not None and limits.upper < MOST_PX:
            return f"the net was traced for sides of at most {limits.upper} px"
    return ""


def _branch(program: ExportedProgram, crop_px: int) -> str:
    """What a net asks of its sides and larger views do not meet, in words; "": they take the same way through it.

    These are conditions that torch wrote down while it ran the user's own code.
    """
    for height, width in (*larger_sides(crop_px), (8 * crop_px + 1, 8 * crop_px + 3)):
        image = torch.empty((VIEWS, 3, height, width), device="meta")
        for condition in program._guards_code or ():
            if not _is_met(condition, image):
                said = re.sub(r"L\['\w+'\]\.size\(\)", "shape", condition)
                return f"the net takes another way for {height}x{width} px, where not {said[:MOST_LETTERS]}"
    return ""


def _is_met(condition: str, image: torch.Tensor) -> bool:
    """Whether a condition of torch's on `L['x'].size()` holds for an image; not where its form is not known."""
    try:
        return bool(eval(condition, {"L": defaultdict(lambda: image), "math": math, "torch": torch}))
    except Exception:
        return False


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
    """Keeps back what torch says: of operators that no classifier has, its deprecations, graphs that it gives up."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _said(error: BaseException) -> str:
    """The first line of what a library says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:MOST_LETTERS]
