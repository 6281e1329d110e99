"""The column `inputs` of one's own data, read as a sequence a row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import UsageError

MOST_NUMBERS = 2**30
MOST_CLASSES = 2**18
"""Of tokens, and of classes."""


def sequences(column: Sequence[Any] | NDArray, text: bool) -> tuple[list[NDArray], bool]:
    """The rows of the column.

    Args:
        column: A sequence a row: text, or numbers `[n]` or `[n, channels]`.
        text: Whether rows that are all numbers are text, too.

    Returns:
        A row each, integers `[n]` or reals `[n, channels]`; and whether they are text.

    Raises:
        UsageError: A row is not as it should be; the message says which.
    """
    if all(isinstance(cell, str | bytes) for cell in column):
        cells = [cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
                 for cell in column]  # fmt: skip
        for parse in (int, float) if not text else ():
            if rows := _numbers(cells, parse):
                return _checked(rows), False
        return [_bytes(cell) for cell in cells], True
    rows = []
    for number, cell in enumerate(column, start=1):
        try:
            row = np.asarray(cell)
        except ValueError:
            row = np.empty(0, dtype=object)
        if row.dtype.kind not in "iufb" or row.ndim not in (1, 2):
            raise UsageError(
                f"row {number}: `inputs` are text, integers, or real numbers (a list, or a list "
                f"of as many channels at every position), not {str(cell)[:40]!r}"
            )
        rows.append(row)
    return _checked(rows), False


def padded(rows: Sequence[NDArray], fill: int) -> NDArray:
    """Rows as one array `[N, L, ...]`, filled behind their ends.

    Raises:
        UsageError: It has too many numbers.
    """
    longest = max(len(row) for row in rows)
    shape = (len(rows), longest, *rows[0].shape[1:])
    if (size := int(np.prod(shape, dtype=np.float64))) > MOST_NUMBERS:
        raise UsageError(
            f"{len(rows)} rows of {longest} positions are {size} numbers, over {MOST_NUMBERS}: "
            "write [longest=1024] behind the name to cut longer rows"
        )
    whole = np.full(shape, fill, dtype=np.float32 if rows[0].dtype.kind == "f" else np.int32)
    for row, values in zip(whole, rows, strict=True):
        row[: len(values)] = values
    return whole


def _numbers(cells: Sequence[str], parse: type[int] | type[float]) -> list[NDArray]:
    """Cells of whitespace-separated numbers, channels between `;`; none where row 1 is not such."""
    rows: list[NDArray] = []
    for number, cell in enumerate(cells, start=1):
        try:
            if parse is int:
                rows.append(np.array([int(word) for word in cell.split()], dtype=np.int64))
            else:
                found = [[float(part) for part in word.split(";")] for word in cell.split()]
                rows.append(np.array(found, dtype=np.float32))
        except (ValueError, OverflowError) as error:
            if number == 1 or parse is int:
                return []
            raise UsageError(
                f"row {number}: {cell[:40]!r} are no numbers, as row 1 has ({error}); write "
                "[text=1] behind the name if all of it is text"
            ) from None
    return rows


def _bytes(cell: str) -> NDArray:
    # Token 0 is padding; no text has that byte, but a file may.
    return np.frombuffer(cell.encode().replace(b"\0", b" "), dtype=np.uint8)


def _checked(rows: list[NDArray]) -> list[NDArray]:
    """Rows of one kind, with bounds."""
    if 0 in (whole := [len(row) for row in rows]):
        raise UsageError(f"row {whole.index(0) + 1}: no inputs")
    if any(row.dtype.kind == "f" or row.ndim == 2 for row in rows):
        rows = [row.astype(np.float32).reshape(len(row), -1) for row in rows]
        channels = rows[0].shape[1]
        for number, row in enumerate(rows, start=1):
            if row.shape[1] != channels:
                raise UsageError(f"row {number}: {row.shape[1]} channels, row 1 has {channels}")
            if not np.isfinite(row).all():
                raise UsageError(f"row {number}: a number is missing or infinite: fill it in")
        return rows
    for number, row in enumerate(rows, start=1):
        if not (row.min() >= 0 and row.max() < MOST_CLASSES):
            raise UsageError(
                f"row {number}: tokens are integers from 0 to {MOST_CLASSES - 1}, here "
                f"{row.min()} to {row.max()}; write real numbers with a point"
            )
    return rows
