"""The softmax scan, every implementation against a float64 loop over time."""

import pytest
import torch
from torch import Tensor

from nas.kernels.softmax_scan import cpu, reference
from nas.kernels.softmax_scan.operator import softmax_scan, softmax_scan_step
from tests.kernels import harness
from tests.kernels.harness import DEVICES, GPU, INTERPRETING, relative_error

NAMES = ("scores", "values", "m", "u", "w")
OUTPUTS = ("o", "last m", "last u", "last w")


def masked(shape):
    """Normal scores of which two in three are masked, and the first tokens all."""
    scores = torch.randn(shape).masked_fill(torch.rand(shape) < 0.67, float("-inf"))
    scores[:, :3] = float("-inf")
    return scores


def ramp(shape, slope):
    return slope * torch.arange(shape[1])[:, None] + torch.randn(shape)


SCORES = {
    "normal": torch.randn,
    "equal": torch.zeros,
    "wide": lambda shape: 10 * torch.randn(shape),
    "masked": masked,
    "all masked": lambda shape: torch.full(shape, float("-inf")),
    "rising": lambda shape: ramp(shape, 0.5),
    "falling": lambda shape: ramp(shape, -0.5),
    "high": lambda shape: 1e4 + torch.randn(shape).mul(8).round() / 8,
    "low": lambda shape: -1e4 + torch.randn(shape).mul(8).round() / 8,
}
# Almost every exponential is 0 here: what is not 0 must be right, what is 0 finite.
STEEP = {
    "huge": lambda shape: 1e4 * torch.randn(shape),
    "steps up": lambda shape: ramp(shape, 300.0),
    "steps down": lambda shape: ramp(shape, -300.0),
}
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-13, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def make(shape, scores="normal", initial=True, dtype=torch.float32, device="cpu", seed=0):
    """Arguments of the scan, and gradients of all results but m, which has none."""
    torch.manual_seed(seed)
    batch, length, heads, width = shape
    number = torch.promote_types(dtype, torch.float32)
    drawn = (SCORES | STEEP)[scores]((batch, length, heads)).to(device, dtype)
    arguments = {"scores": drawn, "values": torch.randn(shape).to(device, dtype)}
    state = {"m": torch.randn(batch, heads), "u": torch.rand(batch, heads) + 0.5}
    state["w"] = torch.randn(batch, heads, width)
    arguments |= {n: x.to(device, number) if initial else None for n, x in state.items()}
    grads = [torch.randn(shape).to(device, dtype), None]
    grads += [torch.randn(state[name].shape).to(device, number) for name in ("u", "w")]
    return arguments, grads


def flat(function):
    """Let a scan take and return the parts of its state one by one."""

    def call(scores, values, m, u, w, **keywords):
        state = None if m is None else (m, u, w)
        o, state = function(scores, values, state, **keywords)
        return o, *state

    return call


def results(function, arguments, grads, **keywords) -> dict[str, Tensor]:
    return harness.results(flat(function), arguments, grads, OUTPUTS, **keywords)


def expected(arguments, grads) -> dict[str, Tensor]:
    return harness.oracle(flat(reference.softmax_scan), arguments, grads, OUTPUTS)


def check(out, oracle, tolerance) -> None:
    """`harness.check`, but for the maxima, and the gradient of the first ones.

    A maximum may be -inf. Its gradient u du + w dw is a difference whose terms are what it can be
    measured by: e^m scales numerator and denominator alike, so that no mean depends on it much.
    """
    maxima = [x.pop("last m").detach().cpu().double() for x in (out, oracle)]
    torch.testing.assert_close(*maxima, rtol=tolerance, atol=0)
    if "gradient of m" in out:
        found, wanted = (x.pop("gradient of m").cpu().double() for x in (out, oracle))
        terms = oracle["gradient of u"].square() + oracle["gradient of w"].square().sum(-1)
        assert (found - wanted).square().mean() <= tolerance**2 * terms.mean()
    harness.check(out, oracle, tolerance)


