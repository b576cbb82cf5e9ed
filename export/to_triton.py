"""model.engine or model.onnx -> a model in a Triton repository.

python -m export.to_triton model.engine|model.onnx -o model_repository/ [--name NAME] [--force]

Writes NAME/config.pbtxt, NAME/labels.txt and NAME/1/model.plan or model.onnx. The server batches the views of an
`images` or `nchw` model; `views` calls belong to one image each and are served as they come. A NAME that is there
already is replaced, whole, with --force only, and where it holds only such files.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from infer.command import Parser, exit_with, run
from infer.errors import Refused, one_line
from infer.graph_inputs import TYPE_OF, Entry, profile_entries
from infer.processes.owned import check_ours, own_file, remove_ours
from infer.spec import ModelSpec, SpecError
from infer.tensorrt.sidecar import check_sidecar
from infer.views import default_shapes

from .graph.interface import outputs_in_graph
from .model.source import read_source

MAX_BATCH = 50
"""Views that the server puts into one call of an ONNX model; a plan's profile says it for a plan."""

OURS = re.compile(r"config\.pbtxt|labels\.txt|1/(model\.(plan|onnx)|[^/]*data)")
"""Names of the files of a model; what is beside them is not replaced."""

TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}


class TritonError(Refused):
    """A model that Triton cannot serve; one line."""


class _PlanProfile(msgspec.Struct):
    inputs: dict[str, Entry]


class _PlanContent(msgspec.Struct):
    """The part of a plan's sidecar that a server needs; all else may be missing."""

    spec: dict[str, Any]
    builder: str
    profiles: list[_PlanProfile]
    options: dict[str, Any] = {}


class Served(NamedTuple):
    """The files for the server by their names there, and the shapes of the inputs, profile by profile."""

    spec: ModelSpec
    files: Mapping[str, Path]
    profiles: Sequence[Mapping[str, Entry]]
    version_compatible: bool = False  # a plan with its own runtime, which the server must be allowed to use


def open_plan(path: Path) -> Served:
    """A plan by its sidecar. Raises EngineError for another's sidecar, TritonError for a plan of TensorRT-RTX."""
    values = check_sidecar(path)
    try:
        content = msgspec.convert(values, _PlanContent)
        spec = ModelSpec.from_json(json.dumps(content.spec))
        if not content.profiles:
            raise SpecError("no profiles")
    except (msgspec.ValidationError, SpecError) as error:
        raise TritonError(f"{path}.json: damaged ({error!r}): build the engine again with export.to_trt") from None

    if content.builder.startswith("tensorrt-rtx"):
        raise TritonError(
            f"{path}: a plan of {content.builder}, but Triton runs plans of TensorRT only: give it the ONNX model this "
            f"was built from, {path.with_suffix('.onnx')}, or build with --builder tensorrt"
        )
    brings_code = content.options.get("version_compatible") is True
    return Served(spec, {"model.plan": path}, [profile.inputs for profile in content.profiles], brings_code)


def open_onnx(path: Path) -> Served:
    """An ONNX model of ours with its external data. Raises ModelError."""
    from .model import file as model_file

    spec = read_source(path).spec
    files = {"model.onnx": path}
    for file in model_file.external_files(path, model_file.read_graph(path)):
        files[file.relative_to(path.parent.resolve()).as_posix()] = file
    return Served(spec, files, [profile_entries(shape, spec.interface) for shape in default_shapes(spec)])


def config(name: str, served: Served) -> str:
    """The text of config.pbtxt, Triton's message ModelConfig."""
    spec, is_plan = served.spec, "model.plan" in served.files

    # A batch of the server must fit one profile: the first.
    batched = spec.interface != "views" and spec.max_views != 1
    profiles = served.profiles[:1] if is_plan and batched else served.profiles
    sizes = {input_name: _sizes([profile[input_name] for profile in profiles]) for input_name in profiles[0]}
    batch_size = 0
    if batched:
        (input_name,) = sizes
        largest = max(profile[input_name][2][0] for profile in profiles)
        batch_size = largest if is_plan else spec.max_views or MAX_BATCH
    lines = [
        f'name: "{name}"',
        f'platform: "{"tensorrt_plan" if is_plan else "onnxruntime_onnx"}"',
        f"max_batch_size: {batch_size}",
    ]

    # inputs and outputs, without their first axis where the server makes batches
    for input_name, dims in sizes.items():
        kind = TYPES[TYPE_OF[input_name]]
        lines.append(f'input {{ name: "{input_name}" data_type: {kind} dims: {_list(dims[1:] if batched else dims)} }}')
    views = () if batched else (spec.max_views if spec.max_views == 1 else -1,)
    for output_name, (type_name, shape) in outputs_in_graph(spec).items():
        kind, size = TYPES[type_name], [-1 if isinstance(size, str) else size for size in shape[1:]]
        labels = ' label_filename: "labels.txt"' if output_name == "posterior" else ""
        lines.append(f'output {{ name: "{output_name}" data_type: {kind} dims: {_list((*views, *size))}{labels} }}')

    if batched:
        lines.append("dynamic_batching { }")
    if is_plan and not batched:  # the server takes the profile that fits the request
        numbers = ", ".join(f'"{number}"' for number in range(len(profiles)))
        lines.append(f"instance_group {{ kind: KIND_GPU profile: [ {numbers} ] }}")
    return "\n".join(lines) + "\n"


