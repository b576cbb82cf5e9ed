"""Writes base classes for a double of TensorRT's runtime: every virtual of the real headers, which ends the process.

python nvinfer_stubs.py NvInferImpl.h stubs.hpp      so that a double overrides what it has, and misses nothing unseen
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CLASSES = ("VRuntime", "VCudaEngine", "VExecutionContext")
VIRTUAL = re.compile(
    r"(?:TRT_NODISCARD\s+)?virtual\s+(?P<type>[\w:\s*&]+?)\s*(?P<name>\w+)\((?P<args>[^()]*)\)(?P<end>[^;]*)= 0;"
)


def body(text: str, name: str) -> str:
    """Of one class, without comments and what the preprocessor leaves out."""
    found = re.search(rf"^class {name} : public VRoot\s*\{{(.*?)^\}};", text, re.MULTILINE | re.DOTALL)
    assert found, name
    plain = re.sub(r"//.*", "", found[1])
    return re.sub(r"^#if ENABLE_.*?^#endif", "", plain, flags=re.MULTILINE | re.DOTALL)


def stubs(text: str, name: str) -> str:
    lines = [f"class Stub{name} : public apiv::{name} {{", " public:"]
    for match in VIRTUAL.finditer(body(text, name)):
        arguments = re.sub(r"\s+", " ", match["args"].strip())
        end = "const noexcept" if "const" in match["end"] else "noexcept"
        lines.append(f"  {match['type'].strip()} {match['name']}({arguments}) {end} override {{")
        lines.append(f'    not_in_the_double("{name}::{match["name"]}");')
        lines.append("  }")
    return "\n".join([*lines, "};", ""])


def main() -> None:
    text = Path(sys.argv[1]).read_text()
    head = """// Made by nvinfer_stubs.py from TensorRT's own header.
#pragma once
#include <NvInferRuntime.h>

#include <cstdio>
#include <cstdlib>
#pragma GCC diagnostic ignored "-Wunused-parameter"

namespace nvinfer1 {
[[noreturn]] inline void not_in_the_double(const char* what) {
  std::fprintf(stderr, "fake_nvinfer: BREACH OF CONTRACT: %s is not in the double\\n", what);
  std::_Exit(70);
}

"""
    Path(sys.argv[2]).write_text(head + "\n".join(stubs(text, name) for name in CLASSES) + "}  // namespace nvinfer1\n")


if __name__ == "__main__":
    main()
