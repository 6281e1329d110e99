"""The long convolution by FFT against the explicit sum in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.fft_convolution import cpu, reference
from nas.kernels.fft_convolution.operator import (
    fft_convolution,
    fft_convolution_bidirectional,
    fft_convolution_step,
)
from tests.kernels import harness
from tests.kernels.harness import GPU, relative_error

NAMES = ("x", "kernel", "skip", "initial_state")
OUTPUTS = ("y", "final_state")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 5e-3, torch.float16: 1e-3}
ON_ALL = [pytest.param("cpu"), *GPU]


def make(shape, taps, given="both", dtype=torch.float32, device="cpu"):
    """Arguments of the convolution by name, and gradients for both of its results.

    `given` says which of the optional ones there are: "both", "skip", "state" or "none".
    """
    torch.manual_seed(0)
    batch, _, width = shape
    states = (batch, taps - 1, width)
    tensors = [torch.randn(s) for s in (shape, (width, taps), (width,), states, shape, states)]
    x, kernel, skip, state, grad_y, grad_final = (t.to(device, dtype) for t in tensors)
    kept_skip = skip if given in ("both", "skip") else None
    kept_state = state if given in ("both", "state") else None
    return dict(zip(NAMES, (x, kernel, kept_skip, kept_state), strict=True)), (grad_y, grad_final)


def present(found) -> dict[str, Tensor]:
    """All but the empty tensors: with a single tap there is no state to be compared."""
    return {name: x for name, x in found.items() if x.numel() > 0}


def results(function, arguments, grads, **keywords) -> dict[str, Tensor]:
    return present(harness.results(function, arguments, grads, OUTPUTS, **keywords))


def expected(arguments, grads) -> dict[str, Tensor]:
    return present(harness.oracle(reference.fft_convolution, arguments, grads, OUTPUTS))


@pytest.mark.parametrize("taps", [1, 4, 9, 20])
def test_the_reference_is_the_convolution_of_torch(taps) -> None:
    arguments, _ = make((2, 9, 3), taps, dtype=torch.float64)
    x, kernel, skip, state = arguments.values()
    y, final = reference.fft_convolution(**arguments)
    known = torch.cat([state, x], 1)
    conv = F.conv1d(known.mT, kernel.flip(1).unsqueeze(1), groups=3).mT + skip * x
    torch.testing.assert_close(y, conv, rtol=1e-12, atol=1e-13)
    assert torch.equal(final, known[:, 9:])
    zeros = reference.fft_convolution(x, kernel, skip)[0]
    torch.testing.assert_close(zeros, reference.fft_convolution(x, kernel, skip, 0 * state)[0])


@pytest.mark.parametrize("given", ["both", "skip", "state", "none"])
@pytest.mark.parametrize("taps", [1, 5, 64, 150])
@pytest.mark.parametrize(("length", "width"), [(1, 60), (63, 1), (64, 7), (97, 3)])
@pytest.mark.parametrize("device", ON_ALL)
def test_every_length(device, length, width, taps, given) -> None:
    arguments, grads = make((2, length, width), taps, given, device=device)
    out = results(fft_convolution, arguments, grads)
    assert out["y"].is_contiguous()
    harness.check(out, expected(arguments, grads), TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("shape", "taps"), [((2, 1000, 6), 300), ((1, 3, 4), 5)])
@pytest.mark.parametrize("device", ON_ALL)
def test_every_type(device, shape, taps, dtype) -> None:
    arguments, grads = make(shape, taps, dtype=dtype, device=device)
    out = results(fft_convolution, arguments, grads)
    assert {x.dtype for x in out.values()} == {dtype}
    harness.check(out, expected(arguments, grads), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("taps", "after"), [(1, 1), (20, 33), (33, 32), (50, 5), (3, 50)])
@pytest.mark.parametrize("length", [1, 2, 33])
@pytest.mark.parametrize("device", ON_ALL)
def test_bidirectional(device, length, taps, after, dtype) -> None:
    arguments, (grad, _) = make((2, length, 3), taps, dtype=dtype, device=device)
    del arguments["initial_state"]
    arguments["backward_kernel"] = torch.randn(3, after).to(device, dtype)
    out = harness.results(fft_convolution_bidirectional, arguments, [grad], ["y"])
    oracle = harness.oracle(reference.fft_convolution_bidirectional, arguments, [grad], ["y"])
    harness.check(out, oracle, TOLERANCE[dtype])


def test_the_reference_of_both_directions_is_a_matrix() -> None:
    arguments, _ = make((2, 7, 3), 7, dtype=torch.float64)
    x, kernel, skip, _ = arguments.values()
    backward = torch.randn(3, 4, dtype=torch.float64)
    matrix = torch.zeros(3, 7, 7, dtype=torch.float64)
    for t in range(7):
        for s in range(7):
            if s <= t:
                matrix[:, t, s] = kernel[:, t - s]
            elif s - t - 1 < 4:
                matrix[:, t, s] = backward[:, s - t - 1]
    y = reference.fft_convolution_bidirectional(x, kernel, backward, skip)
    torch.testing.assert_close(y, torch.einsum("dts,bsd->btd", matrix, x) + skip * x)


@pytest.mark.parametrize("given", ["both", "none"])
@pytest.mark.parametrize(("length", "taps"), [(1, 1), (1, 3), (5, 2), (4, 4), (3, 7)])
def test_gradients_against_finite_differences(length, taps, given) -> None:
    arguments, _ = make((2, length, 2), taps, given, torch.float64)
    leaves = [x.requires_grad_() for x in arguments.values() if x is not None]
    assert torch.autograd.gradcheck(fft_convolution, leaves)
    x, kernel, *_ = leaves
    backward_kernel = kernel.detach().cos().requires_grad_()
    assert torch.autograd.gradcheck(fft_convolution_bidirectional, (x, kernel, backward_kernel))


def test_lengths_are_the_next_even_products_of_small_primes() -> None:
    even = [n for n in range(2, 5000, 2) if _is_smooth(n)]
    for least in range(1, 4000):
        assert cpu.fast_length(least) == next(n for n in even if n >= least)


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1


def test_layouts_that_are_not_contiguous() -> None:
    arguments, (grad_y, grad_final) = make((2, 40, 6), 20)
    x, kernel, skip, state = arguments.values()
    for changed, grads in [
        ((x[:, :1].expand(2, 40, 6), kernel[:1].expand(6, 20), skip[:1].expand(6), state),
         (grad_y[:, :, :1].expand(2, 40, 6), grad_final[:1].expand(2, 19, 6))),
        ((x.mT.contiguous().mT, kernel.T.contiguous().T, skip, state[:1].expand(2, 19, 6)),
         (grad_y.mT.contiguous().mT, grad_final)),
    ]:  # fmt: skip
        given = dict(zip(NAMES, changed, strict=True))
        harness.check(results(fft_convolution, given, grads), expected(given, grads), 1e-5)


def test_kernels_may_have_another_type_than_the_inputs() -> None:
    arguments, grads = make((2, 50, 8), 50, "skip")
    arguments["x"], grads = arguments["x"].bfloat16(), tuple(g.bfloat16() for g in grads)
    out = results(fft_convolution, arguments, grads)
    assert out["y"].dtype == out["gradient of x"].dtype == torch.bfloat16
    assert out["gradient of kernel"].dtype == out["gradient of skip"].dtype == torch.float32
    harness.check(out, expected(arguments, grads), TOLERANCE[torch.bfloat16])


def test_later_tokens_change_nothing_before_them() -> None:
    arguments, _ = make((2, 60, 4), 60, "none")
    y, _ = fft_convolution(**arguments)
    arguments["x"][:, 30:] += 1
    changed, _ = fft_convolution(**arguments)
    assert relative_error(changed[:, :30], y[:, :30]) < 1e-6


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("given", ["both", "none"])
@pytest.mark.parametrize("length", [2, 20])
def test_the_final_state_is_a_fresh_tensor(length, given, backend) -> None:
    arguments, _ = make((2, length, 3), 5, given)
    x, state = arguments["x"], arguments["initial_state"]
    known = torch.cat([torch.zeros(2, 4, 3) if state is None else state, x], dim=1)
    _, final = fft_convolution(**arguments, backend=backend)
    assert torch.equal(final, known[:, length:])
    final.fill_(7)
    assert not (x == 7).any()


@pytest.mark.parametrize("taps", [1, 7, 40])
@pytest.mark.parametrize("skip", [False, True])
def test_steps_are_the_convolution(skip, taps) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        arguments, _ = make((3, 30, 5), taps, "both" if skip else "state", dtype)
        y, final = fft_convolution(**arguments)
        x, kernel, weight, state = arguments.values()
        steps = []
        for token in x.unbind(1):
            out, state = fft_convolution_step(token, kernel, state, weight)
            steps.append(out)
        assert steps[0].dtype == state.dtype == dtype
        assert relative_error(torch.stack(steps, 1), y) < TOLERANCE[dtype]
        assert torch.equal(state, final)


def test_parts_of_a_sequence_are_the_sequence() -> None:
    arguments, _ = make((2, 90, 5), 25)
    y, final = fft_convolution(**arguments)
    x, kernel, skip, state = arguments.values()
    parts = []
    for part in x.split([33, 2, 55], dim=1):
        out, state = fft_convolution(part, kernel, skip, state)
        parts.append(out)
    assert relative_error(torch.cat(parts, 1), y) < 1e-6
    assert torch.equal(state, final)


def test_meta_tensors_have_the_shapes_and_types_of_real_ones() -> None:
    for given in ("both", "none"):
        arguments, grads = make((2, 20, 3), 30, given, torch.bfloat16)
        meta = {name: None if x is None else x.to("meta") for name, x in arguments.items()}
        real = results(fft_convolution, arguments, grads)
        fake = results(fft_convolution, meta, [g.to("meta") for g in grads])
        for name in real:
            assert (real[name].shape, real[name].dtype) == (fake[name].shape, fake[name].dtype)


class Layer(torch.nn.Module):
    def forward(self, x: Tensor, kernel: Tensor, skip: Tensor, initial_state: Tensor | None):
        y, final = fft_convolution(x.sin(), 2 * kernel, skip, initial_state)
        return y.sin(), final


def test_compiled_code_has_the_same_gradients_at_every_length() -> None:
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (20, 33):
        arguments, grads = make((2, length, 3), 9)
        out, plain = (results(f, arguments, grads) for f in (compiled, Layer()))
        for name in plain:
            torch.testing.assert_close(out[name], plain[name], msg=name)


@pytest.mark.parametrize("given", ["both", "skip"])
def test_exported_programs_take_any_length_and_need_torch_alone(given) -> None:
    length = torch.export.Dim("length", min=2)
    arguments, _ = make((2, 20, 3), 9, given)
    shapes = ({1: length}, {}, {}, None if given == "skip" else {})
    program = torch.export.export(Layer(), tuple(arguments.values()), dynamic_shapes=shapes)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any(target.startswith("nas") for target in targets)
    for other in (5, 45):
        longer, _ = make((2, other, 3), 9, given)
        for out, plain in zip(program.module()(*longer.values()), Layer()(**longer), strict=True):
            torch.testing.assert_close(out, plain)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    arguments, _ = make((2, 20, 3), 5)
    x = arguments["x"].requires_grad_()
    y, _ = fft_convolution(**arguments)
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(4, 3)}, r"x must be \[B, L, D\] with B, L, D >= 1, and is \[4, 3\]"),
        ({"x": torch.zeros(2, 0, 3)}, "L, D >= 1"),
        ({"x": torch.zeros(0, 4, 3)}, "L, D >= 1"),
        ({"kernel": torch.zeros(5, 3)}, r"kernel must be \[D, M\] with D = 3 and M >= 1"),
        ({"kernel": torch.zeros(3, 0)}, r"M >= 1, and is \[3, 0\]"),
        ({"skip": torch.zeros(1)}, r"skip must be \[D\] = \[3\], and is \[1\]"),
        (
            {"initial_state": torch.zeros(2, 5, 3)},
            r"initial_state must be \[B, M - 1, D\] = \[2, 4, 3\], and is \[2, 5, 3\]",
        ),
        ({"skip": torch.zeros(3, device="meta")}, "x is on cpu and skip on meta"),
        ({"backend": "fft"}, "backend is 'fft'"),
    ],
)
def test_arguments_that_do_not_fit(changed, message) -> None:
    arguments, _ = make((2, 4, 3), 5)
    with pytest.raises(ValueError, match=message):
        fft_convolution(**arguments | changed)


def test_types_that_do_not_fit() -> None:
    arguments, _ = make((2, 4, 3), 5)
    for name, x in arguments.items():
        with pytest.raises(TypeError, match=f"{name} must be of a real floating-point type"):
            fft_convolution(**arguments | {name: x.long()})
    with pytest.raises(ValueError, match=r"backward_kernel must be \[D, M\] with D = 3"):
        fft_convolution_bidirectional(torch.zeros(1, 4, 3), torch.zeros(3, 2), torch.zeros(2, 3))
