"""Where output goes: tables and JSON lines to standard output, progress to standard error."""

import json
import sys
from typing import Any

from rich.console import Console

messages = Console(stderr=True, highlight=False, soft_wrap=True)
"""Progress and remarks."""

tables = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
"""Tables for people; in a file or a pipe they are wide enough for an architecture."""


def print_text(text: str) -> None:
    """Text for people on standard output, as it is."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def print_line(row: dict[str, Any]) -> None:
    """One JSON line on standard output."""
    sys.stdout.write(json.dumps(row, allow_nan=False) + "\n")
    sys.stdout.flush()


def figure(value: float, sign: str = "") -> str:
    """A score for people: four places, and three digits where those would round it away."""
    return format(value, f"{sign}.4f" if value == 0 or abs(value) >= 1e-2 else f"{sign}.3g")


def rounded(value: float) -> float:
    """A score for a JSON line: five significant digits."""
    return float(f"{value:.5g}")
