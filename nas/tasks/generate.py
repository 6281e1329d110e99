"""Fill the splits of a generated task, so that no example stands in two of them."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.errors import NasError
from nas.tasks.base import SPLITS, Split, SplitName, Splits
from nas.tasks.cache import Arrays, cached
from nas.tasks.random_streams import Keys, derive, mix, stream

PATIENCE = 20
"""Attempts without one more new example, after which there are taken to be no more."""

CHUNK = 4096
"""Examples that are made at once."""
_NUMBERS = 2**20
"""Numbers that are hashed at once."""
_SILENCE = 60.0
"""Seconds after which it is said how far the making has come."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draw:
    """What a generator makes of some keys: one example a key, or none where it was rejected.

    Args:
        inputs: `[N, L]` integers.
        targets: `[N]` or `[N, L]` integers.
        kept: `[N]` bool: whether the example fits the definition.
        lengths: `[N]` real positions, where they differ.
        accepted: `[N, L]` int64, see `nas.tasks.base.Batch`.
        identity: `[N]` 64-bit hashes of what must differ between examples; None: their inputs.
    """

    inputs: NDArray
    targets: NDArray
    kept: NDArray[np.bool_]
    lengths: NDArray | None = None
    accepted: NDArray | None = None
    identity: Keys | None = None


Generator = Callable[[Keys], Draw]


def generated(
    name: str,
    definition: object,
    sizes: tuple[int, int, int],
    generator: Generator,
    *,
    repeats: bool = False,
    held_out: Generator | None = None,
    chunk: int = CHUNK,
) -> Splits:
    """The splits of a generated task, from the cache or made now.

    Example i of a split is the first kept one of the attempts 0, 1, 2, ... of its own stream. An
    example whose inputs (or identity) occurred before, in the order train, validation, test, goes
    on to its next attempts, so all examples differ and the splits are disjoint.

    Args:
        name: The task's name and profile, for the cache.
        definition: All that the examples depend on, a version included.
        sizes: Number of training, validation and test examples.
        generator: Makes examples of keys.
        repeats: Whether an example may stand several times in one split (never in two), for
            definitions of which some examples are so short that there are few: drawing only new
            ones would change how often each length occurs.
        held_out: Makes the validation and test examples, for definitions in which these are drawn
            or asked otherwise than the training examples.
        chunk: Examples that are made at once: fewer where one takes much memory. The examples do
            not depend on it.

    Raises:
        NasError: When the data is made: there are not so many different examples.
    """
    generators = (generator, held_out or generator, held_out or generator)

    def make() -> Arrays:
        key = stream(name, repr(definition))
        count = _counter(name, sum(sizes))
        return flatten(_fill(key, sizes, generators, repeats, chunk, count))

    told = (name, definition, sizes, "repeats") if repeats else (name, definition, sizes)
    arrays = cached(name.replace("/", "-"), told, make)
    return unflatten(arrays)


def _counter(name: str, total: int) -> Callable[[int], None]:
    """Takes the number of examples that have just been made, and says their sum now and then."""
    made, last = 0, time.monotonic()

    def count(more: int) -> None:
        nonlocal made, last
        made += more
        if time.monotonic() - last > _SILENCE:
            last = time.monotonic()
            _log.warning("%s: %s of %s examples are made", name, f"{made:,}", f"{total:,}")

    return count


