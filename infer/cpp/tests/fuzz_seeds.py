"""Writes what the fuzzers start from: fuzz_seeds.py FOLDER makes FOLDER/decode, FOLDER/spec and FOLDER/sidecar."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from golden import SPECS, spec
from helpers import noise, slim_spec
from image_files import encoded

from infer.views import default_shapes

READY = {"images": {"interface": "images"}, "half": {"precision": "fp16"}, "floats": {"interface": "nchw"}}

TARGETS = {"targets": ["sm86"], "options": {"version_compatible": True, "hardware_compatible": "ampere+"}}


def main(folder: Path) -> None:
    seeds = {f"decode/{name}": data for name, data in encoded({"cat": noise((17, 24))}).items()}
    small = dataclasses.replace(slim_spec("A"), crop_px=32, classes=("a", "b"))
    specs = {name: spec(name) for name in SPECS}
    specs |= {name: dataclasses.replace(small, **changes) for name, changes in READY.items()}
    expected = {"pixel_sums": [[0] * 6] * 16, "log_posterior": [[math.log(0.5)] * 2] * 16}
    floats = {"pixel_sums": [[3e84] * 6] * 16, "log_posterior": [[3e84] * 2] * 16}
    seeds["spec/sums"] = specs["half"].to_json().encode() + b"\0" + json.dumps(floats).encode()
    for name, one in specs.items():
        seeds[f"spec/{name}"] = one.to_json().encode() + b"\0" + json.dumps(expected).encode()
        sidecar = {"spec": json.loads(one.to_json()), "sha256": "0" * 64, "builder": "tensorrt 10.14.1.48", **TARGETS}
        profiles = [dataclasses.asdict(shape) for shape in default_shapes(one)]
        seeds[f"sidecar/{name}"] = json.dumps({**sidecar, "profiles": profiles, "self_test": expected}).encode()
        profiles[0]["views"]["max"] = 3e84
        seeds[f"sidecar/{name}-float"] = json.dumps({**sidecar, "profiles": profiles}).encode()
    for name, data in seeds.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
