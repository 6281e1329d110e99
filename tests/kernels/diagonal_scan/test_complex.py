"""The diagonal scan of complex numbers, and of both kinds together."""

import pytest
import torch

from nas.kernels.diagonal_scan import cpu, reference
from nas.kernels.diagonal_scan.operator import diagonal_scan, diagonal_scan_step
from tests.kernels import harness
from tests.kernels.diagonal_scan.cases import (
    COMPLEX_GATES,
    TOLERANCE,
    expected,
    make,
    naive,
    named,
    results,
)
from tests.kernels.harness import relative_error


def test_the_complex_reference_is_the_definition() -> None:
    (a, b, state), _ = make((2, 9, 3), "rotating", dtype=torch.complex128)
    h, final = reference.diagonal_scan(a, b, state)
    torch.testing.assert_close(h, naive(a, b, state, False), rtol=1e-12, atol=0)
    assert torch.equal(final, h[:, -1])


def test_a_complex_scan_is_a_real_one_of_rotated_pairs() -> None:
    # h = x + iy with a gate r e^{i phi}, in the frame that turns along: gates r alone.
    (a, b, _), _ = make((1, 20, 3), "rotating", initial=False, dtype=torch.complex128)
    turned = torch.polar(torch.ones_like(a.abs()), a.angle().cumsum(1))
    pairs = torch.view_as_real(b / turned).flatten(2)
    h, _ = reference.diagonal_scan(a.abs().repeat_interleave(2, -1), pairs)
    h = torch.view_as_complex(h.unflatten(-1, (-1, 2))) * turned
    torch.testing.assert_close(diagonal_scan(a, b)[0], h)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("gates", COMPLEX_GATES)
@pytest.mark.parametrize("shape", [(2, 1, 7), (2, 63, 60), (1, 1000, 3), (3, 17, 2000)])
def test_cpu_complex(guarded_memory, shape, gates, initial, reverse) -> None:
    for dtype in (torch.complex64, torch.complex128):
        arguments, grads = make(shape, gates, initial, dtype)
        out = results(diagonal_scan, arguments, grads, reverse=reverse, backend="cpu")
        assert {x.dtype for x in out.values()} == {dtype}
        harness.check(out, expected(arguments, grads, reverse), TOLERANCE[dtype])


@pytest.mark.parametrize("reverse", [False, True])
def test_real_and_complex_numbers_may_be_mixed(reverse) -> None:
    (a, b, state), grads = make((2, 40, 3), "rotating", dtype=torch.complex64)
    for arguments in [(a.real, b, state), (a, b.real, state.real), (a.real, b, None)]:
        out = results(diagonal_scan, arguments, grads, reverse=reverse)
        for name, x in named(arguments).items():
            assert x is None or out[f"gradient of {name}"].dtype == x.dtype
        assert out["h"].dtype == torch.complex64
        harness.check(out, expected(arguments, grads, reverse), 1e-6)
        inner = results(cpu.diagonal_scan, arguments, grads, reverse=reverse)
        harness.check(inner, out, 1e-7)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_one_gate_for_all_steps_stays_one_in_memory(backend) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
        from nas.kernels.diagonal_scan.triton import _rows

        gate = torch.randn(6, dtype=torch.complex64).expand(2, 20, 6)
        assert _rows(gate).data_ptr() == gate.data_ptr()
        return
    gate = torch.randn(6, dtype=torch.complex64).expand(2, 20, 6)
    conjugate = cpu._conjugate(gate)
    assert conjugate.untyped_storage().nbytes() == 6 * 8
    assert torch.equal(conjugate, gate.conj())


@pytest.mark.parametrize("reverse", [False, True])
def test_complex_layouts_that_are_not_contiguous(reverse) -> None:
    (a, b, state), (grad_h, grad_final) = make((2, 20, 6), "rotating", dtype=torch.complex64)
    fixed = a[:1, :1].expand(2, 20, 6), b.mT.contiguous().mT, state[:1].expand(2, 6)
    for arguments, grads in [
        (fixed, (grad_h, grad_final)),
        ((a.conj(), b.conj(), state.conj()), (grad_h.conj(), grad_final.conj())),
    ]:
        out = results(diagonal_scan, arguments, grads, reverse=reverse)
        harness.check(out, expected(arguments, grads, reverse), 1e-6)


def test_complex_gradients_against_finite_differences() -> None:
    for shape, reverse in [((2, 5, 2), True), ((1, 37, 2), False)]:
        arguments, _ = make(shape, "rotating", dtype=torch.complex128)
        leaves = [x.requires_grad_() for x in arguments]
        for function in (diagonal_scan, cpu.diagonal_scan):
            assert torch.autograd.gradcheck(
                lambda *x, f=function, r=reverse: f(*x, reverse=r), leaves
            )


def test_complex_steps_are_the_scan() -> None:
    (a, b, state), _ = make((3, 30, 5), "slow", dtype=torch.complex64)
    _, final = diagonal_scan(a, b, state)
    for t in range(30):
        out, state = diagonal_scan_step(a[:, t], b[:, t], state)
    assert out.dtype == torch.complex64
    assert relative_error(state, final) < 1e-6
