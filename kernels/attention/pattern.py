"""Which keys a query sees: the patterns of attention, in plain Python.

Positions count from the first key. The last query stands at the last key, so that query row `r` of
L rows over M keys has the position r + M - L: in a layer L = M, and a token that is decoded is the
last of the keys so far. A query before the first key (L > M) sees nothing, where its pattern looks
back only.

Every pattern says once what is visible, in the functions of `visible.py`, which the Triton kernels
compile too. Its `tiles` say which keys the queries of a tile may need, so that no cost arises from
the others.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

from nas.kernels.attention.visible import (
    band_visible,
    chunk_visible,
    fixed_visible,
    landmark_visible,
    prefix_visible,
)

UNLIMITED = 2**30
"""A reach beyond every sequence, whose sum with a position still has 32 bits."""

TILE = 64
"""Queries of a tile, at most."""


class Tile(NamedTuple):
    """Some queries, and the keys that at least one of them sees.

    Attributes:
        rows: the queries, counted from the first.
        keys: positions of the keys, in ranges that have none in common.
        clear: which of the keys, as they follow each other, every one of the queries sees.
    """

    rows: range
    keys: tuple[range, ...]
    clear: range


@dataclass(frozen=True)
class Full:
    """Every query sees every key."""

    def visible(self, i: Any, j: Any) -> Any:
        """Whether the query at i sees the key at j (numbers, or tensors that broadcast)."""
        return band_visible(i, j, UNLIMITED, UNLIMITED, 1)

    def tiles(self, queries: int, keys: int) -> Iterator[Tile]:
        """Cover all queries that see anything, each by one tile."""
        return _band_tiles(queries, keys, UNLIMITED, UNLIMITED, 1)


@dataclass(frozen=True)
class Causal:
    """A query sees itself and what stands before."""

    def visible(self, i: Any, j: Any) -> Any:
        """Whether the query at i sees the key at j (numbers, or tensors that broadcast)."""
        return band_visible(i, j, UNLIMITED, 0, 1)

    def tiles(self, queries: int, keys: int) -> Iterator[Tile]:
        """Cover all queries that see anything, each by one tile."""
        return _band_tiles(queries, keys, UNLIMITED, 0, 1)


@dataclass(frozen=True)
class Window:
    """A query sees its neighbours.

    Args:
        width: causal: it sees the last `width` keys, itself included; otherwise itself and
            `width // 2` to each side.
        causal: whether it looks back only.
    """

    width: int
    causal: bool = True

    def __post_init__(self) -> None:
        _at_least(1, width=self.width)

    @property
    def reach(self) -> tuple[int, int]:
        """How far it sees back and ahead."""
        return (self.width - 1, 0) if self.causal else (self.width // 2, self.width // 2)

    def visible(self, i: Any, j: Any) -> Any:
        """Whether the query at i sees the key at j (numbers, or tensors that broadcast)."""
        return band_visible(i, j, *self.reach, 1)

    def tiles(self, queries: int, keys: int) -> Iterator[Tile]:
        """Cover all queries that see anything, each by one tile."""
        return _band_tiles(queries, keys, *self.reach, 1)


@dataclass(frozen=True)
class Dilated:
    """A query sees every `stride`-th key, itself included.

    With `taps=None` it is the second head of the strided pattern of Child et al. 2019, "Generating
    Long Sequences with Sparse Transformers" (the first is a window of `stride`).

    Args:
        taps: causal: how many keys it sees, itself included; otherwise itself and `taps // 2` to
            each side. None means all.
        stride: their distance.
        causal: whether it looks back only.
    """

    taps: int | None
    stride: int
    causal: bool = True

    def __post_init__(self) -> None:
        _at_least(1, taps=1 if self.taps is None else self.taps, stride=self.stride)

    @property
    def reach(self) -> tuple[int, int]:
        """How far it sees back and ahead."""
        if self.taps is None:
            return UNLIMITED, 0 if self.causal else UNLIMITED
        if self.causal:
            return min(UNLIMITED, (self.taps - 1) * self.stride), 0
        half = min(UNLIMITED, self.taps // 2 * self.stride)
        return half, half

    def visible(self, i: Any, j: Any) -> Any:
        """Whether the query at i sees the key at j (numbers, or tensors that broadcast)."""
        return band_visible(i, j, *self.reach, self.stride)

    def tiles(self, queries: int, keys: int) -> Iterator[Tile]:
        """Cover all queries that see anything, each by one tile."""
        return _band_tiles(queries, keys, *self.reach, self.stride)


@dataclass(frozen=True)
class Fixed:
    """A query sees its block up to itself, and the last keys of every block before.

    It is the fixed pattern of Child et al. 2019, both of its parts in one head. With a stride near
    sqrt(L) the cost grows with L^1.5.

    Args:
        stride: keys of a block.
        summary: how many at the end of each block all later queries see (the paper's c).
    """

    stride: int
    summary: int = 1

    def __post_init__(self) -> None:
        _at_least(1, stride=self.stride, summary=self.summary)
        if self.summary > self.stride:
            raise ValueError(f"{self.summary} summaries do not fit into a block of {self.stride}")

    def visible(self, i: Any, j: Any) -> Any:
        """Whether the query at i sees the key at j (numbers, or tensors that broadcast)."""
        return fixed_visible(i, j, self.stride, self.summary)

    def tiles(self, queries: int, keys: int) -> Iterator[Tile]:
        """Cover all queries that see anything, each by one tile."""
        for rows, start, end in _blocks(queries, keys, self.stride):
            first = start // self.stride * self.stride
            summaries = range(self.stride - self.summary, self.stride)
            before = tuple(range(column, first, self.stride) for column in summaries if first)
            own = start - first if end <= first + self.stride else 0
            clear = range(sum(map(len, before)) + own)
            yield Tile(rows, (*before, range(first, end)), clear)


@dataclass(frozen=True)
class Chunk:
    """A query sees the keys of its own chunk.

    Args:
        size: keys of a chunk.
        causal: whether it sees those up to itself only.
    """

    size: int
    causal: bool = True

    def __post_init__(self) -> None:
        _at_least(1, size=self.size)

    @property
    def after(self) -> int:
        """How far it sees ahead."""
        return 0 if self.causal else UNLIMITED

    def visible(self, i: Any, j: Any) -> Any:
        """Whether the query at i sees the key at j (numbers, or tensors that broadcast)."""
        return chunk_visible(i, j, self.size, self.after)

    def tiles(self, queries: int, keys: int) -> Iterator[Tile]:
        """Cover all queries that see anything, each by one tile."""
        for rows, start, end in _blocks(queries, keys, self.size):
            first = start // self.size * self.size
            whole = min(keys, -(-end // self.size) * self.size)
            seen = 0  # of several chunks no key is seen by all
            if end <= first + self.size:
                seen = start + 1 - first if self.causal else whole - first
            yield Tile(rows, (range(first, end if self.causal else whole),), range(seen))


@dataclass(frozen=True)
class Prefix:
    """A query sees the prefix, itself and what stands before: a prefix language model.

    Args:
        length: keys of the prefix: a number, or a tensor of integers [B], one for each sequence.
    """

    length: Any

    def __post_init__(self) -> None:
        if isinstance(self.length, int):
            _at_least(0, length=self.length)

    def visible(self, i: Any, j: Any) -> Any:
        """Whether the query at i sees the key at j (numbers, or tensors that broadcast)."""
        return prefix_visible(i, j, self.length)

    def tiles(self, queries: int, keys: int) -> Iterator[Tile]:
        """Cover all queries that see anything, each by one tile (if the length is a number)."""
        for tile in _band_tiles(queries, keys, UNLIMITED, UNLIMITED, 1):
            last = tile.rows[-1] + keys - queries
            seen = range(max(0, min(keys, max(last + 1, self.length))))
            clear = range(max(0, tile.rows[0] + keys - queries + 1))
            yield Tile(tile.rows, (seen,), clear)


@dataclass(frozen=True)
class Landmark:
    """Causal attention in which blocks are found by their landmarks, with a grouped softmax.

    The last token of every block is its landmark. One softmax runs over the tokens of a query's own
    block and the landmarks of the blocks before; a token of a block before then weighs the
    landmark's part times a softmax inside its block. A landmark's value is not used, nor is the
    landmark of a query's own block (Mohtashami & Jaggi 2023, "Landmark Attention: Random-Access
    Infinite Context Length for Transformers", section 3.1).

    Args:
        block: tokens of a block, its landmark included.
    """

    block: int

    def __post_init__(self) -> None:
        _at_least(2, block=self.block)

    def visible(self, i: Any, j: Any) -> Any:
        """Whether the query at i sees the key at j (numbers, or tensors that broadcast)."""
        return landmark_visible(i, j, self.block)

    def tiles(self, queries: int, keys: int) -> Iterator[Tile]:
        """Cover all queries that see anything, each by one tile."""
        for rows, start, end in _blocks(queries, keys, self.block):
            yield Tile(rows, (range(end),), range(start // self.block * self.block))


Pattern = Full | Causal | Window | Dilated | Fixed | Chunk | Prefix | Landmark

KINDS: dict[str, Any] = {
    "full": Full,
    "causal": Causal,
    "window": Window,
    "dilated": Dilated,
    "fixed": Fixed,
    "chunk": Chunk,
    "prefix": Prefix,
    "landmark": Landmark,
}


def period(pattern: Pattern) -> int:
    """Say by how much positions can be shifted so that the same is visible (not of a prefix)."""
    if isinstance(pattern, Fixed):
        return pattern.stride
    if isinstance(pattern, Chunk):
        return pattern.size
    return pattern.block if isinstance(pattern, Landmark) else 1


def pack(pattern: Pattern) -> tuple[str, list[int]]:
    """Write a pattern as a word and numbers, which an operator takes; a tensor is left out."""
    values = astuple(pattern) if not isinstance(pattern, Prefix) else (pattern.length,)
    numbers = [-1 if value is None else value for value in values]
    if isinstance(pattern, Prefix) and not isinstance(pattern.length, int):
        numbers = []
    return type(pattern).__name__.lower(), [int(number) for number in numbers]


def unpack(kind: str, numbers: list[int], length: Any = None) -> Pattern:
    """Read what `pack` wrote; `length` is the tensor that it left out."""
    if kind == "prefix":
        return Prefix(length if length is not None else numbers[0])
    if kind == "dilated" and numbers[0] < 0:
        return Dilated(None, numbers[1], bool(numbers[2]))
    found: Pattern = KINDS[kind](*numbers)
    return found


def _at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} must be at least {least}, and is {number}")
        if number > UNLIMITED:
            # Positions have 32 bits, in which it would be another number.
            raise ValueError(f"{name} must be at most {UNLIMITED}, and is {number}")


def _band_tiles(queries: int, keys: int, before: int, after: int, stride: int) -> Iterator[Tile]:
    """Tiles of every `stride`-th query, which see every `stride`-th key of a band."""
    offset = keys - queries
    # Each query has a use for half of the keys, where a tile is as large as the reach.
    size = max(16, min(TILE, before + after)) if stride == 1 else TILE
    for residue in range(min(stride, queries)):
        rows = range(residue, queries, stride)
        for start in range(0, len(rows), size):
            tile = rows[start : start + size]
            first, last = tile[0] + offset, tile[-1] + offset
            seen = range(max(first - before, first % stride), min(keys, last + after + 1), stride)
            if seen:
                # Of a key at p, the queries from p - after to p + before know.
                low, high = max(last - before, seen[0]), min(first + after, seen[-1])
                clear = range((low - seen[0]) // stride, (high - seen[0]) // stride + 1)
                yield Tile(tile, (seen,), clear)


def _blocks(queries: int, keys: int, size: int) -> Iterator[tuple[range, int, int]]:
    """Rows whose positions, from start to end, are whole blocks or a part of one."""
    offset = keys - queries
    step = TILE // size * size or size
    start = max(0, offset)
    while start < keys:
        end = min(keys, start + TILE, (start // step + 1) * step)
        yield range(start - offset, end - offset), start, end
        start = end
