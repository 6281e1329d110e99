"""Measure the kernels: `python -m nas.kernels.bench`, with torch, triton and numpy alone.

Nothing is timed that is not correct: output and gradients are compared with a float64 loop first.
All implementations are timed in turn in the same run, so that ratios hold on a machine with other
work; on a CPU with one thread, in processor time. The floor is the time in which this machine, in
the same rounds, copies as many bytes as the kernel must move, or multiplies matrices of as many
operations, whichever is longer.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.kernels import growth
from nas.kernels.attention.benchmark import FAMILIES as ATTENTION
from nas.kernels.block_scan.benchmark import FAMILIES as BLOCK_SCAN
from nas.kernels.causal_conv1d.benchmark import FAMILIES as CAUSAL_CONV1D
from nas.kernels.diagonal_scan.benchmark import FAMILIES as DIAGONAL_SCAN
from nas.kernels.family import Candidate, Family, Sizes, Work
from nas.kernels.fft_convolution.benchmark import FAMILIES as FFT_CONVOLUTION
from nas.kernels.floors import copy_call, interleaved, product_call
from nas.kernels.fused_rnn.benchmark import FAMILIES as FUSED_RNN
from nas.kernels.gated_delta_rule.benchmark import FAMILIES as GATED_DELTA_RULE
from nas.kernels.gated_linear_attention.benchmark import FAMILIES as GATED_LINEAR_ATTENTION
from nas.kernels.moe.benchmark import FAMILIES as MOE
from nas.kernels.newton.benchmark import FAMILIES as NEWTON
from nas.kernels.report import table, write_report
from nas.kernels.selective_scan.benchmark import FAMILIES as SELECTIVE_SCAN
from nas.kernels.softmax_scan.benchmark import FAMILIES as SOFTMAX_SCAN

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *DIAGONAL_SCAN,
        *ATTENTION,
        *BLOCK_SCAN,
        *CAUSAL_CONV1D,
        *FFT_CONVOLUTION,
        *FUSED_RNN,
        *GATED_DELTA_RULE,
        *GATED_LINEAR_ATTENTION,
        *MOE,
        *NEWTON,
        *SELECTIVE_SCAN,
        *SOFTMAX_SCAN,
    )
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Row = dict[str, Any]


def named(name: str) -> list[Family]:
    """Find the families of a name: a family with its variants, or one variant.

    Raises:
        ValueError: there is none.
    """
    found = [f for f in FAMILIES.values() if name in (f.name, f.name.partition("/")[0])]
    if not found:
        raise ValueError(f"no kernel family {name!r}: choose one of {', '.join(FAMILIES)}")
    return found


def run(
    family: str,
    device: str = "cpu",
    shapes: Sequence[Sizes] | None = None,
    *,
    dtype: str | None = None,
    backend: str | None = None,
    repeats: int = 11,
    seed: int = 0,
) -> list[Row]:
    """Check and time a kernel family against its peers.

    Args:
        family: a name in `FAMILIES`, or the part before the slash for all variants.
        device: "cpu" or "cuda".
        shapes: sizes of the family's dimensions; None means the family's own choice.
        dtype: "float32", "bfloat16" or "float16"; None means bfloat16 on CUDA, else float32; where
            a family has no such type, float32.
        backend: which implementation of ours; None means the device's default.
        repeats: rounds of which the median is taken.
        seed: of the inputs.

    Returns:
        A row for each shape and peer: `family`, `shape`, `dtype`, `device`, `correct` (ours),
        `error` (largest relative RMS error of output and gradients); `ms` (forward and backward),
        `forward_ms`, `backward_ms`, each with its floor (`floor_ms`, ...) and the ratio to it
        (`floor_ratio`, ...); `peer`, `peer_correct`, `peer_ms`, `peer_forward_ms`, `peer_ratio`
        and `peer_forward_ratio` (the peer's time over ours: above 1 ours is faster), and `note`
        (why a peer was not timed). What was not timed is None.

    Raises:
        ValueError: the family, the device, the type or a shape is not one of those.
    """
    families, target = named(family), find_device(device)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"no dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    rows: list[Row] = []
    with one_thread():
        for chosen in families:
            default = torch.bfloat16 if target.type == "cuda" else torch.float32
            number = default if dtype is None else DTYPES[dtype]
            if number not in chosen.tolerance:
                number = torch.float32
            for shape in shapes or chosen.shapes[target.type]:
                _check_sizes(chosen, shape)
                rows += _measure(chosen, tuple(shape), target, number, backend, repeats, seed)
    return rows


def _check_sizes(family: Family, shape: Sizes) -> None:
    if len(shape) != len(family.dimensions) or min(shape) < 1:
        raise ValueError(
            f"a shape of {family.name} has {len(family.dimensions)} positive sizes "
            f"({', '.join(family.dimensions)}), and {shape} has not"
        )


def find_device(name: str) -> torch.device:
    """Find the device of a name.

    Raises:
        ValueError: the name is neither "cpu" nor "cuda", or there is no CUDA device.
    """
    if name not in ("cpu", "cuda"):
        raise ValueError(f"no device {name!r}: choose cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here: choose cpu")
    return torch.device(name)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measure(
    family: Family,
    shape: Sizes,
    device: torch.device,
    dtype: torch.dtype,
    backend: str | None,
    repeats: int,
    seed: int,
) -> list[Row]:
    ours, *peers = candidates = family.candidates(shape, device, backend)
    errors, notes = _errors(family, shape, device, dtype, backend, seed)

    def correct(candidate: Candidate) -> bool | None:
        error = errors[candidate.name]
        return None if error is None else error <= family.tolerance[dtype]

    ms: dict[str, float] = {}
    if correct(ours):
        inputs, grad = _inputs(family, shape, device, dtype, seed, ours)
        calls: dict[str, Callable[[], Any]] = {}
        for candidate in candidates:
            if correct(candidate):
                calls |= _calls(candidate, inputs, grad, alone=candidate is ours)
        work = family.work(shape)
        calls["copy"] = copy_call(work.forward_elements, dtype, device)
        operations, product = product_call(dtype, device)
        if work.forward_flops:
            calls["product"] = product
        ms = {name: 1000 * s for name, s in interleaved(calls, device, repeats).items()}
        ms |= _floors(work, ms, operations)
    parts = ("", "forward ", "backward ")
    about = {
        "family": family.name,
        "shape": " ".join(f"{d}{n}" for d, n in zip(family.dimensions, shape, strict=True)),
        "dtype": str(dtype).removeprefix("torch."),
        "device": device.type,
        "correct": correct(ours),
        "error": errors[ours.name],
    }
    for part in parts:
        key = part.replace(" ", "_")
        time, floor = ms.get(part + ours.name), ms.get(part + "floor")
        about |= {
            f"{key}ms": time,
            f"{key}floor_ms": floor,
            f"{key}floor_ratio": _ratio(time, floor),
        }
    return [
        about
        | {
            "peer": peer.name,
            "peer_correct": correct(peer),
            "peer_ms": ms.get(peer.name),
            "peer_forward_ms": ms.get("forward " + peer.name),
            "peer_ratio": _ratio(ms.get(peer.name), ms.get(ours.name)),
            "peer_forward_ratio": _ratio(
                ms.get("forward " + peer.name), ms.get("forward " + ours.name)
            ),
            "note": notes.get(peer.name),
        }
        for peer in peers
    ]


def _ratio(time: float | None, other: float | None) -> float | None:
    return time / other if time is not None and other else None


def _floors(work: Work, ms: dict[str, float], operations: int) -> dict[str, float]:
    """Milliseconds that the work takes at the speed of the copy and of the product."""
    element = ms["copy"] / max(1, work.forward_elements)
    operation = ms.get("product", 0.0) / operations
    forward = max(work.forward_elements * element, work.forward_flops * operation)
    backward = max(work.backward_elements * element, work.backward_flops * operation)
    return {"forward floor": forward, "backward floor": backward, "floor": forward + backward}


def _inputs(
    family: Family,
    shape: Sizes,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    candidate: Candidate,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The inputs of a shape, and a gradient of its output."""
    generator = torch.Generator().manual_seed(seed)
    inputs = tuple(
        x.to(device, dtype if x.is_floating_point() and i not in family.kept else x.dtype)
        for i, x in enumerate(family.inputs(shape, generator))
    )
    with torch.no_grad():
        output = candidate.layout(candidate.run(*candidate.prepare(*inputs)))
    grad = torch.randn(
        output.shape,
        generator=generator,
        dtype=torch.complex64 if output.is_complex() else torch.float32,
    )
    return inputs, grad.to(device, output.dtype)


def _errors(
    family: Family,
    shape: Sizes,
    device: torch.device,
    dtype: torch.dtype,
    backend: str | None,
    seed: int,
) -> tuple[dict[str, float | None], dict[str, str]]:
    """The largest error of each candidate, and what those said that failed."""
    shape = family.checked(shape)
    ours, *peers = family.candidates(shape, device, backend)
    inputs, grad = _inputs(family, shape, device, dtype, seed, ours)
    doubles = tuple(_double(x) for x in inputs)
    expected = _results(Candidate("oracle", family.reference), doubles, _double(grad))
    errors: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    for candidate in (ours, *peers):
        try:
            errors[candidate.name] = _error(_results(candidate, inputs, grad), expected)
        except Exception as error:  # a peer that cannot do this shape or type says so its own way
            if candidate is ours:
                raise
            errors[candidate.name], notes[candidate.name] = None, f"{type(error).__name__}: {error}"
    return errors, notes


def _double(x: Tensor) -> Tensor:
    if x.is_complex():
        return x.to(torch.complex128)
    return x.double() if x.is_floating_point() else x


def _leaves(
    candidate: Candidate, inputs: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """A candidate's arguments, and those of them that have a gradient."""
    prepared = tuple(x.detach() for x in candidate.prepare(*inputs))
    leaves = tuple(x.requires_grad_() for x in prepared if x.is_floating_point() or x.is_complex())
    return prepared, leaves


def _results(candidate: Candidate, inputs: tuple[Tensor, ...], grad: Tensor) -> list[Tensor]:
    prepared, leaves = _leaves(candidate, inputs)
    output = candidate.run(*prepared)
    gradients = torch.autograd.grad(output, leaves, candidate.layout(grad).to(output.dtype))
    with torch.no_grad():
        return [candidate.layout(output), *candidate.gradients(leaves, gradients)]


def _error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest RMS(found - expected) / RMS(expected); NaN is as wrong as can be."""
    errors = [
        (_double(x) - y).abs().square().mean().sqrt().div(y.abs().square().mean().sqrt()).item()
        for x, y in zip(found, expected, strict=True)
    ]
    return max(float("inf") if error != error else error for error in errors)


def _calls(
    candidate: Candidate, inputs: tuple[Tensor, ...], grad: Tensor, *, alone: bool
) -> dict[str, Callable[[], Any]]:
    """Forward and backward together, forward, and (`alone`) backward."""
    prepared, leaves = _leaves(candidate, inputs)

    def forward() -> Tensor:
        return candidate.run(*prepared)

    output = forward()
    own_grad = candidate.layout(grad).to(output.dtype)
    calls: dict[str, Callable[[], Any]] = {
        candidate.name: lambda: torch.autograd.grad(forward(), leaves, own_grad),
        "forward " + candidate.name: forward,
    }
    if alone:
        calls["backward " + candidate.name] = lambda: torch.autograd.grad(
            output, leaves, own_grad, retain_graph=True
        )
    return calls


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 where a kernel of ours is not correct."""
    parser = argparse.ArgumentParser(
        prog="python -m nas.kernels.bench", description="Check and time the kernels."
    )
    parser.add_argument("--family", action="append", metavar="NAME", help="default: all")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    parser.add_argument("--shape", action="append", type=_sizes, metavar="8x1024x128")
    parser.add_argument("--dtype", choices=list(DTYPES))
    parser.add_argument("--backend", help="reference, cpu or triton")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--growth", action="store_true", help="how the time grows with the length, instead"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    parser.add_argument("--out", type=Path, help="folder for a dated report")
    options = parser.parse_args(arguments)
    if options.device is None:
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[Row] = []
    try:
        for family in options.family or dict.fromkeys(n.partition("/")[0] for n in FAMILIES):
            if options.growth:
                with one_thread():
                    device = find_device(options.device)
                    rows += [growth.measure(f, device, options.backend) for f in named(family)]
                continue
            rows += run(
                family,
                options.device,
                options.shape,
                dtype=options.dtype,
                backend=options.backend,
                repeats=options.repeats,
                seed=options.seed,
            )
    except ValueError as error:
        parser.error(str(error))
    what = growth.COLUMNS if options.growth else None
    print("\n".join(json.dumps(row) for row in rows) if options.json else table(rows, what))
    if options.out is not None:
        given = sys.argv[1:] if arguments is None else arguments
        name = "kernels-growth" if options.growth else "kernels"
        for file in write_report(rows, options.device, options.out, list(given), name, what):
            print(f"wrote {file}", file=sys.stderr)
    return 0 if all(row["correct"] for row in rows) else 1


def _sizes(text: str) -> Sizes:
    return tuple(int(part) for part in text.lower().split("x"))


if __name__ == "__main__":
    sys.exit(main())
