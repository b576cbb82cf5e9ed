"""Prints the public names of a release of TensorRT's Python module, and the parameters of the calls that we make.

They are read from its bindings alone, which are on PyPI.

    pip download --no-deps --only-binary :all: --dest /tmp/trt tensorrt-cu13-bindings==11.4.0.106
    python tests/golden/freeze_tensorrt_api.py /tmp/trt/*.whl > tests/golden/tensorrt_11_4_api.txt

The bindings want TensorRT's libraries, which are not on PyPI. Of these they need no more than a few functions to be
imported, so empty libraries with those names are compiled (needs a C compiler and the wheel's version of Python).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    *("getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins"),
)
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")

READ = r"""
import re
import tensorrt_bindings as trt

def public(thing):
    return sorted(name for name in dir(thing) if not name.startswith("_"))

print("module: __name__ __version__", *(name for name in public(trt) if len(name) > 0))
for name in public(trt):
    if isinstance(getattr(trt, name), type) and getattr(trt, name).__module__.startswith("tensorrt"):
        print(f"{name}:", "__init__", *public(getattr(trt, name)))

# "> Class.method parameter parameter?" for each overload, from the docstrings; a parameter with a default has a ?
for name in CLASSES:
    for method in public(getattr(trt, name)) if hasattr(trt, name) else ():
        text = getattr(getattr(trt, name), method).__doc__ or ""
        for said in re.findall(rf"^(?:\d+\. )?{method}\(self: [\w.]+(.*)\) -> ", text, re.MULTILINE):
            parameters = re.split(r", (?=\w+: )", said)[1:]
            words = [part.partition(":")[0] + "?" * (" = " in part) for part in parameters]
            print(f"> {name}.{method}", *words)
"""
CLASSES = (
    *("Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig"),  # of those who run a plan
    *("Builder", "IBuilderConfig", "INetworkDefinition", "OnnxParser", "IOptimizationProfile", "ILayer", "ITensor"),
    *("ITimingCache", "ParserError"),
)
"""The classes whose calls are compared."""


def main() -> None:
    wheel = Path(sys.argv[1])
    package, version = wheel.name.split("-")[:2]
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(wheel).extractall(folder)
        source = Path(folder, "empty.c")
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
        for library in LIBRARIES:
            file = f"{folder}/lib{library}.so.{version.split('.')[0]}"
            subprocess.run(["cc", "-shared", "-fPIC", "-o", file, source], check=True)
        environment = {**os.environ, "LD_LIBRARY_PATH": folder, "PYTHONPATH": folder}
        names = subprocess.check_output(
            [sys.executable, "-c", f"CLASSES = {CLASSES!r}\n{READ}"], env=environment, text=True
        )
    print(f"# Public names of {package} {version}, made by tests/golden/freeze_tensorrt_api.py:")
    print(f"# pip download --no-deps --only-binary :all: --dest /tmp/trt {package.replace('_', '-')}=={version}")
    major, minor = version.split(".")[:2]
    output = f"tests/golden/tensorrt_{major}_{minor}_api.txt"
    print(f"# python tests/golden/freeze_tensorrt_api.py /tmp/trt/{package}-{version}-*.whl > {output}")
    print(names, end="")


if __name__ == "__main__":
    main()
