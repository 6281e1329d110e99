"""Mixtures of experts, every implementation against a float64 loop over tokens and experts."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.moe import cpu, reference
from nas.kernels.moe.operator import combine, dispatch, expert_mlp, grouped_mm, moe, route
from tests.kernels import harness
from tests.kernels.harness import DEVICES, GPU, INTERPRETING

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 1e-2, torch.float16: 2e-3}
LOADS = ("even", "random", "one", "few", "twice")


def assign(tokens, count, top, load) -> Tensor:
    """Which experts each token meets: all, by chance, the last, every third, one k times."""
    if load == "even":
        return (torch.arange(tokens).unsqueeze(1) + torch.arange(top)) % count
    if load == "random":
        return torch.rand(tokens, count).topk(top).indices
    if load == "one":
        return torch.full((tokens, top), count - 1)
    if load == "few":
        return torch.randint(0, (count + 2) // 3, (tokens, top)) * 3
    return torch.randint(0, count, (tokens, 1)).expand(tokens, top)


def make(shape, load="random", dtype=torch.float32, device="cpu"):
    """Arguments of `moe` for sizes (T, D, F, E, k) by name, and a gradient of its result."""
    torch.manual_seed(0)
    tokens, width, hidden, count, top = shape
    experts = assign(tokens, count, top, load)
    weights = torch.rand(tokens, top)
    weights[::3] = 0
    w = torch.randn(count, width, hidden) / width**0.5
    x, grad = torch.randn(tokens, width), torch.randn(tokens, hidden)
    x, w, grad = (t.to(device, dtype) for t in (x, w, grad))
    arguments = {"x": x, "experts": experts.to(device), "weights": weights.to(device), "w": w}
    return arguments, grad


def results(function, arguments, grad, **keywords) -> dict[str, Tensor]:
    return harness.results(function, arguments, [grad], ["y"], **keywords)


def expected(arguments, grad, function=reference.moe, **keywords) -> dict[str, Tensor]:
    on_cpu = {name: x.cpu() for name, x in arguments.items()}
    return harness.oracle(function, on_cpu, [grad], ["y"], **keywords)


def test_the_reference_is_every_expert_masked() -> None:
    for load in LOADS:
        arguments, _ = make((9, 4, 5, 3, 2), load, torch.float64)
        x, experts, weights, w = arguments.values()
        gates = torch.zeros(9, 3, dtype=torch.float64).scatter_add(1, experts, weights.double())
        y = torch.einsum("td,edf,te->tf", x, w, gates)
        torch.testing.assert_close(reference.moe(**arguments), y, rtol=1e-12, atol=1e-13)
        w_out = torch.randn(3, 5, 4, dtype=torch.float64)
        hidden = F.gelu(torch.einsum("td,edf->etf", x, w))
        y = torch.einsum("etf,efg,te->tg", hidden, w_out, gates)
        out = reference.expert_mlp(x, experts, weights, w, w_out, F.gelu)
        torch.testing.assert_close(out, y, rtol=1e-12, atol=1e-13)


def test_the_reference_of_the_grouped_product_is_torchs() -> None:
    x, w = torch.randn(10, 16), torch.randn(3, 16, 8)
    ends = torch.tensor([4, 4, 10])
    rows = torch.cat([x[:4] @ w[0], x[4:] @ w[2]])
    torch.testing.assert_close(reference.grouped_mm(x, w, ends), rows)


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 1), (63, 7, 5, 4, 1), (64, 16, 8, 4, 4), (100, 60, 33, 9, 3)]
)
def test_cpu(guarded_memory, shape, load) -> None:
    arguments, grad = make(shape, load)
    out = results(moe, arguments, grad, backend="cpu")
    harness.check(out, expected(arguments, grad), TOLERANCE[torch.float32])
    # An expert without tokens has a gradient, and it is zero.
    empty = [e for e in range(shape[3]) if not (arguments["experts"] == e).any()]
    assert not out["gradient of w"][empty].any()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_cpu_in_every_type(guarded_memory, dtype) -> None:
    arguments, grad = make((100, 24, 40, 6, 2), dtype=dtype)
    out = results(moe, arguments, grad, backend="cpu")
    assert out["y"].dtype == out["gradient of x"].dtype == out["gradient of w"].dtype == dtype
    assert out["gradient of weights"].dtype == torch.float32
    # The weights are float32 in every type.
    harness.check(out, expected(arguments, grad), max(TOLERANCE[dtype], 1e-7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mlp(dtype) -> None:
    arguments, _ = make((50, 12, 20, 5, 2), "few", dtype)
    arguments["w_in"] = arguments.pop("w")
    arguments["w_out"] = torch.randn(5, 20, 8).to(dtype) / 4
    grad = torch.randn(50, 8).to(dtype)
    out = results(expert_mlp, arguments, grad, activation=F.silu)
    oracle = expected(arguments, grad, reference.expert_mlp, activation=F.silu)
    # In half types the hidden channels are rounded twice.
    harness.check(out, oracle, 1.5 * TOLERANCE[dtype])


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("function", [moe, cpu.moe])
def test_gradients_against_finite_differences(function, load) -> None:
    arguments, _ = make((6, 3, 2, 4, 2), load, torch.float64)
    x, experts, weights, w = arguments.values()
    leaves = [t.double().requires_grad_() for t in (x, weights, w)]
    assert torch.autograd.gradcheck(lambda x, s, w: function(x, experts, s, w), leaves)


@pytest.mark.parametrize("load", LOADS)
def test_routing_sorts_and_comes_back(load) -> None:
    experts = assign(40, 7, 3, load)
    order, place, ends = route(experts, 7)
    ids = experts.flatten()[order]
    assert torch.equal(ids, ids.sort().values)
    assert torch.equal(ends, torch.tensor([(ids <= e).sum() for e in range(7)]))
    assert torch.equal(order[place.flatten()], torch.arange(120))
    for e in range(7):  # stable
        rows = order[ids == e]
        assert torch.equal(rows, rows.sort().values)


def test_what_is_dispatched_is_combined_again() -> None:
    x = torch.randn(40, 5)
    routing = route(assign(40, 7, 3, "random"), 7)
    halves = torch.tensor([0.5, 0.25, 0.25]).expand(40, 3)
    torch.testing.assert_close(combine(dispatch(x, routing), halves, routing), x)


def test_layouts_that_are_not_contiguous() -> None:
    arguments, grad = make((30, 8, 12, 4, 2))
    x, experts, weights, w = arguments.values()
    for changed, changed_grad in [
        ((x.T.contiguous().T, experts.T.contiguous().T, weights, w.mT.contiguous().mT), grad),
        ((x[:1].expand(30, 8), experts, weights[:1].expand(30, 2), w[:1].expand(4, 8, 12)),
         grad[:, :1].expand(30, 12)),
    ]:  # fmt: skip
        given = dict(zip(arguments, changed, strict=True))
        out = results(moe, given, changed_grad)
        harness.check(out, expected(given, changed_grad), 1e-5)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_no_tokens(backend) -> None:
    x, weights, w = torch.randn(0, 3), torch.randn(0, 2), torch.randn(4, 3, 5, requires_grad=True)
    experts = torch.zeros(0, 2, dtype=torch.int64)
    w_out = torch.randn(4, 5, 6, requires_grad=True)
    for y, width in (
        (moe(x, experts, weights, w, backend=backend), 5),
        (expert_mlp(x, experts, weights, w, w_out, torch.tanh, backend=backend), 6),
        (grouped_mm(x, w, torch.zeros(4, dtype=torch.int64), backend=backend), 5),
    ):
        assert y.shape == (0, width)


def test_what_is_not_finite_stays_with_its_token() -> None:
    arguments, _ = make((30, 8, 12, 4, 2))
    arguments["x"][7] = float("nan")
    found = moe(**arguments).isnan().all(1).nonzero().flatten().tolist()
    assert found == [7]


# -- the operator ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_are_registered_correctly(dtype) -> None:
    x, w = torch.randn(10, 4).to(dtype), torch.randn(3, 4, 5).to(dtype)
    ends, grad = torch.tensor([3, 3, 10]), torch.randn(10, 5).to(dtype)
    backward = (x, w, ends, grad, "cpu")
    torch.library.opcheck(torch.ops.nas.moe_grouped_mm_backward.default, backward)
    forward = (x.requires_grad_(), w.requires_grad_(), ends, "cpu")
    torch.library.opcheck(torch.ops.nas.moe_grouped_mm.default, forward)


def test_meta_tensors_have_the_shapes_and_types_of_real_ones() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        arguments, grad = make((20, 3, 5, 4, 2), dtype=dtype)
        meta = {name: x.to("meta") for name, x in arguments.items()}
        real, fake = results(moe, arguments, grad), results(moe, meta, grad.to("meta"))
        for name in real:
            assert (real[name].shape, real[name].dtype) == (fake[name].shape, fake[name].dtype)
            assert real[name].stride() == fake[name].stride()


class Layer(torch.nn.Module):
    def forward(self, x: Tensor, experts: Tensor, weights: Tensor, w: Tensor) -> Tensor:
        return moe(x.sin(), experts, weights, 2 * w).sin()


def test_compiled_code_has_the_same_gradients_for_every_number_of_tokens() -> None:
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True, dynamic=True)
    for tokens in (20, 33):
        arguments, grad = make((tokens, 3, 5, 4, 2))
        out, plain = (results(f, arguments, grad) for f in (compiled, Layer()))
        for name in plain:
            torch.testing.assert_close(out[name], plain[name], msg=name)


def test_exported_programs_hold_one_operator_for_any_number_of_tokens() -> None:
    tokens = torch.export.Dim("tokens", min=2)
    arguments, _ = make((20, 3, 5, 4, 2))
    shapes = ({0: tokens}, {0: tokens}, {0: tokens}, {})
    program = torch.export.export(Layer(), tuple(arguments.values()), dynamic_shapes=shapes)
    calls = [node for node in program.graph.nodes if "nas" in str(node.target)]
    assert len(calls) == 1
    more, _ = make((45, 3, 5, 4, 2))
    torch.testing.assert_close(program.module()(*more.values()), Layer()(**more))


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    arguments, _ = make((20, 3, 5, 4, 2))
    w = arguments["w"].requires_grad_()
    for function in (moe, cpu.moe):
        with pytest.raises(RuntimeError, match="only once"):
            torch.autograd.grad(function(**arguments).sum(), w, create_graph=True)
    y = grouped_mm(torch.randn(5, 3), w, torch.tensor([1, 2, 3, 5]))
    (gradient,) = torch.autograd.grad(y.square().sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.square().sum().backward()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": torch.zeros(4, 3, 2)}, ValueError, r"x must be \[T, D\], experts and weights"),
        ({"experts": torch.zeros(5, 2).long()}, ValueError, r"\[4, 3\], \[5, 2\] and \[4, 2\]"),
        ({"experts": torch.zeros(4).long()}, ValueError, r"experts must be \[T, k\]"),
        ({"experts": torch.zeros(4, 2)}, TypeError, "experts must be int64 or int32"),
        ({"weights": torch.zeros(4, 2).long()}, TypeError, "weights must be of a real"),
        ({"w": torch.zeros(3, 4)}, ValueError, r"x must be \[N, D\] and w \[E, D, F\]"),
        ({"w": torch.zeros(3, 4, 5)}, ValueError, r"\[4, 3\] and \[3, 4, 5\]"),
        ({"w": torch.zeros(3, 3, 5).double()}, TypeError, "cast one of them"),
        ({"w": torch.zeros(3, 3, 5, device="meta")}, ValueError, "x is on cpu and w on meta"),
        ({"backend": "cutlass"}, ValueError, "backend is 'cutlass'"),
    ],
)
def test_arguments_that_do_not_fit(changed, error, message) -> None:
    arguments, _ = make((4, 3, 5, 3, 2))
    with pytest.raises(error, match=message):
        moe(**arguments | changed)


def test_parts_that_do_not_fit() -> None:
    routing = route(assign(4, 3, 2, "even"), 3)
    good, x, w = torch.zeros(8, 3), torch.zeros(8, 3), torch.zeros(3, 3, 5)
    with pytest.raises(ValueError, match=r"x must be \[T, D\] with T = 4"):
        dispatch(good, routing)
    with pytest.raises(ValueError, match=r"y must be \[T \* k, F\] with T \* k = 8"):
        combine(good[:4], torch.zeros(4, 2), routing)
    with pytest.raises(ValueError, match=r"weights must be \[T, k\] = \[4, 2\]"):
        combine(good, torch.zeros(8), routing)
    with pytest.raises(ValueError, match=r"ends must be \[E\] = \[3\]"):
        grouped_mm(x, w, routing.ends[:2])
    with pytest.raises(TypeError, match="ends must be int64"):
        grouped_mm(x, w, routing.ends.int())
    with pytest.raises(ValueError, match=r"w_out must be \[E, F, G\] with E, F = 3, 5"):
        expert_mlp(x, assign(8, 3, 2, "even"), torch.zeros(8, 2), w, w, F.silu)


# -- Triton ------------------------------------------------------------------------------------

TRITON_SHAPES = [(1, 1, 1, 1, 1), (40, 7, 5, 3, 2), (33, 40, 33, 5, 1)]
# The interpreter cuts a bfloat16 off where a GPU rounds it.
TRITON_TOLERANCE = {**TOLERANCE, torch.bfloat16: 2e-2 if INTERPRETING else 1e-2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("shape", TRITON_SHAPES)
@pytest.mark.parametrize("device", DEVICES)
def test_triton(guarded_memory, in_padding, device, shape, load, dtype) -> None:
    arguments, grad = make(shape, load, dtype, device)
    for name in ("x", "weights", "w"):
        arguments[name] = in_padding(arguments[name])
    out = results(moe, arguments, in_padding(grad), backend="triton")
    harness.check(out, expected(arguments, grad), TRITON_TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("device", DEVICES)
def test_triton_in_other_types(device, dtype) -> None:
    arguments, grad = make((40, 7, 5, 3, 2), dtype=dtype, device=device)
    out = results(moe, arguments, grad, backend="triton")
    harness.check(out, expected(arguments, grad), max(TRITON_TOLERANCE[dtype], 1e-7))


def test_triton_counts_channels_that_lie_far_apart() -> None:
    triton = pytest.importorskip("nas.kernels.moe.triton")
    columns = torch.empty(4096, 2**20, device="meta").T
    assert triton._within_reach(columns).stride() == (4096, 1)
    assert triton._within_reach(columns[:, :2000]).stride() == (1, 2**20)


@pytest.mark.parametrize("device", DEVICES)
def test_triton_reads_any_layout_and_skips_empty_groups(guarded_memory, in_padding, device) -> None:
    x, w = torch.randn(35, 6).to(device), torch.randn(5, 9, 6).to(device)
    ends, grad = torch.tensor([0, 33, 33, 35, 35]).to(device), torch.randn(1, 9).to(device)
    arguments = {"x": in_padding(x.T).T, "w": in_padding(w).mT, "ends": ends}
    out = results(grouped_mm, arguments, grad.expand(35, 9), backend="triton")
    oracle = expected(arguments, grad.expand(35, 9), reference.grouped_mm)
    harness.check(out, oracle, 1e-5)
    assert not out["gradient of w"][[0, 2, 4]].any()


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(
    "shape", [(500, 60, 100, 8, 3), (4096, 512, 1024, 64, 8), (2000, 256, 512, 3, 1)]
)
@pytest.mark.parametrize("device", GPU)
def test_triton_at_full_size(guarded_memory, device, shape, load) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        arguments, grad = make(shape, load, dtype, device)
        out, again = (results(moe, arguments, grad) for _ in range(2))
        assert all(torch.equal(out[name], again[name]) for name in out)
        # Groups in plain torch in float64: a loop over so many tokens would take minutes.
        doubled = {n: x.double() if x.is_floating_point() else x for n, x in arguments.items()}
        harness.check(out, results(cpu.moe, doubled, grad.double()), TOLERANCE[dtype])


@pytest.mark.parametrize("device", GPU)
def test_triton_never_waits_for_the_device(device) -> None:
    arguments, grad = make((500, 64, 32, 8, 2), dtype=torch.bfloat16, device=device)
    results(moe, arguments, grad)  # compiles and chooses
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        results(moe, arguments, grad)
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_triton_kernels_in_the_interpreter(in_the_interpreter) -> None:
    if INTERPRETING:
        pytest.skip("this is that process")
    in_the_interpreter(__file__, "interpreter")


@pytest.mark.parametrize("number", ["bf16", "fp32"])
@pytest.mark.parametrize("kernel", ["_rows_kernel", "_matrices_kernel"])
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(kernel, number) -> None:
    triton = pytest.importorskip("triton")
    if INTERPRETING:
        pytest.skip("nothing compiles in the interpreter")
    from nas.kernels.moe import triton as kernels

    function = getattr(kernels, kernel)
    dot = triton.language.bfloat16 if number == "bf16" else triton.language.float32
    constants = {"inner": 60, "width": 100, "groups": 5, "GROUPS": 8, "DOT": dot}
    constants |= {"PRECISION": "tf32" if number == "bf16" else "ieee"}
    constants |= {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}
    names = function.fn.arg_names
    types = {name: f"*{number}" if name.endswith("_ptr") else "i32" for name in names}
    types["ends_ptr"] = "*i64"
    harness.compile_for_hopper(function, types, constants, num_warps=4, num_stages=3)
