"""Normaliser, mLSTM and complex gate, which are written on the gated matrix state."""

import pytest
import torch
from torch import Tensor

from nas.kernels.gated_linear_attention.complex_gate import (
    complex_gated_linear_attention,
    complex_gated_linear_attention_step,
)
from nas.kernels.gated_linear_attention.cpu import LOG_GATE_FLOOR
from nas.kernels.gated_linear_attention.mlstm import mlstm, mlstm_step
from nas.kernels.gated_linear_attention.normaliser import normalised, normalised_step
from tests.kernels import harness
from tests.kernels.harness import relative_error

SCALE = 0.4
# Of bfloat16: a divisor near zero magnifies its rounding, and the gradient of an angle adds it up.
TOLERANCE = {
    "normalised": {torch.float32: 1e-5, torch.bfloat16: 1e-2},
    "mlstm": {torch.float32: 1e-4, torch.bfloat16: 2e-2},
    "complex": {torch.float32: 2e-5, torch.bfloat16: 3e-2},
}
FORMS = ("normalised", "mlstm", "complex")


def make(form, length, dtype=torch.float32, initial=True, per_channel=True):
    """Arguments by name, and gradients of the output and of each part of the state."""
    torch.manual_seed(0)
    batch, heads, keys, values = 2, 2, 5, 6
    outer = (batch, length, heads)
    arguments: dict[str, Tensor | None] = {
        "q": torch.randn(*outer, keys),
        "k": torch.randn(*outer, keys),
        "v": torch.randn(*outer, values),
    }
    arguments = {name: x.to(dtype) for name, x in arguments.items()}
    gates = (*outer, keys) if per_channel else outer
    log_gate = torch.nn.functional.logsigmoid(torch.randn(gates) + 2)
    if form == "normalised":
        arguments |= {"log_gate": log_gate}
        states = {"state": (batch, heads, keys, values + 1)}
    elif form == "complex":
        arguments |= {"log_gate": log_gate, "angle": 3 * torch.randn(gates)}
        states = {"state": (batch, heads, 2, keys, values)}
    else:
        # Inputs from e^-12 to e^12, as trained gates come to have.
        arguments |= {"log_input": 4 * torch.randn(outer)}
        arguments |= {"log_forget": torch.nn.functional.logsigmoid(2 * torch.randn(outer) + 2)}
        states = {"S": (batch, heads, keys, values), "n": (batch, heads, keys), "m": (batch, heads)}
    arguments |= {name: torch.randn(s) if initial else None for name, s in states.items()}
    grads = [torch.randn(*outer, values).to(dtype), *(torch.randn(s) for s in states.values())]
    return arguments, grads


def run(form, backend="cpu"):
    """The form as a function of its arguments by name, with flat results."""
    if form == "normalised":
        return lambda q, k, v, log_gate, state: normalised(
            q, k, v, log_gate, state, scale=SCALE, bound=0.7, backend=backend
        )
    if form == "complex":
        return lambda q, k, v, log_gate, angle, state: complex_gated_linear_attention(
            q, k, v, log_gate, angle, state, scale=SCALE, backend=backend
        )

    def flat(q, k, v, log_input, log_forget, S, n, m):
        state = None if S is None else (S, n, m)
        o, end = mlstm(q, k, v, log_input, log_forget, state, scale=SCALE, backend=backend)
        return o, *end

    return flat


