"""Attention in plain torch, every pattern, against the whole float64 matrix of scores."""

import pytest
import torch

from nas.kernels.attention import cpu
from nas.kernels.attention.operator import attention
from nas.kernels.attention.pattern import Causal, Chunk, Dilated, Fixed, Full, Prefix, Window
from tests.kernels import harness
from tests.kernels.attention.cases import CASES, PATTERNS, TOLERANCE, expected, make, results
from tests.kernels.harness import relative_error


@pytest.mark.parametrize("length", [1, 63, 64, 200])
@pytest.mark.parametrize(("name", "score"), CASES)
def test_cpu(guarded_memory, name, score, length) -> None:
    arguments, grads, _ = make(length, score=score)
    keywords = {"score": score, "pattern": PATTERNS[name]}
    out = results(attention, arguments, grads, backend="cpu", **keywords)
    harness.check(out, expected(arguments, grads, **keywords), TOLERANCE[torch.float32])


@pytest.mark.parametrize(("length", "keys"), [(1, 90), (30, 90), (90, 30)])
@pytest.mark.parametrize(("name", "score"), CASES)
def test_cpu_of_other_lengths_with_slopes(name, score, length, keys) -> None:
    arguments, grads, extra = make(length, keys=keys, score=score, slopes=True)
    keywords = {"score": score, "pattern": PATTERNS[name], "scale": 0.5} | extra
    out = results(attention, arguments, grads, backend="cpu", **keywords)
    harness.check(out, expected(arguments, grads, **keywords), TOLERANCE[torch.float32])


@pytest.mark.parametrize("name", ["causal", "window", "fixed", "landmark"])
def test_cpu_of_many_tokens(name) -> None:
    arguments, grads, _ = make(1000, heads=2, kv=1, width=60, batch=1)
    out = results(attention, arguments, grads, pattern=PATTERNS[name])
    harness.check(out, expected(arguments, grads, pattern=PATTERNS[name]), 1e-5)


@pytest.mark.parametrize(("heads", "kv"), [(1, 1), (3, 3), (6, 2), (4, 1)])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_cpu_in_every_type_with_shared_heads(score, dtype, heads, kv) -> None:
    arguments, grads, _ = make(70, heads, kv, width=13, score=score, dtype=dtype)
    for pattern in (Causal(), Window(9)):
        out = results(attention, arguments, grads, pattern=pattern, score=score, backend="cpu")
        assert out["o"].dtype == out["gradient of k"].dtype == dtype
        oracle = expected(arguments, grads, pattern=pattern, score=score)
        harness.check(out, oracle, TOLERANCE[dtype])


@pytest.mark.parametrize(("name", "score"), CASES)
def test_cpu_gradients_against_finite_differences(name, score) -> None:
    arguments, _, _ = make(7, heads=2, kv=1, width=2, score=score, dtype=torch.float64)
    arguments = {x: y.double().requires_grad_() for x, y in arguments.items()}

    for function in (attention, cpu.attention):

        def call(*x, f=function):  # type: ignore[no-untyped-def]
            named = dict(zip(arguments, x, strict=True))
            return f(**named, score=score, pattern=PATTERNS[name])

        assert torch.autograd.gradcheck(call, tuple(arguments.values()), fast_mode=True)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_queries_that_see_nothing_are_zero_and_so_are_their_gradients(backend, score) -> None:
    arguments, grads, _ = make(20, keys=12, score=score)
    for pattern in (Causal(), Window(3), Dilated(2, 3), Fixed(5), Chunk(5), Chunk(5, False)):
        out = results(attention, arguments, grads, score=score, pattern=pattern, backend=backend)
        assert not out["o"][:, :8].any()
        assert not out["gradient of q"][:, :8].any()
        assert all(x.isfinite().all() for x in out.values())
        assert out["o"][:, 8:].all()


