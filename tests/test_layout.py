"""The tree as the design says: which file imports which, what loads torch, sizes of files, what the wheel holds."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest
from paths import ROOT

PACKAGES = ("infer", "trainer", "export", "evaluation")
MOST_LINES = 500
MOST_NAMES = {"infer": 23, "export": 18, "evaluation": 16, "trainer": 14}

MAY_IMPORT = {"infer": set(), "trainer": {"infer"}, "export": {"trainer", "infer"}, "evaluation": {"infer"}}
"""Arrows between packages, at module level."""
EXCEPTIONS = {("export/proof/verify.py", "evaluation"), ("export/proof/verdict.py", "evaluation")}
"""Besides: evaluation -> trainer inside a function, to open a checkpoint."""

FLOORS: dict[str, str] = {
    "infer": """
        __init__ __main__
        classify detect benchmark
        open
        onnx_engine
        tensorrt drawing
        cuda self_test boxes command
        model_file
        engine graph_inputs
        pixels
        views data
        spec files processes
        errors""",
    "export": """
        to_trt from_torch
        to_onnx
        int8
        proof to_triton from_onnx to_check
        tensorrt foreign
        model from_caffe from_torchvision
        graph caffe torchvision
        importing errors""",
    "evaluation": """
        ilsvrc
        localization detection
        proposals features paper rescore
        run report compare analyse fuse
        scores
        published text
        errors""",
    "trainer": """
        __main__ chain
        loop torch_engine statistics
        data checkpoint recipes
        nets recipe sources processes torch_file
        miniature""",
}
"""A line is a floor, from the roof down: a file imports its own room and what stands on lower floors."""


def python_files(package: str) -> list[Path]:
    """The modules of a package; infer/cpp holds none."""
    return sorted(p for p in (ROOT / package).rglob("*.py") if "cpp" not in p.relative_to(ROOT / package).parts)


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    module_name(file): file.relative_to(ROOT).as_posix() for package in PACKAGES for file in python_files(package)
}


class Arrow(NamedTuple):
    """An import: `source` is a path below the root, `target` a dotted name of ours, a module's where it is one."""

    source: str
    target: str
    in_function: bool


def arrows(text: str, path: str, modules: Mapping[str, str] = MODULES) -> Iterator[Arrow]:
    """Imports of ours in the text of a file whose place below the root is `path`."""
    folders = Path(path).parts[:-1]

    def targets(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folders[: len(folders) - (node.level - 1)] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}" if base else alias.name
                yield name if name in modules else base or name

    def walk(node: ast.AST, in_function: bool) -> Iterator[Arrow]:
        for target in targets(node):
            if target.split(".")[0] in (*PACKAGES, "tests"):
                yield Arrow(path, target, in_function)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(ast.parse(text), False)


def all_arrows() -> list[Arrow]:
    return [arrow for path in MODULES.values() for arrow in arrows((ROOT / path).read_text(), path)]


def floor_of(package: str, room: str) -> int:
    """0 is the roof. Raises KeyError for a room that stands on no floor."""
    for number, rooms in enumerate(FLOORS[package].split("\n")):
        if room in rooms.split():
            return number
    raise KeyError(f"{package}/{room} stands on no floor of FLOORS")


def room_of(path: str) -> str:
    """The room, or the file's own name where it stands on top: infer/data/tar.py -> data, infer/spec.py -> spec."""
    return Path(path).parts[1].removesuffix(".py")


def is_allowed(arrow: Arrow) -> bool:
    package, target = Path(arrow.source).parts[0], arrow.target.split(".")[0]
    if target == package:
        room = room_of(arrow.source)
        aim = [*arrow.target.split("."), "__init__"][1]
        return room == aim or floor_of(package, room) < floor_of(package, aim)
    if (package, target) == ("evaluation", "trainer"):
        return arrow.in_function
    return target in MAY_IMPORT[package] or (arrow.source, target) in EXCEPTIONS


def circle(found: Sequence[Arrow]) -> list[str]:
    """Files that import each other in a ring, wherever in them the imports stand; [] where there are none."""
    imports: dict[str, set[str]] = {}
    for arrow in found:
        if arrow.target in MODULES and MODULES[arrow.target] != arrow.source:
            imports.setdefault(arrow.source, set()).add(MODULES[arrow.target])
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_point_downwards() -> None:
    found = all_arrows()
    assert [arrow for arrow in found if not is_allowed(arrow)] == []
    assert {Path(arrow.source).parts[0] for arrow in found} == set(PACKAGES)  # the walk sees imports at all


def test_no_circle_of_files() -> None:
    assert circle(all_arrows()) == []


