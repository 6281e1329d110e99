"""The diagonal scan's Triton kernels: in the interpreter, on a GPU, and compiled for one."""

import pytest
import torch

from nas.kernels.diagonal_scan.operator import diagonal_scan
from tests.kernels import harness
from tests.kernels.diagonal_scan.cases import (
    COMPLEX_GATES,
    GATES,
    TOLERANCE,
    expected,
    make,
    make_packed,
    results,
)
from tests.kernels.harness import DEVICES, GPU, INTERPRETING

# Small: the interpreter takes about a millisecond for every row of a block.
TRITON_SHAPES = [(1, 1, 1), (2, 17, 5), (1, 33, 40), (2, 16, 32), (1, 63, 33)]
# The interpreter cuts a bfloat16 off where a GPU rounds it: twice the error.
TRITON_TOLERANCE = {**TOLERANCE, torch.bfloat16: 1e-2 if INTERPRETING else 5e-3}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", TRITON_SHAPES)
@pytest.mark.parametrize("device", DEVICES)
def test_triton(guarded_memory, in_padding, device, shape, dtype, initial, reverse) -> None:
    arguments, grads = make(shape, initial=initial, dtype=dtype, device=device)
    arguments = [x if x is None else in_padding(x) for x in arguments]
    grads = [in_padding(x) for x in grads]
    out = results(diagonal_scan, arguments, grads, reverse=reverse, backend="triton")
    harness.check(out, expected(arguments, grads, reverse), TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("device", DEVICES)
def test_triton_gates(guarded_memory, device, gates, dtype) -> None:
    arguments, grads = make((1, 35, 7), gates, dtype=dtype, device=device)
    out = results(diagonal_scan, arguments, grads, backend="triton")
    harness.check(out, expected(arguments, grads, False), TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize(("initial", "reverse"), [(False, False), (True, True), (True, False)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 17, 35)])
@pytest.mark.parametrize("device", DEVICES)
def test_triton_complex(guarded_memory, in_padding, device, shape, initial, reverse) -> None:
    arguments, grads = make(shape, "rotating", initial, torch.complex64, device)
    arguments = [x if x is None else in_padding(x) for x in arguments]
    grads = [in_padding(x) for x in grads]
    out = results(diagonal_scan, arguments, grads, reverse=reverse, backend="triton")
    harness.check(out, expected(arguments, grads, reverse), TOLERANCE[torch.complex64])


@pytest.mark.parametrize("device", DEVICES)
def test_triton_mixes_real_and_complex_and_repeats_gates(device) -> None:
    (a, b, state), grads = make((2, 20, 3), "rotating", True, torch.complex64, device)
    gate = a[:1, :1].expand(2, 20, 3)
    for arguments in [(a.real, b, state), (gate, b.real, state.real), (gate.conj(), b, None)]:
        out = results(diagonal_scan, arguments, grads, backend="triton")
        harness.check(out, expected(arguments, grads, False), 1e-6)
    arguments, grads = make((1, 20, 3), "roots of one", True, torch.complex128, device)
    out = results(diagonal_scan, arguments, grads, backend="triton")
    harness.check(out, expected(arguments, grads, False), TOLERANCE[torch.complex128])


@pytest.mark.parametrize(("initial", "reverse"), [(False, False), (True, True), (True, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("device", DEVICES)
def test_triton_packed(guarded_memory, in_padding, device, dtype, initial, reverse) -> None:
    ends = [0, 0, 1, 18, 18, 30]
    arguments, grads = make_packed(ends, "signed", initial, dtype, device)
    arguments = [x if x is None else in_padding(x) for x in arguments]
    cu_seqlens = torch.tensor(ends, dtype=torch.int32 if reverse else torch.int64)
    keywords = {"cu_seqlens": cu_seqlens.to(device), "backend": "triton"}
    out = results(diagonal_scan, arguments, grads, reverse=reverse, **keywords)
    oracle = expected(arguments, grads, reverse, cu_seqlens=cu_seqlens)
    harness.check(out, oracle, TOLERANCE[dtype])


@pytest.mark.parametrize("device", DEVICES)
def test_triton_reads_repeated_and_transposed_tensors(device) -> None:
    shape = (2, 20, 6)
    (a, b, state), (grad_h, grad_final) = make(shape, device=device)
    arguments = a[:, :1].expand(shape), b.mT.contiguous().mT, state
    grads = grad_h[:1, :1].expand(shape), grad_final[:1].expand(2, 6)
    out = results(diagonal_scan, arguments, grads, backend="triton")
    harness.check(out, expected(arguments, grads, False), 1e-6)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("shape", [(2, 1000, 60), (8, 2048, 256), (3, 63, 128)])
@pytest.mark.parametrize("device", GPU)
def test_triton_at_full_size(guarded_memory, device, shape, gates, reverse) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        arguments, grads = make(shape, gates, dtype=dtype, device=device)
        out = results(diagonal_scan, arguments, grads, reverse=reverse)
        harness.check(out, expected(arguments, grads, reverse), TOLERANCE[dtype])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("device", GPU)
def test_triton_complex_and_packed_at_full_size(guarded_memory, device, reverse) -> None:
    for gates in COMPLEX_GATES:
        arguments, grads = make((4, 1000, 129), gates, True, torch.complex64, device)
        out = results(diagonal_scan, arguments, grads, reverse=reverse)
        harness.check(out, expected(arguments, grads, reverse), 2e-6)
    ends = torch.tensor([0, 1, 1000, 1000, 1003, 4000])
    for dtype in (torch.float32, torch.bfloat16, torch.complex64):
        arguments, grads = make_packed(ends.tolist(), "weak", True, dtype, device, width=200)
        out = results(diagonal_scan, arguments, grads, reverse=reverse, cu_seqlens=ends.to(device))
        oracle = expected(arguments, grads, reverse, cu_seqlens=ends)
        harness.check(out, oracle, max(TOLERANCE[dtype], 2e-6))


def test_triton_kernels_in_the_interpreter(in_the_interpreter) -> None:
    if INTERPRETING:
        pytest.skip("this is that process")
    in_the_interpreter(__file__, "interpreter")


@pytest.mark.parametrize(
    ("number", "module", "packed"),
    [("bf16", "real", False), ("fp32", "real", True), ("fp32", "complex", True)],
)
@pytest.mark.parametrize("kernel", ["forward_kernel", "backward_kernel"])
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(kernel, number, module, packed) -> None:
    pytest.importorskip("triton")
    if INTERPRETING:
        pytest.skip("nothing compiles in the interpreter")
    from nas.kernels.diagonal_scan import triton_complex, triton_real

    function = getattr({"real": triton_real, "complex": triton_complex}[module], kernel)
    constants = {"width": 60, "stride_a": 120, "stride_b": 0, "stride_g": 60, "REVERSE": True}
    constants |= {"PACKED": packed, "HAS_INITIAL": True, "BLOCK": 32, "ROWS": 8}
    names = function.fn.arg_names
    types = {name: f"*{number}" if name.endswith("_ptr") else "i32" for name in names}
    states = ("initial_ptr", "final_ptr", "grad_final_ptr", "grad_initial_ptr")
    types |= dict.fromkeys(states, "*fp32") | {"cu_ptr": "*i32"}
    harness.compile_for_hopper(function, types, constants, num_warps=1, enable_fp_fusion=True)