def _fill(
    key: np.uint64,
    sizes: tuple[int, int, int],
    generators: tuple[Generator, Generator, Generator],
    repeats: bool,
    chunk: int,
    progress: Callable[[int], None],
) -> Splits:
    """Every split's examples, with those that occurred before drawn again."""
    splits: dict[SplitName, Split] = {}
    seen = np.empty(0, dtype=np.uint64)
    for number, (name, count, generator) in enumerate(zip(SPLITS, sizes, generators, strict=True)):
        keys = derive(derive(key, number), np.arange(count))
        attempts = np.zeros(count, dtype=np.int64)
        split: dict[str, NDArray] = {}
        rows = np.arange(count)
        fewest, since = count + 1, 0
        while len(rows):
            _examples(keys, attempts, rows, split, generator, chunk, progress)
            rows = _repeated(seen, split["identity"], repeats)
            fewest, since = (len(rows), 0) if len(rows) < fewest else (fewest, since + 1)
            if since == PATIENCE:
                raise NasError(
                    f"there are no {sum(sizes)} different examples of this task "
                    f"({len(rows)} are missing in {name}): make them longer, or of more symbols"
                )
        seen = np.concatenate([seen, split["identity"]])
        splits[name] = Split(
            split["inputs"], split["targets"], split.get("lengths"), split.get("accepted")
        )
    return splits


def _examples(
    keys: Keys,
    attempts: NDArray[np.int64],
    rows: NDArray[np.int64],
    split: dict[str, NDArray],
    generator: Generator,
    size: int,
    progress: Callable[[int], None],
) -> None:
    """Set the given rows of a split to the next kept attempt of each; `attempts` counts on."""
    while len(rows):
        rejected = []
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            draw = generator(derive(keys[chunk], attempts[chunk]))
            attempts[chunk] += 1
            found = {
                name: values[draw.kept]
                for name in ("inputs", "targets", "lengths", "accepted", "identity")
                if (values := getattr(draw, name)) is not None
            }
            # Hashed chunk by chunk: the whole split may be gigabytes.
            if "identity" not in found:
                found["identity"] = fingerprints(found["inputs"])
            for name, values in found.items():
                _set(split, name, len(keys), chunk[draw.kept], values)
            progress(int(draw.kept.sum()))
            rejected.append(chunk[~draw.kept])
        rows = np.concatenate(rejected)


def _set(
    split: dict[str, NDArray], name: str, count: int, rows: NDArray[np.int64], values: NDArray
) -> None:
    if name not in split:
        split[name] = np.zeros((count, *values.shape[1:]), dtype=values.dtype)
    split[name][rows] = values


def fingerprints(inputs: NDArray) -> Keys:
    """A 64-bit hash of every row of numbers; equal rows have equal ones."""
    if np.issubdtype(inputs.dtype, np.floating):
        inputs = np.ascontiguousarray(inputs.astype(np.float32)).view(np.uint32)
    width = math.prod(inputs.shape[1:])
    inputs = inputs.reshape(len(inputs), width)
    result = np.zeros(len(inputs), dtype=np.uint64)
    words = derive(stream("fingerprint"), np.arange(width))
    size = max(1, _NUMBERS // max(1, width))
    for start in range(0, len(inputs), size):
        rows = inputs[start : start + size].astype(np.uint64)
        result[start : start + size] = mix(rows + words).sum(axis=1, dtype=np.uint64)
    return result


def _repeated(seen: Keys, new: Keys, repeats: bool) -> NDArray[np.int64]:
    """Rows of `new` that occur in `seen` or, where those do not count, earlier in `new`."""
    if repeats:
        return np.flatnonzero(np.isin(new, seen))
    _, first = np.unique(new, return_index=True)
    again = np.ones(len(new), dtype=np.bool_)
    again[first] = False
    return np.flatnonzero(again | np.isin(new, seen))


def flatten(splits: Splits) -> Arrays:
    """Splits as named arrays, for the cache."""
    arrays = {}
    for name, split in splits.items():
        arrays[f"{name}_inputs"] = split.inputs
        arrays[f"{name}_targets"] = split.targets
        if split.lengths is not None:
            arrays[f"{name}_lengths"] = split.lengths
        if split.accepted is not None:
            arrays[f"{name}_accepted"] = split.accepted
    return arrays


def unflatten(arrays: Arrays) -> Splits:
    """The inverse of `flatten`."""
    return {
        name: Split(
            arrays[f"{name}_inputs"],
            arrays[f"{name}_targets"],
            arrays.get(f"{name}_lengths"),
            arrays.get(f"{name}_accepted"),
        )
        for name in SPLITS
    }
