"""The tree as the design says: which package imports which, what loads torch, sizes of files, what the wheel holds."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("infer", "trainer", "export", "evaluation")
MOST_LINES = 300

MAY_IMPORT = {"infer": set(), "trainer": {"infer"}, "export": {"trainer", "infer"}, "evaluation": {"infer"}}
"""Arrows at module level. Besides: export/verify.py -> evaluation; evaluation -> trainer inside a function."""


class Arrow(NamedTuple):
    source: str  # path below the root
    target: str  # package
    in_function: bool


def python_files(package: str) -> list[Path]:
    """Those that are modules; infer/cpp is none."""
    return sorted(p for p in (ROOT / package).rglob("*.py") if "cpp" not in p.relative_to(ROOT / package).parts)


def arrows(text: str, path: str) -> Iterator[Arrow]:
    """Imports of other packages of ours in a file: `path` is its place below the root."""

    def walk(node: ast.AST, in_function: bool) -> Iterator[Arrow]:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            depth = len(Path(path).parts) - node.level  # relative: how many folders of the path remain
            names = [node.module or ""] if node.level == 0 else [Path(path).parts[0] if depth >= 1 else "outside"]
        for name in names:
            target = name.split(".")[0]
            if target in (*PACKAGES, "outside", "tests") and target != Path(path).parts[0]:
                yield Arrow(path, target, in_function)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(ast.parse(text), False)


def is_allowed(arrow: Arrow) -> bool:
    source, target = Path(arrow.source).parts[0], arrow.target
    if (source, target) == ("evaluation", "trainer"):
        return arrow.in_function
    if (source, target) == ("export", "evaluation"):
        return arrow.source == "export/verify.py"
    return target in MAY_IMPORT[source]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_the_right_way(package: str) -> None:
    found = [
        arrow for file in python_files(package) for arrow in arrows(file.read_text(), file.relative_to(ROOT).as_posix())
    ]
    assert [arrow for arrow in found if not is_allowed(arrow)] == []
    assert package == "infer" or found  # the walk sees imports at all


@pytest.mark.parametrize(
    ("path", "text", "allowed"),
    [
        ("infer/a.py", "import trainer.vgg", False),
        ("infer/a.py", "def f():\n    from evaluation import scores", False),
        ("infer/a.py", "from . import spec\nfrom .spec import ModelSpec\nfrom infer import views", True),
        ("infer/a.py", "from ..trainer import vgg", False),
        ("trainer/a.py", "from infer.spec import ModelSpec", True),
        ("trainer/a.py", "if True:\n    import export.graph", False),
        ("trainer/a.py", "from evaluation.runner import evaluate", False),
        ("export/a.py", "import trainer.zoo, infer.spec", True),
        ("export/a.py", "from evaluation import runner", False),
        ("export/verify.py", "from evaluation import runner", True),
        ("evaluation/a.py", "from trainer.checkpoint import load", False),
        ("evaluation/a.py", "class A:\n    def f(self):\n        from trainer.checkpoint import load", True),
        ("evaluation/a.py", "def f():\n    import export", False),
    ],
)
def test_a_wrong_arrow_is_seen(path: str, text: str, allowed: bool) -> None:
    assert all(map(is_allowed, arrows(text, path))) == allowed


def modules_of(package: str) -> list[str]:
    """Every module of a package but its commands' `__main__`."""
    files = [file for file in python_files(package) if file.name != "__main__.py"]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


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
    templates = {name for name in names if name.startswith("evaluation/report.") and not name.endswith(".py")}
    assert templates == {"evaluation/report.css", "evaluation/report.html.jinja"}
    assert modules == {file.relative_to(ROOT).as_posix() for package in PACKAGES for file in python_files(package)}