def labels(spec: ModelSpec) -> str:
    """A line for each class: its words, or its WNID."""
    return "".join(f"{' '.join(name.split())}\n" for name in spec.class_names or spec.classes)


def write(repository: Path, name: str, served: Served, *, force: bool = False) -> Path:
    """The model's folder in the repository, whole or not there. Raises TritonError where it is and `force` is not."""
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name, re.ASCII):
        raise TritonError(f"{name!r} is no name for a model in a repository: use --name with letters, digits, _ . -")
    folder = repository / name
    with own_file(folder):
        _exchange(folder, served, force=force)
    return folder


def _exchange(folder: Path, served: Served, *, force: bool) -> None:
    """Writes a model's folder under another name, then exchanges it for what is there."""
    unfinished, replaced = (folder.with_name(f".{folder.name}.{state}") for state in ("unfinished", "replaced"))
    if replaced.exists() and not folder.exists():  # a crash came between
        os.replace(replaced, folder)
    if folder.exists() and not force:
        raise TritonError(f"{folder}: is there already: use --force to replace it, or another --name")
    check_ours(folder, OURS, TritonError)
    for leftover in (unfinished, replaced):
        remove_ours(leftover, OURS, TritonError)

    try:
        for file_name, source in served.files.items():
            target = unfinished / "1" / file_name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        (unfinished / "labels.txt").write_text(labels(served.spec), encoding="utf-8")
        (unfinished / "config.pbtxt").write_text(config(folder.name, served), encoding="utf-8")
        if folder.exists():
            os.replace(folder, replaced)
        os.replace(unfinished, folder)
    finally:
        if replaced.exists() and not folder.exists():
            os.replace(replaced, folder)
        for leftover in (unfinished, replaced):
            remove_ours(leftover, OURS, TritonError)


def _sizes(entries: Sequence[Entry]) -> tuple[int, ...]:
    """The sizes of an input that are the same in all profiles, from the smallest shape to the largest; else -1."""
    shapes = [shape for entry in entries for shape in entry]
    return tuple(axis[0] if len(set(axis)) == 1 else -1 for axis in zip(*shapes, strict=True))


def _list(sizes: Sequence[int]) -> str:
    return f"[ {', '.join(map(str, sizes))} ]"


def _work(args: argparse.Namespace) -> int:
    if not args.model.is_file():
        raise TritonError(f"{args.model}: no such file, expected an engine (.engine) or an ONNX model (.onnx)")
    served = open_plan(args.model) if args.model.suffix == ".engine" else open_onnx(args.model)
    spec = served.spec
    folder = write(args.out, args.name or spec.name, served, force=args.force)
    served_by = f"tritonserver --model-repository={args.out.resolve()}"
    if served.version_compatible:
        served_by += " --backend-config=tensorrt,version-compatible=true"
    print(one_line(f"{folder}: {spec.interface} interface, {spec.precision}; {served_by}"))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m export.to_triton", description="Put a model into a Triton repository.")
    parser.add_argument("model", type=Path, help="a TensorRT engine (.engine) or an ONNX model of ours (.onnx)")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="REPOSITORY", help="created if need be")
    parser.add_argument("--name", help="default: the model's own")
    parser.add_argument("--force", action="store_true", help="replace a model of that name")
    args = parser.parse_args(argv)
    if args.model.suffix not in (".engine", ".onnx"):
        parser.error(f"{args.model}: expected a TensorRT engine (.engine) or an ONNX model of ours (.onnx)")
    return run(parser, lambda: _work(args))


if __name__ == "__main__":
    exit_with(main)