@pytest.mark.parametrize("scores", ["normal", "wide", "masked", "high", "steps up", "steps down"])
def test_the_reference_is_softmax_of_every_prefix(scores) -> None:
    arguments, _ = make((2, 20, 3, 4), scores, initial=False, dtype=torch.float64)
    o, (m, u, w) = reference.softmax_scan(arguments["scores"], arguments["values"])
    for t in range(20):
        weights = arguments["scores"][:, : t + 1].softmax(1).nan_to_num(0)
        mean = (weights[..., None] * arguments["values"][:, : t + 1]).sum(1)
        torch.testing.assert_close(o[:, t], mean)
    total = arguments["scores"].logsumexp(1)
    torch.testing.assert_close(m + u.log(), total)
    torch.testing.assert_close(w / u[..., None], o[:, -1])


def test_the_reference_is_attention_with_the_scores_as_its_mask() -> None:
    arguments, grads = make((2, 20, 3, 4), initial=False, dtype=torch.float64)
    arguments = {name: arguments[name] for name in ("scores", "values")}

    def attention(scores, values):
        later = torch.ones(20, 20, dtype=torch.bool).triu(1)
        mask = scores.mT[:, :, None].masked_fill(later, float("-inf"))
        query = torch.zeros_like(values).transpose(1, 2)
        out = torch.nn.functional.scaled_dot_product_attention(
            query, query, values.transpose(1, 2), attn_mask=mask
        )
        return out.transpose(1, 2)

    def scan(scores, values):
        return reference.softmax_scan(scores, values)[0]

    out, other = (harness.results(f, arguments, grads[:1], ("o",)) for f in (scan, attention))
    harness.check(out, other, 1e-12)


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("shape", [(2, 1, 3, 5), (2, 63, 2, 60), (1, 64, 3, 16), (2, 1000, 1, 7)])
def test_cpu(guarded_memory, shape, scores, initial) -> None:
    arguments, grads = make(shape, scores, initial)
    out = results(softmax_scan, arguments, grads, backend="cpu")
    check(out, expected(arguments, grads), TOLERANCE[torch.float32])


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("scores", STEEP)
def test_cpu_of_scores_beyond_every_exponential(guarded_memory, scores, initial) -> None:
    arguments, grads = make((2, 100, 3, 8), scores, initial)
    out, oracle = results(softmax_scan, arguments, grads, backend="cpu"), expected(arguments, grads)
    assert all(x.isfinite().all() for x in out.values())
    # A score's gradient is a difference of numbers as large as v . dv, and here often all but 0.
    found, wanted = (x.pop("gradient of scores").double() for x in (out, oracle))
    assert (found - wanted).abs().max() < 1e-4
    check(out, oracle, TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(2, 100, 2, 24), (3, 15, 2, 4), (3, 17, 5, 300)])
def test_cpu_in_every_type(guarded_memory, shape, dtype) -> None:
    arguments, grads = make(shape, dtype=dtype)
    out = results(softmax_scan, arguments, grads, backend="cpu")
    assert out["o"].dtype == out["gradient of scores"].dtype == dtype
    number = torch.promote_types(dtype, torch.float32)
    assert {out[name].dtype for name in OUTPUTS[1:]} == {number}
    check(out, expected(arguments, grads), TOLERANCE[dtype])


def test_cpu_in_many_segments(monkeypatch) -> None:
    monkeypatch.setattr(cpu, "SEGMENT", 1000)
    for shape in ((2, 100, 3, 8), (1, 33, 2, 4)):
        arguments, grads = make(shape)
        check(results(softmax_scan, arguments, grads), expected(arguments, grads), 5e-6)


