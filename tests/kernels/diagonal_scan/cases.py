"""What the tests of the diagonal scan share: gates, arguments, results and the oracle's."""

import itertools

import torch
from torch import Tensor

from nas.kernels.diagonal_scan import reference
from tests.kernels import harness

OUTPUTS = ("h", "final_state")
GATES = {
    "weak": lambda shape: 1 - 0.05 * torch.rand(shape),
    "strong": lambda shape: 0.05 * torch.rand(shape),
    "signed": lambda shape: 2 * torch.rand(shape) - 1,
    "exact": lambda shape: torch.tensor([0.0, 1.0, -1.0, 0.5])[torch.randint(4, shape)],
    "ones": torch.ones,
    "zeros": torch.zeros,
    "tiny": lambda shape: 1e-30 * torch.randn(shape),
}
COMPLEX_GATES = {
    "rotating": lambda shape: torch.polar(torch.rand(shape), 7 * torch.rand(shape)),
    "slow": lambda shape: torch.polar(1 - 0.02 * torch.rand(shape), 0.1 * torch.randn(shape)),
    "roots of one": lambda shape: torch.tensor([1, 1j, -1, -1j, 0])[torch.randint(5, shape)],
}
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 5e-3, torch.float16: 1e-3}
TOLERANCE |= {torch.complex64: TOLERANCE[torch.float32], torch.complex128: 1e-14}
CU_SEQLENS = {
    "ragged": [0, 1, 18, 18, 50, 63],
    "one": [0, 63],
    "empty ends": [0, 0, 0, 40, 63, 63],
    "single steps": list(range(64)),
}


def make(shape, gates="signed", initial=True, dtype=torch.float32, device="cpu", seed=0):
    """Arguments of the scan, and gradients for both of its results, without requires_grad."""
    torch.manual_seed(seed)
    states, state_dtype = (shape[0], shape[2]), torch.promote_types(dtype, torch.float32)
    drawn = torch.complex128 if dtype.is_complex else torch.float32
    gate = COMPLEX_GATES[gates] if gates in COMPLEX_GATES else GATES[gates]

    def normal(shape, dtype):
        return torch.randn(shape, dtype=drawn).to(device, dtype)

    a, b = gate(shape).to(device, dtype), normal(shape, dtype)
    state = normal(states, state_dtype) if initial else None
    return (a, b, state), (normal(shape, dtype), normal(states, state_dtype))


def make_packed(ends, gates="signed", initial=True, dtype=torch.float32, device="cpu", width=5):
    """Arguments of packed sequences, and gradients."""
    (a, b, _), (grad_h, _) = make((1, ends[-1], width), gates, False, dtype, device)
    states = (len(ends) - 1, 1, width)
    (_, _, state), (_, grad_final) = make(states, gates, initial, dtype, device, seed=1)
    return (a, b, state), (grad_h, grad_final)


def named(arguments):
    return dict(zip(("a", "b", "initial_state"), arguments, strict=True))


def results(function, arguments, grads, **keywords) -> dict[str, Tensor]:
    return harness.results(function, named(arguments), grads, OUTPUTS, **keywords)


def expected(arguments, grads, reverse, **keywords) -> dict[str, Tensor]:
    keywords |= {"reverse": reverse}
    return harness.oracle(reference.diagonal_scan, named(arguments), grads, OUTPUTS, **keywords)


def naive(a, b, state, reverse):
    """The definition, one number at a time."""
    h = torch.empty_like(b)
    batch, length, width = b.shape
    for i, d in itertools.product(range(batch), range(width)):
        value = 0.0 if state is None else state[i, d].item()
        for t in range(length - 1, -1, -1) if reverse else range(length):
            value = a[i, t, d].item() * value + b[i, t, d].item()
            h[i, t, d] = value
    return h
