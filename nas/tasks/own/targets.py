"""The column `targets` of one's own data, read as classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import UsageError
from nas.tasks.base import IGNORED
from nas.tasks.own.inputs import MOST_CLASSES, padded


def answers(
    column: Sequence[Any] | NDArray, lengths: Sequence[int]
) -> tuple[NDArray, NDArray | None]:
    """The answers of the column.

    Args:
        column: A class or a name a row, or integers `[n]`.
        lengths: Positions of each row's inputs.

    Returns:
        Classes `[N]` or `[N, L]`, and their names where they have some.

    Raises:
        UsageError: A row is not as it should be; the message says which.
    """
    cells = list(column)
    if all(isinstance(cell, str) for cell in cells):
        try:
            split = [[int(word) for word in cell.split()] for cell in cells]
        except ValueError:
            split = []
        if not split or not all(split):
            if _all_real(cells):
                raise UsageError(
                    "`targets` are real numbers; classes are integers from 0, or names: write "
                    "them without a point, or in ranges"
                )
            names, found = np.unique([cell.strip() for cell in cells], return_inverse=True)
            return _classes(found), names
        cells = split if any(len(row) > 1 for row in split) else [row[0] for row in split]
    rows = []
    for number, (cell, length) in enumerate(zip(cells, lengths, strict=True), start=1):
        row = np.asarray(cell)
        if row.dtype.kind not in "iub" or row.ndim > 1:
            raise UsageError(
                f"row {number}: `targets` are a class (an integer from 0, or a name), or an "
                f"integer at every position (-100: not asked), not {str(cell)[:40]!r}"
            )
        # An array is as long as its padded inputs.
        if row.ndim == 1 and (len(row) < length or (len(row) > length and _is_list(column))):
            raise UsageError(f"row {number}: {len(row)} targets for {length} inputs")
        rows.append(row.astype(np.int64)[:length] if row.ndim else row.astype(np.int64))
    if len({row.ndim for row in rows}) > 1:
        raise UsageError("`targets` are a class in some rows, a class a position in others")
    return _classes(padded(rows, IGNORED) if rows[0].ndim else np.array(rows)), None


def _all_real(cells: Sequence[str]) -> bool:
    try:
        return bool([float(word) for cell in cells for word in cell.split()])
    except ValueError:
        return False


def _is_list(column: Sequence[Any] | NDArray) -> bool:
    return not isinstance(column, np.ndarray)


def _classes(targets: NDArray) -> NDArray:
    asked = targets[targets != IGNORED]
    if not len(asked) or asked.min() < 0 or asked.max() >= MOST_CLASSES:
        raise UsageError(
            f"classes are integers from 0 to {MOST_CLASSES - 1} (-100: not asked), and one is "
            f"asked at least; here {targets.min()} to {targets.max()}"
        )
    if targets.ndim == 1 and (targets == IGNORED).any():
        raise UsageError("a row has no class (-100): leave it out")
    return targets.astype(np.int32)