@pytest.mark.parametrize(("name", "score"), CASES)
def test_scores_that_are_huge(name, score) -> None:
    arguments, grads, _ = make(70, score=score)
    arguments["q"] *= 1e4
    keywords = {"score": score, "pattern": PATTERNS[name]}
    out = results(attention, arguments, grads, backend="cpu", **keywords)
    assert all(x.isfinite().all() for x in out.values())
    assert relative_error(out["o"], expected(arguments, grads, **keywords)["o"]) < 2e-2


def test_layouts_that_are_not_contiguous() -> None:
    arguments, (grad,), _ = make(70, heads=2, kv=2)
    projected = torch.cat(list(arguments.values()), dim=2).chunk(3, dim=2)
    repeated = {x: y[:, :1].expand_as(y) for x, y in arguments.items()}
    transposed = {x: y.transpose(1, 2).contiguous().transpose(1, 2) for x, y in arguments.items()}
    for layout, grads in [
        (dict(zip("qkv", projected, strict=True)), (grad,)),
        (repeated, (grad,)),
        (transposed, (grad[:1, :1].expand_as(grad),)),
    ]:
        for pattern in (Causal(), Window(9), Dilated(3, 4), Fixed(8)):
            out = results(attention, layout, grads, pattern=pattern)
            harness.check(out, expected(layout, grads, pattern=pattern), 1e-5)


@pytest.mark.parametrize("function", [attention, cpu.attention])
@pytest.mark.parametrize(("name", "score"), [("full", "sigmoid"), ("window", "softmax"),
                                             ("landmark", "softmax")])  # fmt: skip
def test_autocast_changes_nothing(name, score, function) -> None:
    arguments, grads, _ = make(70, score=score)
    for dtype in (torch.bfloat16, torch.float16):
        keywords = {"score": score, "pattern": PATTERNS[name]}
        plain = results(function, arguments, grads, **keywords)
        with torch.autocast("cpu", dtype):
            out = results(function, arguments, grads, **keywords)
        assert all(torch.equal(out[name], plain[name]) for name in plain)


@pytest.mark.parametrize("function", [attention, cpu.attention])
@pytest.mark.parametrize("scale", [-0.7, 0.0])
@pytest.mark.parametrize("pattern", [Full(), Causal()])
def test_a_scale_may_be_negative_or_zero(pattern, scale, function) -> None:
    arguments, grads, _ = make(70)
    out = results(function, arguments, grads, pattern=pattern, scale=scale)
    harness.check(out, expected(arguments, grads, pattern=pattern, scale=scale), 1e-5)


def test_types_may_be_mixed() -> None:
    arguments, grads, _ = make(50, score="sigmoid")
    arguments["k"], arguments["v"] = arguments["k"].bfloat16(), arguments["v"].half()
    out = results(attention, arguments, grads, score="sigmoid")
    types = {name: x.dtype for name, x in out.items()}
    assert types["o"] == types["gradient of q"] == types["gradient of bias"] == torch.float32
    assert types["gradient of k"] == torch.bfloat16
    assert types["gradient of v"] == torch.float16
    harness.check(out, expected(arguments, grads, score="sigmoid"), 1e-2)


def test_a_number_is_a_bias_of_every_head() -> None:
    arguments, _, _ = make(20)
    for backend in ("reference", "cpu"):
        keywords = {"score": "sigmoid", "backend": backend}
        o = attention(**arguments, bias=-2.5, **keywords)
        torch.testing.assert_close(
            o, attention(**arguments, bias=torch.full((4,), -2.5), **keywords)
        )
        assert not torch.equal(o, attention(**arguments, **keywords))


@pytest.mark.parametrize("lengths", [(-3, -1), (-3, 4), (2, 2**40)])
def test_lengths_of_prefixes_before_and_beyond_the_keys(lengths) -> None:
    arguments, grads, _ = make(20)
    keywords = {"pattern": Prefix(torch.tensor(lengths))}
    out = results(attention, arguments, grads, backend="cpu", **keywords)
    harness.check(out, expected(arguments, grads, **keywords), 1e-5)
