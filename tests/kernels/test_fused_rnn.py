"""The nonlinear recurrences, every implementation against a float64 loop over time."""

import itertools

import pytest
import torch
from torch import Tensor

from nas.kernels.fused_rnn import cpu, reference
from nas.kernels.fused_rnn.operator import (
    GATES,
    LARGEST_WIDTH,
    STATES,
    fused_rnn,
    fused_rnn_step,
    initial_states,
)
from tests.kernels import harness
from tests.kernels.harness import DEVICES, GPU, INTERPRETING, relative_error

CELLS = list(GATES)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 1e-2, torch.float16: 2e-3}
SIZES = {  # (B, L, H, d)
    "one step": (2, 1, 2, 5),
    "odd": (3, 63, 1, 7),
    "heads": (2, 64, 3, 16),
    "long": (1, 1000, 2, 6),
}
# Offsets of the gates: of none, of gates that let all through, of gates that are shut.
STRENGTHS = {"usual": 0.0, "open": 200.0, "shut": -200.0}


def make(cell, sizes, *, bias=True, initial=True, offset=0.0, dtype=torch.float32, device="cpu"):
    """Arguments of a recurrence, and gradients for its results, without requires_grad.

    The states of slstm are those of a sequence that has begun (n >= 1).
    """
    torch.manual_seed(0)
    batch, length, heads, width = sizes
    count, state_dtype = GATES[cell], torch.promote_types(dtype, torch.float32)
    states = [torch.randn(batch, heads, width) for _ in range(STATES[cell])]
    if cell == "slstm":
        states[2] = 1 + states[2].abs()
    gates = torch.randn(batch, length, count, heads, width)
    gates[:, :, 1] += offset
    arguments = {
        "gates": gates.to(device, dtype),
        "recurrent": (torch.randn(heads, count, width, width) / width**0.5).to(device, dtype),
        "bias": torch.randn(count, heads, width).to(device, dtype) if bias else None,
    }
    for i, state in enumerate(states):
        arguments[f"state {i}"] = state.to(device, state_dtype) if initial else None
    grads = [torch.randn(batch, length, heads, width).to(device, dtype)]
    grads += [torch.randn(batch, heads, width).to(device, state_dtype) for _ in states]
    if cell == "slstm":
        grads[-1] = None  # of the stabiliser: a constant
    return arguments, grads


def flat(function, cell, **keywords):
    """A function of the tensors by name alone, and to a tuple of tensors alone."""

    def call(gates, recurrent, bias, **states):
        given = None if states["state 0"] is None else tuple(states.values())
        h, final = function(cell, gates, recurrent, bias, given, **keywords)
        return h, *final

    return call


def outputs(cell):
    return ["h", *(f"final {i}" for i in range(STATES[cell]))]


def results(function, cell, arguments, grads, **keywords) -> dict[str, Tensor]:
    given = dict(arguments)
    if cell == "slstm" and given["state 3"] is not None:
        # Its gradient is zero, and in the reference there is none: autograd would complain.
        held = given.pop("state 3")
        inner = flat(function, cell, **keywords)

        def call(**tensors):
            return inner(**tensors, **{"state 3": held.to(tensors["state 2"].dtype)})

        return harness.results(call, given, grads, outputs(cell))
    return harness.results(flat(function, cell, **keywords), given, grads, outputs(cell))


def expected(cell, arguments, grads) -> dict[str, Tensor]:
    double = {k: None if x is None else x.cpu().double() for k, x in arguments.items()}
    grads = [None if g is None else g.cpu().double() for g in grads]
    return results(reference.fused_rnn, cell, double, grads)


