"""Train one architecture on one task up to a step, and score it on validation."""

import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from nas.compiler.interface import Values
from nas.compiler.model import Model
from nas.grammar.derivation import Term
from nas.tasks.base import Batch, Task
from nas.tasks.metrics import IGNORED
from nas.tasks.recipe import Recipe
from nas.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from nas.training.evaluate import Evaluation, autocast, evaluate, move

LOSS_POINTS = 40
"""Points kept of a learning curve over the full budget."""

Status = Literal["complete", "failed", "stopped"]
Held = Literal["validation", "test"]


@dataclass(frozen=True)
class TrainResult:
    """What a training run says of itself.

    Args:
        status: `complete` (reached its step), `failed` (the loss became non-finite, memory ran
            out), `stopped` (asked to, or out of seconds; a checkpoint lets it go on).
        score: The task's metric as a number to maximise; None unless complete.
        losses: `(step, mean training loss since the point before)`.
        step: Steps done, those of earlier runs included.
        seconds: Wall time of this run, evaluation included.
        parameters: Trainable parameters of the whole model.
        error: One line that says why it failed, with the trace in `log`.
        log: The trace, for `nas show`.
        evaluations: By split, the first being what the score is of: the task's, and then those
            of each task of `also`; {} unless complete.
    """

    status: Status
    score: float | None
    losses: list[tuple[int, float]] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    parameters: int = 0
    error: str | None = None
    log: str = ""
    evaluations: Mapping[Held, tuple[Evaluation, ...]] = field(default_factory=dict)


