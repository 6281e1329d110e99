"""State spaces that are the same at every token: S4D, the LRU and damped moving averages."""

import math

import torch
from torch import Tensor, nn

from nas.kernels.diagonal_scan.operator import diagonal_scan, diagonal_scan_step
from nas.layers.base import Cost, Primitive, Shape, State, primitive, sets_dynamics, without_decay
from nas.layers.ema import EMASpace
from nas.layers.numerics import at_least_float32, bounded
from nas.layers.projection import Projection, projection_cost

# The steps of S4D start log-uniform between these, the rings of the LRU have radii between those.
SHORTEST_STEP = 1e-3
LONGEST_STEP = 1e-1
SMALLEST_RADIUS = 0.9
LARGEST_RADIUS = 0.999


@primitive("diagonal")
class DiagonalStateSpace(Primitive):
    """h_t = a * h_{t-1} + B x_t, y_t = Re(C h_t) + s * x_t; h, a, B and C complex, or real (`ema`).

    `s4d` gives every channel N / 2 pairs of states of its own (`S4DSpace`), `lru` all channels
    together N states that they write and read by full matrices (`LRUSpace`), `ema` every channel N
    damped moving averages (`EMASpace`).

    Use it for long, smooth signals, whose dynamics need not depend on the token.

    Args:
        shape: Width D.
        parameterisation: `s4d`, `lru` or `ema`: what a, B and C are made of.
        states: N; even for `s4d`.
        direction: `forward`; and where the shape is not causal `backward`, from the last token to
            the first, or `both`: the first half of the states forward, the others backward.

    Raises:
        ValueError: An argument is none of these.
    """

    weightless = frozenset({"direction"})

    def __init__(self, shape: Shape, *, parameterisation: str, states: int, direction: str) -> None:
        super().__init__(shape)
        _check(shape, parameterisation, states, direction)
        self.direction = direction
        self.space: S4DSpace | LRUSpace | EMASpace
        if parameterisation == "s4d":
            self.space = S4DSpace(shape.width, states)
            self.width = shape.width * states // 2
            self.half_width = shape.width // 2 * (states // 2)
        elif parameterisation == "ema":
            self.space = EMASpace(shape.width, states)
            self.width = shape.width * states
            self.half_width = shape.width // 2 * states
        else:
            self.space = LRUSpace(shape.width, states)
            self.width = states
            self.half_width = states // 2
        self.skip = without_decay(nn.Parameter(torch.randn(shape.width)))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, L, D] to [B, L, D]."""
        a, b = self.space.enter(x)
        a = a.expand_as(b)
        turn = {"forward": self.width, "backward": 0, "both": self.half_width}[self.direction]
        parts = []
        if turn > 0:
            h, _ = diagonal_scan(a[..., :turn], b[..., :turn])
            parts.append(h)
        if turn < self.width:
            h, _ = diagonal_scan(a[..., turn:], b[..., turn:], reverse=True)
            parts.append(h)
        return self._leave(torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0], x)

    def init_state(self, batch: int, device: torch.device | str, dtype: torch.dtype) -> State:
        """h, or its real and imaginary part [B, states, 2], in at least float32."""
        if self.direction != "forward":
            return super().init_state(batch, device, dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        parts = () if self.space.real else (2,)
        return torch.zeros(batch, self.width, *parts, device=device, dtype=dtype)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of the recurrence."""
        if self.direction != "forward":
            return super().step(x, state)
        a, b = self.space.enter(x)
        if self.space.real:
            h, state = diagonal_scan_step(a.expand_as(b), b, state)
            return self._leave(h, x), state
        h, state = diagonal_scan_step(a.expand_as(b), b, torch.view_as_complex(state))
        return self._leave(h, x), torch.view_as_real(state)

    def _leave(self, h: Tensor, x: Tensor) -> Tensor:
        return bounded(self.space.leave(h) + self.skip * x).to(x.dtype)

    @classmethod
    def cost(cls, shape: Shape, *, parameterisation: str, states: int, direction: str) -> Cost:
        """The recurrence, a multiply-add a state (complex: four), and what writes and reads it."""
        _check(shape, parameterisation, states, direction)
        length, width = shape.length, shape.width
        # The input, and the factor of the output.
        cost = Cost(parameters=width, activations=length * (width + 1))
        kept = 2 if direction == "both" else 1  # both directions are put together
        if parameterisation == "ema":
            real_states = width * states
            return cost + Cost(
                parameters=4 * real_states,
                flops=4 * length * real_states,
                activations=kept * length * real_states,
                state=real_states if direction == "forward" else 0,
            )
        if parameterisation == "s4d":
            complex_states = width * states // 2
            # Rates, frequencies, C; steps. Reading takes two multiply-adds.
            cost += Cost(4 * complex_states + width, flops=4 * length * complex_states)
        else:
            complex_states = states
            cost += projection_cost(length, width, 2 * states, bias=False)
            cost += projection_cost(length, 2 * states, width, bias=False)
            # Radii, phases, scales; keeps what is scaled.
            cost += Cost(3 * states, activations=2 * length * states)
        return cost + Cost(
            flops=8 * length * complex_states,
            activations=2 * kept * length * complex_states,
            state=2 * complex_states if direction == "forward" else 0,
        )