@pytest.mark.parametrize("scores", ["normal", "masked"])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 2, 1), (2, 5, 1, 2), (1, 19, 2, 2)])
def test_cpu_gradients_against_finite_differences(shape, initial, scores) -> None:
    arguments, _ = make(shape, scores, initial, torch.float64)
    if scores == "masked" and initial is False:
        arguments["scores"][:, 0] = 0.0
    known = arguments["scores"] > float("-inf")
    leaves = [x.masked_fill(x == float("-inf"), 0) for x in arguments.values() if x is not None]
    leaves = [x.requires_grad_() for x in leaves]
    for function in (softmax_scan, cpu.softmax_scan):

        def means(scores, values, *state, f=function):
            o, (_, u, w) = f(scores.masked_fill(~known, float("-inf")), values, state or None)
            # Not u and w themselves: they are differentiated as if m stayed where it is.
            return o, w / u[..., None]

        assert torch.autograd.gradcheck(means, leaves)


def test_the_gradients_of_u_and_w_are_those_at_the_same_m() -> None:
    arguments, grads = make((2, 40, 3, 4), dtype=torch.float64)
    for alone in (2, 3):
        zeroed = [x if x is None or i == alone else 0 * x for i, x in enumerate(grads)]
        check(results(softmax_scan, arguments, zeroed), expected(arguments, zeroed), 1e-13)
    # With m held, u = sum e^(s - m) moves with every score by its own exponential.
    zeroed[2], zeroed[3] = torch.ones(2, 3, dtype=torch.float64), 0 * grads[3]
    out = results(softmax_scan, arguments, zeroed)
    found = out["gradient of scores"]
    torch.testing.assert_close(found, (arguments["scores"] - out["last m"][:, None]).exp())


def test_a_state_passed_on_carries_the_whole_gradient() -> None:
    arguments, grads = make((2, 90, 3, 4), dtype=torch.float64)

    def in_parts(scores, values, state):
        parts = []
        for start, stop in ((0, 33), (33, 34), (34, 90)):
            part = slice(start, stop)
            o, state = softmax_scan(scores[:, part], values[:, part], state)
            parts.append(o)
        return torch.cat(parts, 1), state

    check(results(in_parts, arguments, grads), expected(arguments, grads), 1e-13)


def test_steps_are_the_scan() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        arguments, _ = make((3, 30, 2, 5), "masked", dtype=dtype)
        scores, values = arguments["scores"], arguments["values"]
        for state in (None, (arguments["m"], arguments["u"], arguments["w"])):
            o, final = softmax_scan(scores, values, state)
            if state is None:
                nothing = torch.zeros(3, 2)
                state = (nothing - float("inf"), nothing, torch.zeros(3, 2, 5))
            steps = []
            for t in range(30):
                out, state = softmax_scan_step(scores[:, t], values[:, t], state)
                steps.append(out)
            assert steps[0].dtype == dtype
            assert {x.dtype for x in state} == {torch.float32}
            assert relative_error(torch.stack(steps, 1), o) < TOLERANCE[dtype]
            assert all(relative_error(x, y) < 1e-6 for x, y in zip(state, final, strict=True))


def test_a_prefix_of_masked_tokens_is_zero_and_has_no_gradient() -> None:
    arguments, grads = make((2, 50, 3, 4), initial=False)
    arguments["scores"][:, :20] = float("-inf")
    out = results(softmax_scan, arguments, grads)
    assert not out["o"][:, :20].any()
    for name in ("scores", "values"):
        assert out[f"gradient of {name}"].isfinite().all()
        assert not out[f"gradient of {name}"][:, :20].any()


def test_what_is_not_a_number_is_not_hidden() -> None:
    arguments, _ = make((2, 50, 3, 4), initial=False)
    arguments["scores"][1, 30, 2] = float("nan")
    o, _ = softmax_scan(arguments["scores"], arguments["values"])
    assert o[1, 30:, 2].isnan().all()
    assert o[0].isfinite().all()
    assert o[1, :30].isfinite().all()