def train(
    term: Term,
    task: Task,
    recipe: Recipe,
    *,
    width: int,
    seed: int,
    until_step: int | None = None,
    resume: Path | None = None,
    checkpoints: Path | None = None,
    checkpoint_every: int | None = None,
    seconds: float | None = None,
    device: str = "cpu",
    splits: Sequence[Held] = ("validation",),
    also: Sequence[Task] = (),
    enough: float | None = None,
    on_step: Callable[[int, float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train an architecture and measure it; continued from a checkpoint, the same losses follow.

    Batches and every random number are functions of the seed and the step alone, so a run that
    was broken off and continued computes what an unbroken one would have.

    Args:
        term: The architecture.
        task: Where batches and the full budget of steps come from.
        recipe: Optimiser and schedule; the schedule spans the full budget.
        width: D, the model's width.
        seed: Of the initial weights and of the order of the data.
        until_step: Train up to this step (a rung); None: the task's full budget.
        resume: A checkpoint (see `latest_checkpoint`) to continue from.
        checkpoints: Folder in which to leave checkpoints: one at the end, and in between.
        checkpoint_every: Steps between checkpoints.
        seconds: Stop, with a checkpoint, once this much time has passed.
        device: `cpu`, `cuda`, `cuda:1`; on a GPU bfloat16 autocast is used.
        splits: What to measure on, the score being of the first; `test` only for a final
            measurement.
        also: Tasks that the trained model is measured on, too, such as the same at other lengths.
        enough: Training ends after the epoch in which the score on validation is above this, and
            counts as complete; None: it never does.
        on_step: Called with the step and its loss.
        should_stop: Asked after every step; true stops the run, with a checkpoint.

    Returns:
        The result; a non-finite loss and lack of memory are results, not exceptions.

    Raises:
        DamagedCheckpointError: `resume` cannot be read or is of another architecture.
        OSError: A checkpoint could not be written.
    """
    start = time.perf_counter()
    total = task.steps
    until = total if until_step is None else min(until_step, total)
    progress = Progress()
    parameters = 0
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Model(
                term, width, task.inputs, task.outputs, length=task.length, causal=task.causal
            ).to(device)
            parameters = sum(p.numel() for p in model.parameters())
            model.dropout = recipe.dropout
            optimizer = _optimizer(model, recipe)
            if resume is not None:
                progress = load_checkpoint(resume, model, optimizer)
            failure = None
            stopped = False
            interval = max(1, total // LOSS_POINTS)
            solved = False
            model.train()
            while progress.step < until and not stopped:
                step = progress.step
                if enough is not None and step > 0 and step % task.epoch == 0:
                    # Asked before a step, so that a run that is continued asks as well.
                    validated = evaluate(model, task, "validation", device).value
                    model.train()
                    solved = task.metric.score(validated) > enough
                    if solved:
                        break
                loss = _step(model, optimizer, task.train_batch(step, seed), recipe, step, total,
                             seed, device)  # fmt: skip
                if not math.isfinite(loss):
                    failure = f"the loss became non-finite at step {step + 1}"
                    break
                losses, recent = progress.losses, [*progress.recent, loss]
                if (step + 1) % interval == 0 or step + 1 == total:
                    losses, recent = [*losses, (step + 1, sum(recent) / len(recent))], []
                progress = Progress(step + 1, losses, recent)
                if on_step is not None:
                    on_step(step + 1, loss)
                stopped = (seconds is not None and time.perf_counter() - start > seconds) or (
                    should_stop is not None and should_stop()
                )
                due = checkpoint_every is not None and progress.step % checkpoint_every == 0
                if checkpoints is not None and (due or stopped or progress.step == until):
                    save_checkpoint(checkpoints, progress, model, optimizer)
            if solved and checkpoints is not None:
                save_checkpoint(checkpoints, progress, model, optimizer)
            evaluations: dict[Held, tuple[Evaluation, ...]] = {}
            if failure is None and (solved or progress.step >= until):
                for split in splits:
                    measured = (evaluate(model, of, split, device) for of in (task, *also))
                    evaluations[split] = tuple(measured)
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return TrainResult("failed", None, progress.losses, progress.step,
                           time.perf_counter() - start, parameters, "out of memory",
                           traceback.format_exc())  # fmt: skip
    status: Status = "failed" if failure else "complete" if evaluations else "stopped"
    score = task.metric.score(evaluations[splits[0]][0].value) if evaluations else None
    return TrainResult(status, score, progress.losses, progress.step,
                       time.perf_counter() - start, parameters, failure,
                       evaluations=evaluations)  # fmt: skip


def _step(
    model: Model,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    recipe: Recipe,
    step: int,
    total: int,
    seed: int,
    device: str,
) -> float:
    """One optimiser step; returns its loss (non-finite: nothing was updated)."""
    # The stream of random numbers depends on the step, not on what was drawn before it: nothing of
    # the generator's state has to be kept for a run to continue exactly.
    torch.manual_seed(seed * 1_000_003 + step)
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate(step, total, group["peak"])
    inputs, mask, targets, _ = move(batch, device)
    with autocast(device):
        outputs = model(inputs, mask)
        if isinstance(model.outputs, Values):
            deviation = model.outputs.deviation
            loss = F.mse_loss(outputs.float() / deviation, targets / deviation)
        else:
            logits = outputs.flatten(0, -2).float()
            loss = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED)
        loss_with_auxiliary = loss + recipe.auxiliary * model.auxiliary_loss()
    optimizer.zero_grad(set_to_none=True)
    loss_with_auxiliary.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    value = float(loss.detach())
    if not (math.isfinite(value) and math.isfinite(float(norm))):
        return math.nan
    optimizer.step()
    return value


def _optimizer(model: Model, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW in groups: with weight decay; without; and with a learning rate of their own."""
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    dynamics: list[nn.Parameter] = []
    for parameter in model.parameters():
        if recipe.dynamics is not None and getattr(parameter, "sets_dynamics", False):
            dynamics.append(parameter)
        elif parameter.dim() >= 2 and not getattr(parameter, "no_weight_decay", False):
            decayed.append(parameter)
        else:
            exempt.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay, "peak": None},
        {"params": exempt, "weight_decay": 0.0, "peak": None},
        {"params": dynamics, "weight_decay": 0.0, "peak": recipe.dynamics},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is lack of memory; torch's CPU allocator says so only in its message."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "not enough memory" in str(error) or "can't allocate memory" in str(error)
    )
