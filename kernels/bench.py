"""Measure the kernels: `python -m nas.kernels.bench`, with torch, triton and numpy alone.

Nothing is timed that is not correct: output and gradients are compared with a float64 loop first.
All implementations are timed in turn in the same run, forward and backward together, so that ratios
hold on a machine with other work; on a CPU with one thread, in processor time. The floor is the
time in which this machine copies as many bytes as the kernel must move, in the same rounds.
"""

import argparse
import datetime
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.kernels.diagonal_scan.benchmark import FAMILY as DIAGONAL_SCAN
from nas.kernels.family import Candidate, Family
from nas.kernels.floors import copy_call, interleaved, machine

FAMILIES: dict[str, Family] = {family.name: family for family in (DIAGONAL_SCAN,)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Row = dict[str, Any]


def run(
    family: str,
    device: str = "cpu",
    shapes: Sequence[tuple[int, ...]] | None = None,
    *,
    dtype: str | None = None,
    backend: str | None = None,
    repeats: int = 11,
    seed: int = 0,
) -> list[Row]:
    """Check and time a kernel family against its peers.

    Args:
        family: a name in `FAMILIES`.
        device: "cpu" or "cuda".
        shapes: sizes of the family's dimensions; None means the family's own choice.
        dtype: "float32", "bfloat16" or "float16"; None means bfloat16 on CUDA, else float32.
        backend: which implementation of ours; None means the device's default.
        repeats: rounds of which the median is taken.
        seed: of the inputs.

    Returns:
        A row for each shape and peer: `family`, `shape`, `dtype`, `device`, `correct` (ours),
        `error` (largest relative RMS error of output and gradients), `ms` (forward and backward),
        `forward_ms`, `floor_ms`, `floor_ratio` (ms over floor), `peer`, `peer_correct`, `peer_ms`,
        `peer_ratio` (the peer's time over ours: above 1 ours is faster) and `note` (why a peer
        was not timed). What was not timed is None.

    Raises:
        ValueError: the family, the device, the type or a shape is not one of those.
    """
    if family not in FAMILIES:
        raise ValueError(f"no kernel family {family!r}: choose one of {', '.join(FAMILIES)}")
    chosen, target = FAMILIES[family], _device(device)
    dtype = dtype or ("bfloat16" if target.type == "cuda" else "float32")
    if dtype not in DTYPES:
        raise ValueError(f"no dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    rows: list[Row] = []
    with _one_thread():
        for shape in shapes or chosen.shapes[target.type]:
            if len(shape) != len(chosen.dimensions) or min(shape) < 1:
                raise ValueError(
                    f"a shape of {family} has {len(chosen.dimensions)} positive sizes "
                    f"({', '.join(chosen.dimensions)}), and {shape} has not"
                )
            rows += _measure(chosen, tuple(shape), target, DTYPES[dtype], backend, repeats, seed)
    return rows


def _device(name: str) -> torch.device:
    if name not in ("cpu", "cuda"):
        raise ValueError(f"no device {name!r}: choose cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here: choose cpu")
    return torch.device(name)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measure(
    family: Family,
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
    backend: str | None,
    repeats: int,
    seed: int,
) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)
    inputs = tuple(x.to(device, dtype) for x in family.inputs(shape, generator))
    oracle = Candidate("oracle", family.reference)
    doubles = tuple(x.double() for x in inputs)
    with torch.no_grad():
        output = family.reference(*doubles)
    grad = torch.randn(output.shape, generator=generator).to(device, dtype)
    expected = _results(oracle, doubles, grad.double())

    ours, *peers = family.candidates(shape, device, backend)
    tolerance = family.tolerance[dtype]
    errors: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    for candidate in (ours, *peers):
        try:
            errors[candidate.name] = _error(_results(candidate, inputs, grad), expected)
        except Exception as error:  # a peer that cannot do this shape or type says so its own way
            if candidate is ours:
                raise
            errors[candidate.name], notes[candidate.name] = None, f"{type(error).__name__}: {error}"

    def correct(candidate: Candidate) -> bool | None:
        error = errors[candidate.name]
        return None if error is None else error <= tolerance

    calls: dict[str, Callable[[], Any]] = {}
    if correct(ours):
        timed = [candidate for candidate in (ours, *peers) if correct(candidate)]
        calls = {candidate.name: _call(candidate, inputs, grad) for candidate in timed}
        calls["copy"] = copy_call(grad)
        calls["forward"] = lambda: ours.run(*inputs)
    ms = {name: 1000 * s for name, s in interleaved(calls, device, repeats).items()}
    # A copy moves two tensors: it reads one and writes one.
    floor = ms["copy"] * family.moved / 2 if ms else None
    ours_ms = ms.get(ours.name)
    return [
        {
            "family": family.name,
            "shape": " ".join(f"{d}{n}" for d, n in zip(family.dimensions, shape, strict=True)),
            "dtype": str(dtype).removeprefix("torch."),
            "device": device.type,
            "correct": correct(ours),
            "error": errors[ours.name],
            "ms": ours_ms,
            "forward_ms": ms.get("forward"),
            "floor_ms": floor,
            "floor_ratio": ours_ms / floor if ours_ms and floor else None,
            "peer": peer.name,
            "peer_correct": correct(peer),
            "peer_ms": ms.get(peer.name),
            "peer_ratio": ms[peer.name] / ours_ms if ours_ms and peer.name in ms else None,
            "note": notes.get(peer.name),
        }
        for peer in peers
    ]


def _leaves(candidate: Candidate, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.detach().requires_grad_() for x in candidate.prepare(*inputs))


def _results(candidate: Candidate, inputs: tuple[Tensor, ...], grad: Tensor) -> list[Tensor]:
    leaves = _leaves(candidate, inputs)
    output = candidate.run(*leaves)
    gradients = torch.autograd.grad(output, leaves, candidate.layout(grad))
    with torch.no_grad():
        return [candidate.layout(output), *candidate.gradients(leaves, gradients)]


def _error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest RMS(found - expected) / RMS(expected); NaN is as wrong as can be."""
    errors = [
        (x.double() - y).square().mean().sqrt().div(y.square().mean().sqrt()).item()
        for x, y in zip(found, expected, strict=True)
    ]
    return max(float("inf") if error != error else error for error in errors)


def _call(candidate: Candidate, inputs: tuple[Tensor, ...], grad: Tensor) -> Callable[[], Any]:
    leaves, own_grad = _leaves(candidate, inputs), candidate.layout(grad)
    return lambda: torch.autograd.grad(candidate.run(*leaves), leaves, own_grad)


def table(rows: Sequence[Row]) -> str:
    """Write rows as a Markdown table."""
    head = (
        "| family | shape | dtype | correct | ms | forward ms | over floor | peer | peer / ours |"
    )
    lines = [head, "|" + " --- |" * 9]
    for row in rows:
        peer_ratio = _number(row["peer_ratio"]) + ("x" if row["peer_ratio"] else "")
        if row["peer_correct"] is False:
            peer_ratio = "not timed: wrong"
        elif row["note"]:
            peer_ratio = "not timed: it failed"
        cells = [row["family"], row["shape"], row["dtype"], "yes" if row["correct"] else "NO"]
        cells += [_number(row[key]) for key in ("ms", "forward_ms", "floor_ratio")]
        lines.append("| " + " | ".join([*cells, row["peer"], peer_ratio]) + " |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def write_report(rows: Sequence[Row], device: str, folder: Path, command: str) -> list[Path]:
    """Write rows with their date, command and machine to `kernels-DEVICE-DATE.json` and `.md`."""
    date, host = datetime.date.today().isoformat(), machine(torch.device(device))
    about = {"date": date, "command": command, "threads": 1, "machine": host}
    path = folder / f"kernels-{device}-{date}"
    folder.mkdir(parents=True, exist_ok=True)
    files = [path.with_suffix(".json"), path.with_suffix(".md")]
    files[0].write_text(json.dumps({**about, "rows": list(rows)}, indent=1) + "\n")
    hardware = ", ".join(f"{name} {value}" for name, value in host.items())
    text = [
        f"# Kernels on {host.get('gpu') or host['processor']}, {date}",
        f"`{command}`",
        f"{hardware}; one torch thread.",
        "Forward and backward together, median of interleaved rounds"
        + (", processor time. " if device == "cpu" else ". ")
        + "Floor: the time in which "
        "the same machine copies the bytes that must be moved, in the same rounds. "
        "Peer / ours: how many times longer the peer takes.",
        table(rows),
    ]
    files[1].write_text("\n\n".join(text) + "\n")
    return files


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.lower().split("x"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 where a kernel of ours is not correct."""
    parser = argparse.ArgumentParser(
        prog="python -m nas.kernels.bench", description="Check and time the kernels."
    )
    parser.add_argument("--family", action="append", choices=list(FAMILIES), help="default: all")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shape", action="append", type=_shape, metavar="8x1024x128")
    parser.add_argument("--dtype", choices=list(DTYPES))
    parser.add_argument("--backend", help="reference, cpu or triton")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    parser.add_argument("--out", type=Path, help="folder for a dated report")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    try:
        for family in options.family or FAMILIES:
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
    print("\n".join(json.dumps(row) for row in rows) if options.json else table(rows))
    if options.out is not None:
        given = sys.argv[1:] if arguments is None else arguments
        command = shlex.join(["python", "-m", "nas.kernels.bench", *given])
        for file in write_report(rows, options.device, options.out, command):
            print(f"wrote {file}", file=sys.stderr)
    return 0 if all(row["correct"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
