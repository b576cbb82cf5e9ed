"""Writes stubs for every entry of the driver API that sim.c does not define, and the table of cuGetProcAddress.

python gen.py INCLUDE_FOLDER sim.o stubs.c     the entries are those that the installed cuda.h declares
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def declared(include: Path) -> set[str]:
    """Entries in the headers, with the variants for per-thread default streams."""
    names: set[str] = set()
    for header in ("cuda.h", "cudaProfiler.h"):
        text = (include / header).read_text(errors="replace")
        names |= set(re.findall(r"CUDAAPI\s+(cu[A-Z]\w*)\s*\(", text))
        names |= set(
            re.findall(r"#\s*define\s+cu[A-Z]\w*\s+(?:__CUDA_API_PT[SD]Z?\()?(cu[A-Z]\w*)\)?\s*$", text, re.MULTILINE)
        )
        for kind, suffix in (("PTDS", "_ptds"), ("PTSZ", "_ptsz")):
            for name in re.findall(rf"__CUDA_API_{kind}\((cu\w+)\)", text):
                names |= {name, name + suffix}
    return names


def defined(object_file: str) -> set[str]:
    lines = subprocess.check_output(["nm", object_file], text=True).splitlines()
    symbols = (line.split() for line in lines)
    return {parts[2] for parts in symbols if len(parts) == 3 and parts[1] == "T" and re.match("cu[A-Z]", parts[2])}


def versions(include: Path) -> dict[str, list[int]]:
    """Versions of CUDA in which an entry got a new form, by its plain name."""
    text = (include / "cudaTypedefs.h").read_text(errors="replace")
    found: dict[str, set[int]] = {}
    for name, version in re.findall(r"typedef \w+ \(CUDAAPI \*PFN_(cu\w+?)_v(\d+)(?:_pt[sd][sz])?\)", text):
        found.setdefault(name, set()).add(int(version))
    return {name: sorted(numbers) for name, numbers in found.items()}


def table(names: set[str], of_version: dict[str, list[int]]) -> list[tuple[str, str, int]]:
    """(plain name, symbol, version of CUDA from which the symbol is meant)."""
    rows = []
    plain = {re.sub(r"_v\d+$", "", re.sub(r"_pt[sd][sz]$", "", name)) for name in names}
    for base in sorted(set(of_version) | plain):
        symbols = [symbol for symbol in (base, *(f"{base}_v{i}" for i in range(2, 6))) if symbol in names]
        known = of_version.get(base, [])
        own = [version for version in known if version != 7000] or known or [0]  # 7000: only another default stream
        own = [0] * (len(symbols) - len(own)) + own
        rows += [(base, symbol, version) for symbol, version in zip(symbols, own, strict=False)]
    return rows


def main() -> None:
    include, object_file, output = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    have = defined(object_file)
    names = declared(include) | have
    lines = ["int sim_stub(const char *name);"]
    for name in sorted(names - have):
        base = re.sub(r"_pt[sd][sz]$", "", name)
        if base in have:
            lines.append(
                f"extern int {base}(void); static void *res_{name}(void) {{ return (void *){base}; }}\n"
                f'int {name}(void) __attribute__((ifunc("res_{name}")));'
            )
        else:
            lines.append(f'int {name}(void) {{ return sim_stub("{name}"); }}')
    lines += [f"extern int {name}(void);" for name in sorted(have)]
    lines.append("const struct { const char *base, *sym; int ver; void *fn; } sim_table[] = {")
    rows = table(names, versions(include))
    lines += [f'  {{"{base}", "{symbol}", {version}, (void *){symbol}}},' for base, symbol, version in rows]
    output.write_text("\n".join(lines) + "\n  {0, 0, 0, 0}};\n")


if __name__ == "__main__":
    main()
