"""Attention's Triton kernels: in the interpreter, on a GPU, and compiled for one."""

from functools import partial

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from nas.kernels.attention import pattern as patterns
from nas.kernels.attention.operator import attention
from nas.kernels.attention.pattern import Causal, Dilated, Landmark, Prefix, Window
from tests.kernels import harness
from tests.kernels.attention.cases import CASES, PATTERNS, TOLERANCE, expected, make, on, results
from tests.kernels.harness import DEVICES, GPU, INTERPRETING, relative_error

# The interpreter takes milliseconds for every tile: a few cases of each kind, of one or two tiles.
TRITON_CASES = [
    ("full", "softmax"), ("causal", "sigmoid"), ("window", "softmax"), ("dilated", "softmax"),
    ("dilated to both sides", "sigmoid"), ("strided", "softmax"), ("fixed", "softmax"),
    ("fixed", "sigmoid"), ("chunk", "sigmoid"), ("chunk to both sides", "softmax"),
    ("prefixes", "softmax"), ("landmark", "softmax"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "score", "length", "keys"),
    [(*case, 37, 37) for case in TRITON_CASES]
    + [(name, "softmax", 17, 35) for name in ("causal", "dilated", "fixed", "landmark")]
    + [(name, "sigmoid", 20, 10) for name in ("window", "chunk to both sides", "fixed")],
)
@pytest.mark.parametrize("device", DEVICES)
def test_triton(guarded_memory, in_padding, device, name, score, length, keys) -> None:
    arguments, grads, extra = make(
        length, heads=2, kv=1, keys=keys, score=score, slopes="window" in name, device=device,
        batch=2 if name == "prefixes" else 1, width=5,
    )  # fmt: skip
    arguments = {x: y if x == "bias" else in_padding(y) for x, y in arguments.items()}
    grads = [in_padding(g) for g in grads]
    keywords = {"score": score, "pattern": on(device, PATTERNS[name]), "scale": 0.6} | extra
    out = results(attention, arguments, grads, backend="triton", **keywords)
    harness.check(out, expected(arguments, grads, **keywords), 1e-5)


@pytest.mark.parametrize(
    ("name", "score", "dtype"),
    [("causal", "softmax", torch.float16), ("causal", "sigmoid", torch.bfloat16)],
)
@pytest.mark.parametrize("device", DEVICES)
def test_triton_in_half_types_with_layouts(guarded_memory, device, name, score, dtype) -> None:
    arguments, (grad,), _ = make(
        33, heads=3, kv=3, score=score, dtype=dtype, width=16, batch=1, device=device
    )
    q, k, v = torch.cat([arguments[x] for x in "qkv"], dim=2).chunk(3, dim=2)
    arguments |= {"q": q, "k": k.transpose(1, 2).contiguous().transpose(1, 2), "v": v}
    grads = (grad[:, :1].expand_as(grad),)
    keywords = {"score": score, "pattern": PATTERNS[name]}
    out = results(attention, arguments, grads, backend="triton", **keywords)
    assert out["o"].dtype == out["gradient of k"].dtype == dtype
    harness.check(out, expected(arguments, grads, **keywords), TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["causal", "landmark"])
@pytest.mark.parametrize("device", DEVICES)
def test_triton_with_scores_that_are_huge(device, name) -> None:
    arguments, grads, _ = make(20, heads=1, kv=1, batch=1, device=device)
    arguments["q"] *= 1e4
    out = results(attention, arguments, grads, pattern=PATTERNS[name], backend="triton")
    assert all(x.isfinite().all() for x in out.values())
    oracle = expected(arguments, grads, pattern=PATTERNS[name])
    assert relative_error(out["o"], oracle["o"]) < 2e-2


@pytest.mark.parametrize("lengths", [(-3, -1), (2, 2**40)])
@pytest.mark.parametrize("device", DEVICES)
def test_triton_with_prefixes_before_and_beyond_the_keys(device, lengths) -> None:
    arguments, grads, _ = make(10, heads=1, kv=1, device=device)
    pattern = Prefix(torch.tensor(lengths, device=device))
    out = results(attention, arguments, grads, pattern=pattern, backend="triton")
    harness.check(out, expected(arguments, grads, pattern=pattern), 1e-5)


