"""Packed sequences: each is scanned by itself."""

import itertools

import pytest
import torch

from nas.kernels.diagonal_scan import cpu, reference
from nas.kernels.diagonal_scan.operator import diagonal_scan
from tests.kernels import harness
from tests.kernels.diagonal_scan.cases import CU_SEQLENS, TOLERANCE, expected, make_packed, results


def alone(arguments, ends, **keywords):
    """Every sequence by itself."""
    a, b, states = arguments
    found = []
    for n, (i, j) in enumerate(itertools.pairwise(ends)):
        state = None if states is None else states[n : n + 1]
        found.append(reference.diagonal_scan(a[:, i:j], b[:, i:j], state, **keywords))
    return torch.cat([h for h, _ in found], 1), torch.cat([x for _, x in found])


@pytest.mark.parametrize("reverse", [False, True])
def test_the_packed_reference_is_every_sequence_by_itself(reverse) -> None:
    ends = [0, 3, 4, 20]
    arguments, _ = make_packed(ends, dtype=torch.float64)
    cu_seqlens = torch.tensor(ends)
    out = reference.diagonal_scan(*arguments, cu_seqlens=cu_seqlens, reverse=reverse)
    for found, one_by_one in zip(out, alone(arguments, ends, reverse=reverse), strict=True):
        assert torch.equal(found, one_by_one)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("ends", CU_SEQLENS)
@pytest.mark.parametrize(("gates", "dtype"), [("signed", torch.float32), ("ones", torch.float64)])
def test_cpu_packed(guarded_memory, gates, dtype, ends, initial, reverse) -> None:
    ends = CU_SEQLENS[ends]
    arguments, grads = make_packed(ends, gates, initial, dtype)
    for integer in (torch.int32, torch.int64):
        keywords = {"cu_seqlens": torch.tensor(ends, dtype=integer)}
        out = results(diagonal_scan, arguments, grads, reverse=reverse, backend="cpu", **keywords)
        assert out["final_state"].shape == (len(ends) - 1, 5)
        oracle = expected(arguments, grads, reverse, **keywords)
        harness.check(out, oracle, TOLERANCE[dtype])


@pytest.mark.parametrize("reverse", [False, True])
def test_cpu_packed_and_long_or_complex_or_half(reverse) -> None:
    ends = [0, 500, 500, 513, 1300, 2000]
    for gates, dtype, width in [
        ("weak", torch.float32, 7),
        ("slow", torch.complex64, 7),
        ("signed", torch.bfloat16, 7),
        ("signed", torch.float32, 4100),
    ]:
        short = ends if width == 7 else CU_SEQLENS["ragged"]
        arguments, grads = make_packed(short, gates, True, dtype, width=width)
        keywords = {"cu_seqlens": torch.tensor(short)}
        out = results(diagonal_scan, arguments, grads, reverse=reverse, **keywords)
        oracle = expected(arguments, grads, reverse, **keywords)
        harness.check(out, oracle, TOLERANCE[dtype])


def test_packed_gradients_against_finite_differences() -> None:
    ends = [0, 3, 3, 9]
    for dtype, gates in [(torch.float64, "signed"), (torch.complex128, "rotating")]:
        arguments, _ = make_packed(ends, gates, dtype=dtype, width=2)
        leaves = [x.requires_grad_() for x in arguments]
        for function, reverse in itertools.product((diagonal_scan, cpu.diagonal_scan), (0, 1)):
            keywords = {"cu_seqlens": torch.tensor(ends), "reverse": bool(reverse)}
            assert torch.autograd.gradcheck(lambda *x, f=function, k=keywords: f(*x, **k), leaves)


@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_not_finite_stays_in_its_packed_sequence(reverse) -> None:
    ends = [0, 40, 40, 70, 100]
    (a, b, state), (grad_h, grad_final) = make_packed(ends)
    b[0, 50, 2], grad_h[0, 60, 1] = float("nan"), float("inf")
    keywords = {"cu_seqlens": torch.tensor(ends), "reverse": reverse}
    out = results(diagonal_scan, (a, b, state), (grad_h, grad_final), **keywords)
    for name in ("h", "gradient of a", "gradient of b"):
        outside = torch.cat([out[name][:, :40], out[name][:, 70:]], 1)
        assert outside.isfinite().all()
    for name in ("final_state", "gradient of initial_state"):
        assert out[name].isfinite().all(1).tolist() == [True, True, False, True]
