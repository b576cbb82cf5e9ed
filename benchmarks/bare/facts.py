"""What the machine is and has."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

NEEDS = ("torch",)
PACKAGES = (
    *("torch", "cuda-bindings", "msgspec", "defusedxml", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "pillow"),
    *("opencv-contrib-python-headless", "pyarrow", "scipy", "scikit-learn", "scikit-image", "matplotlib", "tabulate"),
    *("tqdm", "jinja2", "pyyaml", "tensorboard", "pytest", "hypothesis", "nvidia-cudnn-cu13", "tensorrt"),
)
QUERY = "name,driver_version,memory.total,compute_cap,power.limit,clocks.max.sm"


def run(folder: Path, rehearse: bool) -> tuple[dict[str, Any], list[str]]:
    import torch

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    try:
        asked = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
        smi = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        smi = f"none: {error}"

    return {
        "gpu": smi,
        "cuda of torch": torch.version.cuda,
        "cudnn of torch": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "packages": versions,
    }, []
