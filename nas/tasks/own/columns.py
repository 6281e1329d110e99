"""Named columns of one's own data, as arrays.

`inputs` holds a sequence a row: tokens (integers from 0), reals, or text, read as its bytes.
`targets` holds a class a row (an integer from 0, or a name), a class a position (-100 where it is
not asked), or real numbers, one or as many in every row; without it the next token is asked.
Integers are classes: real numbers that happen to be whole have a point (`3.0`). `split` says train,
validation or test; without it a hash of the inputs does.

Real targets are told and counted in their own unit: the metric is the squared error, averaged over
all numbers of all rows, and the trivial rule `mean` always says the mean of training. The model is
trained on differences from each number's mean, in deviations of all of them (root mean square),
so that no unit is too large or too small, and answers in the unit of the file, exported, too. Where
several numbers of a row differ in scale, the largest count most: bring them to one yourself.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import UsageError
from nas.tasks.base import IGNORED, SPLITS
from nas.tasks.cache import Arrays
from nas.tasks.own.inputs import padded, sequences
from nas.tasks.own.targets import answers

VERSION = 1
MOST_ROWS = 10_000_000


@dataclass(frozen=True)
class Columns:
    """What a file holds.

    Args:
        inputs: A sequence a row: text, or numbers `[n]` or `[n, channels]`.
        targets: A class or a name a row, integers `[n]`, or reals, one or several a row; None: the
            next token.
        splits: `train`, `validation` or `test`; None: by a hash.
        lengths: Positions of each row, where rows are padded already.
    """

    inputs: Sequence[Any] | NDArray
    targets: Sequence[Any] | NDArray | None = None
    splits: Sequence[Any] | NDArray | None = None
    lengths: NDArray | None = None


def encode(columns: Columns, *, text: bool = False, longest: int | None = None) -> Arrays:
    """Columns as arrays.

    Args:
        columns: What a file holds.
        text: Whether inputs that are all numbers are text, too.
        longest: Of longer rows that many positions are kept.

    Returns:
        `inputs` `[N, L]` or `[N, L, channels]` with zeros behind the end, `lengths` `[N]`,
        `targets` `[N]` or `[N, L]`, or reals `[N, numbers]`, `split` `[N]`, `marks` `[N]` (hashes
        of the inputs), `text`, `next` and, where classes have names, `names`.

    Raises:
        UsageError: A column is not as it should be; the message says which row.
    """
    count = len(columns.inputs)
    if not 0 < count <= MOST_ROWS:
        raise UsageError(f"there are {count} rows; there can be 1 to {MOST_ROWS}")
    others = {"targets": columns.targets, "split": columns.splits, "lengths": columns.lengths}
    for name, column in others.items():
        if column is not None and len(column) != count:
            raise UsageError(f"{count} rows of `inputs`, but {len(column)} of `{name}`")
    rows, is_text = sequences(columns.inputs, text)
    if columns.lengths is not None:
        if columns.lengths.dtype.kind not in "iu" or columns.lengths.min() < 1:
            raise UsageError("`lengths` are integers from 1, the positions of each row")
        rows = [row[: int(n)] for row, n in zip(rows, columns.lengths, strict=True)]
    whole = [len(row) for row in rows]
    if 0 in whole:
        raise UsageError(f"row {whole.index(0) + 1}: no inputs")
    rows = [row[:longest] for row in rows]
    named: NDArray | None = None
    if columns.targets is None:
        if rows[0].dtype.kind == "f":
            raise UsageError(
                "there is no column `targets`, and the next of real numbers is not asked"
            )
        if min(map(len, rows)) < 2:
            raise UsageError("the next token of a row of one token cannot be asked: leave it out")
        targets: NDArray = padded([row[1:] for row in rows], IGNORED)
        rows = [row[:-1] for row in rows]
    else:
        targets, named = answers(columns.targets, whole)
        if targets.ndim == 2 and targets.dtype.kind != "f":
            targets = targets[:, : max(map(len, rows))]
    arrays = {
        "inputs": padded(rows, 0),
        "lengths": np.array([len(row) for row in rows], dtype=np.int32),
        "targets": targets,
        "marks": np.array([_mark(row) for row in rows], dtype=np.uint64),
        "text": np.array(is_text),
        "next": np.array(columns.targets is None),
    }
    arrays["split"] = _split(arrays["marks"], columns.splits)
    return arrays if named is None else {**arrays, "names": named}


def _mark(row: NDArray) -> int:
    kind = "<f4" if row.dtype.kind == "f" else "<i8"
    content = np.ascontiguousarray(row.astype(kind)).tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _split(marks: NDArray[np.uint64], column: Sequence[Any] | NDArray | None) -> NDArray[np.int8]:
    """The number of each row's split."""
    tenth = (marks % np.uint64(10)).astype(np.int8)
    if column is None:
        return np.where(tenth == 0, 2, np.where(tenth == 1, 1, 0)).astype(np.int8)
    numbers: dict[str, int] = {name: number for number, name in enumerate(SPLITS)}
    words = [str(cell).strip() for cell in column]
    for number, word in enumerate(words, start=1):
        if word not in numbers:
            raise UsageError(
                f"row {number}: `split` says train, validation or test, not {word[:40]!r}"
            )
    found = np.array([numbers[word] for word in words], dtype=np.int8)
    if not (found == 1).any():  # held out from training
        found[(found == 0) & (tenth == 1)] = 1
    return found
