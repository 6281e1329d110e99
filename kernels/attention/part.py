"""A part of attention's work in plain torch: the queries and keys of some tiles, of some heads."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas.kernels.attention.pattern import Tile


class Part(NamedTuple):
    """A tile of queries of some key heads, or several like it that follow each other.

    Attributes:
        heads: which of the B * Hkv key heads.
        tile: the queries and the keys, of the first tile.
        stack: how many tiles. Each is as far from the one before as a tile has queries, and so are
            its keys; they are computed as if they were of other heads.
        shared: query heads G of a key head.
        offset: position of the first of all queries.
        hidden: slices of the keys, and what is added to the scores of these: 0, or HIDDEN where a
            key is not seen [rows, keys] or [heads, rows, keys].
    """

    heads: slice
    tile: Tile
    stack: int
    shared: int
    offset: int
    hidden: tuple[tuple[slice, Tensor], ...]

    @property
    def width(self) -> int:
        """How many keys a tile has."""
        return sum(map(len, self.tile.keys))

    def is_before(self, other: "Part") -> bool:
        """Whether another part's tile looks like these and comes next."""
        (rows, keys, clear), (rows_, keys_, clear_) = self.tile, other.tile
        shift = self.stack * len(rows)
        return (
            len(keys) == len(keys_) == 1
            and rows.step == keys[0].step == 1
            and clear == clear_
            and rows_ == range(rows.start + shift, rows.stop + shift)
            and keys_[0] == range(keys[0].start + shift, keys[0].stop + shift)
        )

    def i(self, like: Tensor) -> Tensor:
        """Positions of the queries [rows, 1]."""
        rows = self.tile.rows
        first, last = rows[0] + self.offset, rows[-1] + self.offset
        found = torch.arange(first, last + 1, rows.step, dtype=torch.int32, device=like.device)
        return found.unsqueeze(1)

    def j(self, like: Tensor) -> Tensor:
        """Positions of the keys [keys]."""
        kind: dict[str, Any] = {"dtype": torch.int32, "device": like.device}
        return torch.cat([torch.arange(x.start, x.stop, x.step, **kind) for x in self.tile.keys])

    def unclear(self) -> list[slice]:
        """Which of the keys some query of the tile does not see."""
        clear = self.tile.clear
        if len(clear) == 0:
            return [slice(0, self.width)]
        sides = slice(0, clear.start), slice(clear.stop, self.width)
        return [columns for columns in sides if columns.start < columns.stop]

    def likeness(self, period: int) -> tuple[Any, ...]:
        """Equal for tiles whose queries and unclear keys lie alike, up to whole periods."""
        # The unclear keys are all of the last range.
        keys, first = self.tile.keys[-1], self.tile.rows[0] + self.offset
        before = self.width - len(keys)
        places = (
            (keys.start + (x.start - before) * keys.step - first, x.stop - x.start)
            for x in self.unclear()
        )
        return len(self.tile.rows), first % period, *places

    def of_rows(self, x: Tensor) -> Tensor:
        """Take the part's queries [heads * stack, rows * G, d] of x [B * Hkv, L * G, d]."""
        return self._rows(x).reshape(-1, len(self.tile.rows) * self.shared, x.shape[2])

    def of_keys(self, x: Tensor) -> Tensor:
        """Take the part's keys [heads * stack, keys, d] of x [B * Hkv, M, d]."""
        if self.stack > 1:
            keys, step = self.tile.keys[0], len(self.tile.rows)
            end = keys.start + (self.stack - 1) * step + len(keys)
            found = x[self.heads, keys.start : end].unfold(1, len(keys), step)
            return found.transpose(2, 3).flatten(0, 1)
        pieces = [x[self.heads, keys.start : keys.stop : keys.step] for keys in self.tile.keys]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def store(self, x: Tensor, value: Tensor) -> None:
        """Set the part's queries of x to a value."""
        place = self._rows(x)
        place.copy_(value.view(place.shape))

    def add_to_keys(self, x: Tensor, value: Tensor) -> None:
        """Add a value to the part's keys of x."""
        if self.stack > 1:
            keys, step = self.tile.keys[0], len(self.tile.rows)
            # The keys of a tile overlap those of the next: a step's width of each at a time.
            for start in range(0, len(keys), step):
                piece = value[:, start : start + step].unflatten(0, (-1, self.stack))
                first, width = keys.start + start, piece.shape[2]
                end = first + (self.stack - 1) * step + width
                place = x[self.heads, first:end].unfold(1, width, step)
                place += piece.transpose(2, 3)
            return
        pieces = value.split([len(keys) for keys in self.tile.keys], dim=1)
        for keys, piece in zip(self.tile.keys, pieces, strict=True):
            x[self.heads, keys.start : keys.stop : keys.step] += piece

    def of_heads(self, x: Tensor) -> Tensor:
        """Take what the part's heads have [heads * stack, ...] of x [B * Hkv, ...]."""
        return x[self.heads].repeat_interleave(self.stack, dim=0)

    def _rows(self, x: Tensor) -> Tensor:
        """View the part's queries of x [heads, stack * rows, G, d]."""
        rows = self.tile.rows
        end = rows[-1] + 1 + (self.stack - 1) * len(rows)
        return x[self.heads].unflatten(1, (-1, self.shared))[:, rows[0] : end : rows.step]

    def by_head(self, scores: Tensor) -> Tensor:
        """View scores [heads * stack, rows * G, keys] as [heads * stack, rows, G, keys]."""
        return scores.unflatten(1, (-1, self.shared))
