"""The column `targets` of one's own data, read as classes or as real numbers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import UsageError
from nas.tasks.base import IGNORED
from nas.tasks.own.inputs import MOST_CLASSES, padded

_LARGEST, _SMALLEST = 1e30, 1e-30  # of what float32 holds, far from its ends
_STEPS = 128  # of float32 in a deviation: with fewer, what is asked would be rounding


def answers(
    column: Sequence[Any] | NDArray, lengths: Sequence[int]
) -> tuple[NDArray, NDArray | None]:
    """The answers of the column.

    Args:
        column: A class or a name a row, integers `[n]`, or real numbers, one or several.
        lengths: Positions of each row's inputs.

    Returns:
        Classes `[N]` or `[N, L]`, or reals `[N, numbers]`; and the names of classes that have some.

    Raises:
        UsageError: A row is not as it should be; the message says which.
    """
    cells = list(column)
    if all(isinstance(cell, str) for cell in cells):
        numbers = _numbers(cells)
        if numbers is None:
            names, found = np.unique([cell.strip() for cell in cells], return_inverse=True)
            return _classes(found), names
        cells = numbers
    rows = [_array(number, cell) for number, cell in enumerate(cells, start=1)]
    if any(row.dtype.kind == "f" for row in rows):
        return _reals(rows), None
    fitted = []
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True), start=1):
        # An array is as long as its padded inputs.
        longer = row.ndim == 1 and len(row) > length and not isinstance(column, np.ndarray)
        if longer or (row.ndim == 1 and len(row) < length):
            raise UsageError(f"row {number}: {len(row)} targets for {length} inputs")
        fitted.append(row.astype(np.int64)[:length] if row.ndim else row.astype(np.int64))
    if len({row.ndim for row in fitted}) > 1:
        raise UsageError("`targets` are a class in some rows, a class a position in others")
    return _classes(padded(fitted, IGNORED) if fitted[0].ndim else np.array(fitted)), None


def _numbers(cells: Sequence[str]) -> list[Any] | None:
    """Integers, or reals where some are; None where cells are names.

    Names may be whole numbers, too. Where most cells are real numbers, the rest is an error.
    """
    words = [cell.split() for cell in cells]
    reals, integers = ([_parsed(row, kind) for row in words] for kind in (float, int))
    finite = sum(all(map(math.isfinite, row)) for row in reals if row)
    whole = sum(bool(row) for row in integers)
    if None in reals and (whole == finite or 2 * finite <= len(cells)):
        return None
    for number, (row, cell) in enumerate(zip(reals, cells, strict=True), start=1):
        if not row:
            raise UsageError(
                f"row {number}: {cell[:40]!r} is no number, as other `targets` are: fill it in, or "
                "leave the row out"
            )
    found: list[Any] = integers if whole == len(cells) else reals
    return [row[0] for row in found] if all(len(row) == 1 for row in found) else found


def _parsed(words: Sequence[str], kind: type[int] | type[float]) -> list[float] | None:
    try:
        return [kind(word) for word in words]
    except ValueError:
        return None


def _array(number: int, cell: Any) -> NDArray:
    """A row's target or targets."""
    try:
        row = np.asarray(cell)
    except ValueError:
        row = np.empty(0, dtype=object)
    if row.dtype.kind not in "iufb" or row.ndim > 1:
        raise UsageError(
            f"row {number}: `targets` are a class (an integer from 0, or a name), an integer at "
            f"every position (-100: not asked), or real numbers, not {str(cell)[:40]!r}"
        )
    return row


def _reals(rows: Sequence[NDArray]) -> NDArray[np.float32]:
    """Rows of as many finite numbers each, `[N, numbers]`."""
    rows = [np.atleast_1d(row).astype(np.float64) for row in rows]
    for number, row in enumerate(rows, start=1):
        if not len(row):
            raise UsageError(f"row {number}: no targets: leave the row out")
        if len(row) != len(rows[0]):
            raise UsageError(f"row {number}: {len(row)} targets, row 1 has {len(rows[0])}")
        if not np.isfinite(row).all():
            raise UsageError(f"row {number}: a target is missing or infinite: fill it in")
        if (largest := np.abs(row).max()) > _LARGEST:
            raise UsageError(f"row {number}: a target of {largest:g}: take a larger unit")
    values = np.stack(rows)
    for one in values.T:
        mean, deviation = one.mean(), one.std()
        least = max(_SMALLEST, _STEPS * float(np.spacing(np.float32(abs(mean)))))
        if np.ptp(one) > 0 and deviation < least:
            raise UsageError(
                f"`targets` differ by {deviation:.2g} around {mean:.9g}, too little for float32: "
                "subtract their mean, or take a smaller unit"
            )
    return values.astype(np.float32)


def _classes(targets: NDArray) -> NDArray:
    asked = targets[targets != IGNORED]
    if not len(asked) or asked.min() < 0 or asked.max() >= MOST_CLASSES:
        raise UsageError(
            f"classes are integers from 0 to {MOST_CLASSES - 1} (-100: not asked), and one is "
            f"asked at least; here {targets.min()} to {targets.max()}; write real numbers with a "
            "point (3.0)"
        )
    if targets.ndim == 1 and (targets == IGNORED).any():
        raise UsageError("a row has no class (-100): leave it out")
    return targets.astype(np.int32)
