"""The gated matrix state, every implementation against a float64 loop over time."""

import pytest
import torch
from torch import Tensor

from nas.kernels.gated_linear_attention import cpu, reference
from nas.kernels.gated_linear_attention.operator import (
    LOG_GATE_FLOOR,
    gated_linear_attention,
    gated_linear_attention_step,
)
from tests.kernels import harness
from tests.kernels.harness import DEVICES, GPU, INTERPRETING, relative_error

ARGUMENTS = ("q", "k", "v", "log_gate", "initial_state")
OUTPUTS = ("o", "final_state")
KINDS = ("none", "scalar", "vector")
# Of log gates: near 0, as a trained sigmoid's, as those that overflow a chunk anchored in its
# middle, and exact ones. Where a gate is below the floor its gradient is 0.
STRENGTHS = {
    "weak": lambda shape: -0.01 * torch.rand(shape),
    "usual": lambda shape: torch.nn.functional.logsigmoid(torch.randn(shape) + 2),
    "strong": lambda shape: -4.4 * torch.rand(shape),
    "mixed": lambda shape: -LOG_GATE_FLOOR * -(torch.rand(shape) ** 8),
    "floor": lambda shape: torch.full(shape, LOG_GATE_FLOOR),
    "exact": lambda shape: torch.tensor([0.0, 0.5, 1.0]).log()[torch.randint(3, shape)],
    "ones": torch.zeros,
    "zeros": lambda shape: torch.full(shape, -torch.inf),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 5e-3, torch.float16: 1e-3}
SCALE = 0.3


def make(
    shape, kind="vector", strength="usual", initial=True, dtype=torch.float32, device="cpu", seed=0
):
    """Arguments for a shape (B, L, H, K, V), and gradients for both results."""
    torch.manual_seed(seed)
    *outer, keys, values = shape
    batch, _, heads = outer
    q, k, v = (torch.randn(*outer, width).to(device, dtype) for width in (keys, keys, values))
    gates = {"none": None, "scalar": outer, "vector": [*outer, keys]}[kind]
    # Like a model's under mixed precision, log gates and states stay in float32.
    kept = torch.promote_types(dtype, torch.float32)
    gate = None if gates is None else STRENGTHS[strength](gates).to(device, kept)
    state = torch.randn(batch, heads, keys, values).to(device, kept) if initial else None
    grad_o = torch.randn(*outer, values).to(device, dtype)
    grad_final = torch.randn(batch, heads, keys, values).to(device, kept)
    return (q, k, v, gate, state), (grad_o, grad_final)


def named(arguments):
    return dict(zip(ARGUMENTS, arguments, strict=True))


def results(function, arguments, grads, **keywords) -> dict[str, Tensor]:
    keywords = {"scale": SCALE, **keywords}
    return harness.results(function, named(arguments), grads, OUTPUTS, **keywords)


def expected(arguments, grads, **keywords) -> dict[str, Tensor]:
    keywords = {"scale": SCALE, **keywords}
    function = reference.gated_linear_attention
    return harness.oracle(function, named(arguments), grads, OUTPUTS, **keywords)


def explicit_sum(q, k, v, gate, state, reverse):
    """o_t as a sum over all earlier steps, each met by the product of the gates after it."""
    if reverse:
        q, k, v, gate = (x.flip(1) for x in (q, k, v, gate))
    gate = gate.clamp(min=LOG_GATE_FLOOR).exp()
    o = torch.zeros_like(v)
    for t in range(q.shape[1]):
        passed = torch.ones_like(q[:, 0])
        for s in range(t, -1, -1):
            o[:, t] += (q[:, t] * passed * k[:, s]).sum(-1, keepdim=True) * v[:, s]
            passed = passed * gate[:, s]
        o[:, t] += torch.einsum("bhk,bhkv->bhv", q[:, t] * passed, state)
    return SCALE * (o.flip(1) if reverse else o)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_reference_is_an_explicit_sum(reverse) -> None:
    arguments, _ = make((2, 7, 2, 3, 4), strength="mixed", dtype=torch.float64)
    o, _ = reference.gated_linear_attention(*arguments, scale=SCALE, reverse=reverse)
    torch.testing.assert_close(o, explicit_sum(*arguments, reverse), rtol=1e-12, atol=1e-12)