def test_layouts_that_are_not_contiguous() -> None:
    arguments, grads = make((2, 40, 3, 6))
    arguments["scores"] = arguments["scores"].mT.contiguous().mT
    arguments["values"] = arguments["values"].transpose(1, 2).contiguous().transpose(1, 2)
    arguments["m"], arguments["w"] = (
        arguments["m"][:1].expand(2, 3),
        arguments["w"][..., :1].expand(2, 3, 6),
    )
    grads[0] = grads[0][:, :1].expand(2, 40, 3, 6)
    check(results(softmax_scan, arguments, grads), expected(arguments, grads), 5e-6)


def test_types_may_be_mixed() -> None:
    arguments, grads = make((2, 40, 3, 6))
    arguments["values"], grads[0] = arguments["values"].bfloat16(), grads[0].bfloat16()
    arguments["w"] = arguments["w"].half()
    out = results(softmax_scan, arguments, grads)
    assert out["o"].dtype == torch.bfloat16
    assert out["gradient of scores"].dtype == torch.float32
    assert out["gradient of w"].dtype == torch.float16
    check(out, expected(arguments, grads), 1e-2)


# -- the operator ------------------------------------------------------------------------------


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_are_registered_correctly(initial, dtype) -> None:
    arguments, (grad_o, _, grad_u, grad_w) = make((2, 20, 2, 3), initial=initial, dtype=dtype)
    tensors = list(arguments.values())
    backward = (*tensors, torch.randn_like(grad_o), grad_o, grad_u, grad_w, "cpu")
    torch.library.opcheck(torch.ops.nas.softmax_scan_backward.default, backward)
    leaves = [x if x is None else x.requires_grad_() for x in tensors]
    torch.library.opcheck(torch.ops.nas.softmax_scan.default, (*leaves, "cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_meta_tensors_have_the_shapes_and_types_of_real_ones(dtype) -> None:
    arguments, _ = make((2, 20, 3, 5), initial=False, dtype=dtype)
    real = flat(softmax_scan)(**arguments)
    meta_arguments = {n: x if x is None else x.to("meta") for n, x in arguments.items()}
    meta = flat(softmax_scan)(**meta_arguments)
    for x, y in zip(real, meta, strict=True):
        assert (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride())


class Layer(torch.nn.Module):
    def forward(
        self, scores: Tensor, values: Tensor, m: Tensor, u: Tensor, w: Tensor
    ) -> tuple[Tensor, ...]:
        o, (m, u, w) = softmax_scan(scores.sin(), 2 * values, (m, u, w))
        return o.sin(), m, u, w


def test_compiled_code_has_the_same_gradients_at_every_length() -> None:
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (20, 33, 47):
        arguments, grads = make((2, length, 3, 4))
        out, plain = (harness.results(f, arguments, grads, OUTPUTS) for f in (compiled, Layer()))
        for name in plain:
            torch.testing.assert_close(out[name], plain[name], msg=name)


def test_exported_programs_hold_one_operator_of_any_length() -> None:
    length = torch.export.Dim("length", min=2)
    arguments, _ = make((2, 20, 3, 4))
    dynamic = ({1: length}, {1: length}, {}, {}, {})
    program = torch.export.export(Layer(), tuple(arguments.values()), dynamic_shapes=dynamic)
    calls = [node for node in program.graph.nodes if "softmax_scan" in str(node.target)]
    assert len(calls) == 1
    longer = make((2, 45, 3, 4))[0].values()
    for out, plain in zip(program.module()(*longer), Layer()(*longer), strict=True):
        assert torch.equal(out, plain)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_state_is_fresh_and_its_maximum_a_constant(backend) -> None:
    arguments, _ = make((2, 20, 3, 4))
    leaves = {name: x.requires_grad_() for name, x in arguments.items()}
    o, m, u, w = flat(softmax_scan)(**leaves, backend=backend)
    assert not m.requires_grad
    assert o.requires_grad
    assert u.requires_grad
    assert w.requires_grad
    pointers = {x.untyped_storage().data_ptr() for x in (o, m, u, w, *leaves.values())}
    assert len(pointers) == 9


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    arguments, _ = make((2, 20, 3, 4), initial=False)
    scores, values = arguments["scores"].requires_grad_(), arguments["values"]
    o, _ = softmax_scan(scores, values)
    (gradient,) = torch.autograd.grad(o.sum(), scores, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.square().sum().backward()
    o, _ = cpu.softmax_scan(scores, values)
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(o.sum(), scores, create_graph=True)


@pytest.mark.parametrize(
    ("scores", "values", "state", "message"),
    [
        ((2, 4), (2, 4, 3), None, r"scores must be \[B, L, H\] and values \[B, L, H, D\]"),
        ((2, 4, 3), (2, 5, 3, 1), None, r"\[2, 4, 3\] and \[2, 5, 3, 1\]"),
        ((2, 0, 3), (2, 0, 3, 1), None, "L >= 1"),
        ((2, 4, 3), (2, 4, 3, 1), [(2, 3), (2, 3)], "has 2 parts"),
        (
            (2, 4, 3),
            (2, 4, 3, 1),
            [(2, 3), (2, 3), (2, 3)],
            r"w of .* \[2, 3, 1\], and is \[2, 3\]",
        ),
    ],
)
def test_shapes_that_do_not_fit(scores, values, state, message) -> None:
    state = None if state is None else tuple(torch.zeros(shape) for shape in state)
    with pytest.raises(ValueError, match=message):
        softmax_scan(torch.zeros(scores), torch.zeros(values), state)


def test_tensors_that_do_not_fit() -> None:
    scores, values = torch.zeros(2, 4, 3), torch.zeros(2, 4, 3, 5)
    with pytest.raises(TypeError, match="scores must be of a real floating-point type"):
        softmax_scan(scores.long(), values)
    with pytest.raises(TypeError, match="values must be of a real floating-point type"):
        softmax_scan(scores, values.cfloat())
    with pytest.raises(ValueError, match="values are on cpu and scores on meta"):
        softmax_scan(scores.to("meta"), values)


# -- Triton ------------------------------------------------------------------------------------

# The interpreter cuts a bfloat16 off where a GPU rounds it: twice the error.
TRITON_TOLERANCE = {**TOLERANCE, torch.bfloat16: 2e-2 if INTERPRETING else 1e-2}


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 17, 2, 5), (1, 33, 1, 40), (2, 9, 3, 16)])
@pytest.mark.parametrize("device", DEVICES)
def test_triton(guarded_memory, in_padding, device, shape, dtype, initial) -> None:
    arguments, grads = make(shape, initial=initial, dtype=dtype, device=device)
    arguments = {name: x if x is None else in_padding(x) for name, x in arguments.items()}
    grads = [x if x is None else in_padding(x) for x in grads]
    out = results(softmax_scan, arguments, grads, backend="triton")
    check(out, expected(arguments, grads), TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("scores", "initial"),
    [*((scores, True) for scores in SCORES), ("masked", False), ("all masked", False)],
)
@pytest.mark.parametrize("device", DEVICES)
def test_triton_scores(guarded_memory, device, scores, initial) -> None:
    arguments, grads = make((1, 20, 2, 4), scores, initial, device=device)
    out = results(softmax_scan, arguments, grads, backend="triton")
    check(out, expected(arguments, grads), TOLERANCE[torch.float32])


