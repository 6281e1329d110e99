import torch

from nas.layers.numerics import LARGEST_ROOT_GRADIENT, at_least_float32, bounded_sqrt


def test_the_root_is_exact_and_its_derivative_bounded():
    x = torch.tensor([0.0, 1e-12, 1e-7, 2.6e-7, 0.25, 4.0], dtype=torch.float64)
    x.requires_grad_()
    y = bounded_sqrt(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, x.detach().sqrt())
    assert (gradient[:3] == LARGEST_ROOT_GRADIENT).all()
    assert torch.allclose(gradient[3:], 0.5 / x.detach()[3:].sqrt())


def test_short_types_become_float32_and_long_ones_stay():
    for dtype, wanted in (
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert at_least_float32(torch.zeros(1, dtype=dtype)).dtype == wanted
