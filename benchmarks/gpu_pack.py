"""Packs for a bare GPU machine what gpu_bare.py needs and such a machine lacks, into .gpu/, which git ignores.

    python benchmarks/gpu_pack.py [--python 3.12] [--capability 90] [--without-onnxruntime]      where pip works
    python3 benchmarks/gpu_pack.py --unpack                                                       on the machine

Small wheels lie there as they are. ONNX Runtime's CUDA provider has machine code for many GPUs, 58 MiB of which are for
one: the code of the others is set to zero, which packs to nothing. A kernel of another capability would fail to load.
"""

from __future__ import annotations

import argparse
import lzma
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKED = ROOT / ".gpu"
SMALL = ("msgspec", "defusedxml")
"""What `infer` imports and an image with torch does not have; all else is on it (the stage `facts` says what)."""
ONNXRUNTIME = "onnxruntime-gpu==1.31.1"
FATBIN = 0xBA55ED50
"""Magic number of a block of machine code for several GPUs (CUDA's fatbinary_section.h)."""
MOST_MIB = 64
"""What may travel to a machine with the working tree, the tree included."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", default="3.12", help="of the machine (default: %(default)s)")
    parser.add_argument("--capability", type=int, default=90, help="of its GPU, as 90 (default: %(default)s)")
    parser.add_argument("--without-onnxruntime", action="store_true")
    parser.add_argument("--unpack", action="store_true", help="on the machine")
    args = parser.parse_args()
    if args.unpack:
        unpack()
        return 0

    shutil.rmtree(PACKED, ignore_errors=True)
    site = PACKED / f"site-{args.python}"
    site.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        for wheel in download(SMALL, args.python, Path(name, "small")):
            with zipfile.ZipFile(wheel) as file:
                file.extractall(site)
        if not args.without_onnxruntime:
            (wheel,) = download([ONNXRUNTIME], args.python, Path(name, "onnxruntime"))
            pack_onnxruntime(wheel, args.capability, args.python)

    tree = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [*PACKED.rglob("*"), *(ROOT / name for name in tree.split("\0") if name)]
    mib = sum(path.stat().st_size for path in files if path.is_file()) / 2**20
    print(f"{PACKED} and the tree: {mib:.1f} MiB, at most {MOST_MIB}; carry it, and run on the machine:")
    print("python3 benchmarks/gpu_pack.py --unpack && python3 benchmarks/gpu_bare.py $OUT")
    return int(mib > MOST_MIB)


def download(packages: list[str] | tuple[str, ...], python: str, folder: Path) -> list[Path]:
    """Wheels for x86-64 Linux."""
    platforms = [word for tag in ("2_28", "2_17") for word in ("--platform", f"manylinux_{tag}_x86_64")]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version", python, *platforms]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "-d", str(folder), *packages], check=True)
    return sorted(folder.glob("*.whl"))


def pack_onnxruntime(wheel: Path, capability: int, python: str) -> None:
    """Its Python files as they are, its two large libraries compressed."""
    target = PACKED / f"onnxruntime-{python}" / "onnxruntime"
    with zipfile.ZipFile(wheel) as file:
        for name in file.namelist():
            path = Path(name)
            needed = path.parts[:2] in (("onnxruntime", "capi"), ("onnxruntime", "__init__.py"))
            if (needed and path.suffix == ".py") or path.name == "libonnxruntime_providers_shared.so":
                file.extract(name, target.parent)
            elif path.name.startswith(("libonnxruntime_providers_cuda", "onnxruntime_pybind11_state")):
                content = bytearray(file.read(name))
                kept = keep_one(content, capability)
                print(f"{path.name}: {len(content) >> 20} MiB, machine code kept: {kept >> 20} MiB")
                packed = target / "capi" / f"{path.name}.xz"
                packed.parent.mkdir(parents=True, exist_ok=True)
                packed.write_bytes(lzma.compress(content, preset=6))


def unpack() -> None:
    for packed in PACKED.rglob("*.xz"):
        with lzma.open(packed) as source, packed.with_suffix("").open("wb") as target:
            shutil.copyfileobj(source, target)
        packed.unlink()


def keep_one(content: bytearray, capability: int) -> int:
    """Sets to zero all machine code but that for one compute capability; returns the bytes kept.

    A block's header has its length at 8 and is 16 bytes long; each entry's has its kind (2: machine code) at 0, its own
    length at 4, its content's at 8 and the capability at 28.
    """
    kept = 0
    for start, end in blocks(content):
        place = start
        while place < end:
            kind, _, header, length = struct.unpack_from("<HHIQ", content, place)
            (own,) = struct.unpack_from("<I", content, place + 28)
            if kind == 2 and own == capability:
                kept += length
            else:
                content[place + header : place + header + length] = bytes(length)
            place += header + length
    return kept


def blocks(content: bytearray) -> Iterator[tuple[int, int]]:
    """The places of the entries of each block."""
    magic, place = struct.pack("<I", FATBIN), 0
    while (place := content.find(magic, place)) >= 0:
        version, header, length = struct.unpack("<HHQ", content[place + 4 : place + 16].ljust(12, b"\0"))
        if version == 1 and header == 16 and place + 16 + length <= len(content):
            yield place + 16, place + 16 + length
            place += 16 + length
        else:
            place += 4


if __name__ == "__main__":
    sys.exit(main())
