"""What tests of all kernel families do in the same way: run, differentiate, compare, compile."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or INTERPRETING, reason="no CUDA device"),
]
INTERPRETED = pytest.mark.skipif(
    not INTERPRETING, reason="run again, interpreted, by the test that calls in_the_interpreter"
)
GPU = [pytest.param("cuda", marks=ON_GPU, id="gpu")]
DEVICES = [pytest.param("cpu", marks=INTERPRETED, id="interpreter"), *GPU]
"""Devices of a test of Triton kernels: CPU tensors in the interpreter, and a GPU."""

Arguments = Mapping[str, Tensor | None]


def relative_error(out: Tensor, expected: Tensor) -> float:
    """RMS(out - expected) / RMS(expected); where nothing is expected, RMS(out)."""
    assert out.shape == expected.shape
    out, expected = (x.detach().cpu().to(_double(x)) for x in (out, expected))
    difference = (out - expected).abs().square().mean().sqrt().item()
    size = expected.abs().square().mean().sqrt().item()
    return difference / size if size > 0 else difference


def results(
    function: Callable[..., Any],
    arguments: Arguments,
    grads: Sequence[Tensor | None],
    outputs: Sequence[str],
    **keywords: Any,
) -> dict[str, Tensor]:
    """Call a kernel and differentiate it.

    Args:
        function: takes the arguments by their names and returns a tensor or a tuple of them.
        arguments: its tensors; a gradient is taken of every one that has a floating-point type.
        grads: of its results; None where a result is left unused.
        outputs: names of its results.
        keywords: its other arguments.

    Returns:
        Its results by name, and the gradients as "gradient of NAME".
    """
    leaves = {name: _leaf(x) for name, x in arguments.items()}
    found = function(**leaves, **keywords)
    tensors = dict(zip(outputs, (found,) if isinstance(found, Tensor) else found, strict=True))
    names = [name for name, x in leaves.items() if x is not None and x.requires_grad]
    used = [(y, g) for y, g in zip(tensors.values(), grads, strict=True) if g is not None]
    gradients = torch.autograd.grad(
        [y for y, _ in used], [leaves[name] for name in names], [g for _, g in used]
    )
    return tensors | {f"gradient of {n}": g for n, g in zip(names, gradients, strict=True)}


def oracle(
    reference: Callable[..., Any],
    arguments: Arguments,
    grads: Sequence[Tensor | None],
    outputs: Sequence[str],
    **keywords: Any,
) -> dict[str, Tensor]:
    """`results` of a reference in float64 on the CPU."""
    doubled = {name: _doubled(x) for name, x in arguments.items()}
    return results(reference, doubled, [_doubled(g) for g in grads], outputs, **keywords)


def check(out: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """Assert that every result and every gradient is as near as that to the expected one."""
    assert out.keys() == expected.keys()
    errors = {name: relative_error(out[name], expected[name]) for name in expected}
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not wrong


def compile_for_hopper(
    kernel: Any, types: Mapping[str, str], constants: Mapping[str, Any], **options: Any
) -> None:
    """Compile a Triton kernel for a GPU that need not be here.

    Args:
        kernel: a jitted or autotuned function.
        types: Triton's name of the type of each run-time argument, such as "*bf16" or "i32".
        constants: the compile-time arguments; those that the kernel has not are left out.
        options: of the compilation, such as num_warps.
    """
    triton = pytest.importorskip("triton")
    if INTERPRETING:
        pytest.skip("nothing compiles in the interpreter")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = kernel
    while not isinstance(function, triton.JITFunction):
        function = function.fn
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    signature = {
        name: "constexpr" if name in constants else types[name] for name in function.arg_names
    }
    source = ASTSource(function, signature, constants)
    assert triton.compile(source, GPUTarget("cuda", 90, 32), options).asm["cubin"]


def _leaf(x: Tensor | None) -> Tensor | None:
    if x is None or not (x.is_floating_point() or x.is_complex()):
        return x
    return x.detach().requires_grad_()


def _double(x: Tensor) -> torch.dtype:
    return torch.complex128 if x.is_complex() else torch.float64


def _doubled(x: Tensor | None) -> Tensor | None:
    if x is None or not (x.is_floating_point() or x.is_complex()):
        return x
    return x.detach().cpu().to(_double(x))
