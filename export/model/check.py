"""The check graph of an FP16 or INT8 model as a file beside it: what the model computes, for a CPU.

There half tensors are rounded by nodes of their own, and convolutions in INT8 are written as the CPU computes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import helper

from infer.command import print_notes
from infer.engine import EngineError
from infer.files import file_sha256, replacing
from infer.model_file import CHECK, CHECK_OF, INT8
from infer.model_file import metadata as metadata_of
from infer.processes.owned import own_file
from infer.spec import ModelSpec

from ..errors import ModelError
from . import file as model_file
from .file import metadata
from .integers import integer_graph
from .precision import PrecisionError, check_graph


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Writes a model of ours and its check graph, if it is FP16 or INT8; says on stderr where it has none.

    An older check graph goes first, so that none stands beside another model. Raises ModelError for a file in its
    place that is none of ours.
    """
    check = _place(path)
    check.unlink(missing_ok=True)
    model_file.save(model, path)
    if not _computes_less(metadata(model)):
        return
    try:
        write_check(path)
    except PrecisionError as error:
        print_notes([f"{error}; so it has no {check.name}, and on a CPU no cost of half precision can be measured"])


def write_check(path: Path) -> Path:
    """Writes the check graph of an FP16 or INT8 model beside it, with the same weights file where there is one.

    Returns its path. Raises ModelError for a file that is no such model of ours, PrecisionError where it has none, and
    Owned where another run writes it.
    """
    model = model_file.read_graph(path)
    said = metadata(model)
    if CHECK_OF in said or not _computes_less(said):
        precision = "no spec" if "spec" not in said else ModelSpec.from_json(said["spec"]).precision
        found = "a check graph already" if CHECK_OF in said else precision
        raise ModelError(
            f"{path}: {found}, expected an FP16 model of ours, or an INT8 one that export.to_onnx quantised: others "
            "are run as they are"
        )

    try:
        checked = cpu_graph(model)
    except PrecisionError as error:
        raise PrecisionError(f"{path}: {error}") from None
    helper.set_model_props(checked, {**said, CHECK_OF: file_sha256(path)})
    check = _place(path)
    with own_file(check), replacing(check) as unfinished:
        unfinished.write_bytes(checked.SerializeToString())
    return check


def cpu_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """What an FP16 or INT8 model of ours computes, for a CPU. Raises PrecisionError where that cannot be written."""
    checked = check_graph(model)
    return integer_graph(checked) if INT8 in metadata(model) else checked


def _computes_less(said: Mapping[str, str]) -> bool:
    """True for a model of less precision than FP32 that we made; one that others quantised is run as it is."""
    return "spec" in said and (ModelSpec.from_json(said["spec"]).precision == "fp16" or INT8 in said)


def _place(path: Path) -> Path:
    """Where the check graph of a model lies. Raises ModelError where something else does."""
    check = path.with_suffix(CHECK)
    try:
        ours = not check.exists() or (check.is_file() and CHECK_OF in metadata_of(check))  # a pipe is waited for
    except (EngineError, OSError):
        ours = False
    if not ours:
        raise ModelError(
            f"{check}: is no check graph of ours, and its place is needed for that of {path.name}: move it"
        )
    return check
