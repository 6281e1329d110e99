"""State space duality: Mamba-2, Hydra, and Mamba-2 with a state that holds a window of tokens."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.kernels.gated_linear_attention.operator import gated_linear_attention_step
from nas.layers.base import Cost, Primitive, Shape, State, primitive, sets_dynamics, without_decay
from nas.layers.matrix_state_parts import (
    Inputs,
    head_width,
    inputs_cost,
    one_of,
    refuse_later_tokens,
)
from nas.layers.numerics import at_least_float32
from nas.layers.projection import Projection, projection_cost
from nas.layers.ssd_window import read_whole, read_window, window_step

DIRECTIONS = ("forward", "backward", "quasiseparable")
GATINGS = ("inside", "outside")

# Steps (of time) start log-uniform between these; rates of decay uniform between those.
STEPS = (1e-3, 1e-1)
RATES = (1.0, 16.0)
EPSILON = 1e-5


@primitive("ssd")
class StateSpaceDual(Primitive):
    """S_t = exp(d_t A) S_{t-1} + d_t k_t v_t', y_t = S_t' q_t + s v_t per head; SSD, Mamba-2's.

    k and q, [N], are shared by all heads, v [P] is a head's own, P = values * D / heads; all three
    are linear maps of x behind a short convolution and SiLU. The step d_t = softplus(W x + b) and
    A = -exp(log_rates) < 0 are a number a head. The output is out(norm(y * silu(z))), z = W_z x,
    with an RMS norm over the channels of all heads. A starts uniform in [-16, -1], b so that the
    steps are log-uniform in [1e-3, 1e-1], s at 1 (Dao and Gu 2024, "Transformers are SSMs").
    Weight decay leaves A, b and s alone. Use it as a mixer whose state is large for its
    parameters: keys shared by the heads are cheap.

    Use it as the selective scan with a larger state: matrix products instead of one scan a
    channel.

    Args:
        shape: Width D.
        heads: Number of heads; divides D.
        values: Channels of v, as a multiple of D.
        states: N.
        window: `full`, or how many tokens the state holds: what the token that many before has
            written is taken out again, with all its decay (Chen et al. 2024, "Stuffed Mamba", a
            state as a difference of states: it is never fuller than in training).
        gating: `inside`, as above, or `outside`: norm(y) * silu(z).
        direction: `forward`; and where the shape is not causal `backward`, from the last token to
            the first, or `quasiseparable`: y_t = f_{t-1} + g_{t+1} + (W_s v_t + s) v_t, f and g
            what a forward and a backward state read, zero at the ends, with q, k and steps of
            their own, and v, A and b in common; the convolution is centred, of 7 taps; A starts at
            -1 (Hwang et al. 2024, "Hydra").

    Raises:
        ValueError: An argument is none of these, or they do not fit each other.
    """

    weightless = frozenset({"gating"})
    alike = (("direction", frozenset({"forward", "backward"})),)

    def __init__(
        self,
        shape: Shape,
        *,
        heads: int,
        values: int,
        states: int,
        window: int | str,
        gating: str,
        direction: str,
    ) -> None:
        super().__init__(shape)
        sizes = _sizes(shape, heads, values, states, window, gating, direction)
        width, inner, ways = shape.width, heads * sizes.value, sizes.ways
        self.heads, self.states, self.ways = heads, states, ways
        self.window, self.gates_inside = sizes.window, gating == "inside"
        self.direction = direction
        channels = inner + 2 * ways * states
        self.inputs = Inputs(width, channels, short=True, centred=ways == 2)
        self.gate = Projection(width, inner, bias=False)
        self.steps = Projection(width, ways * heads, bias=False)
        step = torch.empty(heads).uniform_(*map(math.log, STEPS)).exp()
        # The inverse of softplus, log(exp(d) - 1), without its cancellation.
        self.step_bias = sets_dynamics(nn.Parameter(step + torch.log(-torch.expm1(-step))))
        rates = torch.ones(heads) if ways == 2 else torch.empty(heads).uniform_(*RATES)
        self.log_rates = sets_dynamics(nn.Parameter(rates.log()))
        self.skip = without_decay(nn.Parameter(torch.ones(heads)))
        self.skip_projection = Projection(inner, heads, bias=False) if ways == 2 else None
        self.norm = nn.RMSNorm(inner, eps=EPSILON)
        without_decay(self.norm.weight)
        self.output = Projection(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, L, D] to [B, L, D]."""
        if self.direction == "backward":
            x = x.flip(1)
        v, ways = self._parts(x, self.inputs(x))
        y = self._run(*ways[0])
        if self.ways == 2:
            backward = self._run(*(part.flip(1) for part in ways[1]))
            y = _one_later(y) + _one_later(backward).flip(1)
        y = self._read(y, v, x)
        return y.flip(1) if self.direction == "backward" else y

    def init_state(self, batch: int, device: torch.device | str, dtype: torch.dtype) -> State:
        """S [B, heads, N, P], or with a window what the last tokens write; of the convolution.

        These are k [B, window, N], d v [B, window, heads, P] and d A [B, window, heads]. All but
        the convolution's is at least float32.
        """
        if self.direction != "forward":
            return super().init_state(batch, device, dtype)
        number = torch.promote_types(dtype, torch.float32)
        value = self.norm.weight.shape[0] // self.heads
        shapes: list[tuple[int, ...]] = [(self.heads, self.states, value)]
        if self.window is not None:
            w, heads = self.window, self.heads
            shapes = [(w, self.states), (w, heads, value), (w, heads)]
        memory = tuple(torch.zeros(batch, *s, device=device, dtype=number) for s in shapes)
        return memory, self.inputs.init_state(batch, device, dtype)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of the recurrence."""
        if self.direction != "forward":
            return super().step(x, state)
        memory, tokens = state
        projected, tokens = self.inputs.step(x, tokens)
        v, ways = self._parts(x.unsqueeze(1), projected.unsqueeze(1))
        q, k, written, log_gate = (part[:, 0] for part in ways[0])
        if self.window is None:
            shape = (-1, self.heads, -1)
            q, k = q.expand(shape), k.expand(shape)
            y, matrix = gated_linear_attention_step(q, k, written, log_gate, memory[0])
            memory = (matrix,)
        else:
            y, memory = window_step(q[:, 0], k[:, 0], written, log_gate, memory)
        return self._read(y.unsqueeze(1), v, x.unsqueeze(1)).squeeze(1), (memory, tokens)

    def _parts(self, x: Tensor, projected: Tensor) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """V [B, L, heads, P]; for each way q, k [B, L, 1, N], d v [B, L, heads, P], d A."""
        inner = self.norm.weight.shape[0]
        v, *keys = projected.split((inner, *[self.states] * 2 * self.ways), dim=-1)
        v = v.unflatten(-1, (self.heads, -1))
        rates = -torch.exp(at_least_float32(self.log_rates))
        ways: list[tuple[Tensor, ...]] = []
        for way, raw in enumerate(at_least_float32(self.steps(x)).split(self.heads, dim=-1)):
            steps = F.softplus(raw + at_least_float32(self.step_bias))
            q, k = (part.unsqueeze(2) for part in keys[2 * way : 2 * way + 2])
            ways.append((q, k, (v * steps.unsqueeze(-1)).to(v.dtype), steps * rates))
        return v, ways

    def _run(self, q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor) -> Tensor:
        """What the state reads, [B, L, heads, P]."""
        if self.window is not None and self.window < v.shape[1]:
            return read_window(q, k, v, log_gate, self.window)
        return read_whole(q, k, v, log_gate)

    def _read(self, y: Tensor, v: Tensor, x: Tensor) -> Tensor:
        """The output [B, L, D] of what was read and of the values [B, L, heads, P]."""
        skip = self.skip
        if self.skip_projection is not None:
            skip = skip + self.skip_projection(v.flatten(-2))
        y = (y + skip.unsqueeze(-1) * v).flatten(-2)
        gate = F.silu(self.gate(x))
        y = self._norm(y * gate) if self.gates_inside else self._norm(y) * gate
        return self.output(y)

    def _norm(self, y: Tensor) -> Tensor:
        weight = at_least_float32(self.norm.weight)
        return F.rms_norm(at_least_float32(y), weight.shape, weight, EPSILON).to(y.dtype)

    def output_weights(self) -> list[nn.Parameter]:
        """Those of the last linear map."""
        return [self.output.weight]

    @classmethod
    def cost(
        cls,
        shape: Shape,
        *,
        heads: int,
        values: int,
        states: int,
        window: int | str,
        gating: str,
        direction: str,
    ) -> Cost:
        """Its linear maps and convolution; writing and reading the state, 2 N P flops each.

        With a window the state of what is older is written and read, too.
        """
        sizes = _sizes(shape, heads, values, states, window, gating, direction)
        length, width, ways = shape.length, shape.width, sizes.ways
        inner, channels = heads * sizes.value, heads * sizes.value + 2 * ways * states
        windowed = sizes.window is not None and sizes.window < length
        cost = inputs_cost(length, width, channels, short=True, centred=ways == 2)
        state = heads * states * sizes.value
        if sizes.window is not None:
            state = sizes.window * (states + inner + heads)
        if direction != "forward":
            state = -cost.state
        cost += projection_cost(length, width, inner + ways * heads, bias=False)
        cost += projection_cost(length, inner, width, bias=False)
        if ways == 2:
            cost += projection_cost(length, inner, heads, bias=False)
        return cost + Cost(
            parameters=3 * heads + inner,
            flops=4 * length * ways * heads * states * sizes.value * (2 if windowed else 1),
            activations=_kept(sizes, shape, heads, states, windowed),
            state=state,
        )


def _one_later(y: Tensor) -> Tensor:
    """Moves [B, L, heads, P] by a token, zero before the first."""
    return F.pad(y[:, :-1], (0, 0, 0, 0, 1, 0))


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Channels of a head's values, the window (None: all tokens), and states a head."""

    value: int
    window: int | None
    ways: int


