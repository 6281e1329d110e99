"""The parallel solver of nonlinear recurrences against the loop over time."""

import math

import pytest
import torch

from nas.kernels.newton import cells, reference
from nas.kernels.newton.dense_scan import dense_scan
from nas.kernels.newton.operator import newton_scan
from tests.kernels.harness import GPU, relative_error

# Name: the cell, sizes of its inputs, weights and states for a width, and its Jacobian.
CASES = {
    "gru": (cells.diagonal_gru, lambda d: (3, d), lambda d: (3, d), lambda d: (d,), "diagonal"),
    "lstm": (cells.diagonal_lstm, lambda d: (3, d), lambda d: (5, d), lambda d: (d, 2), "block"),
    "lem": (cells.diagonal_lem, lambda d: (4, d), lambda d: (4, d), lambda d: (d, 2), "block"),
    "rnn": (cells.dense_rnn, lambda d: (d,), lambda d: (d, d), lambda d: (d,), "dense"),
    "quasi": (cells.dense_rnn, lambda d: (d,), lambda d: (d, d), lambda d: (d,), "quasi"),
}


def make(name, shape=(2, 100, 4), dtype=torch.float64, strength=0.5, device="cpu"):
    """A step that closes over weights, its inputs, weights and initial state, and the kind."""
    torch.manual_seed(0)
    cell, inputs, weights, states, jacobian = CASES[name]
    batch, length, width = shape
    kind = {"dtype": dtype, "device": device, "requires_grad": True}
    x = torch.randn(batch, length, *inputs(width), **kind)
    w = (strength * torch.randn(weights(width))).to(device, dtype).requires_grad_()
    state = torch.randn(batch, *states(width), **kind)
    return lambda h, u: cell(h, u, w), (x, w, state), jacobian


def gradients(states, final, leaves):
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(states.shape, generator=generator, dtype=torch.float64).to(states)
    return torch.autograd.grad((states * grad).sum() + final.sin().sum(), leaves)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("length", [1, 2, 63, 100])
@pytest.mark.parametrize("name", CASES)
def test_the_solver_is_the_loop(name, length, dtype) -> None:
    step, leaves, jacobian = make(name, (2, length, 4), dtype)
    x, _, state = leaves
    limit = 100 if name == "quasi" else 8
    states, final, report = newton_scan(step, x, state, jacobian=jacobian, max_iterations=limit)
    assert report.converged
    assert not report.sequential
    assert report.resets == 0
    assert report.iterations <= limit
    expected, last = reference.newton_scan(step, [x], state)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-6
    assert relative_error(states, expected) < tolerance
    assert relative_error(final, last) < tolerance
    for a, b in zip(
        gradients(states, final, leaves), gradients(expected, last, leaves), strict=True
    ):
        assert relative_error(a, b) < 5 * tolerance


@pytest.mark.parametrize("name", CASES)
def test_gradients_against_finite_differences(name) -> None:
    _, leaves, jacobian = make(name, (1, 6, 2))
    cell = CASES[name][0]

    def call(x, w, state):
        return newton_scan(lambda h, u: cell(h, u, w), x, state, jacobian=jacobian)[:2]

    assert torch.autograd.gradcheck(call, leaves)


@pytest.mark.parametrize("name", CASES)
def test_without_gradients_the_states_are_the_same(name) -> None:
    step, (x, _, state), jacobian = make(name)
    with torch.no_grad():
        found = newton_scan(step, x, state, jacobian=jacobian, max_iterations=100)
    assert not found.report.sequential
    assert not found.states.requires_grad
    expected, _ = reference.newton_scan(step, [x], state)
    assert relative_error(found.states, expected) < 1e-8


def test_every_iteration_settles_one_more_step() -> None:
    # Weights so large that nothing is linear: still the first k steps are right after k iterations.
    step, (x, _, state), _ = make("rnn", (1, 24, 3), strength=6.0)
    expected, _ = reference.newton_scan(step, [x], state)
    for k in (1, 5, 24):
        with torch.no_grad():
            found = newton_scan(
                step, x, state, jacobian="dense", max_iterations=k, tolerance=0.0, fallback=False
            )
        torch.testing.assert_close(found.states[:, :k], expected[:, :k], rtol=1e-6, atol=1e-6)