def test_the_reference_without_gates_is_attention_without_softmax() -> None:
    (q, k, v, _, _), _ = make((2, 9, 2, 3, 4), "none", dtype=torch.float64)
    o, final = reference.gated_linear_attention(q, k, v)
    scores = torch.einsum("bthk,bshk->bhts", q, k).tril()
    torch.testing.assert_close(o, torch.einsum("bhts,bshv->bthv", scores, v))
    torch.testing.assert_close(final, torch.einsum("bshk,bshv->bhkv", k, v))


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("kind", ["scalar", "vector"])
@pytest.mark.parametrize("length", [1, 63, 64])
def test_cpu_under_all_gates(guarded_memory, length, kind, strength) -> None:
    for initial, reverse in [(False, False), (True, False), (True, True)]:
        arguments, grads = make((2, length, 2, 5, 7), kind, strength, initial)
        out = results(gated_linear_attention, arguments, grads, reverse=reverse, backend="cpu")
        harness.check(out, expected(arguments, grads, reverse=reverse), TOLERANCE[torch.float32])


@pytest.mark.parametrize("strength", ["weak", "usual", "strong"])
@pytest.mark.parametrize("kind", KINDS)
def test_cpu_over_a_long_sequence(guarded_memory, monkeypatch, kind, strength) -> None:
    reverse = kind == "scalar"
    arguments, grads = make((1, 1000, 2, 16, 12), kind, strength)
    oracle = expected(arguments, grads, reverse=reverse)
    for elements in (cpu.SEGMENT_ELEMENTS, 7000):  # one segment; six and a part of one
        monkeypatch.setattr(cpu, "SEGMENT_ELEMENTS", elements)
        out = results(gated_linear_attention, arguments, grads, reverse=reverse, backend="cpu")
        harness.check(out, oracle, TOLERANCE[torch.float32])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", KINDS)
def test_cpu_in_every_type(guarded_memory, kind, dtype, reverse) -> None:
    arguments, grads = make((2, 77, 2, 12, 20), kind, dtype=dtype)
    out = results(gated_linear_attention, arguments, grads, reverse=reverse, backend="cpu")
    assert out["o"].dtype == out["gradient of q"].dtype == dtype
    assert out["final_state"].dtype == torch.promote_types(dtype, torch.float32)
    harness.check(out, expected(arguments, grads, reverse=reverse), TOLERANCE[dtype])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 2), (2, 5, 2, 2, 1), (1, 35, 1, 2, 2)])
def test_cpu_gradients_against_finite_differences(shape, kind, reverse) -> None:
    arguments, _ = make(shape, kind, dtype=torch.float64)
    leaves = [x if x is None else x.requires_grad_() for x in arguments]
    for function in (gated_linear_attention, cpu.gated_linear_attention):
        assert torch.autograd.gradcheck(
            lambda *x, f=function: f(*x, scale=SCALE, reverse=reverse), leaves, fast_mode=True
        )


@pytest.mark.parametrize("kind", KINDS)
def test_one_result_alone_has_the_right_gradients(kind) -> None:
    arguments, (grad_o, grad_final) = make((2, 40, 2, 3, 5), kind)
    for grads, zeros in [
        ((grad_o, None), (grad_o, 0 * grad_final)),
        ((None, grad_final), (0 * grad_o, grad_final)),
    ]:
        leaves = [x if x is None else x.clone().requires_grad_() for x in arguments]
        found = gated_linear_attention(*leaves, scale=SCALE)
        used = [(y, g) for y, g in zip(found, grads, strict=True) if g is not None]
        wanted = [x for x in leaves if x is not None]
        out = torch.autograd.grad(used[0][0], wanted, used[0][1], materialize_grads=True)
        oracle = list(expected(arguments, zeros).values())[2:]
        assert all(relative_error(x, y) < 1e-5 for x, y in zip(out, oracle, strict=True))


