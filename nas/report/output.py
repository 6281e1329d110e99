"""Where output goes: tables and JSON lines to standard output, progress to standard error."""

import json
import sys
from typing import Any

from rich.console import Console

messages = Console(stderr=True, highlight=False, soft_wrap=True)
"""Progress and remarks."""

tables = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
"""Tables for people; in a file or a pipe they are wide enough for an architecture."""


def print_line(row: dict[str, Any]) -> None:
    """One JSON line on standard output."""
    sys.stdout.write(json.dumps(row, allow_nan=False) + "\n")
    sys.stdout.flush()