class S4DSpace(nn.Module):
    """a = exp(d A), B = (exp(d A) - 1) / A, y = 2 Re(sum_n C_n h_n), for each channel by itself.

    A = -exp(log_rates) + i frequencies, held for a step d of the channel (zero-order hold). Starts
    at A_n = -1/2 + i pi n, n = 0 .. N/2 - 1, with log-uniform steps in [1e-3, 1e-1] and complex
    normal C; weight decay leaves A and d alone (Gu et al. 2022, "On the Parameterization and
    Initialization of Diagonal State Space Models": S4D-Lin).

    Args:
        width: Number of channels D.
        states: N, which is even: half of them are the conjugates of the others.
    """

    real = False

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        pairs = states // 2
        steps = torch.empty(width).uniform_(math.log(SHORTEST_STEP), math.log(LONGEST_STEP))
        self.log_steps = sets_dynamics(nn.Parameter(steps))
        self.log_rates = sets_dynamics(nn.Parameter(torch.full((width, pairs), math.log(0.5))))
        frequencies = math.pi * torch.arange(pairs, dtype=torch.get_default_dtype())
        self.frequencies = sets_dynamics(nn.Parameter(frequencies.repeat(width, 1)))
        # Real and imaginary parts; |C|^2 is 1 in the mean.
        self.readout = nn.Parameter(torch.randn(width, pairs, 2) * math.sqrt(0.5))

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gates a [D * N/2], and B x [..., D * N/2] of tokens [..., D]."""
        steps = at_least_float32(self.log_steps).exp().unsqueeze(-1)
        rates, frequencies = -at_least_float32(self.log_rates).exp(), self.frequencies
        shrink, turn = steps * rates, steps * at_least_float32(frequencies)
        sine = torch.sin(turn)
        a = torch.exp(shrink) * torch.complex(torch.cos(turn), sine)
        # exp(d A) - 1, which keeps its digits where d A is small.
        grown = torch.complex(
            torch.expm1(shrink) * torch.cos(turn) - 2 * torch.sin(turn / 2).square(),
            torch.exp(shrink) * sine,
        )
        weight = torch.view_as_real(grown / torch.complex(rates, at_least_float32(frequencies)))
        b = torch.view_as_complex(at_least_float32(x)[..., None, None] * weight)
        return a.flatten(), b.flatten(-2)

    def leave(self, h: Tensor) -> Tensor:
        """2 Re(sum_n C_n h_n) [..., D] of states [..., D * N/2]."""
        weight = at_least_float32(self.readout)
        parts = torch.view_as_real(h.unflatten(-1, weight.shape[:2]))
        return 2 * (parts * weight * weight.new_tensor((1.0, -1.0))).sum((-2, -1))


class LRUSpace(nn.Module):
    """a = exp(-exp(log_decay) + i exp(log_phase)), B = exp(log_scale) * W, C, N states in all.

    Starts with |a| in [0.9, 0.999], uniform on the ring, any phase, scale sqrt(1 - |a|^2), W of
    variance 1 / (2 D) and C of variance 1 / N in each part; weight decay leaves decay, phase and
    scale alone (Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences").

    Args:
        width: Number of channels D.
        states: N.
    """

    real = False

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        # Uniform in area; 1 - u, as u may be 0 and its logarithm is taken.
        squared = torch.empty(states).uniform_(SMALLEST_RADIUS**2, LARGEST_RADIUS**2)
        phase = 2 * math.pi * (1 - torch.empty(states).uniform_(0, 1))
        self.log_decay = sets_dynamics(nn.Parameter((-0.5 * squared.log()).log()))
        self.log_phase = sets_dynamics(nn.Parameter(phase.log()))
        self.log_scale = without_decay(nn.Parameter(0.5 * (1 - squared).log()))
        self.input = Projection(width, 2 * states, bias=False)
        nn.init.normal_(self.input.weight, std=1 / math.sqrt(2 * width))
        self.output = Projection(2 * states, width, bias=False)
        nn.init.normal_(self.output.weight, std=1 / math.sqrt(states))

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gates a [N], and B x [..., N] of tokens [..., D]."""
        shrink = torch.exp(-at_least_float32(self.log_decay).exp())
        phase = at_least_float32(self.log_phase).exp()
        a = shrink * torch.complex(torch.cos(phase), torch.sin(phase))
        parts = at_least_float32(self.input(x)).unflatten(-1, (-1, 2))
        scale = at_least_float32(self.log_scale).exp().unsqueeze(-1)
        return a, torch.view_as_complex(parts * scale)

    def leave(self, h: Tensor) -> Tensor:
        """Re(C h) [..., D] of states [..., N]; the signs of imaginary parts are those of C."""
        return self.output(torch.view_as_real(h).flatten(-2).to(self.output.weight.dtype))


def _check(shape: Shape, parameterisation: str, states: int, direction: str) -> None:
    if parameterisation not in ("s4d", "lru", "ema"):
        raise ValueError(f"a parameterisation is s4d, lru or ema, not {parameterisation!r}")
    if not (isinstance(states, int) and states >= 1):
        raise ValueError(f"states are a number of at least 1, not {states!r}")
    if parameterisation == "s4d" and states % 2:
        raise ValueError(f"s4d has pairs of states: write an even number, not {states}")
    if direction not in ("forward", "backward", "both"):
        raise ValueError(f"a scan's direction is forward, backward or both, not {direction!r}")
    if direction != "forward" and shape.causal:
        raise ValueError(f"a {direction} scan sees later tokens: write forward, the task is causal")
