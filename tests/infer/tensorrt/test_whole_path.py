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


def test_regions(plan: Path, tmp_path: Path) -> None:
    """Regions of pictures, alone and of several images, in the bits of the graph on the host; an image goes up once."""
    code = f"""
    from infer.open import open_engine
    from infer.pixels.regions import make_picture, plan_regions
    path = Path({str(plan)!r})
    reference, engine = OnnxEngine(path.with_suffix(".onnx")), open_engine(path)
    rng = np.random.default_rng(0)
    pictures, plans = [], []
    for seed, size in enumerate([(90, 130), (60, 200)]):
        pictures.append(make_picture(noise(*size, seed), engine.spec))
        across, down = (np.sort(rng.uniform(-9, side - 3, (80, 2)), 1) for side in size[::-1])
        boxes = np.stack([across[:, 0], down[:, 0], across[:, 1] + 12, down[:, 1] + 12], 1)
        plans.append(plan_regions(boxes, size, engine.spec, mirrored=bool(seed)))
    for some in ([0], [0, 1]):
        images, own = [pictures[n] for n in some], [plans[n] for n in some]
        same(engine.run(engine.load(images), own, OUTPUTS), reference.run(reference.load(images), own, OUTPUTS))
    engine.close()
    del engine
    """
    check(run(code, tmp_path))