def test_a_planted_circle_is_seen() -> None:
    planted = Arrow("infer/spec.py", "infer.views", in_function=True)
    assert {"infer/spec.py", "infer/views.py"} <= set(circle([*all_arrows(), planted]))


@pytest.mark.parametrize(
    ("path", "text", "allowed"),
    [
        ("infer/a.py", "import trainer.nets.vgg", False),
        ("infer/views.py", "def f():\n    from evaluation import scores", False),
        ("infer/views.py", "from . import spec\nfrom .spec import ModelSpec\nfrom infer import errors", True),
        ("infer/spec.py", "from .views import plan_views", False),
        ("infer/spec.py", "def f():\n    from . import views", False),
        ("infer/data/tar.py", "from .folder import File\nfrom ..files import fsync", True),
        ("infer/data/tar.py", "from ..pixels.decode import decode", False),
        ("infer/pixels/decode.py", "from ..data.folder import File", True),
        ("infer/boxes/finding.py", "from .. import onnx_engine", False),  # the same floor, another room
        ("infer/views.py", "from ..trainer import vgg", False),
        ("trainer/recipe.py", "from infer.spec import ModelSpec", True),
        ("trainer/recipe.py", "if True:\n    import export.graph", False),
        ("trainer/loop/train.py", "from evaluation.run.score import evaluate", False),
        ("trainer/nets/vgg.py", "from ..loop.train import train", False),
        ("export/to_onnx.py", "import trainer.nets.zoo, infer.spec", True),
        ("export/proof/calibrate.py", "from evaluation.run import score", False),
        ("export/proof/verify.py", "from evaluation.run import score", True),
        ("export/graph/writer.py", "from ..model import file", False),
        ("evaluation/run/score.py", "from trainer.checkpoint import load", False),
        ("evaluation/run/engines.py", "class A:\n    def f(self):\n        from trainer.checkpoint import load", True),
        ("evaluation/run/engines.py", "def f():\n    import export", False),
        ("evaluation/run/score.py", "from ..report import write", False),
        ("evaluation/scores/table.py", "from ..run import store", False),
    ],
)
def test_a_wrong_arrow_is_seen(path: str, text: str, allowed: bool) -> None:
    found = list(arrows(text, path))
    assert found or not allowed
    assert all(map(is_allowed, found)) == allowed


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_says_what_it_is(package: str) -> None:
    """The docstring of a folder names its subject, and what it knows nothing about."""
    folders = {file.parent for file in python_files(package)}
    silent = [f for f in folders if not ast.get_docstring(ast.parse((f / "__init__.py").read_text()))]
    assert silent == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_shows_few_names(package: str) -> None:
    names = [path.name for path in (ROOT / package).iterdir() if path.name not in ("__init__.py", "__pycache__")]
    assert len(names) <= MOST_NAMES[package], sorted(names)


def modules_of(package: str) -> list[str]:
    """Every module of a package but its commands' `__main__`."""
    files = [file for file in python_files(package) if file.name != "__main__.py"]
    return [module_name(file) for file in files]


def test_infer_does_not_load_torch_or_our_other_packages() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {modules_of('infer')!r}: importlib.import_module(name)\n"
        "print([name for name in ('torch', 'scipy', 'trainer', 'evaluation', 'export') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_evaluation_loads_torch_only_for_a_checkpoint() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {modules_of('evaluation')!r}: importlib.import_module(name)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("package", PACKAGES)
def test_files_stay_small(package: str) -> None:
    lines = {file.relative_to(ROOT).as_posix(): len(file.read_text().splitlines()) for file in python_files(package)}
    assert lines
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_command_needs_its_docstrings(package: str) -> None:
    """`python -OO` has none."""
    assert [file.name for file in python_files(package) if "__doc__" in file.read_text()] == []


@pytest.mark.processes
def test_the_wheel_holds_the_four_packages_and_nothing_else(tmp_path: Path) -> None:
    """Built from a copy, without isolation: no network, and nothing written into this tree."""
    source = tmp_path / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith("verydeep-")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    modules = {name for name in names if name.endswith(".py")}
    templates = {name for name in names if name.startswith(tuple(PACKAGES)) and not name.endswith(".py")}
    assert templates == {
        "evaluation/detection/report/page.html.jinja",
        "evaluation/report/page.html.jinja",
        "evaluation/report/page.js",
        "evaluation/rescore/imagenet-a.txt",
        "evaluation/rescore/imagenet-r.txt",
        "evaluation/rescore/objectnet.txt",
        "infer/data/imagenet_1k.txt",
        "infer/drawing/page.css",
        "trainer/loop/report/run.html.jinja",
    }
    assert modules == {file.relative_to(ROOT).as_posix() for package in PACKAGES for file in python_files(package)}