def test_gates_below_the_floor_count_as_the_floor_and_have_no_gradient() -> None:
    arguments, grads = make((2, 50, 2, 4, 6))
    below = torch.rand(arguments[3].shape) < 0.2
    arguments[3][below] = -torch.inf
    out = results(gated_linear_attention, arguments, grads)
    assert not out["gradient of log_gate"][below].any()
    floored = (*arguments[:3], arguments[3].clamp(min=LOG_GATE_FLOOR), arguments[4])
    assert torch.equal(out["o"], results(gated_linear_attention, floored, grads)["o"])


def test_a_state_at_the_floor_is_forgotten_in_float32() -> None:
    state = torch.ones(1) * torch.tensor(LOG_GATE_FLOOR).exp()
    assert torch.equal(1 + state, torch.ones(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_layouts_that_are_not_contiguous(kind, reverse) -> None:
    shape = (2, 40, 4, 6, 6)
    (q, k, v, gate, state), (grad_o, grad_final) = make(shape, kind)
    thirds = torch.cat([q, k, v], dim=-1).chunk(3, dim=-1)
    # Keys and queries of one group for all heads, as in Mamba-2; a gradient as of a sum.
    grouped = q[:, :, :1].expand_as(q), k[:, :, :1].expand_as(k), v
    summed = grad_o[:1, :1, :1, :1].expand_as(grad_o), grad_final[:, :, :1].expand_as(grad_final)
    transposed = tuple(x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    gates = [gate] if gate is None else [gate, gate[:, :1].expand_as(gate)]
    for tensors in (thirds, grouped, transposed):
        arguments = (*tensors, gates[-1], state.mT.contiguous().mT)
        out = results(gated_linear_attention, arguments, summed, reverse=reverse)
        harness.check(out, expected(arguments, summed, reverse=reverse), 1e-5)


@pytest.mark.parametrize("function", [gated_linear_attention, cpu.gated_linear_attention])
@pytest.mark.parametrize("kind", ["none", "scalar", "vector"])
def test_autocast_changes_nothing(kind, function) -> None:
    arguments, grads = make((2, 70, 2, 8, 6), kind)
    plain = results(function, arguments, grads)
    with torch.autocast("cpu", torch.bfloat16):
        out = results(function, arguments, grads)
    assert all(torch.equal(out[name], plain[name]) for name in plain)


def test_types_may_be_mixed() -> None:
    (q, k, v, gate, state), grads = make((2, 50, 2, 8, 8))
    arguments = (q.bfloat16(), k.bfloat16(), v, gate.bfloat16(), state.half())
    out = results(gated_linear_attention, arguments, grads)
    types = [out[f"gradient of {x}"].dtype for x in ARGUMENTS]
    assert out["o"].dtype == out["final_state"].dtype == torch.float32
    assert types == [x.dtype for x in arguments]
    harness.check(out, expected(arguments, grads), TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_stays_in_its_sequence_and_head(kind) -> None:
    (q, k, v, gate, state), _ = make((2, 80, 2, 4, 4), kind)
    v[1, 50, 0] = float("nan")
    o, _ = gated_linear_attention(q, k, v, gate, state)
    assert o[1, 50:, 0].isnan().all()
    assert o[0].isfinite().all()
    assert o[1, :, 1].isfinite().all()
    assert o[1, :32, 0].isfinite().all()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_final_state_is_a_fresh_tensor(backend) -> None:
    (q, k, v, gate, state), _ = make((2, 1, 2, 3, 3), "none")
    kept = state.clone()
    o, final = gated_linear_attention(q, 0 * k, v, gate, state, backend=backend)
    again = o.clone()
    assert torch.equal(final, state)
    final.zero_()
    assert torch.equal(state, kept)
    assert torch.equal(o, again)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_the_sequence(kind, dtype) -> None:
    (q, k, v, gate, state), _ = make((3, 40, 2, 5, 6), kind, "exact", dtype=dtype)
    o, final = gated_linear_attention(q, k, v, gate, state, scale=SCALE)
    steps = []
    for t in range(40):
        gate_t = None if gate is None else gate[:, t]
        out, state = gated_linear_attention_step(
            q[:, t], k[:, t], v[:, t], gate_t, state, scale=SCALE
        )
        steps.append(out)
    assert steps[0].dtype == dtype
    assert state.dtype == torch.float32
    assert relative_error(torch.stack(steps, 1), o) < TOLERANCE[dtype]
    assert relative_error(state, final) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_parts_of_a_sequence_are_the_sequence(kind, reverse) -> None:
    (*tensors, state), _ = make((2, 90, 2, 5, 6), kind)
    o, final = gated_linear_attention(*tensors, state, reverse=reverse)
    parts = [[x if x is None else x[:, where] for x in tensors] for where in
             (slice(33), slice(33, None))]  # fmt: skip
    outs = []
    for part in reversed(parts) if reverse else parts:
        out, state = gated_linear_attention(*part, state, reverse=reverse)
        outs.append(out)
    assert relative_error(torch.cat(outs[::-1] if reverse else outs, 1), o) < 1e-5
    assert relative_error(state, final) < 1e-5


# -- the operator ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_are_registered_correctly(kind, dtype) -> None:
    arguments, grads = make((2, 10, 2, 3, 4), kind, initial=kind != "scalar", dtype=dtype)
    backward = (*arguments, *grads, SCALE, True, "cpu")
    torch.library.opcheck(torch.ops.nas.gated_linear_attention_backward.default, backward)
    leaves = [x if x is None else x.requires_grad_() for x in arguments]
    operator = torch.ops.nas.gated_linear_attention.default
    torch.library.opcheck(operator, (*leaves, SCALE, False, "cpu"))


@pytest.mark.parametrize("kind", KINDS)
def test_meta_tensors_have_the_shapes_and_types_of_real_ones(kind) -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        arguments, _ = make((2, 20, 2, 3, 5), kind, dtype=dtype)
        arguments = [x if x is None else x.requires_grad_() for x in arguments]
        meta = [x if x is None else x.detach().to("meta").requires_grad_() for x in arguments]
        found = [gated_linear_attention(*x) for x in (arguments, meta)]
        gradients = [
            torch.autograd.grad(o.sum() + s.sum(), [x for x in leaves if x is not None])
            for (o, s), leaves in zip(found, (arguments, meta), strict=True)
        ]
        for real, fake in zip(*([*a, *b] for a, b in zip(found, gradients, strict=True)),
                              strict=True):  # fmt: skip
            assert (real.shape, real.dtype, real.stride()) == (
                fake.shape,
                fake.dtype,
                fake.stride(),
            )


class Layer(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor, initial_state: Tensor):
        gate = torch.nn.functional.logsigmoid(log_gate)
        o, final = gated_linear_attention(q, k, 2 * v, gate, initial_state, reverse=True)
        return o.sin(), final


def test_compiled_code_has_the_same_gradients_at_every_length() -> None:
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (20, 33, 47):
        arguments, grads = make((2, length, 2, 3, 4))
        out, plain = (
            harness.results(f, named(arguments), grads, OUTPUTS) for f in (compiled, Layer())
        )
        for name in plain:
            torch.testing.assert_close(out[name], plain[name], msg=name)


def test_exported_programs_hold_one_operator_of_any_length() -> None:
    length = torch.export.Dim("length", min=2)
    arguments, _ = make((2, 20, 2, 3, 4))
    shapes = (*({1: length},) * 4, {})
    program = torch.export.export(Layer(), arguments, dynamic_shapes=shapes)
    calls = [n for n in program.graph.nodes if "gated_linear_attention" in str(n.target)]
    assert len(calls) == 1
    longer, _ = make((2, 45, 2, 3, 4))
    for out, plain in zip(program.module()(*longer), Layer()(*longer), strict=True):
        assert torch.equal(out, plain)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    (q, k, v, gate, _), _ = make((2, 20, 2, 3, 4))
    q.requires_grad_()
    o, _ = gated_linear_attention(q, k, v, gate)
    (gradient,) = torch.autograd.grad(o.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.square().sum().backward()
    o, _ = cpu.gated_linear_attention(q, k, v, gate)
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(o.sum(), q, create_graph=True)


def test_the_reference_has_second_derivatives() -> None:
    arguments, _ = make((1, 3, 1, 2, 2), dtype=torch.float64)
    leaves = [x.requires_grad_() for x in arguments]
    assert torch.autograd.gradgradcheck(
        lambda *x: gated_linear_attention(*x, backend="reference"), leaves
    )


GOOD = {"q": (2, 4, 3, 5), "k": (2, 4, 3, 5), "v": (2, 4, 3, 6)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": (2, 4, 5)}, r"q and k must both be \[B, L, H, K\]"),
        ({"k": (2, 4, 1, 5)}, r"are \[2, 4, 3, 5\] and \[2, 4, 1, 5\]"),
        ({"q": (2, 0, 3, 5), "k": (2, 0, 3, 5)}, "all of sizes >= 1"),
        ({"q": (0, 4, 3, 5), "k": (0, 4, 3, 5)}, "all of sizes >= 1"),
        ({"v": (2, 4, 3, 0)}, "v must be"),
        ({"v": (2, 4, 2, 6)}, r"v must be \[B, L, H, V\] = \[2, 4, 3\] and a width"),
        ({"log_gate": (2, 4, 5)}, r"log_gate must be \[B, L, H\] = \[2, 4, 3\] or"),
        ({"log_gate": (2, 4, 3, 6)}, r"\[B, L, H, K\] = \[2, 4, 3, 5\]"),
        ({"initial_state": (2, 3, 6, 5)}, r"initial_state must be .* \[2, 3, 5, 6\]"),
    ],
)
def test_shapes_that_do_not_fit(changed, message) -> None:
    with pytest.raises(ValueError, match=message):
        gated_linear_attention(**{n: torch.zeros(s) for n, s in (GOOD | changed).items()})


def test_tensors_that_do_not_fit() -> None:
    good = {name: torch.zeros(shape) for name, shape in GOOD.items()}
    with pytest.raises(TypeError, match="v must be of a real floating-point type"):
        gated_linear_attention(**good | {"v": good["v"].long()})
    with pytest.raises(ValueError, match="q is on cpu and k on meta"):
        gated_linear_attention(**good | {"k": good["k"].to("meta")})
    with pytest.raises(ValueError, match="choose one of reference, cpu, triton"):
        gated_linear_attention(**good, backend="cuda")


def test_what_triton_cannot_take_is_refused_where_it_is_asked_for() -> None:
    pytest.importorskip("triton")
    wide = [torch.zeros(1, 2, 1, n, device="meta") for n in (257, 257, 4)]
    with pytest.raises(ValueError, match="keys of at most 256 channels, and q has 257"):
        gated_linear_attention(*wide, backend="triton")
    double = [torch.zeros(1, 2, 1, 4, device="meta", dtype=torch.float64)] * 3
    with pytest.raises(TypeError, match="no float64"):
        gated_linear_attention(*double, backend="triton")


# -- Triton ------------------------------------------------------------------------------------

# The interpreter cuts a bfloat16 off where a GPU rounds it: twice the error.
TRITON_TOLERANCE = {
    torch.float32: 1e-5,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "initial", "reverse"),
    [
        ((1, 1, 1, 1, 1), True, False),
        ((2, 33, 1, 5, 3), False, True),
        ((1, 70, 2, 9, 40), True, True),
        ((1, 40, 1, 40, 3), True, False),
    ],
)
@pytest.mark.parametrize("device", DEVICES)
def test_triton(guarded_memory, in_padding, device, shape, initial, reverse, kind, dtype) -> None:
    arguments, grads = make(shape, kind, initial=initial, dtype=dtype, device=device)
    arguments = [x if x is None else in_padding(x) for x in arguments]
    grads = [in_padding(x) for x in grads]
    out = results(gated_linear_attention, arguments, grads, reverse=reverse, backend="triton")
    assert out["o"].dtype == dtype
    oracle = expected(arguments, grads, reverse=reverse)
    harness.check(out, oracle, TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("kind", ["scalar", "vector"])
@pytest.mark.parametrize("device", DEVICES)
def test_triton_under_all_gates(guarded_memory, device, kind, strength) -> None:
    dtype = torch.float16 if strength == "usual" else torch.float32
    arguments, grads = make((1, 50, 1, 4, 6), kind, strength, dtype=dtype, device=device)
    out = results(gated_linear_attention, arguments, grads, backend="triton")
    harness.check(out, expected(arguments, grads), TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize("device", DEVICES)
def test_triton_reads_shared_keys_and_expanded_gradients(device) -> None:
    (q, k, v, gate, state), (grad_o, grad_final) = make((2, 20, 2, 4, 6), device=device)
    arguments = (
        q[:, :, :1].expand_as(q),
        k.mT.contiguous().mT,
        torch.cat([v, v], -1)[..., 6:],
        gate[:, :1].expand_as(gate),
        state[:1].expand_as(state),
    )
    grads = grad_o[:1, :1, :1, :1].expand_as(grad_o), grad_final.mT.contiguous().mT
    out = results(gated_linear_attention, arguments, grads, backend="triton")
    harness.check(out, expected(arguments, grads), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "shape", [(2, 1000, 3, 60, 100), (2, 2048, 4, 128, 128), (1, 333, 2, 256, 256)]
)
@pytest.mark.parametrize("device", GPU)
def test_triton_at_full_size(guarded_memory, device, shape, kind) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for strength in ("weak", "usual", "strong"):
            arguments, grads = make(shape, kind, strength, dtype=dtype, device=device)
            out = results(gated_linear_attention, arguments, grads)
            # As exact, over any length, as plain torch, whose own tests are above.
            doubled = [x if x is None else x.double() for x in arguments]
            oracle = results(
                gated_linear_attention, doubled, [x.double() for x in grads], backend="cpu"
            )
            harness.check(out, oracle, TRITON_TOLERANCE[dtype])


def test_triton_kernels_in_the_interpreter(in_the_interpreter) -> None:
    if INTERPRETING:
        pytest.skip("this is that process")
    in_the_interpreter(__file__, "interpreter")


TYPES = {"scale": "fp32"} | dict.fromkeys(
    ("sums_ptr", "initial_ptr", "final_ptr", "start_ptr", "end_ptr", "gate_ptr", "grad_gate_ptr"),
    "*fp32",
)


@pytest.mark.parametrize("number", ["bf16", "fp32"])
@pytest.mark.parametrize("gate", [0, 1, 2])
@pytest.mark.parametrize(
    "kernel", ["_sums_kernel", "_forward_kernel", "_states_kernel", "_gradient_kernel"]
)
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(kernel, gate, number) -> None:
    tl = pytest.importorskip("triton.language")
    if INTERPRETING:
        pytest.skip("nothing compiles in the interpreter")
    from nas.kernels.gated_linear_attention import triton_backward, triton_forward

    if kernel == "_sums_kernel" and (gate, number) != (2, "fp32"):
        pytest.skip("it has one kind of gates and numbers")
    module = triton_backward if kernel == "_gradient_kernel" else triton_forward
    function = getattr(module, kernel)
    constants = {"K": 24, "V": 40, "BK": 32, "BV": 32, "WIDTH": 24, "CHUNK": 32, "GATE": gate}
    constants |= {"FLOOR": LOG_GATE_FLOOR, "REVERSE": gate == 1, "BACKWARD": gate == 1}
    constants |= {"HAS_INITIAL": True, "HAS_START": True}
    constants |= {"DOT": tl.bfloat16, "PRECISION": "tf32"}
    if number == "fp32":
        constants |= {"DOT": tl.float32, "PRECISION": "tf32x3"}
    jitted = function if hasattr(function, "arg_names") else function.fn
    types = {n: f"*{number}" if n.endswith("_ptr") else "i32" for n in jitted.arg_names} | TYPES
    harness.compile_for_hopper(function, types, constants, num_warps=4, enable_fp_fusion=True)
