"""trainer/nets/zoo.py, vgg.py, googlenet.py, lrn.py: counts, names, shapes, and slim nets against plain references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Photos
from helpers import NETS, VGG_NETS, full_spec, network_input, random_net, slim_spec
from plain_nets import give_weights, plain_lrn
from reference import assert_equals_plain_net, assert_same_scores, plain_net

from infer.spec import ModelSpec, SpecError
from trainer.loop.start import start_weights
from trainer.nets import vgg
from trainer.nets.googlenet import GoogLeNet
from trainer.nets.lrn import LRN
from trainer.nets.zoo import NETS as ZOO
from trainer.nets.zoo import Net, build_net

PARAMETERS = {
    "A": 132_863_336,
    "A-LRN": 132_863_336,
    "B": 133_047_848,
    "C": 133_638_952,
    "D": 138_357_544,
    "E": 143_667_240,
    "googlenet": 6_998_552,
}


def on_meta(spec: ModelSpec, *, auxiliary_heads: bool = False) -> Net:
    with torch.device("meta"):
        return build_net(spec, auxiliary_heads=auxiliary_heads)


def count(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("net", NETS)
def test_parameter_counts_are_the_papers(net: str) -> None:
    assert count(on_meta(full_spec(net))) == PARAMETERS[net]


def test_googlenet_with_both_heads() -> None:
    net = on_meta(full_spec("googlenet"), auxiliary_heads=True)
    assert count(net) == 13_378_280
    assert isinstance(net, GoogLeNet)
    assert [count(net.auxiliary[name]) for name in ("aux1", "aux2")] == [3_188_840, 3_190_888]


def test_the_zoo_holds_the_seven_nets_and_torchvisions() -> None:
    assert tuple(sorted(ZOO)) == tuple(sorted((*NETS, "googlenet-tv")))


def test_layer_names() -> None:
    convolutions = ["conv1_1", "conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "conv5_1", "conv5_2"]
    names = [name for name, _ in on_meta(full_spec("A")).named_children() if name.startswith(("conv", "fc", "norm"))]
    assert names == [*convolutions, "fc6", "fc7", "fc8"]
    with_norm = [name for name, _ in on_meta(full_spec("A-LRN")).named_children()]
    assert with_norm[:4] == ["conv1_1", "relu1_1", "norm1", "pool1"]  # after the ReLU, before the pool
    in_c = dict(on_meta(full_spec("C")).named_children())
    ones = [name for name, layer in in_c.items() if name.startswith("conv") and layer.kernel_size == (1, 1)]
    assert ones == ["conv3_3", "conv4_3", "conv5_3"]


@pytest.mark.parametrize("net", NETS)
def test_slim_nets_give_one_position_at_the_crop_and_a_map_beyond(net: str) -> None:
    spec = slim_spec(net)
    crop, model = spec.crop_px, random_net(slim_spec(net))
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, crop, crop)).shape == (2, 10, 1, 1)
        assert model(torch.zeros(1, 3, crop + 32, crop + 96)).shape == (1, 10, 2, 4)
        x = torch.randn(1, 3, crop, crop + 40)
        assert torch.equal(model.classify(model.penultimate(x)), model(x))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("side", "positions"), [(224, 1), (256, 2), (288, 3), (352, 5), (384, 6), (416, 7), (512, 10)])
def test_score_map_of_the_short_side(net: str, side: int, positions: int) -> None:
    scores = on_meta(full_spec(net))(torch.empty(1, 3, side, side, device="meta"))
    assert scores.shape == (1, 1000, positions, positions)


@pytest.mark.parametrize("net", VGG_NETS)
@pytest.mark.parametrize(
    ("side", "floor", "ceil"), [(299, 3, 4), (341, 4, 5), (469, 8, 9), (683, 15, 16), (384, 6, 6), (480, 9, 9)]
)
def test_score_map_of_the_long_side_by_pool_rounding(net: str, side: int, floor: int, ceil: int) -> None:
    for rounding, positions in (("floor", floor), ("ceil", ceil)):
        scores = on_meta(full_spec(net, pool_rounding=rounding))(torch.empty(1, 3, 224, side, device="meta"))
        assert scores.shape == (1, 1000, 1, positions), rounding


def test_googlenets_pools_round_up() -> None:
    """341 -> conv 171 -> 85 -> 42 -> 21 -> 10 -> 4 positions of the 7x7 window; rounding down, 20 -> 9 -> 3."""
    scores = on_meta(full_spec("googlenet"))(torch.empty(1, 3, 224, 341, device="meta"))
    assert scores.shape == (1, 1000, 1, 4)
    with pytest.raises(SpecError, match="googlenet's pools round up: set pool_rounding to 'ceil'"):
        build_net(full_spec("googlenet", pool_rounding="floor"))


def test_pool_rounding_matters_at_odd_sizes_only() -> None:
    ceil, floor = (random_net(slim_spec("D", pool_rounding=rounding)) for rounding in ("ceil", "floor"))
    even, odd = torch.randn(1, 3, 64, 96), torch.randn(1, 3, 64, 95)
    with torch.inference_mode():
        assert torch.equal(ceil(even), floor(even))
        assert ceil(odd).shape[3] == floor(odd).shape[3] + 1


def test_unknown_net() -> None:
    with pytest.raises(SpecError, match="unknown net 'F': expected one of A, A-LRN, B, C, D, E, googlenet"):
        build_net(slim_spec("F"))


def test_width_fields_of_googlenet() -> None:
    net = build_net(slim_spec("googlenet", width=1 / 4, fc_width=48), auxiliary_heads=True)
    assert isinstance(net, GoogLeNet)
    assert [layer.out_channels for layer in (net.conv1, net.conv2_reduce, net.conv2)] == [16, 16, 48]
    block = net.inception["4b"]  # 160, 112, 224, 24, 64, 64
    sizes = [layer.out_channels for layer in block.children() if isinstance(layer, torch.nn.Conv2d)]
    assert sizes == [40, 28, 56, 6, 16, 16]
    head = net.auxiliary["aux1"]
    assert (head.conv.out_channels, head.fc.out_features, head.classifier.out_features) == (32, 48, 10)
    assert net.classifier.in_channels == 256


def test_width_fields_of_vgg() -> None:
    net = build_net(slim_spec("D", width=1 / 4, fc_width=48))
    layers = dict(net.named_children())
    assert layers["conv1_1"].out_channels == 16
    assert layers["conv5_3"].out_channels == 128
    assert layers["fc6"].weight.shape == (48, 128, 2, 2)
    assert layers["fc8"].weight.shape == (10, 48, 1, 1)


def test_an_auxiliary_head_without_a_map_to_pool() -> None:
    message = "an auxiliary head needs a 5x5 map to pool, got 4x4: use crop_px >= 96"
    with pytest.raises(SpecError, match=message):
        build_net(slim_spec("googlenet", crop_px=64), auxiliary_heads=True)
    build_net(slim_spec("googlenet", crop_px=64))  # inference has no heads


def test_lrn_is_alexnets_formula() -> None:
    """AlexNet section 3.3: n = 5, alpha = 1e-4 on the plain sum, beta = 0.75, k = 2; here with large activations."""
    norm = dict(on_meta(full_spec("A-LRN")).named_children())["norm1"]
    a = np.random.default_rng(0).normal(0, 80, (2, 9, 3, 4))
    expected = np.empty_like(a)
    for i in range(9):
        total = sum(a[:, j] ** 2 for j in range(max(0, i - 2), min(8, i + 2) + 1))
        expected[:, i] = a[:, i] / (2 + 1e-4 * total) ** 0.75
    got = norm(torch.tensor(a, dtype=torch.float32)).numpy()
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()
    assert plain_lrn(torch.tensor(a), alpha=1e-4, k=2).numpy() == pytest.approx(expected, rel=1e-12)


def test_lrn_does_not_overflow_in_half_precision() -> None:
    norm = LRN(n=5, alpha=5e-4, beta=0.75, k=2.0)
    x = torch.full((1, 8, 2, 2), 1000.0)  # squared: beyond half's 65504
    half = norm(x.half())
    assert half.dtype == torch.float16
    assert torch.allclose(half.float(), norm(x), rtol=2e-3)


@pytest.mark.parametrize("net", NETS)
def test_slim_scores_equal_a_plain_net_with_fully_connected_heads(net: str, photos: Photos) -> None:
    spec = slim_spec(net)
    crop = photos["cat"][60 : 60 + spec.crop_px, 150 : 150 + spec.crop_px]
    assert_equals_plain_net(random_net(spec), spec, network_input(crop, spec))


@pytest.mark.parametrize(
    ("net", "layer"),
    [
        *((net, "conv3_1") for net in VGG_NETS),
        ("A-LRN", "conv1_1"),
        ("D", "fc6"),
        ("googlenet", "inception.4c.conv5x5"),
    ],
)
def test_a_perturbed_weight_fails_the_comparison(net: str, layer: str, photos: Photos) -> None:
    spec = slim_spec(net)
    crop = photos["cat"][60 : 60 + spec.crop_px, 150 : 150 + spec.crop_px]
    with pytest.raises(AssertionError, match="class scores differ"):
        assert_equals_plain_net(random_net(spec), spec, network_input(crop, spec), perturb=layer)


def test_auxiliary_heads_equal_the_papers(photos: Photos) -> None:
    """Average pool 5x5/3, 1x1 convolution to 128, two linear layers; each loss weighs 0.3."""
    spec = slim_spec("googlenet")
    torch.manual_seed(0)
    net = build_net(spec, auxiliary_heads=True).eval()
    start_weights(net, "he")
    assert isinstance(net, GoogLeNet)
    heads = [parameter for head in net.auxiliary.values() for parameter in head.parameters()]
    own = [parameter for name, parameter in net.named_parameters() if not name.startswith("auxiliary.")]
    plain = plain_net(spec, heads=True)
    give_weights(plain, [*own[:-2], *heads, *own[-2:]])
    x = network_input(photos["cat"][100:196, 150:246], spec)
    with torch.inference_mode():
        got, expected = net.training_scores(x), plain(x)
    assert [weight for weight, _ in got] == [1.0, 0.3, 0.3]
    for (_, scores), reference in zip(got, expected, strict=True):
        assert_same_scores(scores, reference, spec)


def test_what_d_takes_from_a_fits() -> None:
    a, d = (dict(on_meta(full_spec(net)).named_parameters()) for net in "AD")
    for layer in vgg.FROM_A:
        assert a[f"{layer}.weight"].shape == d[f"{layer}.weight"].shape
