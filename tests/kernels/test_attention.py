"""Attention, every implementation and pattern against the whole float64 matrix of scores."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from nas.kernels.attention import cpu, reference
from nas.kernels.attention import pattern as patterns
from nas.kernels.attention.operator import attention, attention_step
from nas.kernels.attention.pattern import (
    Causal,
    Chunk,
    Dilated,
    Fixed,
    Full,
    Landmark,
    Prefix,
    Window,
    pack,
    unpack,
)
from tests.kernels import harness
from tests.kernels.harness import DEVICES, GPU, INTERPRETING, relative_error

OUTPUTS = ("o",)
PATTERNS = {
    "full": Full(),
    "causal": Causal(),
    "window": Window(7),
    "wide window": Window(100),
    "window to both sides": Window(8, causal=False),
    "itself": Window(1),
    "dilated": Dilated(3, 5),
    "dilated to both sides": Dilated(5, 3, causal=False),
    "strided": Dilated(None, 8),
    "fixed": Fixed(16, 2),
    "wide fixed": Fixed(90, 3),
    "chunk": Chunk(10),
    "chunk to both sides": Chunk(10, causal=False),
    "wide chunk": Chunk(70),
    "wide chunk to both sides": Chunk(75, causal=False),
    "prefix": Prefix(9),
    "no prefix": Prefix(0),
    "prefixes": Prefix(torch.tensor([5, 80])),
    "landmark": Landmark(5),
    "wide landmark": Landmark(70),
    "smallest landmark": Landmark(2),
}
NOT_CAUSAL = {"full", "window to both sides", "dilated to both sides"} | {
    "chunk to both sides", "wide chunk to both sides", "prefix", "prefixes"
}  # fmt: skip
CASES = [
    (name, score)
    for name, score in itertools.product(PATTERNS, ("softmax", "sigmoid"))
    if score == "softmax" or "landmark" not in name
]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def make(length, heads=4, kv=2, width=8, keys=None, *, score="softmax", batch=2, slopes=False,
         dtype=torch.float32, device="cpu", seed=0):  # fmt: skip
    """Arguments of attention by name, and the gradient of its result."""
    torch.manual_seed(seed)
    keys = length if keys is None else keys
    sizes = {"q": (length, heads), "k": (keys, kv), "v": (keys, kv)}
    found = {x: torch.randn(batch, *s, width).to(device, dtype) for x, s in sizes.items()}
    if score == "sigmoid":
        bias = torch.randn(heads) - math.log(keys)
        found["bias"] = bias.to(device, torch.promote_types(dtype, torch.float32))
    grad = torch.randn(batch, length, heads, width).to(device, dtype)
    extra = {"slopes": torch.rand(heads).to(device)} if slopes else {}
    return found, (grad,), extra


def results(function, arguments, grads, **keywords) -> dict[str, Tensor]:
    return harness.results(function, arguments, grads, OUTPUTS, **keywords)


def expected(arguments, grads, *, slopes=None, pattern=Full(), **keywords) -> dict[str, Tensor]:  # noqa: B008
    slopes = slopes if slopes is None else slopes.cpu()
    found = harness.oracle(
        reference.attention, arguments, grads, OUTPUTS, slopes=slopes,
        pattern=on("cpu", pattern), **keywords,
    )  # fmt: skip
    # A query with one key has no gradient; what float64 leaves of it is no measure.
    return {name: x if x.abs().max() > 1e-12 else 0 * x for name, x in found.items()}


def on(device, pattern):
    if isinstance(pattern, Prefix) and isinstance(pattern.length, Tensor):
        return Prefix(pattern.length.to(device))
    return pattern


def sees(name: str, i: int, j: int, b: int) -> bool:
    """What PATTERNS let the query at i see, said once more in other words."""
    pattern = PATTERNS[name]
    if isinstance(pattern, Full):
        return True
    if isinstance(pattern, Window):
        half = pattern.width // 2
        return j in (range(i - pattern.width + 1, i + 1) if pattern.causal
                     else range(i - half, i + half + 1))  # fmt: skip
    if isinstance(pattern, Dilated):
        taps, stride = pattern.taps or 10**6, pattern.stride
        low, high = (-(taps - 1), 0) if pattern.causal else (-(taps // 2), taps // 2)
        return j in range(i + low * stride, i + high * stride + 1, stride)
    if isinstance(pattern, Prefix):
        length = pattern.length if isinstance(pattern.length, int) else pattern.length[b].item()
        return j < length or j <= i
    if isinstance(pattern, Chunk):
        first = math.floor(i / pattern.size) * pattern.size
        return j in range(first, first + pattern.size if not pattern.causal else i + 1)
    if j > i:
        return False
    if isinstance(pattern, Fixed):
        last = (j + 1) % pattern.stride or pattern.stride
        same = math.floor(i / pattern.stride) == math.floor(j / pattern.stride)
        return same or last > pattern.stride - pattern.summary
    if isinstance(pattern, Landmark):
        end = (j // pattern.block + 1) * pattern.block
        return not (j == end - 1 and i < end)
    return True


# -- the reference -----------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "keys"), [(19, 19), (5, 24), (24, 15)])
@pytest.mark.parametrize(("name", "score"), CASES)
def test_the_reference_is_the_definition(name, score, length, keys) -> None:
    x, _, extra = make(length, keys=keys, score=score, slopes=True, dtype=torch.float64)
    o = reference.attention(**x, **extra, score=score, pattern=PATTERNS[name], scale=0.7)
    slopes, bias = extra["slopes"].tolist(), x.get("bias", torch.zeros(4)).tolist()
    for b, r, h in itertools.product(range(2), range(length), (0, 3)):
        i, q = r + keys - length, x["q"][b, r, h]
        seen = [j for j in range(keys) if sees(name, i, j, b)]
        k, v = x["k"][b, seen, h // 2], x["v"][b, seen, h // 2]
        near = zip(seen, (0.7 * k @ q).tolist(), strict=True)
        logits = {j: s - slopes[h] * abs(i - j) for j, s in near}
        if score == "sigmoid":
            weights = [1 / (1 + math.exp(-s - bias[h])) for s in logits.values()]
        elif "landmark" in name:
            weights = grouped(logits, i, PATTERNS[name].block)
        else:
            total = sum(math.exp(s) for s in logits.values())
            weights = [math.exp(s) / total for s in logits.values()]
        row = torch.tensor(weights, dtype=torch.float64) @ v
        torch.testing.assert_close(o[b, r, h], row, rtol=1e-10, atol=1e-12)


def grouped(logits, i, block):
    """The weights of landmark attention, for one query and one key after the other."""
    powers = {j: math.exp(s) for j, s in logits.items()}
    own = i // block * block
    total = sum(power for j, power in powers.items() if j >= own or j % block == block - 1)
    weights = []
    for j, power in powers.items():
        start = j // block * block
        if start == own:
            weights.append(power / total)
        elif j == start + block - 1:
            weights.append(0.0)
        else:
            inside = sum(powers[t] for t in range(start, start + block - 1))
            weights.append(powers[start + block - 1] / total * power / inside)
    return weights


def test_the_reference_is_torch_attention_under_the_same_mask() -> None:
    x, _, _ = make(40, heads=2, dtype=torch.float64)
    i, j = torch.arange(40)[:, None], torch.arange(40)
    for pattern in (Full(), Causal(), Window(6), Window(6, False), Chunk(8), Fixed(8)):
        mask = pattern.visible(i, j)
        q, k, v = (y.transpose(1, 2) for y in x.values())
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        found = reference.attention(**x, pattern=pattern)
        torch.testing.assert_close(found, o, rtol=1e-10, atol=1e-12)


def test_landmark_weights_sum_to_one_and_no_landmark_gives_its_value() -> None:
    x, _, _ = make(23, dtype=torch.float64)
    x["v"] = torch.ones_like(x["v"])
    o = reference.attention(**x, pattern=Landmark(4))
    torch.testing.assert_close(o, torch.ones_like(o))
    x["v"][:, 3::4] = 1e6
    torch.testing.assert_close(reference.attention(**x, pattern=Landmark(4)), o)


# -- patterns ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (150, 150), (64, 64), (3, 150), (150, 90)])
@pytest.mark.parametrize("name", [name for name in PATTERNS if name != "prefixes"])
def test_tiles_hold_every_visible_pair_once(name, queries, keys) -> None:
    pattern = PATTERNS[name]
    i = torch.arange(keys - queries, keys)[:, None]
    visible = pattern.visible(i, torch.arange(keys)).expand(queries, keys)
    found = torch.zeros(queries, keys, dtype=torch.int)
    for tile in pattern.tiles(queries, keys):
        rows = torch.tensor(list(tile.rows))
        columns = torch.tensor([j for part in tile.keys for j in part], dtype=torch.long)
        assert len(rows) <= patterns.TILE
        found[rows[:, None], columns] += 1
        clear = columns[tile.clear.start : tile.clear.stop] if len(tile.clear) else columns[:0]
        assert visible[rows[:, None], clear].all()
    assert found.max() <= 1
    assert (found.bool() | ~visible).all()


@pytest.mark.parametrize("pattern", [Window(32), Dilated(8, 16), Chunk(32), Chunk(100)])
def test_tiles_of_a_local_pattern_grow_with_the_length_alone(pattern) -> None:
    def pairs(length: int) -> int:
        tiles = pattern.tiles(length, length)
        return sum(len(tile.rows) * sum(map(len, tile.keys)) for tile in tiles)

    assert pairs(8000) <= 2.1 * pairs(4000)
    assert pairs(4000) <= 4000 * 200


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_can_be_packed(name) -> None:
    pattern = PATTERNS[name]
    length = getattr(pattern, "length", None)
    assert unpack(*pack(pattern), length if isinstance(length, Tensor) else None) == pattern


@pytest.mark.parametrize(
    ("make_pattern", "message"),
    [
        (lambda: Window(0), "width must be at least 1, and is 0"),
        (lambda: Dilated(0, 2), "taps must be at least 1"),
        (lambda: Dilated(2, 0), "stride must be at least 1"),
        (lambda: Fixed(4, 5), "5 summaries do not fit into a block of 4"),
        (lambda: Chunk(0), "size must be at least 1"),
        (lambda: Prefix(-1), "length must be at least 0"),
        (lambda: Landmark(1), "block must be at least 2"),
        (lambda: Window(2**40), "width must be at most 1073741824, and is"),
        (lambda: Dilated(2, 2**40), "stride must be at most"),
        (lambda: Fixed(2**40), "stride must be at most"),
        (lambda: Chunk(2**40), "size must be at most"),
        (lambda: Prefix(2**40), "length must be at most"),
        (lambda: Landmark(2**40), "block must be at most"),
    ],
)
def test_patterns_that_are_none(make_pattern, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_pattern()


@pytest.mark.parametrize("causal", [True, False])
def test_patterns_whose_numbers_are_large(causal) -> None:
    arguments, _, _ = make(20)
    most = patterns.UNLIMITED
    for pattern in (Window(most, causal), Chunk(most, causal), Dilated(most, 3, causal)):
        o = attention(**arguments, pattern=pattern, backend="cpu")
        same = Dilated(None, 3, causal) if isinstance(pattern, Dilated) else Causal()
        same = same if causal or isinstance(pattern, Dilated) else Full()
        assert relative_error(o, attention(**arguments, pattern=same, backend="reference")) < 1e-6


# -- plain torch -------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("name", "score"), [case for case in CASES if case[0] not in NOT_CAUSAL])
def test_steps_are_the_sequence_and_no_later_token_changes_it(name, score) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x, _, extra = make(90, score=score, slopes=True, dtype=dtype)
        keywords = {"score": score, "pattern": PATTERNS[name]} | extra
        keywords |= {"bias": x.pop("bias")} if score == "sigmoid" else {}
        o = attention(**x, **keywords)
        for t in range(0, 90, 9 if dtype == torch.float32 else 44):
            k, v = x["k"][:, : t + 1], x["v"][:, : t + 1]
            step = attention_step(x["q"][:, t], k, v, **keywords)
            assert step.dtype == dtype
            assert relative_error(step, o[:, t]) < TOLERANCE[dtype]
        start = attention(**{n: y[:, :40] for n, y in x.items()}, **keywords)
        assert relative_error(start, o[:, :40]) < TOLERANCE[dtype]


@pytest.mark.parametrize(("name", "score"), CASES)
def test_steps_have_the_gradients_of_the_last_query(name, score) -> None:
    arguments, grads, extra = make(1, keys=40, score=score, slopes=True)
    keywords = {"score": score, "pattern": PATTERNS[name]} | extra

    def step(q, k, v, **others):
        return attention_step(q[:, 0], k, v, **others).unsqueeze(1)

    out = results(step, arguments, grads, **keywords)
    harness.check(out, expected(arguments, grads, **keywords), TOLERANCE[torch.float32])


@pytest.mark.parametrize("lengths", [(-3, -1), (-3, 4), (2, 2**40)])
def test_lengths_of_prefixes_before_and_beyond_the_keys(lengths) -> None:
    arguments, grads, _ = make(20)
    keywords = {"pattern": Prefix(torch.tensor(lengths))}
    out = results(attention, arguments, grads, backend="cpu", **keywords)
    harness.check(out, expected(arguments, grads, **keywords), 1e-5)


def test_a_window_needs_no_more_keys_than_it_sees() -> None:
    x, _, _ = make(40)
    o = attention(**x, pattern=Window(7))
    step = attention_step(x["q"][:, -1], x["k"][:, -7:], x["v"][:, -7:], pattern=Window(7))
    assert relative_error(step, o[:, -1]) < 1e-6


# -- the operator ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "score"), [("window", "softmax"), ("prefixes", "sigmoid")])
def test_operators_are_registered_correctly(name, score, dtype) -> None:
    arguments, (grad,), extra = make(20, score=score, slopes=True, dtype=dtype)
    pattern = PATTERNS[name]
    tensors = *(arguments.get(x) for x in ("q", "k", "v", "bias")), extra["slopes"]
    tensors = *tensors, pattern.length if name == "prefixes" else None
    how = (*pack(pattern), score, 0.5, "cpu")
    out, lse = torch.ops.nas.attention(*tensors, *how)
    backward = (*tensors, out, lse, grad, *how)
    torch.library.opcheck(torch.ops.nas.attention_backward.default, backward)
    leaves = [x if x is None else x.requires_grad_() for x in tensors[:4]]
    torch.library.opcheck(torch.ops.nas.attention.default, (*leaves, *tensors[4:], *how))


@pytest.mark.parametrize(("name", "score"), [("window", "softmax"), ("causal", "sigmoid")])
def test_meta_tensors_have_the_shapes_and_types_of_real_ones(name, score) -> None:
    how = (*pack(PATTERNS[name]), score, 0.5, "cpu")
    for dtypes in itertools.product([torch.bfloat16, torch.float32], repeat=2):
        arguments, _, _ = make(20, keys=30)
        tensors = [arguments[n].to(dtypes[n == "q"]).requires_grad_() for n in "qkv"]
        meta = [x.detach().to("meta").requires_grad_() for x in tensors]
        found = [torch.ops.nas.attention(*x, *[None] * 3, *how) for x in (tensors, meta)]
        for real, fake in zip(*found, strict=True):
            assert real.shape == fake.shape
            assert (real.dtype, real.stride()) == (fake.dtype, fake.stride())
        gradients = torch.autograd.grad(found[1][0].sum(), meta)
        real_gradients = torch.autograd.grad(found[0][0].sum(), tensors)
        for real, fake in zip(real_gradients, gradients, strict=True):
            assert (real.shape, real.dtype, real.stride()) == (
                fake.shape,
                fake.dtype,
                fake.stride(),
            )


class Layer(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        y = attention(q, k, v, pattern=Window(5)).sin()
        return attention(q, y, v, score="sigmoid", pattern=Causal(), bias=bias).cos()


def test_compiled_code_has_the_same_gradients_at_every_length() -> None:
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (20, 33, 47):
        arguments, grads, _ = make(length, kv=4, score="sigmoid")
        out, plain = (results(f, arguments, grads) for f in (compiled, Layer()))
        for name in plain:
            torch.testing.assert_close(out[name], plain[name], msg=name)


def test_prefixes_of_a_tensor_can_be_compiled() -> None:
    def call(q, k, v, lengths):
        return attention(q, k, v, pattern=Prefix(lengths))

    arguments, _, _ = make(30)
    lengths = torch.tensor([3, 17])
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(**arguments, lengths=lengths), call(**arguments, lengths=lengths))


def test_exported_programs_hold_one_operator_of_any_length() -> None:
    length = torch.export.Dim("length", min=2)
    arguments, _, _ = make(20, kv=4, score="sigmoid")
    shapes = {name: {1: length} for name in "qkv"} | {"bias": {}}
    program = torch.export.export(Layer(), (), arguments, dynamic_shapes=shapes)
    calls = [node for node in program.graph.nodes if "nas.attention" in str(node.target)]
    assert len(calls) == 2
    longer, _, _ = make(45, kv=4, score="sigmoid")
    assert torch.equal(program.module()(**longer), Layer()(**longer))


def test_torch_attention_is_used_where_it_computes_the_same() -> None:
    arguments, _, _ = make(20)
    for pattern, uses in [(Full(), True), (Causal(), True), (Window(5), False)]:
        call = torch.export.export(_Softmax(pattern), (), arguments)
        names = [str(node.target) for node in call.graph.nodes]
        assert any("scaled_dot_product" in name for name in names) == uses


class _Softmax(torch.nn.Module):
    def __init__(self, pattern) -> None:
        super().__init__()
        self.pattern = pattern

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, pattern=self.pattern)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    arguments, _, _ = make(20)
    q = arguments.pop("q").requires_grad_()
    o = attention(q, **arguments, pattern=Window(5))
    (gradient,) = torch.autograd.grad(o.sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.square().sum().backward()
    o = cpu.attention(q, **arguments, pattern=Window(5))
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(o.sum(), q, create_graph=True)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_the_reference_has_second_derivatives(score) -> None:
    arguments, _, _ = make(3, heads=1, kv=1, width=2, batch=1, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in arguments.values()]
    assert torch.autograd.gradgradcheck(
        lambda *x: attention(*x, score=score, pattern=Causal(), backend="reference"), leaves
    )


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        ((2, 4, 3), (2, 4, 1, 3), (2, 4, 1, 3), r"q must be \[B, L, H, d\]"),
        ((2, 4, 1, 3), (2, 5, 1, 3), (2, 4, 1, 3), r"\[2, 5, 1, 3\] and \[2, 4, 1, 3\]"),
        ((2, 4, 1, 3), (2, 0, 1, 3), (2, 0, 1, 3), "none of them empty"),
        ((2, 4, 3, 3), (2, 4, 2, 3), (2, 4, 2, 3), "the heads of k divide those of q"),
        ((2, 4, 1, 3), (3, 4, 1, 3), (3, 4, 1, 3), "agree in B and d"),
    ],
)
def test_shapes_that_do_not_fit(q, k, v, message) -> None:
    with pytest.raises(ValueError, match=message):
        attention(torch.zeros(q), torch.zeros(k), torch.zeros(v))


REFUSED = {
    "k must be of a real floating-point type": (TypeError, {"k": torch.ones(2, 4, 2, 3).long()}),
    "q is on cpu and v on meta": (ValueError, {"v": torch.ones(2, 4, 2, 3, device="meta")}),
    "score is 'relu': choose one of softmax, sigmoid": (ValueError, {"score": "relu"}),
    "pattern must be one of": (TypeError, {"pattern": "causal"}),
    "is a grouped softmax": (ValueError, {"score": "sigmoid", "pattern": Landmark(2)}),
    "changes nothing in a softmax": (ValueError, {"bias": 1.0}),
    r"bias must be \[H\] = \[2\]": (ValueError, {"score": "sigmoid", "bias": torch.ones(1)}),
    "slopes have no gradient": (ValueError, {"slopes": torch.ones(2, requires_grad=True)}),
    r"lengths must be \[B\] = \[2\]": (ValueError, {"pattern": Prefix(torch.ones(3).long())}),
    "lengths must be integers": (TypeError, {"pattern": Prefix(torch.ones(2))}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_arguments_that_do_not_fit(message) -> None:
    error, keywords = REFUSED[message]
    with pytest.raises(error, match=message):
        attention(**{name: torch.ones(2, 4, 2, 3) for name in "qkv"} | keywords)


# -- Triton ------------------------------------------------------------------------------------

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