def test_what_does_not_converge_is_run_step_by_step() -> None:
    step, leaves, jacobian = make("gru", strength=3.0)
    x, _, state = leaves
    found = newton_scan(step, x, state, jacobian=jacobian, max_iterations=1)
    assert found.report.sequential
    assert not found.report.converged
    expected, last = reference.newton_scan(step, [x], state)
    assert torch.equal(found.states, expected)
    for a, b in zip(gradients(*found[:2], leaves), gradients(expected, last, leaves), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        left = newton_scan(step, x, state, jacobian=jacobian, max_iterations=1, fallback=False)
    assert not left.report.sequential
    assert not left.report.converged
    assert not torch.equal(left.states, expected)


def test_numbers_that_are_not_finite_are_set_back() -> None:
    # A step whose derivative at the guess is huge, so that products of it overflow at once.
    def step(h, x):
        return torch.tanh(x + 1e200 * torch.sin(h) * torch.exp(-(h * h) * 1e6)) + 0.5

    x = torch.randn(1, 40, 2, dtype=torch.float64)
    state = torch.ones(1, 2, dtype=torch.float64)
    found = newton_scan(step, x, state, jacobian="diagonal", max_iterations=60)
    assert found.report.resets > 0
    assert found.report.converged
    assert not found.report.sequential
    expected, _ = reference.newton_scan(step, [x], state)
    assert relative_error(found.states, expected) < 1e-9


def test_nan_ends_in_the_loop_and_not_in_a_wrong_number() -> None:
    step, (x, _, state), jacobian = make("gru")
    x = x.detach().clone()
    x[0, 50] = float("nan")
    found = newton_scan(step, x, state, jacobian=jacobian, max_iterations=4)
    assert found.report.sequential
    assert found.states[0, 50:].isnan().all()
    assert found.states[1].isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_damping_changes_the_way_and_not_the_solution(name) -> None:
    step, (x, _, state), jacobian = make(name)
    plain = newton_scan(step, x, state, jacobian=jacobian, max_iterations=99)
    damped = newton_scan(step, x, state, jacobian=jacobian, damping=0.3, max_iterations=99)
    assert damped.report.converged
    assert relative_error(damped.states, plain.states) < 1e-8


def expanding(h, u):
    return 4 * torch.sin(2 * h) + u


@pytest.mark.parametrize("jacobian", ["diagonal", "block", "dense", "quasi"])
def test_an_expanding_recurrence_is_solved_with_a_gradient_as_without(jacobian) -> None:
    # Damped, it converges; undamped, the products of its Jacobians reach 1e30 and more.
    torch.manual_seed(0)
    pair = (2,) if jacobian == "block" else ()
    x = (0.1 * torch.randn(2, 100, 2, *pair)).requires_grad_()
    state = torch.randn(2, 2, *pair)
    states, _, report = newton_scan(
        expanding, x, state, jacobian=jacobian, damping=0.95, max_iterations=200, fallback=False
    )
    assert report.converged
    before = torch.cat([state.unsqueeze(1), states[:, :-1]], dim=1)
    torch.testing.assert_close(expanding(before, x), states, rtol=0, atol=1e-4)
    loop, _ = reference.newton_scan(expanding, [x], state)
    (grad,) = torch.autograd.grad(states[:, :5].sum(), x)
    (expected,) = torch.autograd.grad(loop[:, :5].sum(), x)
    assert relative_error(grad, expected) < 1e-3


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_states_that_rest_far_from_a_solution_are_not_returned(seed) -> None:
    # A chunk's product of Jacobians is beyond 1e7, which makes rounding errors as large as states:
    # the iteration comes to rest, and steps do not fit each other by 1 and more.
    torch.manual_seed(seed)
    x, state = 0.1 * torch.randn(2, 60, 2), torch.randn(2, 2)
    states, _, _ = newton_scan(expanding, x, state, jacobian="diagonal", max_iterations=150)
    before = torch.cat([state.unsqueeze(1), states[:, :-1]], dim=1)
    torch.testing.assert_close(expanding(before, x), states, rtol=0, atol=1e-2)


def test_no_sequences() -> None:
    x, state = torch.randn(0, 5, 3, requires_grad=True), torch.randn(0, 3)
    states, final, _ = newton_scan(lambda h, u: torch.tanh(h + u), x, state, jacobian="diagonal")
    assert states.shape == (0, 5, 3)
    assert final.shape == (0, 3)
    assert torch.autograd.grad(states.sum(), x)[0].shape == x.shape


def test_a_good_guess_saves_iterations() -> None:
    step, (x, _, state), jacobian = make("lstm")
    cold = newton_scan(step, x, state, jacobian=jacobian)
    warm = newton_scan(step, x, state, jacobian=jacobian, guess=cold.states)
    assert warm.report.iterations < cold.report.iterations
    assert relative_error(warm.states, cold.states) < 1e-9


def test_a_derivative_may_be_given() -> None:
    step, leaves, _ = make("rnn")
    x, w, state = leaves

    def diagonal(h, u):
        return (1 - step(h, u).square()) * w.diagonal()

    def full(h, u):
        return (1 - step(h, u).square()).unsqueeze(-1) * w

    found = newton_scan(step, x, state, jacobian="dense")
    wanted = gradients(*found[:2], leaves)
    for jacobian, derivative in (("quasi", diagonal), ("dense", full)):
        found = newton_scan(
            step, x, state, jacobian=jacobian, derivative=derivative, max_iterations=100
        )
        assert found.report.converged
        for a, b in zip(gradients(*found[:2], leaves), wanted, strict=True):
            assert relative_error(a, b) < 1e-8


def test_parts_of_a_sequence_are_the_sequence() -> None:
    step, (x, _, state), jacobian = make("lem")
    whole = newton_scan(step, x, state, jacobian=jacobian)
    first = newton_scan(step, x[:, :37], state, jacobian=jacobian)
    second = newton_scan(step, x[:, 37:], first.final_state, jacobian=jacobian)
    parts = torch.cat([first.states, second.states], dim=1)
    assert relative_error(parts, whole.states) < 1e-9
    second.final_state.detach().zero_()
    assert second.states[:, -1].any()


def test_several_inputs_and_the_reference_as_backend() -> None:
    step, (x, _, state), jacobian = make("gru")

    def scaled(h, u, s):
        return step(h, u) * s

    scale = torch.rand(2, 100, 1, dtype=torch.float64)
    found = newton_scan(scaled, (x, scale), state, jacobian=jacobian)
    loop = newton_scan(scaled, (x, scale), state, jacobian=jacobian, backend="reference")
    assert loop.report.sequential
    assert relative_error(found.states, loop.states) < 1e-9


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"jacobian": "banded"}, ValueError, "'banded': choose one of diagonal, block"),
        ({"jacobian": "block"}, ValueError, r"must be \[B, D, 2\], and is \[2, 3\]"),
        ({"initial_state": torch.zeros(2, 3, 1)}, ValueError, r"must be \[B, D\]"),
        ({"initial_state": torch.zeros(2, 3).bfloat16()}, TypeError, "float32 or float64"),
        ({"inputs": torch.zeros(3, 5, 3)}, ValueError, r"B = 2 .* \[\[3, 5, 3\]\]"),
        ({"inputs": torch.zeros(2, 0, 3)}, ValueError, "L >= 1"),
        ({"guess": torch.zeros(2, 4, 3)}, ValueError, r"guess must be \[2, 5, 3\]"),
        ({"max_iterations": 0}, ValueError, "1 or more"),
        ({"damping": 1.0}, ValueError, r"in \[0, 1\)"),
        ({"step": lambda h, x: (h + x)[..., :1]}, ValueError, "step must return what it gets"),
        ({"backend": "cuda"}, ValueError, "choose one of reference, cpu, triton"),
    ],
)
def test_arguments_that_do_not_fit(changed, error, message) -> None:
    given = {
        "step": lambda h, x: torch.tanh(h + x),
        "inputs": torch.zeros(2, 5, 3),
        "initial_state": torch.zeros(2, 3),
        "jacobian": "diagonal",
    }
    with pytest.raises(error, match=message):
        newton_scan(**(given | changed))


