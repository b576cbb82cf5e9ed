"""A program of torch.export in a file (.pt2), read without running anything in it.

torch.export.load unpickles sample inputs and tensors of unusual kinds, evaluates expressions of sizes and guards, and
finds functions by any name: each could be a stranger's code. So the archive is copied first, and only what is
understood goes along: the graph with operators of ATen and plain arithmetic, and weights as bare numbers. The rest is
left out where no net needs it, or refused.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.torch_file import BROKEN, TorchFileError, check_entries

from .surgery import ForeignError

MODEL = "models/model.json"
CONFIGS = {
    "weights": ("data/weights/", "data/weights/model_weights_config.json", re.compile(r"weight_\d+")),
    "constants": ("data/constants/", "data/constants/model_constants_config.json", re.compile(r"tensor_\d+")),
}
"""Where the tensors are, the list of them, and the names of those that are bare numbers."""
SAMPLES = "data/sample_inputs/model.pt"
PLAIN = ("archive_format", "archive_version", "byteorder", ".data/version")
"""Entries of a few letters that say what the archive is (torch/export/pt2_archive/constants.py)."""
OLD = "serialized_exported_program.json"
"""An entry of the form before torch 2.8, whose weights are pickles."""

OPERATORS = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_(int|float|not|max|min|ite|sum)|math\.(ceil|floor|trunc|sqrt)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
"""What a graph may call, by its whole name."""
FILES = re.compile(r"torch\.ops\.aten\.(from_file|_\w*file\w*)\.")
FUNCTIONS = (
    *("FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv"),
    *("LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt"),
    *("IsNonOverlappingAndDenseIndicator", "RoundToInt", "RoundDecimal", "ToFloat", "Identity"),
    *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "And", "Or", "Not"),
    *("Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"),
)
"""Functions in expressions of sizes (torch/_export/serde/serialize.py), and sympy's own, as its srepr writes them."""
ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword),
    *(ast.operator, ast.unaryop, ast.cmpop),
)
SYMBOL = re.compile(r"[a-z]{1,2}\d+")
"""A size that is open: s77."""
CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict")
"""What a program may take and return its tensors in."""


def copy_program(path: Path, copy: Path) -> None:
    """Writes a copy of a .pt2 that holds nothing that would be run. Raises ForeignError."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(path, archive.infolist())
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as cleaned:

            def put(name: str, content: bytes) -> None:
                cleaned.writestr(f"program/{name}", content)

            put(MODEL, _checked_graph(_json(archive, entries, MODEL)))
            for folder, config, bare in CONFIGS.values():
                listed = _json(archive, entries, config)
                put(config, json.dumps(listed).encode())
                for name in _payloads(listed, bare):
                    if folder + name not in entries:
                        raise ForeignError(f"lacks {folder}{name}, which its list names: a damaged file")
                    put(folder + name, archive.read(entries[folder + name]))
            put(SAMPLES, b"")
            for name in PLAIN:
                if name in entries:
                    put(name, archive.read(entries[name]))
    except TorchFileError as error:
        raise ForeignError(str(error)) from None
    except BROKEN as error:
        raise ForeignError(f"not a readable program of torch.export ({str(error)[:100]})") from None


def _entries(path: Path, found: Sequence[zipfile.ZipInfo]) -> dict[str, str]:
    """Entries of the archive by their names in its one folder. Raises ForeignError, TorchFileError."""
    names = [entry.filename for entry in found]
    if OLD in names:
        raise ForeignError(
            "a program of torch before 2.8, whose weights are pickles: load it with that version and write ONNX with "
            "torch.onnx.export, or save it again with a newer one"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in found):
        raise ForeignError("a compressed archive, expected one as torch.export.save writes it")
    check_entries(path, found)

    folder = names[0].partition("/")[0] if names else ""
    inside = {name.removeprefix(f"{folder}/"): name for name in names if name.startswith(f"{folder}/")}
    if len(inside) != len(names) or "archive_format" not in inside:
        raise ForeignError("no program of torch.export: expected a .pt2 of torch.export.save")
    code = [name for name in inside if name.startswith(("data/aotinductor/", "data/executorch/", "data/mtia"))]
    if code:
        raise ForeignError(f"holds compiled code ({code[0][:80]}), expected a program of torch.export.save alone")
    models = [name for name in inside if name.startswith("models/")]
    if models != [MODEL]:
        raise ForeignError(f"holds {', '.join(models)[:100] or 'no program'}, expected one program, {MODEL}")
    for kind, (_, config, _) in CONFIGS.items():
        if config not in inside:
            raise ForeignError(f"holds its {kind} as a pickle, which is not read: save it with a newer torch")
    return inside


def _json(archive: zipfile.ZipFile, entries: dict[str, str], name: str) -> Any:
    try:
        return json.loads(archive.read(entries[name]))
    except (ValueError, RecursionError) as error:
        raise ForeignError(f"{name}: not readable ({str(error)[:100]}): a damaged file") from None


def _payloads(listed: Any, bare: re.Pattern[str]) -> Iterator[str]:
    """Names of the entries that hold a program's tensors, each once. Raises ForeignError for pickles among them."""
    tensors = listed.get("config") if isinstance(listed, dict) else None
    if not isinstance(tensors, dict):
        raise ForeignError("its list of tensors is none: a damaged file")
    seen = set[str]()
    for name, said in tensors.items():
        place = said.get("path_name") if isinstance(said, dict) else None
        if not isinstance(place, str) or said.get("use_pickle") is not False or not bare.fullmatch(place):
            raise ForeignError(
                f"its {str(name)[:80]!r} is a pickle, which is not read: make it a plain tensor, or write ONNX with "
                "torch.onnx.export"
            )
        if place not in seen:
            seen.add(place)
            yield place


