"""The diagonal scan of real numbers in plain torch, against a float64 loop over time."""

import pytest
import torch

from nas.kernels.diagonal_scan import cpu, reference
from nas.kernels.diagonal_scan.operator import diagonal_scan, diagonal_scan_step
from tests.kernels import harness
from tests.kernels.diagonal_scan.cases import GATES, TOLERANCE, expected, make, naive, results
from tests.kernels.harness import relative_error


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
def test_the_reference_is_the_definition(initial, reverse) -> None:
    (a, b, state), _ = make((2, 9, 3), initial=initial, dtype=torch.float64)
    h, final = reference.diagonal_scan(a, b, state, reverse=reverse)
    torch.testing.assert_close(h, naive(a, b, state, reverse), rtol=1e-12, atol=0)
    assert torch.equal(final, h[:, 0 if reverse else -1])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("width", [1, 60, 128])
@pytest.mark.parametrize("length", [1, 63, 64, 1000])
def test_cpu(guarded_memory, length, width, gates, initial, reverse) -> None:
    arguments, grads = make((2, length, width), gates, initial)
    out = results(diagonal_scan, arguments, grads, reverse=reverse, backend="cpu")
    harness.check(out, expected(arguments, grads, reverse), TOLERANCE[torch.float32])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(2, 100, 24), (1, 15, 4), (3, 17, 2000)])
def test_cpu_in_every_type(guarded_memory, shape, dtype, reverse) -> None:
    arguments, grads = make(shape, dtype=dtype)
    out = results(diagonal_scan, arguments, grads, reverse=reverse, backend="cpu")
    assert out["h"].dtype == out["gradient of a"].dtype == dtype
    assert out["final_state"].dtype == torch.promote_types(dtype, torch.float32)
    harness.check(out, expected(arguments, grads, reverse), TOLERANCE[dtype])


# Both launch paths: a chunked walk (few channels) and a plain loop, with and without a remainder.
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 5, 2), (2, 16, 1), (1, 37, 2)])
def test_cpu_gradients_against_finite_differences(shape, initial, reverse) -> None:
    arguments, _ = make(shape, initial=initial, dtype=torch.float64)
    leaves = [x.double().requires_grad_() for x in arguments if x is not None]
    for function in (diagonal_scan, cpu.diagonal_scan):
        assert torch.autograd.gradcheck(lambda *x, f=function: f(*x, reverse=reverse), leaves)


def test_one_result_alone_has_the_right_gradients() -> None:
    arguments, (grad_h, grad_final) = make((2, 40, 3))
    for grads in [(grad_h, 0 * grad_final), (0 * grad_h, grad_final)]:
        leaves = [x.clone().requires_grad_() for x in arguments]
        h, final = diagonal_scan(*leaves)
        used, grad = (h, grads[0]) if grads[0].any() else (final, grads[1])
        out = torch.autograd.grad(used, leaves, grad)
        oracle = list(expected(arguments, grads, False).values())[2:]
        assert all(relative_error(x, y) < 1e-6 for x, y in zip(out, oracle, strict=True))


@pytest.mark.parametrize("reverse", [False, True])
def test_layouts_that_are_not_contiguous(reverse) -> None:
    shape = (2, 70, 6)
    (a, b, state), (grad_h, grad_final) = make(shape)
    halves = torch.cat([a, b], dim=-1).chunk(2, dim=-1)
    repeated = a[:, :1].expand(shape), b, state[:1].expand(2, 6)
    repeated_grads = grad_h[:, :, :1].expand(shape), grad_final[:, :1].expand(2, 6)
    transposed = tuple(x.mT.contiguous().mT for x in (a, b, state))
    for arguments, grads in [
        ((*halves, state), (grad_h, grad_final)),
        (repeated, (grad_h, grad_final)),
        (transposed, repeated_grads),
    ]:
        out = results(diagonal_scan, arguments, grads, reverse=reverse)
        harness.check(out, expected(arguments, grads, reverse), 1e-6)


def test_types_may_be_mixed() -> None:
    (a, b, state), grads = make((2, 50, 8))
    arguments = (a, b.bfloat16(), state.half())
    out = results(diagonal_scan, arguments, grads)
    types = [out[f"gradient of {x}"].dtype for x in ("a", "b", "initial_state")]
    assert out["h"].dtype == torch.float32
    assert types == [torch.float32, torch.bfloat16, torch.float16]
    harness.check(out, expected(arguments, grads, False), TOLERANCE[torch.bfloat16])


def test_gates_whose_product_overflows() -> None:
    # Nothing flows through the huge gates, so that the result is finite; a product of them is not.
    a, b = torch.full((1, 256, 2), 1e3), torch.zeros(1, 256, 2)
    a[:, 128:] = 0.5
    b[:, 128:] = 1.0
    grads = torch.zeros(1, 256, 2), torch.zeros(1, 2)
    grads[0][:, 200:] = 1
    a[:, 150] = 0
    out = results(diagonal_scan, (a, b, None), grads)
    assert all(x.isfinite().all() for x in out.values())
    harness.check(out, expected((a, b, None), grads, False), 1e-6)


def test_what_is_not_finite_stays_where_it_is() -> None:
    (a, b, _), _ = make((2, 200, 4))
    b[1, 50, 2] = float("nan")
    h, _ = diagonal_scan(a, b)
    found = h.isnan().nonzero().tolist()
    assert found == [[1, t, 2] for t in range(50, 200)]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_final_state_is_a_fresh_tensor(backend) -> None:
    arguments, _ = make((2, 20, 3))
    h, final = diagonal_scan(*arguments, backend=backend)
    assert torch.equal(final, h[:, -1])
    final.zero_()
    assert h[:, -1].any()


def test_steps_are_the_scan() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        (a, b, state), _ = make((3, 30, 5), dtype=dtype)
        h, final = diagonal_scan(a, b, state)
        steps = []
        for t in range(30):
            out, state = diagonal_scan_step(a[:, t], b[:, t], state)
            steps.append(out)
        assert steps[0].dtype == dtype
        assert state.dtype == torch.float32
        assert relative_error(torch.stack(steps, 1), h) < TOLERANCE[dtype]
        assert relative_error(state, final) < 1e-6


def test_parts_of_a_sequence_are_the_sequence() -> None:
    (a, b, state), _ = make((2, 90, 5))
    h, final = diagonal_scan(a, b, state)
    first, middle = diagonal_scan(a[:, :33], b[:, :33], state)
    second, end = diagonal_scan(a[:, 33:], b[:, 33:], middle)
    assert relative_error(torch.cat([first, second], 1), h) < 1e-6
    assert relative_error(end, final) < 1e-6
