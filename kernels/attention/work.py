"""Attention's work in plain torch, cut into parts that fit into a cache; the weights of each."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nas.kernels.attention.part import Part
from nas.kernels.attention.pattern import Landmark, Pattern, Prefix, Tile, period

# Scores computed at a time. They are read and written some ten times: they should stay in a cache.
SCORES = 2**18

# Score of a key that is not seen: its exponential is 0, and unlike -inf it is never 0 / 0.
HIDDEN = -1e38


class Work:
    """The operands, in one type and with the heads apart, and the parts into which they fall."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        slopes: Tensor | None,
        lengths: Tensor | None,
        pattern: Pattern,
        score: str,
        scale: float,
    ) -> None:
        dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        self.shared = q.shape[2] // k.shape[2]
        self.queries, self.keys = q.shape[1], k.shape[1]
        self.q = folded(q, self.shared, dtype) * scale
        self.k, self.v = (folded(x, 1, dtype) for x in (k, v))
        self.pattern, self.score = pattern, score
        self.bias, self.slopes = (
            None
            if x is None
            else x.to(dtype)
            .view(1, -1, 1, self.shared, 1)
            .expand(q.shape[0], -1, 1, self.shared, 1)
            .flatten(0, 1)
            for x in (bias if score == "sigmoid" else None, slopes)
        )  # [B * Hkv, 1, G, 1]
        self.lengths = None
        if lengths is not None:
            self.lengths = lengths.repeat_interleave(k.shape[2]).view(-1, 1, 1)

    def parts(self) -> Iterator[Part]:
        """Cut the work so that the scores of a part stay in a cache."""
        pattern = self.pattern
        if self.lengths is not None:
            pattern = Prefix(min(max(int(self.lengths.max()), 0), self.keys))
        known: dict[Any, list[Tensor]] = {}
        for part in self._stacked(pattern.tiles(self.queries, self.keys)):
            hidden = None
            if not isinstance(pattern, Prefix):
                # Most tiles look alike, and a mask takes as long as some products.
                like = part.likeness(period(pattern))
                if like not in known:
                    known[like] = self._hidden(part, pattern)
                hidden = known[like]
            elif self.lengths is None:
                hidden = self._hidden(part, pattern)
            size = part.stack * len(part.tile.rows) * part.shared * part.width
            step = max(1, SCORES // size)
            for start in range(0, len(self.q), step):
                part = part._replace(heads=slice(start, min(len(self.q), start + step)))
                masks = hidden
                if masks is None and self.lengths is not None:
                    masks = self._hidden(part, Prefix(self.lengths[part.heads]))
                yield part._replace(hidden=tuple(zip(part.unclear(), masks or (), strict=True)))

    def _stacked(self, tiles: Iterator[Tile]) -> Iterator[Part]:
        """Put tiles together, of all heads, whose scores fit into a cache together."""
        held: Part | None = None
        for tile in tiles:
            part = Part(slice(None), tile, 1, self.shared, self.keys - self.queries, ())
            if part.width == 0:
                continue
            if held is not None:
                size = len(self.q) * self.shared * len(tile.rows) * part.width
                if held.is_before(part) and size * (held.stack + 1) <= SCORES:
                    held = held._replace(stack=held.stack + 1)
                    continue
                yield held
            held = part
        if held is not None:
            yield held

    def weights(self, part: Part) -> Tensor:
        """Compute a part's weights [heads * stack, rows * G, keys], 0 where nothing is seen."""
        scores = part.of_rows(self.q) @ part.of_keys(self.k).mT
        by_head = part.by_head(scores)
        if self.bias is not None:
            by_head += part.of_heads(self.bias)
        if self.slopes is not None:
            by_head -= part.of_heads(self.slopes) * (
                part.i(scores) - part.j(scores)
            ).abs().unsqueeze(1)
        for columns, hidden in part.hidden:
            by_head[..., columns] += hidden.unsqueeze(-2)
        if self.score == "sigmoid":
            return scores.sigmoid_()
        if isinstance(self.pattern, Landmark):
            weights = grouped_softmax(scores, part, self.pattern.block)
        else:
            weights = scores.softmax(-1)
        if part.tile.rows[0] < self.queries - self.keys:
            # Before the first key there may be nothing to see: no weight, and not the same for all.
            weights.masked_fill_(scores.amax(-1, keepdim=True) < HIDDEN / 2, 0)
        return weights

    def _hidden(self, part: Part, pattern: Pattern) -> list[Tensor]:
        i, j = part.i(self.q), part.j(self.q)
        hidden = []
        for columns in part.unclear():
            visible = pattern.visible(i, j[columns])
            # To add is ten times as fast as masked_fill_.
            nothing = torch.zeros(visible.shape, dtype=self.q.dtype, device=visible.device)
            hidden.append(nothing.masked_fill_(~visible, HIDDEN))
        return hidden


def grouped_softmax(scores: Tensor, part: Part, block: int) -> Tensor:
    """Compute the weights of landmark attention.

    Those of a first softmax over the row's own block and the landmarks before; to the tokens of a
    block before goes the part of its landmark, times a softmax inside.
    """
    blocks, before = _blocks_before(scores, part, block)
    if blocks is None:
        return scores.softmax(-1)
    inside = blocks[..., :-1].softmax(-1)
    blocks[..., :-1].masked_fill_(before.unsqueeze(-1), HIDDEN)
    weights = scores.softmax(-1)
    if torch.is_grad_enabled():
        weights = weights.clone()  # a step is differentiated by autograd, which needs the softmax
    blocks, _ = _blocks_before(weights, part, block)
    # No other landmark has a part: that of the own block is hidden.
    blocks[..., :-1].addcmul_(blocks[..., -1:].clone(), inside)
    blocks[..., -1] = 0
    return weights


def ungroup(grad_scores: Tensor, weights: Tensor, part: Part, block: int) -> None:
    """Change P (dP - rowsum(P dP)) into the gradients of landmark attention's scores.

    Those would be right if each weight were exp(score), up to a factor of the row; but that of a
    token of a block before is exp(landmark + score) / sum(exp(scores of its block)).
    """
    blocks, before = _blocks_before(grad_scores, part, block)
    if blocks is not None:
        parts, _ = _blocks_before(weights, part, block)
        tokens, weight = blocks[..., :-1], parts[..., :-1]
        total = tokens.sum(-1).masked_fill_(~before, 0)
        share = weight.sum(-1)
        # Of no weight there is no part to give away, and 0 / 0.
        mean = total / share.masked_fill(share == 0, 1)
        tokens.addcmul_(weight, mean.unsqueeze(-1), value=-1)
        blocks[..., -1] = total


def _blocks_before(scores: Tensor, part: Part, block: int) -> tuple[Any, Tensor]:
    """View the whole blocks among the keys; say which are before the row's own [rows * G, n]."""
    whole = scores.shape[-1] // block
    before = part.i(scores) // block > torch.arange(whole, device=scores.device)
    view = scores[..., : whole * block].unflatten(-1, (whole, block)) if whole else None
    return view, before.repeat_interleave(part.shared, dim=0)


def folded(x: Tensor, shared: int, dtype: torch.dtype) -> Tensor:
    """[B, L, Hkv * G, d] as [B * Hkv, L * G, d]: the query heads of a key head side by side."""
    apart = x.unflatten(2, (-1, shared)).permute(0, 2, 1, 3, 4)
    return apart.to(dtype).flatten(2, 3).flatten(0, 1).contiguous()


def unfolded(x: Tensor, like: Tensor, shared: int) -> Tensor:
    """[B * Hkv, L * G, ...] as [B, L, Hkv * G, ...], contiguous."""
    apart = x.unflatten(0, (like.shape[0], -1)).unflatten(2, (-1, shared))
    return apart.transpose(1, 2).flatten(2, 3).contiguous()