def test_what_triton_does_not_take_is_computed_in_plain_torch() -> None:
    for width, dtype, pattern in [
        (300, torch.float32, Causal()),
        (16, torch.float64, Causal()),
        (16, torch.float32, Landmark(300)),
    ]:
        x = torch.empty(1, 400, 1, width, dtype=dtype, device="meta")
        call = partial(attention, pattern=pattern, backend="triton")
        program = make_fx(call)(x, x, x)
        (call,) = (n for n in program.graph.nodes if "nas.attention" in str(n.target))
        assert call.args[-1] == "cpu"


@pytest.mark.parametrize(("length", "keys"), [(1000, 1000), (130, 700), (700, 130), (1, 1)])
@pytest.mark.parametrize(("name", "score"), CASES)
@pytest.mark.parametrize("device", GPU)
def test_triton_of_every_pattern(guarded_memory, device, name, score, length, keys) -> None:
    for dtype, width in ((torch.float32, 60), (torch.bfloat16, 128)):
        arguments, grads, extra = make(
            length, keys=keys, width=width, score=score, slopes=True, dtype=dtype, device=device
        )
        keywords = {"score": score, "pattern": on(device, PATTERNS[name])} | extra
        out = results(attention, arguments, grads, backend="triton", **keywords)
        tolerance = 1e-4 if dtype == torch.float32 else TOLERANCE[dtype]
        harness.check(out, expected(arguments, grads, **keywords), tolerance)


@pytest.mark.parametrize("width", [16, 64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pattern", [Causal(), Window(256), Dilated(64, 16), Landmark(64)])
@pytest.mark.parametrize("device", GPU)
def test_triton_at_full_size(guarded_memory, device, pattern, dtype, width) -> None:
    arguments, grads, _ = make(2048, heads=4, kv=2, width=width, dtype=dtype, device=device)
    for score in ("softmax",) if isinstance(pattern, Landmark) else ("softmax", "sigmoid"):
        keywords = {"score": score, "pattern": pattern}
        out = results(attention, arguments, grads, backend="triton", **keywords)
        tolerance = 1e-4 if dtype == torch.float32 else TOLERANCE[dtype]
        harness.check(out, expected(arguments, grads, **keywords), tolerance)


def test_triton_kernels_in_the_interpreter(in_the_interpreter) -> None:
    if INTERPRETING:
        pytest.skip("this is that process")
    in_the_interpreter(__file__, "interpreter")


UNLIMITED = patterns.UNLIMITED
COMPILED = [
    (kernel, kind, sigmoid, number)
    for kernels, kind, sigmoid, number in [
        (("forward", "grad_q", "grad_kv"), ("band", UNLIMITED, 0, 1), False, "bf16"),
        (("forward", "grad_kv"), ("band", UNLIMITED, 0, 1), True, "fp32"),
        (("forward", "grad_kv"), ("band", 64, 0, 8), True, "bf16"),
        (("forward", "grad_kv"), ("chunk", 48, UNLIMITED, 1), False, "bf16"),
        (("forward", "grad_kv"), ("fixed", 64, 4, 1), False, "bf16"),
        (("forward", "grad_kv"), ("prefix", 0, 0, 1), False, "bf16"),
        (("forward", "grad_q", "grad_kv"), ("landmark", 30, 0, 1), False, "bf16"),
    ]
    for kernel in kernels
]


@pytest.mark.parametrize(("kernel", "kind", "sigmoid", "number"), COMPILED)
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(kernel, kind, sigmoid, number) -> None:
    pytest.importorskip("triton")
    if INTERPRETING:
        pytest.skip("nothing compiles in the interpreter")
    import triton.language as tl

    from nas.kernels.attention import triton_kernels

    function = getattr(triton_kernels, f"{kernel}_kernel")
    constants = dict(zip("ABC", kind[1:], strict=True)) | {"KIND": kind[0], "SIGMOID": sigmoid}
    constants |= {"HAS_BIAS": sigmoid, "HAS_SLOPES": kind[0] == "chunk", "PRECISION": "tf32x3"}
    constants |= {"width": 30, "BLOCK_D": 32, "BLOCK_M": 32, "BLOCK_N": 32}
    constants |= {"NUMBER": tl.bfloat16 if number == "bf16" else tl.float32}
    names = function.fn.arg_names
    types = {name: f"*{number}" if name.endswith("_ptr") else "i32" for name in names}
    rows = ("bias_ptr", "slopes_ptr", "lse_ptr", "mean_ptr", "grad_bias_ptr")
    types |= dict.fromkeys(rows, "*fp32") | {"lengths_ptr": "*i32", "scale": "fp32"}
    harness.compile_for_hopper(function, types, constants, num_warps=4, enable_fp_fusion=True)
