"""Nonlinear recurrences solved for all steps at once, by Newton's method on the linear scans.

The states of h_t = f(h_{t-1}, x_t) are the root of L equations. Newton's iteration

    h'_t = J_t h'_{t-1} + f(h_{t-1}, x_t) - J_t h_{t-1},    J_t = df/dh at h_{t-1},

is a linear recurrence in h', one parallel scan (DEER, Lim et al. 2024). Every iteration settles at
least one step more, so that L of them are always enough; a handful is what it takes where the
recurrence forgets. With the diagonal of J in its place (quasi-DEER, Gonzalez et al. 2024) the same
states are found in more and cheaper iterations; ParaRNN (Danieli et al. 2025) makes the recurrent
matrices diagonal, so that J is diagonal or of 2x2 blocks, and nothing is left out.

By the implicit function theorem the gradient is that of one more iteration from the solution, with
J held: a single scan backwards, through no iteration.

This is plain torch: the operators are those of the scans, whose backend it takes. It looks at its
own convergence, which a graph cannot hold: compile what stands around it, not this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from nas.kernels.block_scan.operator import block_scan
from nas.kernels.diagonal_scan.operator import diagonal_scan
from nas.kernels.dispatch import choose_backend
from nas.kernels.newton import reference
from nas.kernels.newton.dense_scan import dense_scan
from nas.kernels.newton.reference import Step

__all__ = ["Jacobian", "NewtonReport", "NewtonResult", "newton_scan"]

Jacobian = Literal["diagonal", "block", "dense", "quasi"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
"""Of the relative change in an iteration, after which there is no other."""


@dataclass(frozen=True)
class NewtonReport:
    """How the solver fared.

    Attributes:
        iterations: how many were made, not counting the one that carries the gradient.
        converged: whether the last one changed less than the tolerance, and left no step's equation
            further from being true than `_slack` says.
        change: largest change of a number in the last iteration, over the largest number or 1.
        resets: how many numbers were not finite and were set back, in all iterations.
        sequential: whether the states are those of the loop over time.
    """

    iterations: int = 0
    converged: bool = False
    change: float = float("inf")
    resets: int = 0
    sequential: bool = False


class NewtonResult(NamedTuple):
    """The states [B, L, ...], the last one [B, ...], a fresh tensor, and the report."""

    states: Tensor
    final_state: Tensor
    report: NewtonReport


def newton_scan(
    step: Step,
    inputs: Tensor | Sequence[Tensor],
    initial_state: Tensor,
    *,
    jacobian: Jacobian,
    derivative: Step | None = None,
    max_iterations: int = 32,
    tolerance: float | None = None,
    damping: float = 0.0,
    guess: Tensor | None = None,
    fallback: bool = True,
    backend: str | None = None,
) -> NewtonResult:
    """Compute h_t = step(h_{t-1}, x_t) over a sequence, all steps at once.

    Differentiable once in the inputs, the initial state and all tensors that `step` closes over.

    Args:
        step: the recurrence, from states [B, L, ...] before all steps, and the inputs, to those
            after. Position t of its result may depend on position t of its arguments alone.
        inputs: one tensor [B, L, ...] or several.
        initial_state: h before the first step, float32 or float64: [B, D], [B, D, 2] for "block",
            [B, N] for "dense" and "quasi".
        jacobian: what dstep/dh is made of. "diagonal": each number of a state depends on itself
            alone; "block": on the two of its channel; "dense": on all, N matrices' rows for each
            step; "quasi": as "dense", but iterating with the diagonal alone. The solver does not
            check it, and gradients are wrong where there is more than that.
        derivative: computes it, in the form [B, L, D], [B, L, D, 2, 2] or [B, L, N, N] (for
            "quasi" the diagonal [B, L, N]), from what `step` gets; None leaves it to autograd.
        max_iterations: after which it gives up; L are always enough in exact arithmetic.
        tolerance: of the largest change in an iteration, over the largest number or 1; None means
            1e-5 in float32, 1e-9 in float64. States that change no more but do not fit their
            equations count as not converged.
        damping: in [0, 1): J is taken times 1 - damping while iterating, which keeps products of
            expanding Jacobians in range and costs iterations; the solution is the same.
        guess: states to start from [B, L, ...], such as those of the last training step; None means
            zero.
        fallback: run the loop over time where the solver has not converged. Otherwise the states
            are returned as they are, and only the report tells.
        backend: of the scans; "reference" runs the loop over time at once.

    Returns:
        The states in the initial state's type, the last of them, and a report of the iterations.
        Numbers that are not finite are set back to `step` of the iteration before, or to zero, as
        the papers do, and counted.

    Raises:
        ValueError: shapes that do not belong together, or an option out of range.
        TypeError: an initial state that is neither float32 nor float64.
    """
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    _check(given, initial_state, jacobian, max_iterations, damping, guess)
    chosen = choose_backend(initial_state.device, backend)
    if chosen == "reference" or initial_state.numel() == 0:
        states, final = reference.newton_scan(step, given, initial_state)
        return NewtonResult(states, final.clone(), NewtonReport(sequential=True))
    limit = TOLERANCE[initial_state.dtype] if tolerance is None else tolerance
    constants = tuple(x.detach() for x in given)
    states, report = _solve(
        step, constants, initial_state.detach(), jacobian, derivative,
        max_iterations, limit, damping, guess, chosen,
    )  # fmt: skip
    if not report.converged and fallback:
        states, final = reference.newton_scan(step, given, initial_state)
        return NewtonResult(states, final.clone(), replace(report, sequential=True))
    states = _differentiable(step, given, initial_state, states, jacobian, derivative, chosen)
    return NewtonResult(states, states[:, -1].clone(), report)


def _check(
    inputs: tuple[Tensor, ...],
    initial_state: Tensor,
    jacobian: str,
    max_iterations: int,
    damping: float,
    guess: Tensor | None,
) -> None:
    if jacobian not in get_args(Jacobian):
        known = ", ".join(get_args(Jacobian))
        raise ValueError(f"jacobian is {jacobian!r}: choose one of {known}")
    form = {"block": "[B, D, 2]", "diagonal": "[B, D]"}.get(jacobian, "[B, N]")
    shape = list(initial_state.shape)
    if len(shape) != form.count(",") + 1 or (jacobian == "block" and shape[-1] != 2):
        raise ValueError(f"initial_state for {jacobian!r} must be {form}, and is {shape}")
    if initial_state.dtype not in TOLERANCE:
        raise TypeError(
            f"initial_state must be float32 or float64, and is {initial_state.dtype}: states are "
            "iterated to more digits than half types have"
        )
    steps = {tuple(x.shape[:2]) for x in inputs}
    if len(steps) != 1 or next(iter(steps))[0] != shape[0] or next(iter(steps))[-1] == 0:
        raise ValueError(
            f"inputs must all begin with [B, L], L >= 1 and B = {shape[0]} as in initial_state, "
            f"and are {[list(x.shape) for x in inputs]}"
        )
    expected = [shape[0], inputs[0].shape[1], *shape[1:]]
    if guess is not None and list(guess.shape) != expected:
        raise ValueError(f"guess must be {expected}, and is {list(guess.shape)}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be 1 or more, and is {max_iterations}")
    if not 0 <= damping < 1:
        raise ValueError(f"damping must be in [0, 1), and is {damping}")


@torch.no_grad()
def _solve(
    step: Step,
    inputs: tuple[Tensor, ...],
    initial: Tensor,
    jacobian: str,
    derivative: Step | None,
    max_iterations: int,
    tolerance: float,
    damping: float,
    guess: Tensor | None,
    backend: str,
) -> tuple[Tensor, NewtonReport]:
    length = inputs[0].shape[1]
    if guess is None:
        states = initial.new_zeros(len(initial), length, *initial.shape[1:])
    else:
        states = guess.detach().to(initial.dtype)
    form = "diagonal" if jacobian == "quasi" else jacobian
    report = NewtonReport()
    for _ in range(max_iterations):
        before = torch.cat([initial.unsqueeze(1), states[:, :-1]], dim=1)
        after, slope = _linearise(step, before, inputs, jacobian, derivative)
        slope = slope * (1 - damping) if damping else slope
        following = _scan(form, slope, after - _apply(form, slope, before), initial, backend)
        resets = 0
        change = ((following - states).abs().max() / following.abs().max().clamp(min=1)).item()
        if not change < float("inf"):
            wrong = ~following.isfinite()
            resets = int(wrong.sum())
            following = torch.where(wrong, after.nan_to_num(0.0, 0.0, 0.0), following)
            change = float("inf")
        states = following
        settled = change <= tolerance and _residual(step, inputs, initial, states) <= _slack(
            tolerance, initial.dtype
        )
        report = NewtonReport(report.iterations + 1, settled, change, report.resets + resets)
        if report.converged:
            break
    return states, report


def _residual(step: Step, inputs: tuple[Tensor, ...], initial: Tensor, states: Tensor) -> float:
    """By how much the states miss their equations at worst, over the largest number or 1."""
    before = torch.cat([initial.unsqueeze(1), states[:, :-1]], dim=1)
    missed = (step(before, *inputs) - states).abs().max()
    return (missed / states.abs().max().clamp(min=1)).item()


def _slack(tolerance: float, dtype: torch.dtype) -> float:
    """How large a residual may be once states no longer change.

    Far above what a change within the tolerance leaves. Where a chunk's product of Jacobians is as
    large as 1 / epsilon, a scan's rounding errors are as large as the states, and the iteration can
    come to rest far from any solution.
    """
    return max(100 * tolerance, float(torch.finfo(dtype).eps ** 0.5))


def _differentiable(
    step: Step,
    inputs: tuple[Tensor, ...],
    initial: Tensor,
    states: Tensor,
    jacobian: str,
    derivative: Step | None,
    backend: str,
) -> Tensor:
    """Add the gradient of one more iteration from the solution, with J held, if any is wanted."""
    if not torch.is_grad_enabled():
        return states
    before = torch.cat([initial.detach().unsqueeze(1), states[:, :-1]], dim=1)
    after = step(before, *inputs)
    if not (after.requires_grad or initial.requires_grad):
        return states
    form = "dense" if jacobian == "quasi" else jacobian
    exact = None if jacobian == "quasi" else derivative
    constants = tuple(x.detach() for x in inputs)
    _, slope = _linearise(step, before, constants, form, exact)
    # The iteration itself is not made, only what flows through it: its input is zero, and with it
    # its output. As products of Jacobians that expand, it would multiply the rounding errors.
    flows = _scan(form, slope.detach(), after - after.detach(), initial - initial.detach(), backend)
    return states + flows


def _linearise(
    step: Step,
    before: Tensor,
    inputs: tuple[Tensor, ...],
    jacobian: str,
    derivative: Step | None,
) -> tuple[Tensor, Tensor]:
    """Compute step(h, x) and its derivative by h, in the form of the kind; constants both."""
    if derivative is not None:
        after, slope = step(before, *inputs), derivative(before, *inputs)
        _check_result(after, before)
        return after.detach(), slope.detach()
    with torch.enable_grad():
        leaf = before.detach().requires_grad_()
        after = step(leaf, *inputs)
        _check_result(after, before)
        if jacobian == "diagonal":
            return after.detach(), torch.autograd.grad(after.sum(), leaf)[0]
        parts = after.unbind(-1)
        # As no position and no channel depends on another, a sum over them has their gradients.
        rows = [torch.autograd.grad(part.sum(), leaf, retain_graph=True)[0] for part in parts]
    if jacobian == "quasi":
        return after.detach(), torch.stack([row[..., i] for i, row in enumerate(rows)], dim=-1)
    return after.detach(), torch.stack(rows, dim=-2)


def _check_result(after: Tensor, before: Tensor) -> None:
    if after.shape != before.shape or after.dtype != before.dtype:
        raise ValueError(
            f"step must return what it gets, {list(before.shape)} {before.dtype}, "
            f"and returns {list(after.shape)} {after.dtype}"
        )


def _apply(form: str, slope: Tensor, states: Tensor) -> Tensor:
    if form == "diagonal":
        return slope * states
    if form == "dense":
        return (slope @ states.unsqueeze(-1)).squeeze(-1)
    # A row at a time: as products of matrices, or with a sum over two numbers, it takes thrice as
    # long. Components side by side are also what a scan reads fastest.
    first, second = states.unbind(-1)
    rows = [slope[..., i, 0] * first + slope[..., i, 1] * second for i in range(2)]
    return torch.stack(rows, dim=-2).mT


def _scan(form: str, slope: Tensor, offset: Tensor, initial: Tensor, backend: str) -> Tensor:
    if form == "dense":
        return dense_scan(slope, offset, initial)
    scan: Callable[..., tuple[Tensor, Tensor]] = diagonal_scan if form == "diagonal" else block_scan
    return scan(slope, offset, initial, backend=backend)[0]
