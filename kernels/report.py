"""Measurements as a table, and as dated files with their command and machine."""

import datetime
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nas.kernels.floors import machine

COLUMNS = {
    "family": "family",
    "shape": "shape",
    "dtype": "dtype",
    "correct": "correct",
    "ms": "ms",
    "floor_ratio": "over floor",
    "forward_ms": "forward ms",
    "forward_floor_ratio": "over floor",
    "backward_ms": "backward ms",
    "backward_floor_ratio": "over floor",
    "peer": "peer",
    "peer_ratio": "peer / ours",
    "peer_forward_ratio": "forward",
}
"""Columns of the table: keys of the rows, and their heads."""

EXPLANATION = (
    "Times are of forward and backward together, of the forward and of the backward pass, medians "
    "of interleaved rounds (on a CPU: processor time). Over floor: how many times longer than "
    "copying the bytes that must be moved, or multiplying matrices of as many operations, took "
    "on this machine in the same rounds. Peer / ours: how many times longer the peer takes."
)


def table(rows: Sequence[dict[str, Any]], columns: dict[str, str] | None = None) -> str:
    """Write rows as a Markdown table.

    Args:
        rows: of one kind.
        columns: which of their values, and the heads of their columns; None: of kernels and peers.
    """
    columns = columns or COLUMNS
    lines = [f"| {' | '.join(columns.values())} |", "|" + " --- |" * len(columns)]
    for row in rows:
        lines.append(f"| {' | '.join(_cell(row, key) for key in columns)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if key == "peer_ratio" and row["peer_correct"] is False:
        return "not timed: wrong"
    if key == "peer_ratio" and row["note"]:
        return "not timed: it failed"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" + ("x" if key.startswith("peer") else "")
    return str(value)


def write_report(
    rows: Sequence[dict[str, Any]],
    device: str,
    folder: Path,
    arguments: Sequence[str],
    name: str = "kernels",
    columns: dict[str, str] | None = None,
) -> list[Path]:
    """Write rows with their date, command and machine to `NAME-DEVICE-DATE.json` and `.md`.

    Args:
        rows: what was measured.
        device: "cpu" or "cuda".
        folder: where to; it is made if it is missing.
        arguments: of `python -m nas.kernels.bench`.
        name: what the files' names begin with.
        columns: as `table`'s.

    Returns:
        The files.
    """
    date, host = datetime.date.today().isoformat(), machine(torch.device(device))
    command = shlex.join(["python", "-m", "nas.kernels.bench", *arguments])
    about = {"date": date, "command": command, "threads": 1, "machine": host}
    path = folder / f"{name}-{device}-{date}"
    folder.mkdir(parents=True, exist_ok=True)
    files = [path.with_suffix(".json"), path.with_suffix(".md")]
    files[0].write_text(json.dumps({**about, "rows": list(rows)}, indent=1) + "\n")
    hardware = ", ".join(f"{key} {value}" for key, value in host.items())
    text = [
        f"# Kernels on {host.get('gpu') or host['processor']}, {date}",
        f"`{command}`",
        f"{hardware}; one torch thread.",
        *([EXPLANATION] if columns is None else []),
        table(rows, columns),
    ]
    files[1].write_text("\n\n".join(text) + "\n")
    return files
