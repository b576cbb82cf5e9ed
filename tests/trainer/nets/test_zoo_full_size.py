"""The seven nets at full size, on a photograph, against plain nets with the same weights. `make test-slow`."""

from __future__ import annotations

import pytest
import torch
from conftest import Photos
from helpers import FULL_SIZE, full_spec, network_input, random_net
from reference import assert_equals_plain_net

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("net", FULL_SIZE)
def test_full_size_scores_equal_a_plain_net_and_a_perturbed_weight_does_not(net: str, photos: Photos) -> None:
    spec = full_spec(net)
    model = random_net(spec)
    crops = [photos["astronaut"][0:224, 120:344], photos["china"][150:374, 300:524]]
    x = torch.cat([network_input(crop, spec) for crop in crops])
    assert_equals_plain_net(model, spec, x)
    for layer in ("inception.3a.conv3x3", "classifier") if net == "googlenet" else ("conv1_1", "conv4_2", "fc6"):
        with pytest.raises(AssertionError, match="class scores differ"):
            assert_equals_plain_net(model, spec, x, perturb=layer)