def _kept(sizes: _Sizes, shape: Shape, heads: int, states: int, windowed: bool) -> int:
    """Numbers kept for the backward pass, beside the convolution's."""
    inner, length, ways = heads * sizes.value, shape.length, sizes.ways
    # x; v, q, k; z, its SiLU, what they gate, the norm's input, its two outputs; its factor
    each = shape.width + inner + 2 * ways * states + 6 * inner + 1
    each += ways * (inner + 3 * heads)  # d v; the steps, before softplus too, and d A
    if ways == 2:
        each += 2 * states + heads  # q and k in the backward state's order; the skip
    kept = each * length
    if windowed:
        assert sizes.window is not None
        chunks = -(-length // sizes.window)
        filled, older = chunks * sizes.window, (chunks - 1) * sizes.window
        # q and k of chunks but the first, what is written at a chunk's end, what is read of it; and
        # two decays
        each = older * (2 * states + 2 * inner + heads) + filled * heads
        if filled > length:
            each += 2 * filled * states + (filled - length) * (inner + heads)
        kept += ways * each
    return kept


def _sizes(
    shape: Shape,
    heads: int,
    values: int,
    states: int,
    window: int | str,
    gating: str,
    direction: str,
) -> _Sizes:
    """Checks the arguments."""
    value = values * head_width(shape, heads, values)
    if not (isinstance(states, int) and states >= 1):
        raise ValueError(f"states are a number of at least 1, not {states!r}")
    if window != "full" and not (isinstance(window, int) and window >= 1):
        raise ValueError(f"a window is full or a number of tokens, not {window!r}")
    one_of("gating", gating, GATINGS)
    refuse_later_tokens(shape, direction, DIRECTIONS)
    tokens = None if window == "full" else int(window)
    return _Sizes(value, tokens, 2 if direction == "quasiseparable" else 1)
