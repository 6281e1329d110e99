"""Counter-based random numbers: a value is a pure function of its key, whatever was drawn before.

A key is a 64-bit word; keys of examples, attempts and draws are derived by mixing words in. So the
same example comes out whatever the batch size, and a run that was broken off continues exactly.
Nothing here depends on the version of numpy or on the processor.

Source: the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014), in Stafford's variant 13.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(words: Keys) -> Keys:
    """Scramble 64-bit words: a bijection in which every input bit moves every output bit."""
    x = words ^ (words >> np.uint64(30))
    x *= _FIRST
    x ^= x >> np.uint64(27)
    x *= _SECOND
    x ^= x >> np.uint64(31)
    return x


def stream(*names: str | int) -> np.uint64:
    """The key of a named stream, e.g. `stream("listops", "train", 0)`."""
    text = "\x1f".join(str(name) for name in names).encode()
    return np.uint64(int.from_bytes(hashlib.sha256(text).digest()[:8], "little"))


def derive(keys: Keys | np.uint64, words: NDArray[np.integer] | int) -> Keys:
    """Keys below keys: one for each pair, by broadcasting.

    Args:
        keys: Keys, any shape.
        words: Which key below each, integers of a shape that broadcasts with `keys`.
    """
    # One-element arrays wrap around silently, as is meant; numpy's scalars warn.
    below = (np.atleast_1d(np.asarray(words)).astype(np.uint64) + np.uint64(1)) * _GOLDEN
    result = mix(np.atleast_1d(keys) + below)
    return result if np.ndim(keys) or np.ndim(words) else result.reshape(())


def integers(keys: Keys, bound: NDArray[np.integer] | int) -> NDArray[np.int64]:
    """Integers uniform over `0 .. bound - 1`, one for each key (`bound` below 2**31)."""
    high = keys >> np.uint64(32)
    return ((high * np.asarray(bound).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def permutation(key: np.uint64, count: int) -> NDArray[np.int64]:
    """A permutation of `0 .. count - 1`, the same for a key everywhere and for ever."""
    return np.argsort(derive(key, np.arange(count)), kind="stable")


def distinct(keys: Keys, bound: int, count: int) -> NDArray[np.int64]:
    """Ordered draws without replacement from `0 .. bound - 1`.

    Args:
        keys: `[N]`, one per row.
        bound: Size of the set drawn from.
        count: Draws per row, at most `bound`.

    Returns:
        `[N, count]`, distinct within a row, every order equally likely (Floyd's algorithm, whose
        uniform subset is then shuffled).
    """
    chosen = np.empty((len(keys), count), dtype=np.int64)
    for i, last in enumerate(range(bound - count, bound)):
        draw = integers(derive(keys, i), last + 1)
        taken = (chosen[:, :i] == draw[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, last, draw)
    order = np.argsort(
        derive(derive(keys, count)[:, None], np.arange(count)), axis=1, kind="stable"
    )
    return np.take_along_axis(chosen, order, axis=1)
