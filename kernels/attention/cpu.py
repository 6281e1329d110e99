"""Attention in plain torch, tile by tile of queries, and a gradient written by hand.

Everything here needs torch and the patterns alone, so that a model which uses attention can carry
these definitions with it. It runs on any device; on a CPU it is the default.

The scores of a tile of queries are computed against the keys that some query of the tile sees, and
no others, used, and forgotten: the gradient computes them again. So neither time nor memory has a
part for what a pattern hides. Where torch's own scaled_dot_product_attention computes the same
(softmax, all keys or those before), it is used.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.attention.pattern import (
    Causal,
    Full,
    Landmark,
    Pattern,
    Prefix,
    Tile,
    period,
)

# Scores computed at a time. They are read and written some ten times: they should stay in a cache.
SCORES = 2**18

# Score of a key that is not seen: its exponential is 0, and unlike -inf it is never 0 / 0.
HIDDEN = -1e38


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    score: str = "softmax",
    pattern: Pattern = Full(),  # noqa: B008 (it cannot change)
    scale: float | None = None,
    bias: float | Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Compute attention, o_i = sum_j p_ij v_j over the keys j that query i sees.

    With "softmax" p_i is the softmax of the scores scale * q_i.k_j, with "sigmoid"
    p_ij = sigmoid(scale * q_i.k_j + bias) (Ramapuram et al. 2024, "Theory, Analysis, and Best
    Practices for Sigmoid Self-Attention": bias = -log L). A query that sees nothing gets 0.
    Differentiable once in q, k, v and bias.

    Args:
        q: queries [B, L, H, d].
        k: keys [B, M, Hkv, d]; query head h reads the head h // (H // Hkv).
        v: values [B, M, Hkv, d].
        score: "softmax" or "sigmoid".
        pattern: which keys a query sees.
        scale: of the scores; None means d ** -0.5.
        bias: of the sigmoid: a number, or a tensor with one for each head [H].
        slopes: what a score loses for each step of distance, for each head [H], without a gradient
            (Press et al. 2022, "ALiBi").

    Returns:
        [B, L, H, d] in the promoted type of q, k and v.
    """
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if in_library(q, k, score, pattern, slopes):
        return library_attention(q, k, v, pattern, scale)
    lengths = None
    if isinstance(pattern, Prefix) and isinstance(pattern.length, Tensor):
        lengths = pattern.length
    if bias is not None and not isinstance(bias, Tensor):
        bias = q.new_full((q.shape[2],), bias, dtype=torch.float32)
    out: Tensor = _Attention.apply(q, k, v, bias, slopes, lengths, pattern, score, scale)
    return out


def attention_step(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    score: str = "softmax",
    pattern: Pattern = Full(),  # noqa: B008 (it cannot change)
    scale: float | None = None,
    bias: float | Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Compute attention of the last query, over the keys so far.

    Args:
        q: the query [B, H, d] of the position M - 1.
        k_cache: all keys up to its own [B, M, Hkv, d]. Where the pattern is a window, the last ones
            that it sees are enough.
        v_cache: their values [B, M, Hkv, d].
        score: "softmax" or "sigmoid".
        pattern: which keys a query sees. Where it looks back only, the result is that of the whole
            sequence; otherwise keys to come are missing.
        scale: of the scores; None means d ** -0.5.
        bias: of the sigmoid: a number, or a tensor with one for each head [H].
        slopes: what a score loses for each step of distance, for each head [H].

    Returns:
        [B, H, d] in the promoted type of the tensors.
    """
    lengths = None
    if isinstance(pattern, Prefix) and isinstance(pattern.length, Tensor):
        lengths = pattern.length
    if bias is not None and not isinstance(bias, Tensor):
        bias = q.new_full((q.shape[1],), bias, dtype=torch.float32)
    scale = q.shape[2] ** -0.5 if scale is None else scale
    out, _ = attention_forward(
        q.unsqueeze(1), k_cache, v_cache, bias, slopes, lengths, pattern, score, scale
    )
    return out.squeeze(1)


def in_library(q: Tensor, k: Tensor, score: str, pattern: Pattern, slopes: Tensor | None) -> bool:
    """Whether torch's scaled_dot_product_attention computes the same."""
    # Its causal mask begins at the first key, and not so that the last query is at the last.
    square = isinstance(pattern, Causal) and q.shape[1] == k.shape[1]
    return score == "softmax" and slopes is None and (isinstance(pattern, Full) or square)


def library_attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float) -> Tensor:
    """Let torch compute what is `in_library`."""
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2).to(dtype),
        k.transpose(1, 2).to(dtype),
        v.transpose(1, 2).to(dtype),
        is_causal=isinstance(pattern, Causal),
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        slopes: Tensor | None,
        lengths: Tensor | None,
        pattern: Pattern,
        score: str,
        scale: float,
    ) -> Tensor:
        out, lse = attention_forward(q, k, v, bias, slopes, lengths, pattern, score, scale)
        ctx.save_for_backward(q, k, v, bias, slopes, lengths, out, lse)
        ctx.how = pattern, score, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        if torch.is_grad_enabled():
            # Not once_differentiable: that takes the gradient for a constant without a word.
            raise RuntimeError(
                "attention can be differentiated only once: call backward or grad without "
                "create_graph=True"
            )
        q, k, v, bias, slopes, lengths, out, lse = ctx.saved_tensors
        *grads, grad_bias = attention_backward(
            q, k, v, bias, slopes, lengths, out, lse, grad_out, *ctx.how
        )
        return *grads, None if bias is None else grad_bias.to(bias.dtype), *[None] * 5


