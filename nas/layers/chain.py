"""Blocks one after the other: what sequences and stacks have in common."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from nas.layers.base import Primitive, Shape, State


class Chain(Primitive):
    """Blocks one after the other.

    Args:
        shape: Its own and each block's.
        *blocks: At least one; the first is the first to see the tokens.
    """

    def __init__(self, shape: Shape, *blocks: Primitive) -> None:
        super().__init__(shape)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, L, D] to [B, L, D]."""
        for block in self.blocks:
            x = block(x)
        return x

    def init_state(self, batch: int, device: torch.device | str, dtype: torch.dtype) -> State:
        """The states of the blocks."""
        return tuple(block.init_state(batch, device, dtype) for block in self._primitives())

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Each block takes its step."""
        states = []
        for block, before in zip(self._primitives(), state, strict=True):
            x, after = block.step(x, before)
            states.append(after)
        return x, tuple(states)

    def output_weights(self) -> list[nn.Parameter]:
        """Those of the last block."""
        return list(self._primitives())[-1].output_weights()

    def _primitives(self) -> Iterable[Primitive]:
        return cast(Iterable[Primitive], self.blocks)