def loop(form):
    """The definition, a step at a time, on one head's numbers: nothing shared with the form."""

    def normalised_loop(q, k, v, log_gate, state):
        gate = log_gate.clamp(min=LOG_GATE_FLOOR).exp()
        gate = gate if gate.dim() == 4 else gate.unsqueeze(-1).expand_as(k)
        S, n = (0, 0) if state is None else (state[..., :-1], state[..., -1])
        outs = []
        for q_t, k_t, v_t, a in zip(*(x.unbind(1) for x in (SCALE * q, k, v, gate)), strict=True):
            S = a[..., None] * S + k_t[..., None] * v_t[..., None, :]
            n = a * n + k_t
            below = (n * q_t).sum(-1, keepdim=True).abs().clamp(min=0.7)
            outs.append(torch.einsum("bhk,bhkv->bhv", q_t, S) / below)
        return torch.stack(outs, 1), torch.cat([S, n[..., None]], -1)

    def complex_loop(q, k, v, log_gate, angle, state):
        gate = torch.polar(log_gate.clamp(min=LOG_GATE_FLOOR).exp(), angle)
        gate = gate if gate.dim() == 4 else gate.unsqueeze(-1).expand_as(k)
        S = 0 if state is None else torch.complex(state[:, :, 0], state[:, :, 1])
        outs = []
        for q_t, k_t, v_t, a in zip(*(x.unbind(1) for x in (SCALE * q, k, v, gate)), strict=True):
            S = a[..., None] * S + k_t[..., None] * v_t[..., None, :]
            outs.append(torch.einsum("bhk,bhkv->bhv", q_t, S.real))
        return torch.stack(outs, 1), torch.stack([S.real, S.imag], 2)

    def mlstm_loop(q, k, v, log_input, log_forget, S, n, m):
        outs = []
        inputs = (SCALE * q, k, v, log_input, log_forget)
        for q_t, k_t, v_t, i, f in zip(*(x.unbind(1) for x in inputs), strict=True):
            following = i if m is None else torch.maximum(f + m, i)
            kept = 0 * f if m is None else (f + m - following).exp()
            m, added = following, (i - following).exp()
            S = kept[..., None, None] * (0 if S is None else S) + (
                added[..., None, None] * k_t[..., None] * v_t[..., None, :]
            )
            n = kept[..., None] * (0 if n is None else n) + added[..., None] * k_t
            below = torch.maximum((n * q_t).sum(-1).abs(), (-m).exp())
            outs.append(torch.einsum("bhk,bhkv->bhv", q_t, S) / below[..., None])
        return torch.stack(outs, 1), S, n, m

    return {"normalised": normalised_loop, "complex": complex_loop, "mlstm": mlstm_loop}[form]