@pytest.mark.parametrize("width", [1, 3, 40])
@pytest.mark.parametrize("length", [1, 15, 16, 50, 64])
def test_the_dense_scan_is_its_loop(length, width) -> None:
    torch.manual_seed(0)
    double = {"dtype": torch.float64}
    a = torch.randn(2, length, width, width, **double) / math.sqrt(width)
    b = torch.randn(2, length, width, requires_grad=True, **double)
    state = torch.randn(2, width, requires_grad=True, **double)
    found, expected, h = dense_scan(a, b, state), [], state
    for t in range(length):
        h = (a[:, t] @ h.unsqueeze(-1)).squeeze(-1) + b[:, t]
        expected.append(h)
    expected = torch.stack(expected, dim=1)
    assert relative_error(found, expected) < 1e-13
    grad = torch.randn_like(found)
    for x, y in zip(
        torch.autograd.grad(found, [b, state], grad),
        torch.autograd.grad(expected, [b, state], grad),
        strict=True,
    ):
        assert relative_error(x, y) < 1e-12


def test_the_dense_scans_products_may_overflow() -> None:
    a = torch.full((1, 256, 2, 2), 1e3)
    a[:, 128:] = 0.25
    a[:, 150] = 0
    b = torch.zeros(1, 256, 2)
    b[:, 128:] = 1
    found = dense_scan(a, b, torch.zeros(1, 2))
    assert found.isfinite().all()
    assert relative_error(found[:, -1], torch.full((1, 2), 2.0)) < 1e-6


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("device", GPU)
def test_on_a_gpu(name, device) -> None:
    step, leaves, jacobian = make(name, (4, 1000, 16), torch.float32, 0.2, device)
    x, _, state = leaves
    found = newton_scan(step, x, state, jacobian=jacobian)
    assert found.report.converged
    expected, last = reference.newton_scan(step, [x], state)
    assert relative_error(found.states, expected) < 1e-5
    for a, b in zip(gradients(*found[:2], leaves), gradients(expected, last, leaves), strict=True):
        assert relative_error(a, b) < 1e-4
