"""The causal depthwise convolution, every implementation against a float64 loop over time."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.causal_conv1d import cpu, reference
from nas.kernels.causal_conv1d.operator import causal_conv1d, causal_conv1d_step
from tests.kernels import harness
from tests.kernels.harness import DEVICES, GPU, INTERPRETING, relative_error

NAMES = ("x", "weight", "bias", "initial_state")
OUTPUTS = ("y", "final_state")
# The gradients of weight and bias are sums over all tokens, whose terms nearly cancel.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-14, torch.bfloat16: 5e-3, torch.float16: 1e-3}


def make(shape, taps=4, dilation=1, given="both", dtype=torch.float32, device="cpu", seed=0):
    """Arguments of the convolution by name, and gradients for both of its results.

    `given` says which of the optional ones there are: "both", "bias", "state" or "none".
    """
    torch.manual_seed(seed)
    batch, _, width = shape
    states = (batch, (taps - 1) * dilation, width)
    tensors = [torch.randn(s) for s in (shape, (width, taps), (width,), states, shape, states)]
    x, weight, bias, state, grad_y, grad_final = (t.to(device, dtype) for t in tensors)
    kept_bias = bias if given in ("both", "bias") else None
    kept_state = state if given in ("both", "state") else None
    return dict(zip(NAMES, (x, weight, kept_bias, kept_state), strict=True)), (grad_y, grad_final)


def results(function, arguments, grads, **keywords) -> dict[str, Tensor]:
    found = harness.results(function, arguments, grads, OUTPUTS, **keywords)
    # With a single tap there is no state to be compared.
    return {name: x for name, x in found.items() if x.numel() > 0}


def expected(arguments, grads, **keywords) -> dict[str, Tensor]:
    found = harness.oracle(reference.causal_conv1d, arguments, grads, OUTPUTS, **keywords)
    return {name: x for name, x in found.items() if x.numel() > 0}


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("given", ["both", "none"])
def test_the_reference_is_the_convolution_of_torch(given, taps, dilation) -> None:
    arguments, _ = make((2, 9, 3), taps, dilation, given, torch.float64)
    x, weight, bias, state = arguments.values()
    y, final = reference.causal_conv1d(**arguments, dilation=dilation, activation="silu")
    known = (
        F.pad(x, (0, 0, (taps - 1) * dilation, 0)) if state is None else torch.cat([state, x], 1)
    )
    conv = F.conv1d(known.mT, weight.unsqueeze(1), bias, groups=3, dilation=dilation)
    torch.testing.assert_close(y, F.silu(conv).mT, rtol=1e-12, atol=1e-13)
    assert torch.equal(final, known[:, 9:])


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("given", ["both", "bias", "state", "none"])
@pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (2, 5), (3, 1), (4, 1), (4, 64), (8, 2)])
@pytest.mark.parametrize(("length", "width"), [(1, 60), (63, 1), (64, 60), (200, 7)])
def test_cpu(guarded_memory, length, width, taps, dilation, given, activation) -> None:
    arguments, grads = make((2, length, width), taps, dilation, given)
    keywords = {"dilation": dilation, "activation": activation}
    out = results(causal_conv1d, arguments, grads, **keywords, backend="cpu")
    harness.check(out, expected(arguments, grads, **keywords), TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("shape", "dilation"), [((2, 1000, 24), 2), ((1, 3, 4), 2)])
def test_cpu_in_every_type(guarded_memory, shape, dilation, dtype) -> None:
    arguments, grads = make(shape, dilation=dilation, dtype=dtype)
    keywords = {"dilation": dilation, "activation": "silu"}
    out = results(causal_conv1d, arguments, grads, **keywords, backend="cpu")
    assert {x.dtype for x in out.values()} == {dtype}
    harness.check(out, expected(arguments, grads, **keywords), TOLERANCE[dtype])


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("given", ["both", "none"])
@pytest.mark.parametrize(("length", "dilation"), [(1, 1), (5, 1), (2, 2), (7, 2)])
def test_cpu_gradients_against_finite_differences(length, dilation, given, activation) -> None:
    arguments, _ = make((2, length, 2), 3, dilation, given, torch.float64)
    names = [name for name, x in arguments.items() if x is not None]
    leaves = [arguments[name].requires_grad_() for name in names]
    for function in (causal_conv1d, cpu.causal_conv1d):

        def call(*tensors, f=function):
            given = dict(zip(names, tensors, strict=True))
            return f(**given, dilation=dilation, activation=activation)

        assert torch.autograd.gradcheck(call, leaves)


def test_one_result_alone_has_the_right_gradients() -> None:
    arguments, (grad_y, grad_final) = make((2, 40, 3))
    oracle = expected(arguments, (grad_y, 0 * grad_final))
    harness.check(results(causal_conv1d, arguments, (grad_y, None)), oracle, 1e-6)
    only = {name: arguments[name] for name in ("x", "initial_state")}
    fixed = {name: arguments[name] for name in ("weight", "bias")}
    leaves = {name: x.clone().requires_grad_() for name, x in only.items()}
    final = causal_conv1d(**leaves, **fixed)[1]
    grad_x, grad_state = torch.autograd.grad(final, list(leaves.values()), grad_final)
    assert torch.equal(grad_x[:, -3:], grad_final)
    assert not grad_x[:, :-3].any()
    assert not grad_state.any()


def test_layouts_that_are_not_contiguous() -> None:
    arguments, (grad_y, grad_final) = make((2, 70, 6))
    x, weight, bias, state = arguments.values()
    halves = torch.cat([x, x.flip(1)], dim=-1).chunk(2, dim=-1)
    repeated_grads = grad_y[:, :, :1].expand(2, 70, 6), grad_final[:1].expand(2, 3, 6)
    for changed, grads in [
        ((halves[1], weight, bias, state), (grad_y, grad_final)),
        ((x[:, :1].expand(2, 70, 6), weight[:1].expand(6, 4), bias, state[:1].expand(2, 3, 6)),
         (grad_y.mT.contiguous().mT, grad_final)),
        ((x.mT.contiguous().mT, weight.T.contiguous().T, bias[:1].expand(6), state),
         repeated_grads),
    ]:  # fmt: skip
        given = dict(zip(NAMES, changed, strict=True))
        out = results(causal_conv1d, given, grads, activation="silu")
        assert out["y"].is_contiguous()
        assert out["gradient of x"].is_contiguous()
        harness.check(out, expected(given, grads, activation="silu"), 1e-6)


def test_weights_may_have_another_type_than_the_inputs() -> None:
    arguments, grads = make((2, 50, 8))
    arguments["x"], grads = arguments["x"].bfloat16(), tuple(g.bfloat16() for g in grads)
    # The state is taken in x's type: what is compared must be representable in it.
    arguments["initial_state"] = arguments["initial_state"].bfloat16().double()
    out = results(causal_conv1d, arguments, grads, activation="silu")
    types = [out[f"gradient of {name}"].dtype for name in NAMES]
    assert out["y"].dtype == out["final_state"].dtype == torch.bfloat16
    assert types == [torch.bfloat16, torch.float32, torch.float32, torch.float64]
    harness.check(out, expected(arguments, grads, activation="silu"), TOLERANCE[torch.bfloat16])


def test_later_tokens_change_nothing_before_them() -> None:
    arguments, _ = make((2, 60, 4))
    y, _ = causal_conv1d(**arguments, activation="silu", dilation=1)
    arguments["x"][:, 30] = float("nan")
    changed, _ = causal_conv1d(**arguments, activation="silu", dilation=1)
    assert torch.equal(changed[:, :30], y[:, :30])
    assert torch.equal(changed[:, 34:], y[:, 34:])
    assert changed[:, 30:34].isnan().all()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("length", [2, 20])
def test_the_final_state_is_a_fresh_tensor(length, backend) -> None:
    arguments, _ = make((2, length, 3))
    before = {name: x.clone() for name, x in arguments.items()}
    _, final = causal_conv1d(**arguments, backend=backend)
    assert torch.equal(final, torch.cat([before["initial_state"], before["x"]], 1)[:, -3:])
    final.zero_()
    assert all(torch.equal(arguments[name], before[name]) for name in NAMES)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("dilation", [1, 4])
def test_steps_are_the_convolution(dilation, activation) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        arguments, _ = make((3, 30, 5), dilation=dilation, dtype=dtype)
        keywords = {"dilation": dilation, "activation": activation}
        y, final = causal_conv1d(**arguments, **keywords)
        x, weight, bias, state = arguments.values()
        steps = []
        for token in x.unbind(1):
            out, state = causal_conv1d_step(token, weight, bias, state, **keywords)
            steps.append(out)
        assert steps[0].dtype == state.dtype == dtype
        assert relative_error(torch.stack(steps, 1), y) < TOLERANCE[dtype]
        assert torch.equal(state, final)


def test_parts_of_a_sequence_are_the_sequence() -> None:
    arguments, _ = make((2, 90, 5), dilation=4)
    y, final = causal_conv1d(**arguments, dilation=4)
    x, *weights, state = arguments.values()
    parts = []
    for part in x.split([33, 2, 55], dim=1):
        out, state = causal_conv1d(part, *weights, state, dilation=4)
        parts.append(out)
    assert relative_error(torch.cat(parts, 1), y) < 1e-6
    assert torch.equal(state, final)


# -- the operator ------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["both", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_are_registered_correctly(given, dtype) -> None:
    arguments, grads = make((2, 20, 3), given=given, dtype=dtype)
    x, weight, bias, state = arguments.values()
    backward = (x, weight, bias, state, *grads, 1, "silu", "cpu")
    torch.library.opcheck(torch.ops.nas.causal_conv1d_backward.default, backward)
    leaves = [t if t is None else t.requires_grad_() for t in (x, weight, bias, state)]
    torch.library.opcheck(torch.ops.nas.causal_conv1d.default, (*leaves, 1, "silu", "cpu"))


def test_meta_tensors_have_the_shapes_and_types_of_real_ones() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        arguments, grads = make((2, 20, 3), dtype=dtype)
        arguments["weight"] = arguments["weight"].float()
        meta = {name: x.to("meta") for name, x in arguments.items()}
        real = results(causal_conv1d, arguments, grads)
        fake = results(causal_conv1d, meta, [g.to("meta") for g in grads])
        for name in real:
            assert (real[name].shape, real[name].dtype) == (fake[name].shape, fake[name].dtype)
            assert real[name].stride() == fake[name].stride()


class Layer(torch.nn.Module):
    def forward(self, x: Tensor, weight: Tensor, bias: Tensor, initial_state: Tensor):
        y, final = causal_conv1d(
            x.sin(), 2 * weight, bias, initial_state, dilation=1, activation="silu"
        )
        return y.sin(), final


def test_compiled_code_has_the_same_gradients_at_every_length() -> None:
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (20, 33, 47):
        arguments, grads = make((2, length, 3))
        out, plain = (results(f, arguments, grads) for f in (compiled, Layer()))
        for name in plain:
            torch.testing.assert_close(out[name], plain[name], msg=name)


def test_exported_programs_hold_one_operator_of_any_length() -> None:
    length = torch.export.Dim("length", min=2)
    arguments, _ = make((2, 20, 3))
    shapes = ({1: length}, {}, {}, {})
    program = torch.export.export(Layer(), tuple(arguments.values()), dynamic_shapes=shapes)
    calls = [node for node in program.graph.nodes if "causal_conv1d" in str(node.target)]
    assert len(calls) == 1
    longer, _ = make((2, 45, 3))
    for out, plain in zip(program.module()(*longer.values()), Layer()(**longer), strict=True):
        assert torch.equal(out, plain)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    arguments, _ = make((2, 20, 3))
    x = arguments["x"].requires_grad_()
    y, _ = causal_conv1d(**arguments)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.square().sum().backward()
    y, _ = cpu.causal_conv1d(**arguments)
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_more_taps_than_a_program_holds_run_in_plain_torch() -> None:
    arguments, grads = make((2, 50, 3), taps=9)
    out = results(causal_conv1d, arguments, grads)
    harness.check(out, expected(arguments, grads), 1e-6)
    if torch.cuda.is_available():
        arguments, grads = make((2, 50, 3), taps=9, device="cuda")
        out = results(causal_conv1d, arguments, grads, backend="triton")
        harness.check(out, expected(arguments, grads), 1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(4, 3)}, r"x must be \[B, L, D\] with L >= 1, and is \[4, 3\]"),
        ({"x": torch.zeros(2, 0, 3)}, "L >= 1"),
        ({"weight": torch.zeros(4, 3)}, r"weight must be \[D, k\] with D = 3 and k >= 1"),
        ({"weight": torch.zeros(3, 0)}, r"k >= 1, and is \[3, 0\]"),
        ({"bias": torch.zeros(4)}, r"bias must be \[D\] = \[3\], and is \[4\]"),
        (
            {"initial_state": torch.zeros(2, 4, 3)},
            r"initial_state must be \[B, \(k-1\) \* dilation, D\] = \[2, 3, 3\]",
        ),
        ({"dilation": 0}, "dilation must be at least 1, and is 0"),
        ({"activation": "relu"}, "activation is \"silu\" or None, not 'relu'"),
        ({"bias": torch.zeros(3, device="meta")}, "x is on cpu and bias on meta"),
        ({"backend": "cuda"}, "backend is 'cuda'"),
    ],
)
def test_arguments_that_do_not_fit(changed, message) -> None:
    arguments, _ = make((2, 4, 3))
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**arguments | changed)


def test_types_that_do_not_fit() -> None:
    arguments, _ = make((2, 4, 3))
    for name, x in arguments.items():
        with pytest.raises(TypeError, match=f"{name} must be of a real floating-point type"):
            causal_conv1d(**arguments | {name: x.long()})


# -- Triton ------------------------------------------------------------------------------------

# Small: the interpreter takes milliseconds for every row of a block. (Length, width, taps,
# dilation): classes without a token, shorter than the window, and longer than a span.
TRITON_SHAPES = [
    (1, 1, 1, 1),
    (2, 5, 4, 1),
    (17, 33, 3, 1),
    (40, 7, 4, 1),
    (23, 5, 2, 4),
    (3, 6, 4, 5),
    (19, 3, 8, 1),
]
# The interpreter cuts a bfloat16 off where a GPU rounds it: twice the error.
TRITON_TOLERANCE = {**TOLERANCE, torch.bfloat16: 1e-2 if INTERPRETING else 5e-3}


@pytest.fixture
def short_spans(monkeypatch) -> None:
    """Let a program answer for 16 tokens, so that a short sequence has several."""
    pytest.importorskip("triton")
    from nas.kernels.causal_conv1d import triton as kernels

    monkeypatch.setattr(kernels, "SPAN", 16)


@pytest.mark.parametrize(
    ("dtype", "activation", "given"),
    [
        (torch.float32, "silu", "both"),
        (torch.float32, None, "none"),
        (torch.bfloat16, "silu", "both"),
    ],
)
@pytest.mark.parametrize(("length", "width", "taps", "dilation"), TRITON_SHAPES)
@pytest.mark.parametrize("device", DEVICES)
def test_triton(
    guarded_memory, in_padding, short_spans, device, length, width, taps, dilation, dtype,
    activation, given,
) -> None:  # fmt: skip
    shape = (1 if length > 20 else 2, length, width)
    arguments, grads = make(shape, taps, dilation, given, dtype, device)
    arguments = {name: x if x is None else in_padding(x) for name, x in arguments.items()}
    grads = [in_padding(x) for x in grads]
    keywords = {"dilation": dilation, "activation": activation}
    out = results(causal_conv1d, arguments, grads, **keywords, backend="triton")
    harness.check(out, expected(arguments, grads, **keywords), TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("device", DEVICES)
def test_triton_in_other_types(guarded_memory, device, dtype) -> None:
    arguments, grads = make((1, 20, 7), dtype=dtype, device=device)
    out = results(causal_conv1d, arguments, grads, activation="silu", backend="triton")
    harness.check(out, expected(arguments, grads, activation="silu"), TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize("device", DEVICES)
def test_triton_reads_repeated_and_transposed_tensors(device) -> None:
    arguments, grads = make((2, 20, 6), device=device)
    x, weight, bias, state = arguments.values()
    changed = (x[:, :1].expand(2, 20, 6), weight.T.contiguous().T, bias[:1].expand(6))
    arguments = dict(zip(NAMES, (*changed, state[:1].expand(2, 3, 6)), strict=True))
    grads = grads[0][:1, :1].expand(2, 20, 6), grads[1].mT.contiguous().mT
    out = results(causal_conv1d, arguments, grads, backend="triton")
    harness.check(out, expected(arguments, grads), 1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_triton_keeps_what_is_not_finite_where_it_is(short_spans, device) -> None:
    arguments, _ = make((1, 40, 3), given="bias", device=device)
    arguments["x"][:, 30] = float("inf")
    y, _ = causal_conv1d(**arguments, activation="silu", backend="triton")
    assert y[:, :30].isfinite().all()
    assert not y[:, 30:34].isfinite().all(1).any()
    assert y[:, 34:].isfinite().all()


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (4, 1), (8, 2), (3, 700)])
@pytest.mark.parametrize("shape", [(2, 1000, 60), (8, 2048, 256), (3, 63, 128)])
@pytest.mark.parametrize("device", GPU)
def test_triton_at_full_size(guarded_memory, device, shape, taps, dilation, activation) -> None:
    keywords = {"dilation": dilation, "activation": activation}
    for dtype in (torch.float32, torch.bfloat16):
        arguments, grads = make(shape, taps, dilation, dtype=dtype, device=device)
        out = results(causal_conv1d, arguments, grads, **keywords)
        harness.check(out, expected(arguments, grads, **keywords), TOLERANCE[dtype])


def test_triton_kernels_in_the_interpreter(in_the_interpreter) -> None:
    if INTERPRETING:
        pytest.skip("this is that process")
    in_the_interpreter(__file__, "interpreter")


@pytest.mark.parametrize(
    ("number", "taps", "silu", "given"),
    [("bf16", 4, True, True), ("fp32", 8, True, True), ("fp32", 1, False, False)],
)
@pytest.mark.parametrize("kernel", ["forward_kernel", "backward_kernel"])
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(
    kernel, number, taps, silu, given
) -> None:
    triton = pytest.importorskip("triton")
    if INTERPRETING:
        pytest.skip("nothing compiles in the interpreter")
    from nas.kernels.causal_conv1d import triton_kernels as kernels

    function = getattr(kernels, kernel)
    constants = {"width": 60, "taps": taps, "dilation": 2, "stride_x": 120, "stride_g": 60}
    constants |= {"NUMBER": triton.language.float32, "HAS_BIAS": given, "HAS_INITIAL": given}
    constants |= {"SILU": silu, "BLOCK": 64, "ROWS": 8}
    names = function.fn.arg_names
    types = {name: f"*{number}" if name.endswith("_ptr") else "i32" for name in names}
    types["sums_ptr"] = "*fp32"
    harness.compile_for_hopper(function, types, constants, num_warps=1, enable_fp_fusion=True)
