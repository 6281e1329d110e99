"""The selective scan, every implementation against a float64 loop over time."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.selective_scan import cpu, reference
from nas.kernels.selective_scan.operator import selective_scan, selective_scan_step
from tests.kernels import harness
from tests.kernels.harness import DEVICES, GPU, INTERPRETING, relative_error

OUTPUTS = ("y", "final_state")
SEQUENCES = ("u", "delta", "z")
# Rates A, and step sizes before the bias and the softplus.
GATES = {
    "mamba": (lambda n: -torch.arange(1.0, n + 1), lambda shape: torch.randn(shape) - 3),
    "weak": (lambda n: -1e-3 * torch.rand(n), lambda shape: torch.randn(shape) - 3),
    "strong": (lambda n: -20 - 20 * torch.rand(n), lambda shape: torch.rand(shape)),
    "mixed": (lambda n: -torch.randn(n).exp(), lambda shape: 3 * torch.randn(shape)),
    "growing": (lambda n: 0.02 * torch.rand(n), lambda shape: torch.randn(shape) - 3),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def make(shape, gates="mixed", optional=True, dtype=torch.float32, device="cpu", seed=0):
    """Arguments of the scan by name, and gradients for both of its results.

    Args:
        shape: B, L, D, N, and the number of groups if B and C shall have them.
        optional: whether there are a D, a z, a delta_bias and an initial state.
    """
    torch.manual_seed(seed)
    (batch, length, width, order), groups = shape[:4], tuple(shape[4:])
    rates, steps = GATES[gates]
    state_dtype = torch.promote_types(dtype, torch.float32)
    arguments = {
        "u": torch.randn(batch, length, width),
        "delta": steps((batch, length, width)),
        "A": rates(order) * (0.5 + torch.rand(width, 1)),
        "B": torch.randn(batch, length, *groups, order),
        "C": torch.randn(batch, length, *groups, order),
        "D": torch.randn(width),
        "z": torch.randn(batch, length, width),
        "delta_bias": torch.randn(width),
        "initial_state": torch.randn(batch, width, order),
    }
    if not optional:
        arguments |= dict.fromkeys(("D", "z", "delta_bias", "initial_state"))
    kept = {"A": state_dtype, "D": state_dtype, "delta_bias": state_dtype}
    kept["initial_state"] = state_dtype
    arguments = {
        name: x if x is None else x.to(device, kept.get(name, dtype))
        for name, x in arguments.items()
    }
    grad_y = torch.randn(batch, length, width).to(device, dtype)
    return arguments, (grad_y, torch.randn(batch, width, order).to(device, state_dtype))


def results(function, arguments, grads, softplus=True, **keywords) -> dict[str, Tensor]:
    keywords["delta_softplus"] = softplus
    return harness.results(function, arguments, grads, OUTPUTS, **keywords)


def expected(arguments, grads, softplus=True, **keywords) -> dict[str, Tensor]:
    keywords["delta_softplus"] = softplus
    return harness.oracle(reference.selective_scan, arguments, grads, OUTPUTS, **keywords)


def positive(arguments):
    """The same, with step sizes that need no softplus."""
    return arguments | {"delta": arguments["delta"].abs(), "delta_bias": None}


def explicit(u, delta, A, B, C, D, z, delta_bias, initial_state):
    """All states at once: h_t = exp(A T_t) h_0 + sum over s <= t of exp(A (T_t - T_s)) ...

    with T_t the sum of the step sizes up to t.
    """
    sizes = F.softplus(delta + (0 if delta_bias is None else delta_bias))
    B, C = (x if x.dim() == 4 else x[:, :, None] for x in (B, C))
    B, C = (x.repeat_interleave(u.shape[2] // x.shape[2], 2) for x in (B, C))
    time = sizes.cumsum(1)
    steps = torch.arange(u.shape[1])
    earlier = (steps[:, None] >= steps)[..., None, None]
    decays = torch.exp((time[:, :, None] - time[:, None])[..., None] * A) * earlier
    h = torch.einsum("btsdn,bsd,bsdn->btdn", decays, sizes * u, B)
    if initial_state is not None:
        h = h + torch.exp(time[..., None] * A) * initial_state[:, None]
    y = (h * C).sum(-1)
    if D is not None:
        y = y + D * u
    return (y if z is None else y * z * torch.sigmoid(z)), h[:, -1]


# -- the reference -----------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("shape", [(2, 9, 4, 3), (1, 7, 6, 2, 3), (1, 5, 4, 2, 4)])
def test_the_reference_is_the_definition(shape, optional, reverse) -> None:
    arguments, _ = make(shape, optional=optional, dtype=torch.float64)
    found = reference.selective_scan(**arguments, delta_softplus=True, reverse=reverse)
    turned = {
        name: x.flip(1) if reverse and x is not None and name in (*SEQUENCES, "B", "C") else x
        for name, x in arguments.items()
    }
    y, final = explicit(**turned)
    torch.testing.assert_close(found[0], y.flip(1) if reverse else y, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found[1], final, rtol=1e-11, atol=1e-12)


def test_constant_step_sizes_make_it_a_convolution() -> None:
    arguments, _ = make((2, 12, 3, 2), optional=False, dtype=torch.float64)
    arguments["delta"] = torch.full_like(arguments["delta"], 0.3)
    B, C = (arguments[name][:1, :1].expand(2, 12, 2) for name in ("B", "C"))
    y, _ = selective_scan(**(arguments | {"B": B, "C": C}), backend="reference")
    steps = torch.arange(12.0, dtype=torch.float64)
    kernel = torch.exp(steps * 0.3 * arguments["A"][..., None]) * 0.3
    kernel = torch.einsum("dnt,n,n->dt", kernel, B[0, 0], C[0, 0])
    u = F.pad(arguments["u"].mT, (11, 0))
    convolved = F.conv1d(u, kernel.flip(-1)[:, None], groups=3)
    torch.testing.assert_close(y.mT, convolved, rtol=1e-11, atol=1e-12)


def test_the_reference_has_second_derivatives() -> None:
    arguments, _ = make((1, 3, 2, 2), dtype=torch.float64)
    leaves = [x.requires_grad_() for x in arguments.values()]
    assert torch.autograd.gradgradcheck(
        lambda *x: selective_scan(*x, delta_softplus=True, backend="reference"), leaves
    )


# -- plain torch -------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("shape", [(2, 1, 5, 3), (2, 63, 60, 1), (1, 64, 8, 16), (1, 1000, 6, 4)])
def test_cpu(guarded_memory, shape, gates, optional, reverse) -> None:
    arguments, grads = make(shape, gates, optional)
    out = results(selective_scan, arguments, grads, reverse=reverse, backend="cpu")
    harness.check(out, expected(arguments, grads, reverse=reverse), TOLERANCE[torch.float32])


@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize("shape", [(2, 70, 6, 3, 2), (1, 40, 4, 5, 4), (2, 33, 6, 7, 1)])
def test_cpu_with_groups(guarded_memory, shape, softplus) -> None:
    arguments, grads = make(shape)
    if not softplus:
        arguments = positive(arguments)
    for reverse in (False, True):
        out = results(selective_scan, arguments, grads, softplus, reverse=reverse, backend="cpu")
        oracle = expected(arguments, grads, softplus, reverse=reverse)
        harness.check(out, oracle, TOLERANCE[torch.float32])


# More sequences, groups, channels or states than a tile has, none of them a multiple of it.
@pytest.mark.parametrize(
    "shape", [(70, 40, 3, 30), (1, 70, 300, 40), (3, 50, 148, 60, 2), (1, 40, 90, 90, 30)]
)
def test_cpu_with_several_tiles(guarded_memory, monkeypatch, shape) -> None:
    monkeypatch.setattr(cpu, "TILE", 4096)
    arguments, grads = make(shape)
    out = results(selective_scan, arguments, grads, backend="cpu")
    harness.check(out, expected(arguments, grads), TOLERANCE[torch.float32])


@pytest.mark.parametrize("tile", [1, 64, 10**6])
def test_cpu_with_one_and_with_all_chunks_at_a_time(guarded_memory, monkeypatch, tile) -> None:
    monkeypatch.setattr(cpu, "TILE", tile)
    arguments, grads = make((2, 150, 3, 2))
    for reverse in (False, True):
        out = results(selective_scan, arguments, grads, reverse=reverse, backend="cpu")
        harness.check(out, expected(arguments, grads, reverse=reverse), TOLERANCE[torch.float32])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(2, 100, 24, 4), (1, 15, 4, 2, 2)])
def test_cpu_in_every_type(guarded_memory, shape, dtype, reverse) -> None:
    arguments, grads = make(shape, dtype=dtype)
    out = results(selective_scan, arguments, grads, reverse=reverse, backend="cpu")
    assert out["y"].dtype == out["gradient of B"].dtype == dtype
    assert out["final_state"].dtype == torch.promote_types(dtype, torch.float32)
    harness.check(out, expected(arguments, grads, reverse=reverse), TOLERANCE[dtype])


@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (2, 5, 2, 1), (1, 37, 2, 1), (1, 4, 4, 2, 2)])
def test_cpu_gradients_against_finite_differences(shape, softplus) -> None:
    arguments, _ = make(shape, dtype=torch.float64)
    if not softplus:
        arguments["delta"] = 0.1 + arguments["delta"].abs()
        arguments["delta_bias"] = arguments["delta_bias"].abs()
    leaves = [x.requires_grad_() for x in arguments.values()]
    for function, reverse in itertools.product((selective_scan, cpu.selective_scan), (False, True)):
        assert torch.autograd.gradcheck(
            lambda *x, f=function, r=reverse: f(*x, delta_softplus=softplus, reverse=r),
            leaves,
            fast_mode=True,
        )


def test_one_result_alone_has_the_right_gradients() -> None:
    arguments, (grad_y, grad_final) = make((2, 40, 3, 4))
    # The final state knows neither of C, D nor z.
    read = {name: x for name, x in arguments.items() if name not in ("C", "D", "z")}
    for function in (selective_scan, cpu.selective_scan):
        out = results(function, arguments, (grad_y, None))
        harness.check(out, expected(arguments, (grad_y, None)), 1e-5)
        leaves = {name: x.clone().requires_grad_() for name, x in read.items()}
        unread = {name: arguments[name] for name in ("C", "D", "z")}
        _, final = function(**leaves, **unread, delta_softplus=True)
        found = torch.autograd.grad(final, list(leaves.values()), grad_final)
        oracle = expected(arguments, (0 * grad_y, grad_final))
        for name, gradient in zip(leaves, found, strict=True):
            assert relative_error(gradient, oracle[f"gradient of {name}"]) < 1e-5, name


@pytest.mark.parametrize("reverse", [False, True])
def test_layouts_that_are_not_contiguous(reverse) -> None:
    arguments, (grad_y, grad_final) = make((2, 70, 6, 4))
    transposed = {
        name: x.mT.contiguous().mT if x.dim() > 1 else x.repeat(2)[::2]
        for name, x in arguments.items()
    }
    repeated = arguments | {
        "u": arguments["u"][:, :1].expand(2, 70, 6),
        "B": arguments["B"][:1].expand(2, 70, 4),
        "A": arguments["A"][:1].expand(6, 4),
        "z": arguments["z"][..., :1].expand(2, 70, 6),
    }
    repeated_grads = grad_y[:, :, :1].expand(2, 70, 6), grad_final[:, :1].expand(2, 6, 4)
    for given, grads in [(transposed, (grad_y, grad_final)), (repeated, repeated_grads)]:
        out = results(selective_scan, given, grads, reverse=reverse)
        harness.check(out, expected(given, grads, reverse=reverse), 1e-5)


def test_types_may_be_mixed() -> None:
    arguments, grads = make((2, 50, 8, 4))
    half = {"u": torch.bfloat16, "z": torch.float16, "D": torch.float16, "B": torch.bfloat16}
    arguments |= {name: arguments[name].to(dtype) for name, dtype in half.items()}
    grads = (grads[0].bfloat16(), grads[1])
    out = results(selective_scan, arguments, grads)
    assert out["y"].dtype == torch.bfloat16
    assert all(out[f"gradient of {name}"].dtype == dtype for name, dtype in half.items())
    harness.check(out, expected(arguments, grads), TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("size", [0.0, 1e4])
def test_steps_that_keep_everything_or_nothing(size) -> None:
    # Gates of exactly 1 and 0.
    arguments, grads = make((2, 70, 6, 3))
    arguments = positive(arguments) | {"delta": torch.full((2, 70, 6), size)}
    out = results(selective_scan, arguments, grads, softplus=False)
    harness.check(out, expected(arguments, grads, softplus=False), 1e-5)


def test_a_growth_that_meets_no_state_leaves_none() -> None:
    # exp(5 * 32) is beyond the number range, and what it would multiply is zero.
    arguments, _ = make((1, 96, 2, 2), optional=False)
    arguments |= {"A": torch.ones(2, 2), "delta": torch.full((1, 96, 2), 5.0)}
    arguments["u"] = torch.zeros(1, 96, 2)
    y, final = selective_scan(**arguments)
    assert not y.any()
    assert not final.any()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_no_sequences(backend) -> None:
    arguments = [x.requires_grad_() for x in (
        torch.randn(0, 9, 6), torch.randn(0, 9, 6), -torch.rand(6, 4), torch.randn(0, 9, 4),
        torch.randn(0, 9, 4),
    )]  # fmt: skip
    y, final = selective_scan(*arguments, backend=backend)
    assert y.shape == (0, 9, 6)
    assert final.shape == (0, 6, 4)
    gradients = torch.autograd.grad(y.sum() + final.sum(), arguments)
    assert [g.shape for g in gradients] == [x.shape for x in arguments]
    assert gradients[2].count_nonzero() == 0


def test_arguments_are_left_as_they_are() -> None:
    for length in (1, 40):
        arguments, grads = make((1, length, 3, 2))
        before = {name: x.clone() for name, x in arguments.items()}, [g.clone() for g in grads]
        results(selective_scan, arguments, grads)
        assert all(torch.equal(arguments[name], x) for name, x in before[0].items())
        assert all(torch.equal(x, y) for x, y in zip(grads, before[1], strict=True))


def test_the_states_of_all_steps_are_never_there_at_once() -> None:
    # All states would be 64 MiB; with their gradients and gates, several times that.
    arguments, grads = make((1, 2048, 512, 16))
    with torch.profiler.profile(profile_memory=True) as profile:
        results(selective_scan, arguments, grads, backend="cpu")
    total = largest = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            largest = max(largest, total)
    assert 0 < largest < 64 * 2**20


def test_the_final_state_is_a_tensor_of_its_own() -> None:
    arguments, _ = make((2, 40, 3, 2))
    y, final = selective_scan(**arguments, delta_softplus=True)
    assert final.data_ptr() != arguments["initial_state"].data_ptr()
    kept = y.clone()
    final.zero_()
    assert torch.equal(y, kept)


@pytest.mark.parametrize("groups", [(), (2,)])
@pytest.mark.parametrize("optional", [False, True])
def test_steps_are_the_scan(optional, groups) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        arguments, _ = make((3, 30, 6, 4, *groups), optional=optional, dtype=dtype)
        y, final = selective_scan(**arguments, delta_softplus=True)
        state, steps = arguments.pop("initial_state"), []
        for t in range(30):
            at_t = {
                name: x[:, t] if x is not None and x.dim() > 2 else x
                for name, x in arguments.items()
            }
            out, state = selective_scan_step(**at_t, state=state, delta_softplus=True)
            steps.append(out)
        assert steps[0].dtype == dtype
        assert state.dtype == torch.float32
        assert relative_error(torch.stack(steps, 1), y) < TOLERANCE[dtype]
        assert relative_error(state, final) < 1e-5


@pytest.mark.parametrize("reverse", [False, True])
def test_parts_of_a_sequence_are_the_sequence(reverse) -> None:
    arguments, _ = make((2, 90, 5, 3))
    y, final = selective_scan(**arguments, delta_softplus=True, reverse=reverse)
    state, parts = arguments.pop("initial_state"), []
    spans = [slice(33), slice(33, 90)]
    for span in reversed(spans) if reverse else spans:
        part = {name: x[:, span] if x.dim() > 2 else x for name, x in arguments.items()}
        out, state = selective_scan(
            **part, initial_state=state, delta_softplus=True, reverse=reverse
        )
        parts.append(out)
    whole = torch.cat(parts[::-1] if reverse else parts, 1)
    assert relative_error(whole, y) < 1e-5
    assert relative_error(state, final) < 1e-5


# -- the operator ------------------------------------------------------------------------------


@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_are_registered_correctly(optional, dtype) -> None:
    arguments, grads = make((2, 40, 6, 4, 2), optional=optional, dtype=dtype)
    *inputs, initial = arguments.values()
    _, _, states = torch.ops.nas.selective_scan(*inputs, initial, True, True, True, "cpu")
    backward = (*inputs, states, *grads, True, True, "cpu")
    torch.library.opcheck(torch.ops.nas.selective_scan_backward.default, backward)
    leaves = [x if x is None else x.requires_grad_() for x in (*inputs, initial)]
    forward = torch.ops.nas.selective_scan.default
    torch.library.opcheck(forward, (*leaves, True, False, True, "cpu"))


def test_nothing_is_kept_where_no_gradient_is_taken() -> None:
    arguments, _ = make((2, 70, 6, 4, 1))
    *_, states = torch.ops.nas.selective_scan(*arguments.values(), True, True, False, "cpu")
    assert states.shape == (2, 0, 6, 4)
    arguments["u"].requires_grad_()
    y, *_ = torch.ops.nas.selective_scan(*arguments.values(), True, True, False, "cpu")
    with pytest.raises(RuntimeError, match="keep=False"):
        y.sum().backward()
    inputs = {name: x.requires_grad_() for name, x in arguments.items()}
    with torch.no_grad():
        plain = selective_scan(**inputs, delta_softplus=True)
    kept = selective_scan(**inputs, delta_softplus=True)
    for x, y in zip(plain, kept, strict=True):
        assert torch.equal(x, y)
        assert y.requires_grad


def test_meta_tensors_have_the_shapes_and_types_of_real_ones() -> None:
    kinds = itertools.product([torch.bfloat16, torch.float32, torch.float64], [False, True])
    for dtype, optional in kinds:
        arguments, _ = make((2, 40, 6, 4), optional=optional, dtype=dtype)
        real = {k: x if x is None else x.requires_grad_() for k, x in arguments.items()}
        meta = {k: x if x is None else x.detach().to("meta").requires_grad_() for k, x in
                real.items()}  # fmt: skip
        outputs = selective_scan(**real), selective_scan(**meta)
        for x, fake in zip(*outputs, strict=True):
            assert (x.shape, x.dtype, x.stride()) == (fake.shape, fake.dtype, fake.stride())
        leaves = [x for x in meta.values() if x is not None]
        gradients = torch.autograd.grad([y.sum() for y in outputs[1]], leaves)
        assert [(g.shape, g.dtype) for g in gradients] == [(x.shape, x.dtype) for x in leaves]


class Layer(torch.nn.Module):
    def forward(self, u, delta, A, B, C, D, z, delta_bias, initial_state):
        y, final = selective_scan(
            2 * u, delta, -A.exp(), B, C.sin(), D, z, delta_bias, initial_state,
            delta_softplus=True, reverse=True,
        )  # fmt: skip
        return y.sin(), final


def test_compiled_code_has_the_same_gradients_at_every_length() -> None:
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (20, 33, 70):
        arguments, grads = make((2, length, 3, 2))
        found = [harness.results(f, arguments, grads, OUTPUTS) for f in (compiled, Layer())]
        for name in found[1]:
            torch.testing.assert_close(found[0][name], found[1][name], msg=name)


def test_exported_programs_hold_one_operator_of_any_length() -> None:
    length = torch.export.Dim("length", min=2)
    arguments, _ = make((2, 20, 3, 2))
    shapes = {name: {1: length} if x.dim() == 3 else {} for name, x in arguments.items()}
    shapes["initial_state"] = {}
    program = torch.export.export(Layer(), tuple(arguments.values()), dynamic_shapes=shapes)
    calls = [node for node in program.graph.nodes if "selective_scan" in str(node.target)]
    assert len(calls) == 1
    longer, _ = make((2, 75, 3, 2))
    outputs = program.module()(*longer.values()), Layer()(**longer)
    for out, plain in zip(*outputs, strict=True):
        assert torch.equal(out, plain)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    arguments, _ = make((2, 20, 3, 2))
    u = arguments["u"].requires_grad_()
    y, _ = selective_scan(**arguments)
    (gradient,) = torch.autograd.grad(y.sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.square().sum().backward()
    y, _ = cpu.selective_scan(**arguments)
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(y.sum(), u, create_graph=True)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("u", (2, 8), r"u must be \[B, L, D\] with L, D >= 1, and is \[2, 8\]"),
        ("u", (2, 0, 6), "L, D >= 1"),
        ("u", (2, 8, 0), "L, D >= 1"),
        ("delta", (2, 8, 1), r"delta must be \[B, L, D\] = \[2, 8, 6\], and is \[2, 8, 1\]"),
        ("z", (2, 8, 5), r"z must be \[B, L, D\]"),
        ("A", (5, 4), r"A must be \[D, N\] with D = 6 and N >= 1, and is \[5, 4\]"),
        ("A", (6, 0), "N >= 1"),
        ("B", (2, 8, 5), r"\[B, L, N\] = \[2, 8, 4\] or \[B, L, G, N\], and are \[2, 8, 5\]"),
        ("C", (2, 8, 1, 4), r"and are \[2, 8, 4\] and \[2, 8, 1, 4\]"),
        ("D", (5,), r"D must be \[D\] = \[6\]"),
        ("delta_bias", (1,), r"delta_bias must be \[D\] = \[6\]"),
        ("initial_state", (2, 4, 6), r"initial_state must be \[B, D, N\] = \[2, 6, 4\]"),
    ],
)
def test_shapes_that_do_not_fit(name, shape, message) -> None:
    arguments, _ = make((2, 8, 6, 4))
    with pytest.raises(ValueError, match=message):
        selective_scan(**(arguments | {name: torch.zeros(shape)}))


def test_tensors_that_do_not_fit() -> None:
    arguments, _ = make((2, 8, 6, 4))
    with pytest.raises(TypeError, match="u must be of a real floating-point type"):
        selective_scan(**(arguments | {"u": arguments["u"].long()}))
    with pytest.raises(TypeError, match=r"A must be of a real .* and is torch.complex64"):
        selective_scan(**(arguments | {"A": arguments["A"].cfloat()}))
    with pytest.raises(TypeError, match=r"A must be float32 or float64, .*call A\.float\(\)"):
        selective_scan(**(arguments | {"A": arguments["A"].bfloat16()}))
    with pytest.raises(ValueError, match="u is on cpu and z on meta"):
        selective_scan(**(arguments | {"z": arguments["z"].to("meta")}))
    five = torch.zeros(2, 8, 5, 4)
    with pytest.raises(ValueError, match="groups of B and C must divide D = 6, and are 5"):
        selective_scan(**(arguments | {"B": five, "C": five}))


# -- Triton ------------------------------------------------------------------------------------

# Small: the interpreter takes about a tenth of a second for every step of a program.
TRITON_SHAPES = [(1, 1, 1, 1), (2, 11, 5, 3), (1, 17, 6, 4, 2), (1, 8, 40, 16), (1, 2, 3, 130)]
# The interpreter cuts a bfloat16 off where a GPU rounds it: twice the error.
TRITON_TOLERANCE = {**TOLERANCE, torch.bfloat16: 2e-2 if INTERPRETING else 1e-2}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", TRITON_SHAPES)
@pytest.mark.parametrize("device", DEVICES)
def test_triton(guarded_memory, in_padding, device, shape, reverse) -> None:
    arguments, grads = make(shape, device=device)
    arguments = {name: in_padding(x) for name, x in arguments.items()}
    grads = [in_padding(x) for x in grads]
    out = results(selective_scan, arguments, grads, reverse=reverse, backend="triton")
    harness.check(out, expected(arguments, grads, reverse=reverse), 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("device", DEVICES)
def test_triton_in_every_type(guarded_memory, device, dtype) -> None:
    arguments, grads = make((1, 11, 5, 3), dtype=dtype, device=device)
    out = results(selective_scan, arguments, grads, backend="triton")
    assert out["y"].dtype == out["gradient of B"].dtype == dtype
    harness.check(out, expected(arguments, grads), TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("device", DEVICES)
def test_triton_gates_with_and_without_all_arguments(guarded_memory, device, gates) -> None:
    for optional in (False, True):
        arguments, grads = make((1, 9, 3, 2), gates, optional, device=device)
        out = results(selective_scan, arguments, grads, backend="triton")
        harness.check(out, expected(arguments, grads), 1e-5)
    arguments = positive(arguments)
    out = results(selective_scan, arguments, grads, softplus=False, backend="triton")
    harness.check(out, expected(arguments, grads, softplus=False), 1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_triton_reads_repeated_and_transposed_tensors(device) -> None:
    arguments, (grad_y, grad_final) = make((2, 9, 6, 4), device=device)
    arguments |= {
        "u": arguments["u"][:, :1].expand(2, 9, 6),
        "z": torch.cat([arguments["z"], arguments["u"]], -1)[..., :6],
        "A": arguments["A"].mT.contiguous().mT,
        "B": arguments["B"].mT.contiguous().mT,
    }
    grads = grad_y[:1, :1].expand(2, 9, 6), grad_final[:1].expand(2, 6, 4)
    out = results(selective_scan, arguments, grads, backend="triton")
    harness.check(out, expected(arguments, grads), 1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_triton_keeps_what_the_shapes_of_the_operator_say(device) -> None:
    arguments, _ = make((2, 19, 3, 2, 1), device=device)
    for keep in (False, True):
        given = (*arguments.values(), True, False, keep, "triton")
        real = torch.ops.nas.selective_scan(*given)
        meta = torch.ops.nas.selective_scan(
            *(x.to("meta") if isinstance(x, Tensor) else x for x in given)
        )
        assert [x.shape for x in real] == [x.shape for x in meta]
        assert [x.dtype for x in real] == [x.dtype for x in meta]


def test_triton_refuses_more_states_than_it_can_hold() -> None:
    pytest.importorskip("triton")
    arguments, _ = make((1, 2, 3, 257), device="meta")
    with pytest.raises(ValueError, match="N up to 256, and it is 257: choose backend='cpu'"):
        selective_scan(**arguments, backend="triton")


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize(
    "shape", [(2, 1000, 60, 16), (4, 2048, 256, 16), (3, 63, 128, 5, 2), (2, 100, 40, 256)]
)
@pytest.mark.parametrize("device", GPU)
def test_triton_at_full_size(guarded_memory, device, shape, gates) -> None:
    # Not all four: kernels take seconds to compile.
    for dtype, reverse in ((torch.float32, False), (torch.bfloat16, True)):
        arguments, grads = make(shape, gates, dtype=dtype, device=device)
        out = results(selective_scan, arguments, grads, reverse=reverse)
        harness.check(out, expected(arguments, grads, reverse=reverse), TOLERANCE[dtype])


def test_triton_kernels_in_the_interpreter(in_the_interpreter) -> None:
    if INTERPRETING:
        pytest.skip("this is that process")
    in_the_interpreter(__file__, "interpreter")


@pytest.mark.parametrize("variant", ["everything", "nothing"])
@pytest.mark.parametrize("number", ["bf16", "fp32"])
@pytest.mark.parametrize("name", ["forward_kernel", "backward_kernel"])
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(name, number, variant) -> None:
    pytest.importorskip("triton")
    if INTERPRETING:
        pytest.skip("nothing compiles in the interpreter")
    from nas.kernels.selective_scan import triton as kernels

    function = getattr(kernels, name)
    optional = ("HAS_D", "HAS_Z", "HAS_BIAS", "HAS_INITIAL", "SOFTPLUS", "REVERSE", "KEEP")
    constants = dict.fromkeys(optional, variant == "everything")
    constants |= {"width": 60, "groups": 2, "order": 16, "ORDER": 16, "BLOCK": 32, "ROWS": 2}
    # A chunk's steps are written out one by one, and compile the longer the more they are.
    constants["CHUNK"] = 2
    names = function.fn.arg_names
    types = {n: f"*{number}" if n.endswith("_ptr") else "i32" for n in names}
    full = [n for n in names if n.startswith("part_")]
    full += ["A_ptr", "D_ptr", "bias_ptr", "initial_ptr", "final_ptr", "states_ptr"]
    types |= dict.fromkeys([*full, "grad_final_ptr", "grad_initial_ptr"], "*fp32")
    harness.compile_for_hopper(function, types, constants, num_warps=4, enable_fp_fusion=True)
