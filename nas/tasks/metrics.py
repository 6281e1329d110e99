"""What a task counts: for every asked position or example a number, whose mean is the metric."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""The target of a position that is not asked."""

NEGATIVE = "negative "
"""Stands before the name of an error where its negative is meant, a score."""

Measure = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Metric:
    """A metric.

    Args:
        name: As it is printed.
        higher: Whether more is better.
        measure: Of outputs, targets and the answers that count as right (see `Batch`): the numbers
            whose mean it is, `[B]` or `[B, L]`, and a mask of those that were asked.
    """

    name: str
    higher: bool
    measure: Measure

    @property
    def maximised(self) -> str:
        """The name of the score."""
        return self.name if self.higher else f"{NEGATIVE}{self.name}"

    def score(self, value: float) -> float:
        """What a search maximises: the value, or the negative of it where less is better."""
        return value if self.higher else -value

    def value(self, score: float) -> float:
        """The inverse of `score`."""
        return score if self.higher else -score


def _right(logits: Tensor, targets: Tensor, accepted: Tensor | None) -> tuple[Tensor, Tensor]:
    said = logits.argmax(-1)
    right = said == targets if accepted is None else (accepted >> said) & 1
    return right.double(), targets != IGNORED


def _bits(logits: Tensor, targets: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
    nats = F.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return nats.view_as(targets).double() / math.log(2), targets != IGNORED


def _squared(values: Tensor, targets: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
    errors = (values.double() - targets.double()).square().flatten(1).mean(1)
    return errors, torch.ones_like(errors, dtype=torch.bool)


ACCURACY = Metric("accuracy", True, _right)
BITS = Metric("bits per token", False, _bits)
SQUARED_ERROR = Metric("mean squared error", False, _squared)
