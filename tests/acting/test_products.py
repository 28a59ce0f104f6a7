"""Products by another library are the products."""

import copy
import pickle

import pytest
import torch
from torch.nn import functional

from rlaif_ray import products
from rlaif_ray.products import WORTH_IT, Dense, linear

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


@pytest.fixture
def asked(monkeypatch):
    """Whatever the processor, oneDNN is to be taken; what it was asked for."""
    seen = []

    def product(x, weight, bias=None):
        seen.append((tuple(x.shape), tuple(weight.shape)))
        return plain(x, weight, bias)

    plain = products._product
    monkeypatch.setattr(products, "BY_ONEDNN", True)
    monkeypatch.setattr(products, "_product", product)
    return seen


def made(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(**options)


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [256, 1000])
def test_values_and_gradients_are_those_of_an_exact_sum(asked, rows, bias):
    x, weight, grad = made(rows, 300), made(200, 300, seed=1), made(rows, 200, seed=2).detach()
    given = [x, weight] + [made(200, seed=3)] * bias
    exact = [one.detach().double().requires_grad_() for one in given]
    found, wanted = linear(*given), functional.linear(*exact)
    torch.testing.assert_close(found.double(), wanted, atol=1e-3, rtol=1e-4)
    assert len(asked) == 1
    of_ours, of_exact = torch.autograd.grad(found, given, grad), torch.autograd.grad(wanted, exact, grad.double())
    assert len(asked) == 3
    for ours, other in zip(of_ours, of_exact, strict=True):
        torch.testing.assert_close(ours.double(), other, atol=1e-3, rtol=1e-4)


@needs_onednn
def test_weights_may_lie_the_other_way_and_inputs_need_no_gradient(asked):
    x, rows = made(512, 300, requires_grad=False), made(300, 200, seed=1)
    linear(x, rows.t()).sum().backward()
    assert len(asked) == 2  # nothing for x
    torch.testing.assert_close(rows.grad, x.sum(0)[:, None].expand(300, 200), atol=1e-3, rtol=1e-4)


@needs_onednn
@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (made(4, 256), made(256, 256)),  # too small
        (made(3, 512, 300), made(200, 300)),  # more axes
        (made(512, 300).double(), made(200, 300).double()),
    ],
)
def test_the_rest_goes_pytorchs_own_way(asked, x, weight):
    assert torch.equal(linear(x, weight), functional.linear(x, weight))
    assert asked == []


def test_a_processor_of_mkls_maker_goes_pytorchs_own_way(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for maker, wanted in {"GenuineIntel": False, "": False, "AuthenticAMD": True}.items():
        monkeypatch.setattr(products, "processor_says", lambda field, maker=maker: maker)
        assert products._onednn_is_faster() is wanted
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not products._onednn_is_faster()


def test_a_dense_layer_is_a_linear_one_to_all_who_look():
    layer = Dense(300, 200)
    plain = torch.nn.Linear(300, 200)
    plain.load_state_dict(layer.state_dict())
    x = made(WORTH_IT // (300 * 200) + 1, 300, requires_grad=False)
    for one in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(one(x), plain(x), atol=1e-4, rtol=1e-4)
