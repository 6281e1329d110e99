import torch

from nas.layers.base import Shape
from nas.layers.norm import RMSNorm


def test_agrees_with_its_formula(compare):
    layer = RMSNorm(Shape(8, 6, True))
    torch.nn.init.normal_(layer.weight)

    def expected(x, w):
        return w["weight"] * x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)

    compare(layer, expected, 3 * torch.randn(2, 7, 6))


def test_tokens_of_zeros_stay_zeros():
    x = torch.zeros(1, 3, 6, requires_grad=True)
    y = RMSNorm(Shape(8, 6, True))(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros_like(x))
    assert x.grad.isfinite().all()


def test_half_precision_is_normalised_in_float32():
    x = 300 * torch.ones(1, 3, 6, dtype=torch.float16)  # its square is beyond float16
    y = RMSNorm(Shape(8, 6, True))(x)
    assert y.dtype == torch.float16
    assert torch.allclose(y.float(), torch.ones(1, 3, 6))
