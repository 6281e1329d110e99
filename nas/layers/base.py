"""What every layer of a space is: a `Primitive` with a name, a shape, exact costs and a step."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

Argument = int | float | str
"""A parameter of a primitive, as `parse_argument` reads it from an architecture's text."""

State = Any
"""The state of a stream: nested tuples of tensors, opaque to everyone but its primitive."""


class StreamStates(tuple[State, ...]):
    """A state for each stream by itself, as for a batch of 1: streams that do not step together."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a primitive is built for.

    Args:
        length: Number of tokens L that costs are computed for. A built module takes any length.
        width: Number of channels D of its input and output.
        causal: Whether no output may depend on a later token.
    """

    length: int
    width: int
    causal: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """What a primitive costs for one sequence of `Shape.length` tokens.

    Args:
        parameters: Number of trainable numbers, exactly.
        flops: Of one forward pass: matrix products, convolutions, attention and recurrences, a
            multiply-add counting 2. Element-wise operations and norms are not counted.
        activations: Elements kept for the backward pass.
        state: Elements of the state of a stream (of `step`), once `length` tokens have passed.
    """

    parameters: int = 0
    flops: int = 0
    activations: int = 0
    state: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.parameters + other.parameters,
            self.flops + other.flops,
            self.activations + other.activations,
            self.state + other.state,
        )

    def __mul__(self, other: "Cost | int") -> "Cost":
        """Measure by measure: with a number, or with the multipliers of a block."""
        by = Cost(other, other, other, other) if isinstance(other, int) else other
        return Cost(
            self.parameters * by.parameters,
            self.flops * by.flops,
            self.activations * by.activations,
            self.state * by.state,
        )

    __rmul__ = __mul__


class Primitive(nn.Module):
    """A layer of a space: maps `[B, L, D]` to `[B, L, D]` for any L.

    A primitive is built from a shape, from the modules of its block arguments and from its
    parameters: `attention(4, 2, full, rope)` is `Attention(shape, heads=4, kv=2, window="full",
    position="rope")`, the keywords being the names of the space's rules. Its
    costs are class methods, so that they are known without building it.

    A parameter tensor that weight decay must leave alone (norms, biases, decay rates of gates)
    carries the attribute `no_weight_decay = True`; see `without_decay`.

    Args:
        shape: What it is built for.
        *blocks: The modules of its block arguments, in order; `copies` of each.
        **arguments: Its parameters.

    Raises:
        ValueError: The arguments do not fit the shape or each other.
        TypeError: A block or a parameter is missing, or is none of its own.
    """

    literals: ClassVar[tuple[str, ...]] = ()
    """Names of the parameters that a text gives as bare tokens, in order."""

    weightless: ClassVar[frozenset[str]] = frozenset()
    """Names of parameters that change neither how many numbers are trained nor the flops.

    It is a help, not a duty: a space under a cap asks for the cost of every combination of the
    other parameters only.
    """

    alike: ClassVar[tuple[tuple[str, frozenset[str]], ...]] = ()
    """Parameters, each with values that cost the same number of parameters and flops, as texts.

    They are not weightless because others of their values cost something else.
    """

    leads: ClassVar[bool] = False
    """Whether its last block comes after it: that block's input is what it makes itself."""

    def __init__(self, shape: Shape, *blocks: nn.Module, **arguments: Any) -> None:
        # A class takes its own blocks and parameters: what comes here belongs to none.
        if blocks or arguments:
            surplus = ", ".join(arguments) or f"{len(blocks)} blocks"
            raise TypeError(f"{type(self).__name__} takes none of these: {surplus}")
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Maps a whole sequence.

        Args:
            x: `[B, L, D]`.

        Returns:
            `[B, L, D]`.
        """
        raise NotImplementedError

    def init_state(self, batch: int, device: torch.device | str, dtype: torch.dtype) -> State:
        """The state before the first token of a stream.

        Args:
            batch: Number of streams B.
            device: Where the state lives.
            dtype: Type of the tokens; recurrent states are at least float32.

        Returns:
            Nested tuples of tensors whose first dimension is B, or that no stream changes alone;
            `StreamStates` where streams do not step together.

        Raises:
            RuntimeError: The layer is not causal, so that it cannot run one token at a time.
        """
        raise RuntimeError(f"{type(self).__name__} is not causal: it cannot run token by token")

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Maps one token: run over a sequence it gives what `forward` gives.

        Args:
            x: `[B, D]`.
            state: What `init_state` or the step before returned; it is not changed.

        Returns:
            The output `[B, D]` and the state for the next token.

        Raises:
            RuntimeError: As `init_state`.
        """
        raise RuntimeError(f"{type(self).__name__} is not causal: it cannot run token by token")

    def take_auxiliary_loss(self) -> Tensor | None:
        """What its own part asks of training beside the task; None: nothing.

        It sums what the forward passes in training mode have left behind, and forgets it: call it
        on every module of a model once after each forward pass.

        Returns:
            A differentiable number.
        """
        return None

    def output_weights(self) -> list[nn.Parameter]:
        """The weights that its output is linear in, which a residual network starts small."""
        return []

    @property
    def passes(self) -> int:
        """How often a token passes through each of its blocks."""
        return 1

    @classmethod
    def cost(cls, shape: Shape, *_: Any, **arguments: Any) -> Cost:
        """Its own cost, without that of its block arguments; raises ValueError as the class."""
        raise NotImplementedError

    @classmethod
    def active_parameters(cls, shape: Shape, *_: Any, **arguments: Any) -> int:
        """How many of its own parameters one token meets (fewer than all where it is routed)."""
        return cls.cost(shape, **arguments).parameters

    @classmethod
    def block_shape(cls, shape: Shape, *_: Any, **arguments: Any) -> Shape:
        """The shape that its block arguments see."""
        return shape

    @classmethod
    def block_shapes(cls, shape: Shape, count: int, /, **arguments: Any) -> tuple[Shape, ...]:
        """The shape that each of its `count` block arguments sees, where they differ."""
        return (cls.block_shape(shape, **arguments),) * count

    @classmethod
    def copies(cls, *_: Any, **arguments: Any) -> int:
        """How many separately built modules it takes for each block argument."""
        return 1

    @classmethod
    def multipliers(cls, *_: Any, **arguments: Any) -> Cost:
        """What the cost of its block arguments is multiplied by, measure by measure."""
        return Cost(1, 1, 1, 1)


