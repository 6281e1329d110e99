"""The gated delta rule, every implementation against a float64 loop over time."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nas.kernels.gated_delta_rule import cpu, reference
from nas.kernels.gated_delta_rule.operator import (
    LOG_GATE_FLOOR,
    gated_delta_product,
    gated_delta_product_step,
    gated_delta_rule,
    gated_delta_rule_step,
)
from tests.kernels import harness
from tests.kernels.harness import DEVICES, GPU, INTERPRETING, relative_error

OUTPUTS = ("o", "final_state")
INPUTS = ("q", "k", "v", "beta", "log_gate", "initial_state")
LOG_GATES = {
    "absent": lambda shape: None,
    "weak": lambda shape: -0.02 * torch.rand(shape),
    "strong": lambda shape: -6 * torch.rand(shape),
    "mixed": lambda shape: -torch.tensor([0.0, 0.01, 1.0, 15.0])[torch.randint(4, shape)],
    "ones and zeros": lambda shape: torch.tensor([0.0, 0.0, -torch.inf])[torch.randint(3, shape)],
    "floor": lambda shape: torch.full(shape, LOG_GATE_FLOOR),
}
BETAS = {
    "to one": torch.rand,
    "to two": lambda shape: 2 * torch.rand(shape),
    "two": lambda shape: torch.full(shape, 2.0),
    "zero or one": lambda shape: torch.randint(2, shape).float(),
}
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-13, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def make(
    shape, log_gate="weak", beta="to two", initial=True, dtype=torch.float32, device="cpu", seed=0
):
    """Arguments of the product, and gradients for both of its results, without requires_grad.

    The shape is (B, L, n, H, K, V). Strengths, gates and states are float32 at least.
    """
    torch.manual_seed(seed)
    batch, length, substeps, heads, width, values = shape
    steps, state_dtype = (batch, length, substeps, heads), torch.promote_types(dtype, torch.float32)
    arguments = {
        "q": torch.randn(batch, length, heads, width).to(dtype),
        "k": normalize(torch.randn(*steps, width).double(), dim=-1).to(dtype),
        "v": torch.randn(*steps, values).to(dtype),
        "beta": BETAS[beta](steps).to(state_dtype),
        "log_gate": LOG_GATES[log_gate]((batch, length, heads)),
        "initial_state": torch.randn(batch, heads, width, values) if initial else None,
    }
    grad_o = torch.randn(batch, length, heads, values).to(device, dtype)
    grad_final = torch.randn(batch, heads, width, values).to(device, state_dtype)
    for name in ("log_gate", "initial_state"):
        if arguments[name] is not None:
            arguments[name] = arguments[name].to(state_dtype)
    return {name: x if x is None else x.to(device) for name, x in arguments.items()}, (
        grad_o,
        grad_final,
    )


def single(arguments):
    """The arguments of `gated_delta_rule` from those of a product of one step."""
    return arguments | {name: arguments[name].squeeze(2) for name in ("k", "v", "beta")}


def results(arguments, grads, function=gated_delta_product, **keywords) -> dict[str, Tensor]:
    return harness.results(function, arguments, grads, OUTPUTS, **keywords)


def expected(arguments, grads, function=reference.gated_delta_product, **keywords):
    return harness.oracle(function, arguments, grads, OUTPUTS, **keywords)


# -- the definition ----------------------------------------------------------------------------


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("log_gate", ["absent", "strong"])
def test_the_reference_is_a_sum_over_products_of_matrices(log_gate, initial) -> None:
    # S_L = sum_s M_L ... M_{s+1} beta_s k_s v_s' + M_L ... M_1 S_0 with M = alpha (I - beta k k').
    arguments, _ = make((2, 7, 1, 2, 4, 3), log_gate, initial=initial, dtype=torch.float64)
    o, final = reference.gated_delta_product(**arguments, scale=0.3)
    for b, h in itertools.product(range(2), range(2)):
        q, k, v, beta, log, state = (
            None if arguments[name] is None else arguments[name][b] for name in INPUTS
        )
        matrices, rates = [], beta[:, 0, h]
        for t in range(7):
            alpha = 1 if log is None else log[t, h].exp()
            outer = torch.outer(k[t, 0, h], k[t, 0, h])
            matrices.append(alpha * (torch.eye(4, dtype=torch.float64) - rates[t] * outer))
        for t in range(7):
            total = torch.zeros(4, 3, dtype=torch.float64)
            for s in range(-1 if initial else 0, t + 1):
                term = state[h] if s < 0 else rates[s] * torch.outer(k[s, 0, h], v[s, 0, h])
                for matrix in matrices[s + 1 : t + 1]:
                    term = matrix @ term
                total += term
            torch.testing.assert_close(o[b, t, h], 0.3 * total.T @ q[t, h], rtol=0, atol=1e-13)
        torch.testing.assert_close(final[b, h], total, rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_key_written_with_strength_one_is_read_back(backend) -> None:
    arguments, _ = make((2, 50, 1, 2, 8, 5), beta="to two", dtype=torch.float64)
    arguments = single(arguments) | {"q": arguments["k"].squeeze(2)}
    arguments["beta"] = torch.ones_like(arguments["beta"])
    o, _ = gated_delta_rule(**arguments, backend=backend)
    torch.testing.assert_close(o, arguments["v"])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_strength_two_reflects_the_state(backend) -> None:
    arguments, _ = make((2, 1000, 1, 2, 8, 5), "absent", "two", dtype=torch.float64)
    arguments["v"].zero_()
    _, final = gated_delta_rule(**single(arguments), backend=backend)
    state = arguments["initial_state"]
    torch.testing.assert_close(final.mT @ final, state.mT @ state)


def test_titans_without_momentum_is_a_gated_delta_rule() -> None:
    # M <- alpha M - theta d|M'k - v|^2/dM has beta = 2 theta / alpha, and alpha v in place of v.
    arguments, _ = make((1, 40, 1, 1, 4, 3), "strong", initial=False, dtype=torch.float64)
    q, k, v, theta, log_alpha = (single(arguments)[name][0, :, 0] for name in INPUTS[:-1])
    theta, alpha = 0.1 * theta, log_alpha.exp()
    memory, outputs = torch.zeros(4, 3, dtype=torch.float64), []
    for t in range(40):
        leaf = memory.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((k[t] @ leaf - v[t]).square().sum(), leaf)
        memory = alpha[t] * memory - theta[t] * gradient
        outputs.append(q[t] @ memory)
    rule = (q, k, alpha[:, None] * v, 2 * theta / alpha, log_alpha)
    o, final = gated_delta_rule(*(x[None, :, None] for x in rule))
    torch.testing.assert_close(o[0, :, 0], torch.stack(outputs))
    torch.testing.assert_close(final[0, 0], memory)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_product_is_a_longer_sequence_with_gates_before_and_queries_after(backend) -> None:
    arguments, _ = make((2, 45, 3, 2, 4, 5), "strong", dtype=torch.float64)
    longer = {name: arguments[name].flatten(1, 2) for name in ("k", "v", "beta")}
    longer["q"] = torch.randn_like(arguments["k"])
    longer["q"][:, :, -1] = arguments["q"]
    longer["q"] = longer["q"].flatten(1, 2)
    gates = torch.zeros_like(arguments["beta"])
    gates[:, :, 0] = arguments["log_gate"]
    longer |= {"log_gate": gates.flatten(1, 2), "initial_state": arguments["initial_state"]}
    o, final = gated_delta_product(**arguments, backend=backend)
    steps, end = gated_delta_rule(**longer, backend="reference")
    torch.testing.assert_close(o, steps[:, 2::3])
    torch.testing.assert_close(final, end)


# -- plain torch -------------------------------------------------------------------------------


@pytest.mark.parametrize("log_gate", LOG_GATES)
@pytest.mark.parametrize("substeps", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 63, 64, 200])
def test_cpu(guarded_memory, length, substeps, log_gate) -> None:
    initial = length != 64
    arguments, grads = make((2, length, substeps, 2, 12, 10), log_gate, initial=initial)
    out = results(arguments, grads, backend="cpu", scale=0.3)
    harness.check(out, expected(arguments, grads, scale=0.3), TOLERANCE[torch.float32])


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("log_gate", ["absent", "strong"])
def test_cpu_strengths(guarded_memory, log_gate, beta) -> None:
    arguments, grads = make((2, 100, 1, 2, 8, 8), log_gate, beta)
    out = results(arguments, grads, backend="cpu")
    harness.check(out, expected(arguments, grads), TOLERANCE[torch.float32])


@pytest.mark.parametrize("beta", ["two", "to two"])
@pytest.mark.parametrize("log_gate", ["absent", "weak"])
def test_keys_may_repeat(log_gate, beta) -> None:
    # The powers of the triangular system are then as large as binomial coefficients.
    arguments, grads = make((2, 100, 1, 2, 8, 8), log_gate, beta)
    arguments["k"] = arguments["k"][:, :1].expand(2, 100, 1, 2, 8).clone()
    out = results(arguments, grads, backend="cpu")
    harness.check(out, expected(arguments, grads), TOLERANCE[torch.float32])


def test_cpu_at_length_1000() -> None:
    arguments, grads = make((1, 1000, 1, 2, 60, 33), "mixed")
    out = results(arguments, grads, backend="cpu")
    harness.check(out, expected(arguments, grads), TOLERANCE[torch.float32])


@pytest.mark.parametrize("log_gate", ["absent", "strong"])
@pytest.mark.parametrize("substeps", [1, 2, 40])
@pytest.mark.parametrize("length", [64, 65, 193])
def test_cpu_in_segments(monkeypatch, length, substeps, log_gate) -> None:
    monkeypatch.setattr(cpu, "SEGMENT", 2)
    length = max(1, length // substeps)
    arguments, grads = make((2, length, substeps, 1, 12, 10), log_gate, beta="to one")
    meta = {name: None if x is None else x.to("meta") for name, x in arguments.items()}
    kept, fake = (
        torch.ops.nas.gated_delta_rule(*x.values(), 0.3, "cpu")[2] for x in (arguments, meta)
    )
    tokens = 2 * max(1, 32 // substeps)
    assert len(kept) == len(fake) == -(-length // tokens) + 1
    out = results(arguments, grads, backend="cpu", scale=0.3)
    harness.check(out, expected(arguments, grads, scale=0.3), TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(2, 70, 1, 2, 24, 16), (1, 15, 2, 1, 4, 1), (1, 3, 40, 2, 5, 7)])
def test_cpu_in_every_type(guarded_memory, shape, dtype) -> None:
    arguments, grads = make(shape, dtype=dtype)
    out = results(arguments, grads, backend="cpu")
    assert {out[name].dtype for name in ("o", *(f"gradient of {x}" for x in "qkv"))} == {dtype}
    assert out["final_state"].dtype == torch.promote_types(dtype, torch.float32)
    harness.check(out, expected(arguments, grads), TOLERANCE[dtype])


@pytest.mark.parametrize("log_gate", ["absent", "mixed"])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 2, 2), (1, 5, 2, 2, 2, 1), (1, 35, 1, 1, 2, 2)])
def test_cpu_gradients_against_finite_differences(shape, initial, log_gate) -> None:
    arguments, _ = make(shape, log_gate, initial=initial, dtype=torch.float64)
    names = [name for name in INPUTS if arguments[name] is not None]
    leaves = [arguments[name].requires_grad_() for name in names]
    for function in (gated_delta_product, cpu.gated_delta_product):

        def call(*tensors, function=function):
            return function(**dict(zip(names, tensors, strict=True)), scale=0.7)

        assert torch.autograd.gradcheck(call, leaves, fast_mode=shape[1] > 5)


def test_gates_below_the_floor_are_the_floor_and_have_no_gradient() -> None:
    arguments, grads = make((1, 40, 1, 1, 4, 4), "weak", dtype=torch.float64)
    arguments["log_gate"][:, ::3] = -1000
    out = results(arguments, grads, backend="cpu")
    harness.check(out, expected(arguments, grads), 1e-13)
    assert not out["gradient of log_gate"][:, ::3].any()
    floored = arguments | {"log_gate": arguments["log_gate"].clamp(min=LOG_GATE_FLOOR)}
    assert torch.equal(results(floored, grads, backend="cpu")["o"], out["o"])


def test_one_result_alone_has_the_right_gradients() -> None:
    arguments, (grad_o, grad_final) = make((2, 40, 1, 2, 12, 4))
    for used, full in [
        ((grad_o, None), (grad_o, 0 * grad_final)),
        ((None, grad_final), (0 * grad_o, grad_final)),
    ]:
        out = results(arguments, used, backend="cpu")
        harness.check(out, expected(arguments, full), TOLERANCE[torch.float32])


def test_layouts_that_are_not_contiguous() -> None:
    arguments, (grad_o, grad_final) = make((2, 70, 2, 2, 6, 6))
    halves = torch.cat([arguments["k"], arguments["v"]], dim=-1).chunk(2, dim=-1)
    repeated = {name: arguments[name][:, :1].expand_as(arguments[name]) for name in ("k", "beta")}
    repeated["q"] = arguments["q"][:, :, :1].expand_as(arguments["q"])
    transposed = {name: x.mT.contiguous().mT for name, x in arguments.items()}
    for changed, grads in [
        (arguments | {"k": halves[0], "v": halves[1]}, (grad_o, grad_final)),
        (arguments | repeated, (grad_o[:, :, :, :1].expand_as(grad_o), grad_final)),
        (transposed, (grad_o.mT.contiguous().mT, grad_final[:1].expand_as(grad_final))),
    ]:
        out = results(changed, grads)
        harness.check(out, expected(changed, grads), TOLERANCE[torch.float32])


@pytest.mark.parametrize("function", [gated_delta_product, cpu.gated_delta_product])
@pytest.mark.parametrize("log_gate", ["absent", "weak"])
def test_autocast_changes_nothing(log_gate, function) -> None:
    arguments, grads = make((2, 300, 1, 2, 8, 6), log_gate)
    plain = results(arguments, grads, function)
    with torch.autocast("cpu", torch.bfloat16):
        out = results(arguments, grads, function)
    assert all(torch.equal(out[name], plain[name]) for name in plain)


def test_types_may_be_mixed() -> None:
    arguments, grads = make((2, 50, 1, 2, 8, 8))
    types = dict(zip(INPUTS, [torch.float32, *[torch.bfloat16] * 4, torch.float16], strict=True))
    arguments = {name: x.to(types[name]) for name, x in arguments.items()}
    out = results(arguments, grads)
    assert out["o"].dtype == torch.float32
    assert {name: out[f"gradient of {name}"].dtype for name in INPUTS} == types
    harness.check(out, expected(arguments, grads), TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("length", [1, 32, 33])
def test_the_final_state_is_a_fresh_tensor(backend, length) -> None:
    arguments, _ = make((2, length, 1, 1, 3, 4), "absent")
    before = arguments["initial_state"].clone()
    _, final = gated_delta_product(**arguments, backend=backend)
    final.zero_()
    assert torch.equal(arguments["initial_state"], before)
    _, again = gated_delta_product(**arguments, backend=backend)
    assert again.any()


@pytest.mark.parametrize("log_gate", ["absent", "strong"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_the_sequence(dtype, log_gate) -> None:
    for substeps in (1, 3):
        arguments, _ = make((3, 40, substeps, 2, 5, 4), log_gate, dtype=dtype)
        o, final = gated_delta_product(**arguments, scale=0.5)
        step, used = gated_delta_product_step, arguments
        if substeps == 1:
            step, used = gated_delta_rule_step, single(arguments)
        state, steps = arguments["initial_state"], []
        before = state.clone()
        for t in range(40):
            now = [None if used[x] is None else used[x][:, t] for x in INPUTS[:-1]]
            out, state = step(*now, state, scale=0.5)
            steps.append(out)
        assert steps[0].dtype == dtype
        assert state.dtype == torch.float32
        assert torch.equal(arguments["initial_state"], before)
        assert relative_error(torch.stack(steps, 1), o) < TOLERANCE[dtype]
        assert relative_error(state, final) < TOLERANCE[torch.float32]


def test_parts_of_a_sequence_are_the_sequence() -> None:
    arguments, _ = make((2, 90, 2, 2, 5, 4), "strong")
    o, final = gated_delta_product(**arguments)
    state, parts = arguments.pop("initial_state"), []
    for part in (slice(33), slice(33, 34), slice(34, None)):
        now = {name: x[:, part] for name, x in arguments.items()}
        out, state = gated_delta_product(**now, initial_state=state)
        parts.append(out)
    assert relative_error(torch.cat(parts, 1), o) < TOLERANCE[torch.float32]
    assert relative_error(state, final) < TOLERANCE[torch.float32]


# -- the operator ------------------------------------------------------------------------------


@pytest.mark.parametrize(("initial", "log_gate"), [(False, "absent"), (True, "weak")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_are_registered_correctly(initial, log_gate, dtype) -> None:
    arguments, grads = make((2, 20, 2, 1, 3, 4), log_gate, initial=initial, dtype=dtype)
    tensors = [arguments[name] for name in INPUTS]
    backward = torch.ops.nas.gated_delta_rule_backward.default
    kept = torch.zeros(2, 2, 1, 3, 4)
    torch.library.opcheck(backward, (*tensors, kept, *grads, 0.5, "cpu"))
    leaves = [x if x is None else x.requires_grad_() for x in tensors]
    torch.library.opcheck(torch.ops.nas.gated_delta_rule.default, (*leaves, 0.5, "cpu"))


def test_meta_tensors_have_the_shapes_and_types_of_real_ones() -> None:
    for dtypes in itertools.product([torch.bfloat16, torch.float32, torch.float64], repeat=2):
        arguments, _ = make((2, 40, 1, 2, 3, 4))
        arguments = single(arguments) | {"q": arguments["q"].to(dtypes[0])}
        arguments["v"] = arguments["v"].to(dtypes[1])
        meta = {name: x.to("meta").requires_grad_() for name, x in arguments.items()}
        found = gated_delta_rule(**meta)
        for real, fake in zip(gated_delta_rule(**arguments), found, strict=True):
            assert (real.shape, real.dtype, real.stride()) == (
                fake.shape,
                fake.dtype,
                fake.stride(),
            )
        gradients = torch.autograd.grad(found[0].sum(), list(meta.values()))
        assert [(g.shape, g.dtype) for g in gradients] == [
            (x.shape, x.dtype) for x in arguments.values()
        ]


class Layer(torch.nn.Module):
    def forward(self, q, k, v, beta, log_gate, initial_state) -> tuple[Tensor, Tensor]:
        k, log_gate = normalize(k, dim=-1), torch.nn.functional.logsigmoid(log_gate)
        o, final = gated_delta_rule(q, k, v, beta.sigmoid(), log_gate, initial_state, scale=0.5)
        return o.sin(), final


def test_compiled_code_has_the_same_gradients_at_every_length() -> None:
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (20, 33, 300):
        arguments, grads = make((2, length, 1, 2, 3, 4))
        out, plain = (results(single(arguments), grads, f) for f in (compiled, Layer()))
        for name in plain:
            torch.testing.assert_close(out[name], plain[name], msg=name)


def test_exported_programs_hold_one_operator_of_any_length() -> None:
    length = torch.export.Dim("length", min=2)
    arguments = tuple(single(make((2, 20, 1, 2, 3, 4))[0]).values())
    dynamic = (*({1: length} for _ in arguments[:-1]), {})
    program = torch.export.export(Layer(), arguments, dynamic_shapes=dynamic)
    calls = [node for node in program.graph.nodes if "gated_delta_rule" in str(node.target)]
    assert len(calls) == 1
    longer = tuple(single(make((2, 300, 1, 2, 3, 4))[0]).values())
    for out, plain in zip(program.module()(*longer), Layer()(*longer), strict=True):
        assert torch.equal(out, plain)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    arguments, _ = make((2, 20, 1, 2, 3, 4))
    q = arguments["k"].requires_grad_()
    o, _ = gated_delta_product(**arguments)
    (gradient,) = torch.autograd.grad(o.sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.square().sum().backward()
    o, _ = cpu.gated_delta_product(**arguments)
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(o.sum(), q, create_graph=True)


def test_the_reference_has_second_derivatives() -> None:
    arguments, _ = make((1, 3, 1, 1, 2, 2), dtype=torch.float64)
    leaves = [x.requires_grad_() for x in arguments.values()]
    assert torch.autograd.gradgradcheck(
        lambda *x: gated_delta_product(*x, backend="reference"), leaves
    )


GOOD = {"q": (2, 5, 3, 4), "k": (2, 5, 3, 4), "v": (2, 5, 3, 6), "beta": (2, 5, 3)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": (2, 5, 4)}, r"q must be \[B, L, H, K\]"),
        ({"k": (2, 5, 1, 3, 4)}, r"k \[B, L, H, K\].*\[2, 5, 1, 3, 4\]"),
        ({"q": (2, 0, 3, 4), "k": (2, 0, 3, 4)}, "sizes >= 1"),
        ({"k": (2, 5, 3, 6)}, r"k must be \[B, L, H, K\] = \[2, 5, 3, 4\]"),
        ({"v": (2, 5, 2, 6)}, r"v must be \[B, L, H, V\] = \[2, 5, 3, 6\]"),
        ({"beta": (2, 5, 3, 1)}, r"beta must be \[B, L, H\] = \[2, 5, 3\]"),
        ({"log_gate": (2, 5, 3, 4)}, r"log_gate must be \[B, L, H\] = \[2, 5, 3\]"),
        ({"initial_state": (2, 3, 6, 4)}, r"initial_state must be .* = \[2, 3, 4, 6\]"),
    ],
)
def test_shapes_that_do_not_fit(changed, message) -> None:
    with pytest.raises(ValueError, match=message):
        gated_delta_rule(
            **{name: torch.zeros(shape) for name, shape in {**GOOD, **changed}.items()}
        )


def test_shapes_of_a_product_that_do_not_fit() -> None:
    good = {name: torch.zeros(shape) for name, shape in GOOD.items()}
    with pytest.raises(ValueError, match=r"k \[B, L, n, H, K\]"):
        gated_delta_product(**good)
    v, beta = torch.zeros(2, 5, 2, 3, 6), torch.zeros(2, 5, 2, 3)
    with pytest.raises(ValueError, match=r"k must be .* = \[2, 5, 2, 3, 4\]"):
        gated_delta_product(good["q"], torch.zeros(2, 5, 3, 3, 4), v, beta)


def test_tensors_that_do_not_fit() -> None:
    good = {name: torch.zeros(shape) for name, shape in GOOD.items()}
    for name in GOOD:
        with pytest.raises(TypeError, match=f"{name} must be of a real floating-point type"):
            gated_delta_rule(**good | {name: good[name].long()})
    with pytest.raises(ValueError, match="q is on cpu and v on meta"):
        gated_delta_rule(**good | {"v": good["v"].to("meta")})


def test_triton_is_refused_where_it_has_no_kernel(monkeypatch) -> None:
    pytest.importorskip("triton")
    wide, _ = make((1, 3, 1, 1, 257, 2), device="meta")
    many, _ = make((1, 3, 33, 1, 4, 2), device="meta")
    double, _ = make((1, 3, 1, 1, 4, 2), dtype=torch.float64, device="meta")
    for arguments, message in [(wide, "wider than 256"), (many, "n = 33"), (double, "float64")]:
        with pytest.raises(ValueError, match=f"the Triton kernels have no .*{message}.*'cpu'"):
            gated_delta_product(**arguments, backend="triton")
        # Where it is not asked for by name, plain torch does it.
        monkeypatch.setenv("NAS_KERNEL_BACKEND", "triton")
        assert gated_delta_product(**arguments)[0].shape == (1, 3, 1, 2)
        monkeypatch.delenv("NAS_KERNEL_BACKEND")


# -- Triton ------------------------------------------------------------------------------------

# Small and few: the interpreter takes about a second for each.
TRITON_CASES = [
    ((1, 35, 1, 2, 5, 4), "mixed", "to two"),
    ((2, 17, 2, 1, 17, 3), "absent", "to one"),
    ((1, 12, 3, 1, 6, 18), "strong", "two"),
    ((1, 1, 1, 1, 1, 1), "weak", "to one"),
]
# The interpreter cuts a bfloat16 off where a GPU rounds it: twice the error.
TRITON_TOLERANCE = {**TOLERANCE, torch.bfloat16: 2e-2 if INTERPRETING else 1e-2}


@pytest.mark.parametrize(("shape", "log_gate", "beta"), TRITON_CASES)
@pytest.mark.parametrize("device", DEVICES)
def test_triton(guarded_memory, in_padding, device, shape, log_gate, beta) -> None:
    initial = shape[0] == 1
    arguments, grads = make(shape, log_gate, beta, initial, device=device)
    arguments = {name: None if x is None else in_padding(x) for name, x in arguments.items()}
    out = results(arguments, [in_padding(x) for x in grads], backend="triton", scale=0.3)
    harness.check(out, expected(arguments, grads, scale=0.3), TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", DEVICES)
def test_triton_in_half_types(guarded_memory, device, dtype) -> None:
    arguments, grads = make((1, 33, 1, 1, 16, 20), "weak", "to one", dtype=dtype, device=device)
    out = results(arguments, grads, backend="triton")
    assert out["o"].dtype == out["gradient of k"].dtype == dtype
    assert out["final_state"].dtype == torch.float32
    harness.check(out, expected(arguments, grads), TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize("log_gate", ["floor", "ones and zeros"])
@pytest.mark.parametrize("device", DEVICES)
def test_triton_with_repeated_keys_and_extreme_gates(device, log_gate) -> None:
    arguments, (grad_o, grad_final) = make((1, 34, 1, 1, 8, 6), log_gate, "two", device=device)
    arguments["k"] = arguments["k"][:, :1].expand(1, 34, 1, 1, 8)
    arguments["q"] = arguments["q"].mT.contiguous().mT
    grads = grad_o[:, :1].expand_as(grad_o), grad_final[..., :1].expand_as(grad_final)
    out = results(arguments, grads, backend="triton")
    harness.check(out, expected(arguments, grads), TOLERANCE[torch.float32])


@pytest.mark.parametrize("log_gate", LOG_GATES)
@pytest.mark.parametrize("beta", ["to one", "two"])
@pytest.mark.parametrize(
    "shape",
    [
        (2, 1000, 1, 2, 128, 128),
        (1, 333, 2, 3, 60, 96),
        (1, 100, 3, 1, 256, 40),
        (3, 63, 1, 2, 64, 7),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", GPU)
def test_triton_at_full_size(guarded_memory, device, dtype, shape, beta, log_gate) -> None:
    arguments, grads = make(shape, log_gate, beta, dtype=dtype, device=device)
    out = results(arguments, grads, backend="triton")
    harness.check(out, expected(arguments, grads), TRITON_TOLERANCE[dtype])


def test_triton_kernels_in_the_interpreter(in_the_interpreter) -> None:
    if INTERPRETING:
        pytest.skip("this is that process")
    in_the_interpreter(__file__, "interpreter")


KERNELS = ["solve", "states", "output", "local", "grad_states", "gradient"]


@pytest.mark.parametrize(("number", "gate", "substeps"), [("bf16", True, 1), ("fp32", False, 2)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(kernel, number, gate, substeps) -> None:
    pytest.importorskip("triton")
    if INTERPRETING:
        pytest.skip("nothing compiles in the interpreter")
    import triton.language as tl

    from nas.kernels.gated_delta_rule import triton as kernels

    function = getattr(kernels, f"{kernel}_kernel")
    constants = {"WIDTH": 20, "VALUES": 32, "SUBSTEPS": substeps, "TOKENS": 32 // substeps}
    constants |= {"ROWS": 32, "READS": max(16, 32 // substeps), "BLOCK_K": 32, "BLOCK_V": 16}
    constants |= {"HAS_GATE": gate, "HAS_INITIAL": gate, "FLOOR": LOG_GATE_FLOOR}
    constants["NUMBER"] = tl.bfloat16 if number == "bf16" else tl.float32
    names = function.fn.arg_names
    types = {name: f"*{number}" if name.endswith("_ptr") else "i32" for name in names}
    options = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": True}
    wide = ["gate", "inverse", "start", "end", "initial", "final", "grad_final", "grad_initial"]
    types |= {f"{name}_ptr": "*fp32" for name in (*wide, "grad_gate")} | {"scale": "fp32"}
    harness.compile_for_hopper(function, types, constants, **options)
