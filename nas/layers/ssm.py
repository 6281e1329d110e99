"""State spaces with more than one state a channel: Mamba's selective scan."""

import math

import torch
from torch import Tensor, nn

from nas.kernels.selective_scan.cpu import CHUNK
from nas.kernels.selective_scan.operator import selective_scan, selective_scan_step
from nas.layers.base import Cost, Primitive, Shape, State, primitive, sets_dynamics, without_decay
from nas.layers.numerics import at_least_float32, bounded
from nas.layers.projection import Projection, projection_cost

# Steps (of time) start log-uniform between these.
SHORTEST_STEP = 1e-3
LONGEST_STEP = 1e-1


@primitive("selective")
class Selective(Primitive):
    """h_t = exp(d_t A) h_{t-1} + d_t x_t B_t, y_t = C_t . h_t + s x_t: S6, N states a channel.

    The steps d_t = softplus(W_d V x_t + b) of each channel pass a bottleneck V of D / 32 channels,
    a sixteenth of the model's width in Mamba's block, which is twice as wide inside; B_t = W_B x_t
    and C_t = W_C x_t, [N], are shared by all channels. A = -exp(log_rates) [D, N] starts at
    -1 .. -N, b so that the steps are log-uniform in [1e-3, 1e-1], W_d uniform in
    +-1 / sqrt(D / 32), the maps of x uniform in +-1 / sqrt(D), the skip's weights at 1 (Gu and Dao
    2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces"). Weight decay leaves
    A, b and the skip alone.

    Use it where what to remember depends on the token, and a state of N numbers a channel is
    affordable.

    Args:
        shape: Width D.
        states: N.
        direction: `forward`; and where the shape is not causal `backward`, from the last token to
            the first, or `both`: the first half of the channels forward, the others backward.

    Raises:
        ValueError: An argument is none of these.
    """

    weightless = frozenset({"direction"})

    def __init__(self, shape: Shape, *, states: int, direction: str) -> None:
        super().__init__(shape)
        _check(shape, states, direction)
        width, rank = shape.width, _rank(shape.width)
        self.width, self.states, self.rank = width, states, rank
        self.direction = direction
        self.projection = Projection(width, rank + 2 * states, bias=False)
        nn.init.uniform_(self.projection.weight, -1 / math.sqrt(width), 1 / math.sqrt(width))
        self.step_projection = Projection(rank, width, bias=False)
        nn.init.uniform_(self.step_projection.weight, -1 / math.sqrt(rank), 1 / math.sqrt(rank))
        self.step_bias = sets_dynamics(nn.Parameter(_initial_step_bias(width)))
        rates = torch.arange(1, states + 1, dtype=torch.get_default_dtype()).log()
        self.log_rates = sets_dynamics(nn.Parameter(rates.repeat(width, 1)))
        self.skip = without_decay(nn.Parameter(torch.ones(width)))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, L, D] to [B, L, D]."""
        steps, rates, inputs, outputs, skip, bias = self._parts(x)
        half = self.width // 2 if self.direction == "both" else 0
        forward_until = self.width if self.direction == "forward" else half
        parts = []
        for first, last, reverse in ((0, forward_until, False), (forward_until, self.width, True)):
            if first == last:
                continue
            y, _ = selective_scan(
                x[..., first:last],
                steps[..., first:last],
                rates[first:last],
                inputs,
                outputs,
                skip[first:last],
                None,
                bias[first:last],
                delta_softplus=True,
                reverse=reverse,
            )
            parts.append(y)
        return bounded(torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0])

    def init_state(self, batch: int, device: torch.device | str, dtype: torch.dtype) -> State:
        """h, [B, D, N], in at least float32."""
        if self.direction != "forward":
            return super().init_state(batch, device, dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        return torch.zeros(batch, self.width, self.states, device=device, dtype=dtype)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of the recurrence."""
        if self.direction != "forward":
            return super().step(x, state)
        steps, rates, inputs, outputs, skip, bias = self._parts(x)
        y, state = selective_scan_step(
            x, steps, rates, inputs, outputs, skip, None, bias, state, delta_softplus=True
        )
        return bounded(y), state

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Steps [..., D] before bias and softplus, A, B and C [..., N], skip and bias [D]."""
        widths = (self.rank, self.states, self.states)
        low, inputs, outputs = self.projection(x).split(widths, dim=-1)
        rates = -torch.exp(at_least_float32(self.log_rates))
        steps = self.step_projection(low)
        return steps, rates, inputs, outputs, self.skip, self.step_bias

    @classmethod
    def cost(cls, shape: Shape, *, states: int, direction: str) -> Cost:
        """Its linear maps, and two multiply-adds per token, channel and state."""
        _check(shape, states, direction)
        length, width, rank = shape.length, shape.width, _rank(shape.width)
        chunks = -(-length // CHUNK)
        return (
            projection_cost(length, width, rank + 2 * states, bias=False)
            + projection_cost(length, rank, width, bias=False)
            + Cost(
                parameters=width * (states + 2),
                flops=4 * length * width * states,
                # x, the steps, what is mapped and the factor of the output; a state per chunk
                activations=length * (2 * width + rank + 2 * states + 1) + chunks * width * states,
                state=width * states if direction == "forward" else 0,
            )
        )


def _rank(width: int) -> int:
    """Channels that the steps are made from."""
    return -(-width // 32)


def _initial_step_bias(width: int) -> Tensor:
    """The bias [D] b such that softplus(b) is log-uniform in the range of the steps."""
    logarithms = torch.empty(width).uniform_(math.log(SHORTEST_STEP), math.log(LONGEST_STEP))
    steps = logarithms.exp()
    # The inverse of softplus, log(exp(d) - 1), without its cancellation.
    return steps + torch.log(-torch.expm1(-steps))


def _check(shape: Shape, states: int, direction: str) -> None:
    if not (isinstance(states, int) and states >= 1):
        raise ValueError(f"states are a number of at least 1, not {states!r}")
    if direction not in ("forward", "backward", "both"):
        raise ValueError(f"a scan's direction is forward, backward or both, not {direction!r}")
    if direction != "forward" and shape.causal:
        raise ValueError(f"a {direction} scan sees later tokens: write forward, the task is causal")