def _checked_graph(program: Any) -> bytes:
    """The program without code for guards and notes on where it came from. Raises ForeignError for any other code."""
    if not isinstance(program, dict):
        raise ForeignError(f"{MODEL}: no program: a damaged file")
    program["guards_code"] = []
    try:
        _check(program)
    except RecursionError:
        raise ForeignError(f"{MODEL}: nested too deep: a damaged file") from None
    return json.dumps(program).encode()


def _check(value: Any) -> None:
    """Looks at whatever would be evaluated, imported or called, wherever in the program it stands."""
    if isinstance(value, list):
        for one in value:
            _check(one)
    if not isinstance(value, dict):
        return
    for key, one in value.items():
        if key == "metadata":
            value[key] = {}
        elif key == "expr_str":
            _check_size(one)
        elif key in ("target", "as_operator") and isinstance(one, str):
            if not OPERATORS.fullmatch(one) or FILES.match(one):
                raise ForeignError(f"calls {one[:80]!r}, expected operators of ATen: write ONNX with torch.onnx.export")
        elif key in ("in_spec", "out_spec"):
            _check_containers(one)
        elif key == "range_constraints" and isinstance(one, dict):
            for name in one:
                _check_size(name)
        elif key in ("as_custom_obj", "custom_obj", "treespec_namedtuple_fields") and one:
            raise ForeignError("takes or holds objects of its own classes, expected tensors: write ONNX instead")
        else:
            _check(one)


def _check_size(text: Any) -> None:
    """Refuses what is no arithmetic of open sizes: torch evaluates it as Python."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        nodes = [ast.Pass()]  # no arithmetic
    functions = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        plain = isinstance(node, ARITHMETIC)
        if isinstance(node, ast.Name):
            plain = node.id in FUNCTIONS if id(node) in functions else bool(SYMBOL.fullmatch(node.id))
        if isinstance(node, ast.Constant):
            symbol = isinstance(node.value, str) and SYMBOL.fullmatch(node.value)
            plain = isinstance(node.value, int | float) or bool(symbol)
        if not plain:
            raise ForeignError(
                f"has the size {str(text)[:80]!r}, expected arithmetic of numbers and open sizes: refused"
            )


def _check_containers(text: Any) -> None:
    """Refuses a description of arguments or results that would import anything."""
    try:
        described = json.loads(text)
        _check_container(described[1] if isinstance(described, list) and len(described) == 2 else None)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ForeignError("takes or returns what cannot be read, expected tensors: a damaged file") from None


def _check_container(spec: Any) -> None:
    if spec["type"] is not None and spec["type"] not in CONTAINERS:
        raise ForeignError(
            f"takes or returns a {str(spec['type'])[:80]}, expected tensors: return the class scores alone"
        )
    context = spec["context"]
    names = [] if context in (None, "null") else json.loads(context)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ForeignError("takes or returns its tensors by names that are none: a damaged file")
    for child in spec["children_spec"]:
        _check_container(child)