def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    slopes: Tensor | None,
    lengths: Tensor | None,
    pattern: Pattern,
    score: str,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Compute attention without a gradient.

    Args:
        q: [B, L, H, d].
        k: [B, M, Hkv, d].
        v: [B, M, Hkv, d].
        bias: of the sigmoid [H].
        slopes: [H].
        lengths: of the prefixes [B], where they are a tensor.
        pattern: which keys a query sees.
        score: "softmax" or "sigmoid".
        scale: of the scores.

    Returns:
        The output [B, L, H, d] in the promoted type of q, k and v, and [0]: other implementations
        keep something of a softmax for its gradient.
    """
    work = _Work(q, k, v, bias, slopes, lengths, pattern, score, scale)
    out = torch.zeros_like(work.q)
    for part in work.parts():
        part.store(out, work.weights(part) @ part.of_keys(work.v))
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    return _unfolded(out, q, work.shared).to(dtype), out.new_empty(0)


def attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    slopes: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    pattern: Pattern,
    score: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of q, k, v in their types, and of the bias [H], at least float32.

    With P the weights and dP = grad_out v' their gradients, those of the scores are
    P (dP - rowsum(grad_out * out)) for a softmax and P (1 - P) dP for a sigmoid.
    """
    work = _Work(q, k, v, bias, slopes, lengths, pattern, score, scale)
    grad = _folded(grad_out, work.shared, work.q.dtype)
    grad_q, grad_k, grad_v = (torch.zeros_like(x) for x in (work.q, work.k, work.v))
    grad_bias = work.q.new_zeros(work.q.shape[0], work.shared)
    mean = (grad * _folded(out, work.shared, work.q.dtype)).sum(-1, keepdim=True)
    for part in work.parts():
        weights, incoming = work.weights(part), part.of_rows(grad)
        part.add_to_keys(grad_v, weights.mT @ incoming)
        grad_scores = incoming @ part.of_keys(work.v).mT
        if score == "sigmoid":
            grad_scores.mul_(torch.addcmul(weights, weights, weights, value=-1))
            of_stack = part.by_head(grad_scores).sum((1, 3)).unflatten(0, (-1, part.stack))
            grad_bias[part.heads] += of_stack.sum(1)
        else:
            grad_scores.sub_(part.of_rows(mean)).mul_(weights)
            if isinstance(pattern, Landmark):
                _ungroup(grad_scores, weights, part, pattern.block)
        part.store(grad_q, grad_scores @ part.of_keys(work.k))
        part.add_to_keys(grad_k, grad_scores.mT @ part.of_rows(work.q))
    # work.q already has the scale that the gradient of k needs.
    grad_q = _unfolded(grad_q.mul_(scale), q, work.shared).to(q.dtype)
    grad_k, grad_v = (_unfolded(x, k, 1) for x in (grad_k, grad_v))
    grads = grad_bias.unflatten(0, (q.shape[0], k.shape[2])).sum(0).flatten()
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), grads