@pytest.mark.parametrize("scores", STEEP)
@pytest.mark.parametrize("device", DEVICES)
def test_triton_of_scores_beyond_every_exponential(guarded_memory, device, scores) -> None:
    arguments, grads = make((2, 20, 2, 4), scores, device=device)
    out = results(softmax_scan, arguments, grads, backend="triton")
    oracle = expected(arguments, grads)
    found, wanted = (x.pop("gradient of scores").double().cpu() for x in (out, oracle))
    assert (found - wanted).abs().max() < 1e-4
    check(out, oracle, TOLERANCE[torch.float32])


@pytest.mark.parametrize("device", DEVICES)
def test_triton_of_many_blocks_and_other_types(guarded_memory, device, monkeypatch) -> None:
    pytest.importorskip("triton")
    from nas.kernels.softmax_scan import triton as kernels

    monkeypatch.setattr(kernels, "LARGEST_BLOCK", 16)
    monkeypatch.setattr(kernels, "LARGEST_RUN", 8)
    for dtype, width in [(torch.float32, 40), (torch.float64, 5), (torch.float16, 5)]:
        arguments, grads = make((1, 17, 2, width), dtype=dtype, device=device)
        out = results(softmax_scan, arguments, grads, backend="triton")
        check(out, expected(arguments, grads), TOLERANCE[dtype])


