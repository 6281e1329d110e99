"""A linear recurrence whose state is the weights of a small network: WARP."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.kernels.diagonal_scan.operator import diagonal_scan, diagonal_scan_step
from nas.layers.base import Cost, Primitive, Shape, State, primitive, sets_dynamics
from nas.layers.numerics import at_least_float32, bounded
from nas.layers.projection import Projection, projection_cost


@primitive("weight_space")
class WeightSpace(Primitive):
    """theta_t = a * theta_{t-1} + B (x_t - x_{t-1}); y_t = MLP_theta_t(t / (length - 1)).

    theta_t are the N = 2 units + (units + 1) D weights and biases of an MLP from time to the D
    channels, y = W2 relu(w1 tau + b1) + b2; theta_0 = phi(x_0), a linear map with bias. a is the
    diagonal of the published matrix A, which is dense: N^2 numbers. It starts at 1, the identity,
    B at 0. Time goes by the length that the layer is built for, whatever the length of a sequence,
    so that a stream need not know when it ends.

    Args:
        shape: Width D; the length that time is measured in.
        units: Inner channels of the MLP.

    Raises:
        ValueError: There are no units.

    Source: Nzoyem et al. 2025, "Weight-Space Linear Recurrent Neural Networks" (WARP), section 2.

    Use it where what comes next is a smooth function of time whose shape the past has set: series
    that are measured, not tokens that are looked up.
    """

    def __init__(self, shape: Shape, *, units: int) -> None:
        super().__init__(shape)
        _check(units)
        self.units, self.width, self.length = units, shape.width, shape.length
        size = _size(shape.width, units)
        self.initial = Projection(shape.width, size, bias=True)
        self.input = Projection(shape.width, size, bias=False)
        nn.init.zeros_(self.input.weight)
        self.decay = sets_dynamics(nn.Parameter(torch.ones(size)))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, L, D] to [B, L, D]."""
        first = at_least_float32(self.initial(x[:, 0]))
        steps = at_least_float32(self.input(x - F.pad(x[:, :-1], (0, 0, 1, 0))))
        # The first step has no token before it: theta_0 is all there is.
        steps = torch.cat((first.unsqueeze(1), steps[:, 1:]), dim=1)
        a = at_least_float32(self.decay).clamp(-1.0, 1.0).expand_as(steps)
        theta, _ = diagonal_scan(a, steps)
        return self._root(theta, torch.arange(x.shape[1], device=x.device)).to(x.dtype)

    def init_state(self, batch: int, device: torch.device | str, dtype: torch.dtype) -> State:
        """theta, [B, N] in at least float32; the token before, [B, D]; the position."""
        number = torch.promote_types(dtype, torch.float32)
        theta = torch.zeros(batch, len(self.decay), device=device, dtype=number)
        before = torch.zeros(batch, self.width, device=device, dtype=dtype)
        return theta, before, torch.zeros(1, device=device, dtype=torch.long)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of the recurrence."""
        theta, before, position = state
        step = torch.where(position == 0, self.initial(x), self.input(x - before))
        a = at_least_float32(self.decay).clamp(-1.0, 1.0).expand_as(theta)
        new, theta = diagonal_scan_step(a, at_least_float32(step), theta)
        y = self._root(new.unsqueeze(1), position).squeeze(1)
        return y.to(x.dtype), (theta, x, position + 1)

    def _root(self, theta: Tensor, positions: Tensor) -> Tensor:
        """The outputs of weights [B, L, N] at positions [L]."""
        time = (positions.to(theta.dtype) / max(1, self.length - 1)).unsqueeze(-1)
        sizes = (self.units, self.units, self.units * self.width, self.width)
        slope, offset, outer, bias = theta.split(sizes, dim=-1)
        h = F.relu(slope * time + offset).unsqueeze(-1)
        y = (outer.unflatten(-1, (self.width, self.units)) @ h).squeeze(-1)
        return bounded(y / self.units**0.5 + bias)

    @classmethod
    def cost(cls, shape: Shape, *, units: int) -> Cost:
        """Its linear maps, a multiply-add a token and weight, and the product with W2."""
        _check(units)
        length, width, size = shape.length, shape.width, _size(shape.width, units)
        # x, for its first token; differences, theta, h, the bound of y
        kept = length * (2 * width + size + units + 1)
        cost = Cost(
            parameters=size,
            flops=2 * length * (size + units * width),
            activations=kept,
            state=size + width,
        )
        cost += projection_cost(1, width, size, bias=True)
        return cost + projection_cost(length, width, size, bias=False)


def _size(width: int, units: int) -> int:
    """Numbers of the MLP's weights and biases."""
    return 2 * units + (units + 1) * width


def _check(units: int) -> None:
    if units < 1:
        raise ValueError(f"the network needs at least 1 unit, not {units}")
