"""What a training run depends on besides its architecture, task and seed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import cos, pi
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """AdamW with linear warm-up, cosine decay to zero and gradient clipping.

    Args:
        learning_rate: Peak learning rate. It belongs to the trial: what the search tunes.
        weight_decay: Decoupled weight decay of matrices; norms, biases and decay parameters of
            recurrences have none.
        warmup: Share of the full budget over which the rate rises linearly.
        betas: AdamW's decay rates of the two moments.
        clip: Largest norm of the gradient; larger ones are scaled down.
        auxiliary: Weight of the model's auxiliary loss (load balance of mixtures of experts).
    """

    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    auxiliary: float = 0.01

    def rate(self, step: int, total: int) -> float:
        """The learning rate of a step.

        Args:
            step: Number of the step, from 0.
            total: Steps of the full budget, whatever part of it a rung trains.
        """
        warm = max(1, round(self.warmup * total))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, total - warm)
        return self.learning_rate * 0.5 * (1 + cos(pi * min(1.0, done)))

    def as_dict(self) -> dict[str, float | list[float]]:
        """The recipe as JSON values; part of what must agree for a result to be replayed."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The inverse of `as_dict`."""
        known: dict[str, Any] = dict(values)
        first, second = known.pop("betas")
        return cls(betas=(first, second), **known)