class TokenWise(Primitive):
    """A primitive that maps every token by itself: it streams without a state."""

    def init_state(self, batch: int, device: torch.device | str, dtype: torch.dtype) -> State:
        """Nothing to remember."""
        return ()

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The forward pass of a sequence of one token."""
        return self(x.unsqueeze(1)).squeeze(1), state


def without_decay(parameter: nn.Parameter) -> nn.Parameter:
    """Marks a parameter as one that weight decay must leave alone, and returns it."""
    parameter.no_weight_decay = True  # type: ignore[attr-defined]
    return parameter


def sets_dynamics(parameter: nn.Parameter) -> nn.Parameter:
    """Marks a recurrence's decays or step sizes: no weight decay, and a rate of their own.

    A recipe may train them more slowly than all else (Gu et al. 2022; Smith et al. 2023).
    """
    parameter.sets_dynamics = True  # type: ignore[attr-defined]
    return without_decay(parameter)


PRIMITIVES: dict[str, type[Primitive]] = {}
"""Every primitive by the name it has in a space; filled when `nas.layers` is imported."""

_Class = TypeVar("_Class", bound=type[Primitive])


def primitive(name: str) -> Callable[[_Class], _Class]:
    """Registers a class under the name that terms of a space have.

    Args:
        name: Such as `attention`.

    Returns:
        The decorator; it returns the class unchanged.

    Raises:
        ValueError: The name is taken.
    """

    def register(cls: _Class) -> _Class:
        if name in PRIMITIVES:
            raise ValueError(f"primitive {name!r} is registered already, by {PRIMITIVES[name]}")
        PRIMITIVES[name] = cls
        return cls

    return register


@lru_cache(maxsize=4096)
def parse_argument(text: str) -> Argument:
    """Reads a parameter of an architecture's text.

    Args:
        text: Such as `64`, `0.5`, `1e-3`, `full`.

    Returns:
        A whole number where it is one, else a decimal number, else the text itself.
    """
    if re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.?\d+)([eE][+-]?\d+)?", text, re.ASCII):
        return float(text)
    return text
