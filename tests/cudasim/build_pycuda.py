"""Builds PyCUDA from its source distribution into build/, for the tests: a minute, unoptimised, without curand.

PyCUDA's own settings are read from a file beside its setup.py, and it links with the driver: here the simulated one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cudasim import PYCUDA, library, toolkit

VERSION = "2026.1"


def main() -> None:
    if PYCUDA.is_dir():
        print(f"{PYCUDA}: there already")
        return
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        isolation = ["--no-deps", "--no-build-isolation"]  # numpy, setuptools and wheel are in the environment
        source = [*isolation, "--no-binary", "pycuda", "--dest", str(folder), f"pycuda=={VERSION}"]
        subprocess.run([*pip, "download", *source], check=True)
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        tree = folder / f"pycuda-{VERSION}"
        (tree / "siteconf.py").write_text(
            f'CUDA_INC_DIR = ["{toolkit()}"]\nCUDADRV_LIB_DIR = ["{library()}"]\n'
            'CUDA_ENABLE_CURAND = False\nCXXFLAGS = ["-O0", "-g0", "-w"]\n'
        )
        subprocess.run([*pip, "wheel", *isolation, "--wheel-dir", str(folder), str(tree)], check=True)
        unfinished = PYCUDA.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        subprocess.run([*pip, "install", "--target", str(unfinished), str(next(folder.glob("*.whl")))], check=True)
        unfinished.rename(PYCUDA)


if __name__ == "__main__":
    main()
