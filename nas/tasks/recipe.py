"""What a training run depends on besides its architecture, task and seed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import cos, pi
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """AdamW with linear warm-up, cosine decay and gradient clipping.

    Args:
        learning_rate: Peak learning rate. It belongs to the trial: what the search tunes.
        weight_decay: Decoupled weight decay of matrices; norms, biases and decay parameters of
            recurrences have none.
        warmup: Share of the full budget over which the rate rises linearly.
        betas: AdamW's decay rates of the two moments.
        clip: Largest norm of the gradient; larger ones are scaled down.
        last: Learning rate that the cosine ends at.
        dynamics: Peak learning rate of what sets a recurrence's decays and steps, where it is not
            that of all else (S4's "learning rate of the state space's parameters").
        dropout: Share of what the embedding says that is zeroed in training.
        auxiliary: Weight of the model's auxiliary loss (load balance of mixtures of experts).
    """

    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    auxiliary: float = 0.01
    last: float = 0.0
    dynamics: float | None = None
    dropout: float = 0.0

    def rate(self, step: int, total: int, peak: float | None = None) -> float:
        """The learning rate of a step.

        Args:
            step: Number of the step, from 0.
            total: Steps of the full budget, whatever part of it a rung trains.
            peak: The highest; None: `learning_rate`.
        """
        peak = self.learning_rate if peak is None else peak
        warm = max(1, round(self.warmup * total))
        if step < warm:
            return peak * (step + 1) / warm
        done = (step - warm) / max(1, total - warm)
        last = min(self.last, peak)
        return last + (peak - last) * 0.5 * (1 + cos(pi * min(1.0, done)))

    def as_dict(self) -> dict[str, float | list[float]]:
        """The recipe as JSON values; part of what must agree for a result to be replayed."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The inverse of `as_dict`."""
        known: dict[str, Any] = dict(values)
        first, second = known.pop("betas")
        return cls(betas=(first, second), **known)
