"""A plan's whole path: built by the real builder of TensorRT-RTX, its sidecar, an engine on the double.

The double cannot load the real plan, so its own takes the place of the bytes. All else is what the builder and the
command wrote: profiles, targets, options, the bytes of activations that the builder's log says.
"""

from __future__ import annotations

import json
from pathlib import Path

import cudasim
import pytest
from helpers import Exported
from on_double import check, run
from plans import build_whole

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def plan(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_whole(exported("A"), tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("binding", cudasim.BINDINGS)
def test_every_protocol(binding: str, plan: Path, tmp_path: Path) -> None:
    code = f"""
    import json
    from infer.open import open_engine
    path = Path({str(plan)!r})
    reference, engine = OnnxEngine(path.with_suffix(".onnx")), open_engine(path, self_test=True)
    for name in PROTOCOLS:
        sizes = [(90, 130), (140, 80)]
        images = [noise(*size, seed) for seed, size in enumerate(sizes)]
        plans = [plan_views(engine.spec, name, size) for size in sizes]
        same(engine.run(engine.load(images), plans, OUTPUTS), reference.run(reference.load(images), plans, OUTPUTS))
    print(max(bucket.scratch_bytes for bucket in engine._buckets.values()))
    engine.close()
    del engine
    """
    seen = run(code, tmp_path, binding=binding)
    check(seen)
    profiles = json.loads(plan.with_name(plan.name + ".json").read_text())["profiles"]
    assert 0 < int(seen.stdout) <= max(profile["activation_bytes"] for profile in profiles)