@pytest.mark.parametrize("device", DEVICES)
def test_triton_reads_repeated_and_transposed_tensors(device) -> None:
    arguments, grads = make((2, 20, 3, 6), device=device)
    arguments["scores"] = arguments["scores"].mT.contiguous().mT
    arguments["values"] = arguments["values"][:, :1].expand(2, 20, 3, 6)
    arguments["w"] = arguments["w"].mT.contiguous().mT
    grads[0] = grads[0][:1, :, :1].expand(2, 20, 3, 6)
    out = results(softmax_scan, arguments, grads, backend="triton")
    check(out, expected(arguments, grads), TOLERANCE[torch.float32])


@pytest.mark.parametrize("scores", [*SCORES, *STEEP])
@pytest.mark.parametrize("shape", [(2, 1000, 3, 60), (4, 2048, 8, 64), (2, 63, 2, 200)])
@pytest.mark.parametrize("device", GPU)
def test_triton_at_full_size(guarded_memory, device, shape, scores) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        arguments, grads = make(shape, scores, dtype=dtype, device=device)
        out, oracle = results(softmax_scan, arguments, grads), expected(arguments, grads)
        if scores in STEEP:
            assert out.pop("gradient of scores").isfinite().all()
            oracle.pop("gradient of scores")
        check(out, oracle, TOLERANCE[dtype])


def test_triton_kernels_in_the_interpreter(in_the_interpreter) -> None:
    if INTERPRETING:
        pytest.skip("this is that process")
    in_the_interpreter(__file__, "interpreter")


@pytest.mark.parametrize(
    ("number", "state", "kernel"),
    [
        ("fp32", "fp32", "_coefficients_kernel"),
        ("bf16", "fp32", "_coefficients_kernel"),
        ("fp64", "fp64", "_coefficients_kernel"),
        ("fp32", "fp32", "_forward_kernel"),
        ("bf16", "fp32", "_forward_kernel"),
        ("fp32", "fp32", "_backward_kernel"),
        ("bf16", "fp32", "_backward_kernel"),
    ],
)
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(kernel, number, state) -> None:
    pytest.importorskip("triton")
    if INTERPRETING:
        pytest.skip("nothing compiles in the interpreter")
    from nas.kernels.softmax_scan import triton as kernels

    function = getattr(kernels, kernel)
    names = function.arg_names if kernel == "_coefficients_kernel" else function.fn.arg_names
    inputs = ("scores_ptr", "v_ptr", "o_ptr", "grad_o_ptr", "grad_v_ptr")
    types = {name: f"*{number if name in inputs else state}" for name in names if "_ptr" in name}
    types |= {name: "i32" for name in names if "_ptr" not in name}
    constants = {"width": 60, "stride_v": 240, "stride_g": 0, "HAS_INITIAL": True}
    constants |= {"BLOCK": 1024 if kernel == "_coefficients_kernel" else 64, "ROWS": 8}
    warps = 4 if kernel == "_coefficients_kernel" else 1
    harness.compile_for_hopper(function, types, constants, num_warps=warps)