def check(cell, out, arguments, grads, tolerance) -> None:
    harness.check(out, expected(cell, arguments, grads), tolerance)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_reference_is_torchs_own_recurrence(cell) -> None:
    torch.manual_seed(0)
    batch, length, inputs, width = 3, 11, 4, 6
    theirs = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell](
        inputs, width, batch_first=True, dtype=torch.float64
    )
    x = torch.randn(batch, length, inputs, dtype=torch.float64)
    states = [torch.randn(1, batch, width, dtype=torch.float64) for _ in range(STATES[cell])]
    out, final = theirs(x, states[0] if cell == "gru" else tuple(states))
    final = (final,) if cell == "gru" else final

    def ours(w_ih, w_hh, b_ih, b_hh):
        gates = torch.nn.functional.linear(x, w_ih, b_ih).unflatten(-1, (GATES[cell], 1, width))
        return reference.fused_rnn(
            cell,
            gates,
            w_hh.view(1, GATES[cell], width, width),
            b_hh.view(GATES[cell], 1, width),
            tuple(s.transpose(0, 1) for s in states),
        )

    h, found = ours(*theirs.parameters())
    torch.testing.assert_close(h[:, :, 0], out, rtol=1e-12, atol=1e-14)
    for state, s in zip(found, final, strict=True):
        torch.testing.assert_close(state.transpose(0, 1), s, rtol=1e-12, atol=1e-14)
    grad = torch.randn_like(out)
    wanted = torch.autograd.grad(out, list(theirs.parameters()), grad)
    given = torch.autograd.grad(h[:, :, 0], list(theirs.parameters()), grad)
    for a, b in zip(given, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_slstm_is_its_definition_without_a_stabiliser() -> None:
    # Weights exp(i) and sigma(f) themselves, which fit into float64 where gates are moderate.
    arguments, _ = make("slstm", (2, 9, 2, 3), initial=False, dtype=torch.float64)
    gates, recurrent, bias = (arguments[k] for k in ("gates", "recurrent", "bias"))
    h = c = n = torch.zeros(2, 2, 3, dtype=torch.float64)
    found, states = reference.fused_rnn("slstm", gates, recurrent, bias)
    for t in range(9):
        raw = gates[:, t] + torch.einsum("hgij,bhj->bghi", recurrent, h) + bias
        c = raw[:, 1].sigmoid() * c + raw[:, 0].exp() * raw[:, 2].tanh()
        n = raw[:, 1].sigmoid() * n + raw[:, 0].exp()
        h = raw[:, 3].sigmoid() * c / n
        torch.testing.assert_close(found[:, t], h, rtol=1e-12, atol=1e-14)
    unit = states[3].exp()
    torch.testing.assert_close(states[1] * unit, c, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(states[2] * unit, n, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize(("bias", "initial"), [(True, True), (False, False)])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("cell", CELLS)
def test_cpu(guarded_memory, cell, sizes, bias, initial, strength) -> None:
    if sizes == "long" and strength != "usual":
        pytest.skip("the loop over time is slow")
    offset = STRENGTHS[strength]
    arguments, grads = make(cell, SIZES[sizes], bias=bias, initial=initial, offset=offset)
    out = results(fused_rnn, cell, arguments, grads, backend="cpu")
    # The oracle in float32, too: what a shut gate lets through there, 1e-87 of it, is nothing here.
    wanted = {k: x.float() for k, x in expected(cell, arguments, grads).items()}
    harness.check(out, wanted, TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("cell", CELLS)
def test_cpu_in_every_type(guarded_memory, cell, dtype) -> None:
    arguments, grads = make(cell, (2, 40, 2, 8), dtype=dtype)
    out = results(fused_rnn, cell, arguments, grads, backend="cpu")
    assert out["h"].dtype == out["gradient of gates"].dtype == dtype
    assert out["final 0"].dtype == torch.promote_types(dtype, torch.float32)
    check(cell, out, arguments, grads, TOLERANCE[dtype])


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_cpu_gradients_against_finite_differences(cell, initial) -> None:
    arguments, _ = make(cell, (2, 5, 2, 2), initial=initial, dtype=torch.float64)
    held = arguments.pop("state 3", None)
    given = {k: x.requires_grad_() for k, x in arguments.items() if x is not None}

    def call(function, *tensors):
        named = dict.fromkeys(arguments) | dict(zip(given, tensors, strict=True))
        if cell == "slstm":
            h, h_final, c, n, m = flat(function, cell)(**named, **{"state 3": held})
            # In a unit that does not change: then nothing depends on the stabiliser.
            return h, h_final, c * m.detach().exp(), n * m.detach().exp()
        return flat(function, cell)(**named)

    for function in (fused_rnn, cpu.fused_rnn):
        assert torch.autograd.gradcheck(
            lambda *x, f=function: call(f, *x), tuple(given.values()), atol=1e-6
        )


@pytest.mark.parametrize("cell", CELLS)
def test_a_state_below_the_normalisers_bound_has_the_references_gradient(cell) -> None:
    arguments, grads = make(cell, (2, 12, 1, 4), dtype=torch.float64)
    for i in range(1, STATES[cell]):
        arguments[f"state {i}"] *= 0.1
    if cell == "slstm":
        arguments["state 2"].mul_(0.5)
        arguments["state 3"].add_(3)
    out = results(fused_rnn, cell, arguments, grads, backend="cpu")
    check(cell, out, arguments, grads, 1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_one_result_alone_has_the_right_gradients(cell) -> None:
    arguments, grads = make(cell, (2, 20, 2, 3))
    for used in range(2):
        some = [g if i == used else None for i, g in enumerate(grads)]
        zeros = [None if g is None else g * (i == used) for i, g in enumerate(grads)]
        for function in (fused_rnn, cpu.fused_rnn):
            out = results(function, cell, arguments, some)
            check(cell, out, arguments, zeros, 1e-5)


def test_the_stabiliser_has_no_gradient() -> None:
    arguments, _ = make("slstm", (1, 4, 1, 2))
    states = [arguments.pop(f"state {i}").requires_grad_() for i in range(4)]
    h, final = fused_rnn("slstm", *arguments.values(), tuple(states))
    assert torch.autograd.grad(h.sum(), states[3], retain_graph=True)[0].abs().sum() == 0
    (gradient,) = torch.autograd.grad(final[3].sum(), states[1])
    assert gradient.abs().sum() == 0


@pytest.mark.parametrize("cell", CELLS)
def test_layouts_that_are_not_contiguous(cell) -> None:
    sizes = (2, 30, 2, 6)
    arguments, grads = make(cell, sizes)
    moved = {
        k: x.transpose(0, -1).contiguous().transpose(0, -1) if x is not None else None
        for k, x in arguments.items()
    }
    expanded = dict(arguments)
    expanded["gates"] = arguments["gates"][:, :1].expand(arguments["gates"].shape)
    expanded["state 0"] = arguments["state 0"][:1].expand(arguments["state 0"].shape)
    wide = [None if g is None else g[..., :1].expand(g.shape) for g in grads]
    for given, received in [(moved, grads), (expanded, wide)]:
        out = results(fused_rnn, cell, given, received)
        check(cell, out, given, received, 1e-5)


def test_types_may_be_mixed() -> None:
    arguments, grads = make("lstm", (2, 20, 2, 4))
    arguments["gates"] = arguments["gates"].bfloat16()
    arguments["state 1"] = arguments["state 1"].half()
    grads[0] = grads[0].bfloat16()
    out = results(fused_rnn, "lstm", arguments, grads)
    assert out["h"].dtype == out["gradient of gates"].dtype == torch.bfloat16
    assert out["gradient of recurrent"].dtype == out["gradient of bias"].dtype == torch.float32
    assert out["gradient of state 1"].dtype == torch.float16
    check("lstm", out, arguments, grads, 1e-2)


@pytest.mark.parametrize("cell", CELLS)
def test_huge_gates_are_no_nan(cell) -> None:
    arguments, grads = make(cell, (2, 30, 1, 4), initial=False)
    arguments["gates"] *= 1e4
    out = results(fused_rnn, cell, arguments, grads)
    assert all(x.isfinite().all() for x in out.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_steps_are_the_sequence(cell, given, dtype) -> None:
    arguments, _ = make(cell, (3, 20, 2, 5), initial=given, dtype=dtype)
    gates, recurrent, bias, *states = arguments.values()
    state = tuple(states) if given else None
    h, final = fused_rnn(cell, gates, recurrent, bias, state)
    if not given:
        begun = initial_states(cell, torch.zeros(3, 2, 5))
        assert torch.equal(fused_rnn(cell, gates, recurrent, bias, begun)[0], h)
    steps = []
    for t in range(20):
        out, state = fused_rnn_step(cell, gates[:, t], recurrent, bias, state)
        steps.append(out)
    assert steps[0].dtype == dtype
    assert all(s.dtype == torch.float32 for s in state)
    assert relative_error(torch.stack(steps, 1), h) < TOLERANCE[dtype]
    assert all(relative_error(s, f) < 1e-5 for s, f in zip(state, final, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_parts_of_a_sequence_are_the_sequence(cell) -> None:
    arguments, grads = make(cell, (2, 40, 2, 5), initial=False, dtype=torch.float64)
    gates, recurrent, bias = (arguments[k].requires_grad_() for k in ("gates", "recurrent", "bias"))
    h, final = fused_rnn(cell, gates, recurrent, bias)
    first, middle = fused_rnn(cell, gates[:, :13], recurrent, bias)
    second, end = fused_rnn(cell, gates[:, 13:], recurrent, bias, middle)
    parts = torch.cat([first, second], 1)
    assert relative_error(parts, h) < 1e-14
    assert all(relative_error(s, f) < 1e-14 for s, f in zip(end, final, strict=True))
    whole = torch.autograd.grad(h, [gates, recurrent, bias], grads[0])
    cut = torch.autograd.grad(parts, [gates, recurrent, bias], grads[0])
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(cut, whole, strict=True))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_final_states_are_fresh_tensors(backend) -> None:
    arguments, _ = make("lstm", (2, 10, 2, 3))
    gates, recurrent, bias, *states = arguments.values()
    h, final = fused_rnn("lstm", gates, recurrent, bias, tuple(states), backend=backend)
    assert torch.equal(final[0], h[:, -1])
    final[0].zero_()
    assert h[:, -1].any()


# -- the operator ------------------------------------------------------------------------------


@pytest.mark.parametrize(("bias", "initial"), [(True, True), (False, False)])
@pytest.mark.parametrize("cell", CELLS)
def test_operators_are_registered_correctly(cell, bias, initial) -> None:
    arguments, grads = make(cell, (2, 6, 2, 3), bias=bias, initial=initial)
    gates, recurrent, offset, *states = arguments.values()
    stacked = torch.stack(states) if initial else None
    forward = torch.ops.nas.fused_rnn.default
    h, final, trace = forward(cell, gates, recurrent, offset, stacked, "cpu")
    received = grads[0], torch.randn_like(final)
    saved = (cell, gates, recurrent, offset, stacked, h, trace, *received, "cpu")
    torch.library.opcheck(torch.ops.nas.fused_rnn_backward.default, saved)
    leaves = [x if x is None else x.requires_grad_() for x in (gates, recurrent, offset, stacked)]
    torch.library.opcheck(forward, (cell, *leaves, "cpu"))


@pytest.mark.parametrize("cell", CELLS)
def test_meta_tensors_have_the_shapes_and_types_of_real_ones(cell) -> None:
    for dtypes in itertools.product([torch.bfloat16, torch.float64], repeat=2):
        arguments, _ = make(cell, (2, 6, 2, 3), initial=False)
        real = [
            arguments[k].to(d).requires_grad_()
            for k, d in zip(("gates", "recurrent", "bias"), (*dtypes, torch.float32), strict=True)
        ]
        meta = [x.detach().to("meta").requires_grad_() for x in real]
        (h, final), (fake_h, fake_final) = (fused_rnn(cell, *x) for x in (real, meta))
        for x, fake in zip((h, *final), (fake_h, *fake_final), strict=True):
            assert (x.shape, x.dtype, x.stride()) == (fake.shape, fake.dtype, fake.stride())
        gradients = torch.autograd.grad(fake_h.sum(), meta)
        assert [(g.shape, g.dtype) for g in gradients] == [(x.shape, x.dtype) for x in real]


class Layer(torch.nn.Module):
    def forward(self, gates: Tensor, recurrent: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        h, final = fused_rnn("lstm", 2 * gates, recurrent, None, (c.sin(), c))
        return h.sin(), final[1]


def layer_arguments(length):
    arguments, grads = make("lstm", (2, length, 2, 3))
    named = {k: arguments[k] for k in ("gates", "recurrent")} | {"c": arguments["state 1"]}
    return named, (grads[0], grads[2])


def test_compiled_code_has_the_same_gradients_at_every_length() -> None:
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (20, 33):
        arguments, grads = layer_arguments(length)
        out, plain = (harness.results(f, arguments, grads, ("h", "c")) for f in (compiled, Layer()))
        for name in plain:
            torch.testing.assert_close(out[name], plain[name], msg=name)


def test_exported_programs_hold_one_operator_of_any_length() -> None:
    length = torch.export.Dim("length", min=2)
    arguments = tuple(layer_arguments(20)[0].values())
    program = torch.export.export(Layer(), arguments, dynamic_shapes=({1: length}, {}, {}))
    calls = [node for node in program.graph.nodes if "fused_rnn" in str(node.target)]
    assert len(calls) == 1
    longer = tuple(layer_arguments(45)[0].values())
    for out, plain in zip(program.module()(*longer), Layer()(*longer), strict=True):
        assert torch.equal(out, plain)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    arguments, _ = make("gru", (2, 5, 1, 3), initial=False)
    gates, recurrent = arguments["gates"].requires_grad_(), arguments["recurrent"]
    h, _ = fused_rnn("gru", gates, recurrent)
    (gradient,) = torch.autograd.grad(h.sum(), gates, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.square().sum().backward()
    h, _ = cpu.fused_rnn("gru", gates, recurrent)
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(h.sum(), gates, create_graph=True)


GOOD = {"cell": "lstm", "gates": (2, 5, 4, 3, 6), "recurrent": (3, 4, 6, 6)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cell": "rnn"}, "'rnn': choose one of gru, lstm, slstm"),
        ({"cell": "gru"}, r"gates of gru must be \[B, L, 3, H, d\]"),
        ({"gates": (2, 5, 4, 6)}, r"\[2, 5, 4, 6\]"),
        ({"gates": (2, 0, 4, 3, 6)}, "L >= 1"),
        ({"recurrent": (4, 3, 6, 6)}, r"recurrent must be \[H, G, d, d\] = \[3, 4, 6, 6\]"),
        ({"bias": (3, 4, 6)}, r"bias must be \[G, H, d\] = \[4, 3, 6\]"),
        ({"initial_state": ((2, 3, 6),)}, "must be a tuple of 2 tensors"),
        ({"initial_state": ((2, 3, 6), (2, 6))}, r"initial_state\[1\] must be \[B, H, d\]"),
    ],
)
def test_shapes_that_do_not_fit(changed, message) -> None:
    given = {}
    for name, shape in (GOOD | changed).items():
        if name == "initial_state":
            given[name] = tuple(torch.zeros(s) for s in shape)
        else:
            given[name] = shape if name == "cell" else torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        fused_rnn(**given)


def test_tensors_that_do_not_fit() -> None:
    gates, recurrent = torch.zeros(GOOD["gates"]), torch.zeros(GOOD["recurrent"])
    with pytest.raises(TypeError, match="recurrent must be of a real floating-point type"):
        fused_rnn("lstm", gates, recurrent.long())
    with pytest.raises(ValueError, match="gates are on cpu and recurrent on meta"):
        fused_rnn("lstm", gates, recurrent.to("meta"))


def test_triton_refuses_what_its_kernels_cannot() -> None:
    pytest.importorskip("triton")
    for dtype, width, message in [
        (torch.bfloat16, 130, r"bfloat16 heads of d <= 128, and d is 130: choose 'cpu'"),
        (torch.float32, 65, r"float32 heads of d <= 64, and d is 65"),
        (torch.float64, 4, "gates are torch.float64"),
    ]:
        gates = torch.zeros(1, 2, 4, 1, width, dtype=dtype, device="meta")
        matrices = torch.zeros(1, 4, width, width, dtype=dtype, device="meta")
        with pytest.raises(ValueError, match=message):
            fused_rnn("lstm", gates, matrices, backend="triton")


# -- Triton ------------------------------------------------------------------------------------

# Small: the interpreter takes milliseconds for every step of a program. (B, L, H, d)
TRITON_CASES = [
    ((1, 1, 1, 3), torch.float32, True, False),
    ((2, 5, 2, 16), torch.float32, False, True),
    ((17, 3, 1, 20), torch.float32, True, True),
    ((2, 4, 2, 7), torch.bfloat16, True, True),
]
# The interpreter cuts a bfloat16 off where a GPU rounds it: twice the error.
TRITON_TOLERANCE = {
    torch.float32: 1e-5,
    torch.bfloat16: 2e-2 if INTERPRETING else 1e-2,
    torch.float16: 3e-3,
}


@pytest.mark.parametrize(("sizes", "dtype", "bias", "initial"), TRITON_CASES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("device", DEVICES)
def test_triton(guarded_memory, in_padding, device, cell, sizes, dtype, bias, initial) -> None:
    arguments, grads = make(cell, sizes, bias=bias, initial=initial, dtype=dtype, device=device)
    arguments = {k: None if x is None else in_padding(x) for k, x in arguments.items()}
    grads = [None if g is None else in_padding(g) for g in grads]
    out = results(fused_rnn, cell, arguments, grads, backend="triton")
    check(cell, out, arguments, grads, TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize("strength", ["open", "shut"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("device", DEVICES)
def test_triton_gates(guarded_memory, device, cell, strength) -> None:
    arguments, grads = make(cell, (2, 4, 1, 5), offset=STRENGTHS[strength], device=device)
    out = results(fused_rnn, cell, arguments, grads, backend="triton")
    wanted = {k: x.float() for k, x in expected(cell, arguments, grads).items()}
    harness.check(out, wanted, 1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_triton_reads_repeated_and_transposed_tensors(device) -> None:
    arguments, grads = make("slstm", (2, 6, 2, 4), device=device)
    arguments["gates"] = arguments["gates"][:, :1].expand(arguments["gates"].shape)
    arguments["recurrent"] = arguments["recurrent"].mT.contiguous().mT
    grads[0] = grads[0][..., :1].expand(grads[0].shape)
    out = results(fused_rnn, "slstm", arguments, grads, backend="triton")
    check("slstm", out, arguments, grads, 1e-5)


@pytest.mark.parametrize("sizes", [(16, 1000, 2, 64), (3, 63, 4, 60), (40, 256, 1, 128)])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("device", GPU)
def test_triton_at_full_size(guarded_memory, device, cell, sizes) -> None:
    for dtype, tolerance in TRITON_TOLERANCE.items():
        if sizes[-1] > LARGEST_WIDTH[dtype]:
            continue
        arguments, grads = make(cell, sizes, dtype=dtype, device=device)
        out = results(fused_rnn, cell, arguments, grads, backend="triton")
        check(cell, out, arguments, grads, max(tolerance, 1e-4))


@pytest.mark.parametrize("device", GPU)
def test_what_triton_cannot_runs_in_plain_torch(device) -> None:
    arguments, grads = make("gru", (2, 20, 1, 160), device=device)
    out = results(fused_rnn, "gru", arguments, grads)
    check("gru", out, arguments, grads, 1e-5)


def test_triton_kernels_in_the_interpreter(in_the_interpreter) -> None:
    if INTERPRETING:
        pytest.skip("this is that process")
    in_the_interpreter(__file__, "interpreter")


@pytest.mark.parametrize("number", ["bf16", "fp32"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kernel", ["forward_kernel", "backward_kernel"])
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(kernel, cell, number) -> None:
    pytest.importorskip("triton")
    if INTERPRETING:
        pytest.skip("nothing compiles in the interpreter")
    import triton.language as tl

    from nas.kernels.fused_rnn import triton as kernels

    function = getattr(kernels, kernel)
    names = function.fn.arg_names
    types = {name: f"*{number}" if name.endswith("_ptr") else "i32" for name in names}
    states = ["initial_ptr", "final_ptr", "trace_ptr", "grad_final_ptr", "grad_initial_ptr"]
    states += ["before_ptr"] if cell != "gru" else []
    types |= dict.fromkeys(states, "*fp32")
    constants = {"CELL": cell, "G": GATES[cell], "WIDTH": 12, "HAS_BIAS": True}
    constants |= {"HAS_INITIAL": number == "bf16", "BLOCK_B": 16, "BLOCK_D": 16}
    constants |= {"DOT": tl.bfloat16 if number == "bf16" else tl.float32, "PRECISION": "tf32x3"}
    harness.compile_for_hopper(function, types, constants, num_warps=4, enable_fp_fusion=True)