class _Part(NamedTuple):
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

    def is_before(self, other: "_Part") -> bool:
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


class _Work:
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
        self.q = _folded(q, self.shared, dtype) * scale
        self.k, self.v = (_folded(x, 1, dtype) for x in (k, v))
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

    def parts(self) -> Iterator[_Part]:
        """Cut the work so that the scores of a part stay in a cache."""
        pattern = self.pattern
        if self.lengths is not None:
            pattern = Prefix(int(self.lengths.max()))
        known: dict[Any, list[Tensor]] = {}
        for part in self._stacked(pattern.tiles(self.queries, self.keys)):
            tile, size = part.tile, part.shared * len(part.tile.rows) * part.width
            # Most tiles look alike, and a mask takes as long as some products.
            like = tile if isinstance(pattern, Prefix) else part.likeness(period(pattern))
            if self.lengths is None and like not in known:
                known[like] = self._hidden(part, pattern)
            step = max(1, SCORES // (size * part.stack))
            for start in range(0, len(self.q), step):
                part = part._replace(heads=slice(start, min(len(self.q), start + step)))
                if self.lengths is None:
                    hidden = known[like]
                else:
                    hidden = self._hidden(part, Prefix(self.lengths[part.heads]))
                yield part._replace(hidden=tuple(zip(part.unclear(), hidden, strict=True)))

    def _stacked(self, tiles: Iterator[Tile]) -> Iterator[_Part]:
        """Put tiles together, of all heads, whose scores fit into a cache together."""
        held: _Part | None = None
        for tile in tiles:
            part = _Part(slice(None), tile, 1, self.shared, self.keys - self.queries, ())
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

    def weights(self, part: _Part) -> Tensor:
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
            weights = _grouped_softmax(scores, part, self.pattern.block)
        else:
            weights = scores.softmax(-1)
        if part.tile.rows[0] < self.queries - self.keys:
            # Before the first key there may be nothing to see: no weight, and not the same for all.
            weights.masked_fill_(scores.amax(-1, keepdim=True) < HIDDEN / 2, 0)
        return weights

    def _hidden(self, part: _Part, pattern: Pattern) -> list[Tensor]:
        i, j = part.i(self.q), part.j(self.q)
        hidden = []
        for columns in part.unclear():
            visible = pattern.visible(i, j[columns])
            # To add is ten times as fast as masked_fill_.
            nothing = torch.zeros(visible.shape, dtype=self.q.dtype, device=visible.device)
            hidden.append(nothing.masked_fill_(~visible, HIDDEN))
        return hidden


def _grouped_softmax(scores: Tensor, part: _Part, block: int) -> Tensor:
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
    blocks, _ = _blocks_before(weights, part, block)
    # No other landmark has a part: that of the own block is hidden.
    blocks[..., :-1].addcmul_(blocks[..., -1:], inside)
    blocks[..., -1] = 0
    return weights


def _ungroup(grad_scores: Tensor, weights: Tensor, part: _Part, block: int) -> None:
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


def _blocks_before(scores: Tensor, part: _Part, block: int) -> tuple[Any, Tensor]:
    """View the whole blocks among the keys; say which are before the row's own [rows * G, n]."""
    whole = scores.shape[-1] // block
    before = part.i(scores) // block > torch.arange(whole, device=scores.device)
    view = scores[..., : whole * block].unflatten(-1, (whole, block)) if whole else None
    return view, before.repeat_interleave(part.shared, dim=0)


def _folded(x: Tensor, shared: int, dtype: torch.dtype) -> Tensor:
    """[B, L, Hkv * G, d] as [B * Hkv, L * G, d]: the query heads of a key head side by side."""
    apart = x.unflatten(2, (-1, shared)).permute(0, 2, 1, 3, 4)
    return apart.to(dtype).flatten(2, 3).flatten(0, 1).contiguous()


def _unfolded(x: Tensor, like: Tensor, shared: int) -> Tensor:
    """[B * Hkv, L * G, ...] as [B, L, Hkv * G, ...], contiguous."""
    apart = x.unflatten(0, (like.shape[0], -1)).unflatten(2, (-1, shared))
    return apart.transpose(1, 2).flatten(2, 3).contiguous()