def outputs(grads):
    return [f"result {i}" for i in range(len(grads))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("length", [1, 63, 150])
@pytest.mark.parametrize("form", FORMS)
def test_forms_are_their_definitions(form, length, initial, dtype) -> None:
    arguments, grads = make(form, length, dtype, initial, per_channel=length != 63)
    out = harness.results(run(form), arguments, grads, outputs(grads))
    assert out["result 0"].dtype == dtype
    assert all(out[name].dtype == torch.float32 for name in outputs(grads)[1:])
    expected = harness.oracle(loop(form), arguments, grads, outputs(grads))
    harness.check(out, expected, TOLERANCE[form][dtype])


@pytest.mark.parametrize("form", FORMS)
def test_gradients_against_finite_differences(form) -> None:
    arguments, _ = make(form, 7)
    leaves = [x.double().requires_grad_() for x in arguments.values()]
    function = run(form)
    assert torch.autograd.gradcheck(
        lambda *x: function(**dict(zip(arguments, x, strict=True))), leaves, fast_mode=True
    )


@pytest.mark.parametrize("form", FORMS)
def test_parts_of_a_sequence_are_the_sequence(form) -> None:
    arguments, _ = make(form, 90)
    names = [n for n in arguments if n not in ("state", "S", "n", "m")]
    states = [n for n in arguments if n not in names]
    whole = run(form)(**arguments)
    outs, state = [], {n: arguments[n] for n in states}
    for where in (slice(33), slice(33, 34), slice(34, None)):
        o, *end = run(form)(**{n: arguments[n][:, where] for n in names}, **state)
        outs.append(o)
        state = dict(zip(states, end, strict=True))
    assert relative_error(torch.cat(outs, 1), whole[0]) < TOLERANCE[form][torch.float32]
    for name, end in zip(states, whole[1:], strict=True):
        assert relative_error(state[name], end) < 1e-5


def empty(form) -> tuple[Tensor, ...]:
    """The state before a sequence without an initial one."""
    arguments, _ = make(form, 1)
    states = [torch.zeros_like(x) for n, x in arguments.items() if n in ("state", "S", "n", "m")]
    return (*states[:2], states[2].fill_(-torch.inf)) if form == "mlstm" else tuple(states)


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_steps_are_the_sequence(form, initial) -> None:
    arguments, _ = make(form, 40, initial=initial)
    inputs = [x for n, x in arguments.items() if n not in ("state", "S", "n", "m")]
    state = tuple(list(arguments.values())[len(inputs) :]) if initial else empty(form)
    o, *end = run(form)(**arguments)
    outs = []
    for t in range(40):
        now = [x[:, t] for x in inputs]
        if form == "mlstm":
            out, state = mlstm_step(*now, state, scale=SCALE)
        elif form == "complex":
            out, *state = complex_gated_linear_attention_step(*now, *state, scale=SCALE)
        else:
            out, *state = normalised_step(*now, *state, scale=SCALE, bound=0.7)
        outs.append(out)
    assert relative_error(torch.stack(outs, 1), o) < TOLERANCE[form][torch.float32]
    for x, y in zip(state, end, strict=True):
        assert relative_error(x, y) < 1e-5


def test_an_empty_mlstm_state_may_be_given() -> None:
    arguments, _ = make("mlstm", 20)
    names = list(arguments)[:5]
    without = run("mlstm")(**{n: arguments[n] for n in names}, S=None, n=None, m=None)
    given = dict(zip(("S", "n", "m"), empty("mlstm"), strict=True))
    found = run("mlstm")(**{n: arguments[n] for n in names}, **given)
    for x, y in zip(found, without, strict=True):
        assert relative_error(x, y) < 1e-4


@pytest.mark.parametrize("size", [-300.0, 300.0])
def test_mlstm_inputs_beyond_the_range_of_exp_stay_finite_and_right(size) -> None:
    arguments, grads = make("mlstm", 50, initial=False)
    arguments["log_input"] = arguments["log_input"] + size
    out = harness.results(run("mlstm"), arguments, grads, outputs(grads))
    assert all(x.isfinite().all() for x in out.values())
    if size > 0:  # otherwise the outputs are zero, and only in float64 not quite
        expected = harness.oracle(loop("mlstm"), arguments, grads, outputs(grads))
        harness.check(out, expected, 1e-4)


def test_mlstm_inputs_of_zero_before_the_first_leave_no_trace() -> None:
    arguments, grads = make("mlstm", 40, initial=False)
    arguments["log_input"][:, :7] = -torch.inf
    out = harness.results(run("mlstm"), arguments, grads, outputs(grads))
    later = arguments | {n: x[:, 7:] for n, x in arguments.items() if x is not None}
    expected = harness.oracle(loop("mlstm"), later, [grads[0][:, 7:], *grads[1:]], outputs(grads))
    names = [name for name, x in later.items() if x is not None]
    assert not out["result 0"][:, :7].any()
    for name in ("result 0", *(f"gradient of {name}" for name in names)):
        assert relative_error(out[name][:, 7:], expected[name]) < 1e-4
        assert out[name].isfinite().all()
    for name in outputs(grads)[1:]:
        assert relative_error(out[name], expected[name]) < 1e-4
    state = empty("mlstm")
    for t in range(10):
        now = [arguments[name][:, t] for name in names]
        o, state = mlstm_step(*now, state, scale=SCALE)
        assert relative_error(o, out["result 0"][:, t]) < 1e-4


def test_mlstm_over_a_long_sequence_that_forgets_strongly() -> None:
    # The sum of its log gates passes -10,000, where float32 has a thousandth for its last digit.
    arguments, grads = make("mlstm", 1500)
    arguments["log_forget"] = arguments["log_forget"] - 8
    out = harness.results(run("mlstm"), arguments, grads, outputs(grads))
    expected = harness.oracle(loop("mlstm"), arguments, grads, outputs(grads))
    # The last m is a thousandth off, and the state with it; what is read of them is not.
    states = outputs(grads)[1:]
    harness.check({n: out[n] for n in states}, {n: expected[n] for n in states}, 1e-3)
    rest = out.keys() - set(states)
    harness.check({n: out[n] for n in rest}, {n: expected[n] for n in rest}, 1e-4)


def test_complex_gates_over_a_long_sequence() -> None:
    arguments, grads = make("complex", 1000)
    arguments["angle"] = arguments["angle"] + 3
    out = harness.results(run("complex"), arguments, grads, outputs(grads))
    expected = harness.oracle(loop("complex"), arguments, grads, outputs(grads))
    harness.check(out, expected, 2e-5)


def test_a_bound_for_each_step() -> None:
    arguments, _ = make("normalised", 12)
    bound = torch.rand(2, 12, 2)
    o, _ = normalised(*list(arguments.values()), bound=bound)
    for t in range(12):
        same, _ = normalised(*list(arguments.values()), bound=bound[0, t, 1].item())
        torch.testing.assert_close(o[0, t, 1], same[0, t, 1])


def test_shapes_that_do_not_fit() -> None:
    arguments, _ = make("mlstm", 5)
    with pytest.raises(ValueError, match=r"log_input and log_forget must be \[B, L, H\]"):
        run("mlstm")(**arguments | {"log_input": torch.zeros(2, 5)})
    arguments, _ = make("complex", 5)
    with pytest.raises(ValueError, match=r"angle must be \[B, L, H\]"):
        run("complex")(**arguments | {"angle": torch.zeros(2, 5)})
    with pytest.raises(ValueError, match=r"initial_state must be \[B, H, 2, K, V\]"):
        run("complex")(**arguments | {"state": torch.zeros(2, 2, 5, 6)})
