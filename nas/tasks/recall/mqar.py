"""Multi-query associative recall (Arora et al. 2023, "Zoology"), as its public code defines it.

A sequence begins with key-value pairs; then every key is asked once, and the label at its second
occurrence is its value. All other positions hold random tokens and are not asked.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import TokenLabels, Tokens
from nas.tasks.base import IGNORED, Profile, Splits, Task, majority
from nas.tasks.generate import Draw, generated
from nas.tasks.named import task
from nas.tasks.random_streams import Keys, derive, distinct, integers
from nas.tasks.recipe import Recipe
from nas.tasks.setting import Setting

VERSION = 1
SETTINGS = ((64, 4), (128, 8), (256, 16), (512, 64))
"""Zoology's settings: length, key-value pairs."""
ZOOLOGY = Setting(
    source="Zoology (Arora et al. 2023)",
    backbone="there two mixers without MLPs",
    depth=2,
    widths=(64, 128, 256, 512),
    recipe=Recipe(weight_decay=0.1, warmup=0.0, betas=(0.9, 0.999), dropout=0.1),
    learning_rates=tuple(10.0**power for power in (-4, -10 / 3, -8 / 3, -2)),
    enough=0.99,
)


@dataclass(frozen=True)
class Recall:
    """The definition of an MQAR data set.

    Args:
        length: L.
        pairs: Key-value pairs of a sequence.
        vocabulary: V; keys are 1 .. V/2 - 1, values V/2 .. V - 1.
        power: a: a query's gap g is drawn with the weight g^(a - 1).
        version: Of the generator's code.
    """

    length: int
    pairs: int
    vocabulary: int = 8192
    power: float = 0.01
    version: int = VERSION

    def __post_init__(self) -> None:
        if not 0 < 4 * self.pairs <= self.length:
            raise ValueError(
                f"{self.pairs} pairs and their queries do not fit {self.length} tokens"
            )
        if self.pairs >= self.vocabulary // 2:
            raise ValueError(f"there are no {self.pairs} keys among {self.vocabulary // 2 - 1}")


SMALL = Recall(32, 4, vocabulary=32)


@task("mqar", "multi-query associative recall (Zoology)")
def mqar(
    profile: Profile, *, length: int | None = None, pairs: int | None = None
) -> Task | tuple[Task, ...]:
    """The tasks of a profile: `paper` has one for each of Zoology's settings.

    Args:
        profile: `paper` or `small`.
        length: L: one task of this length; by default with the profile's (`small`) or Zoology's
            number of pairs.
        pairs: Key-value pairs.

    Raises:
        ValueError: The pairs and their queries do not fit the length, nor the vocabulary.
    """
    if profile == "small":
        return _task(
            profile, Recall(length or SMALL.length, pairs or SMALL.pairs, SMALL.vocabulary)
        )
    if length is not None or pairs is not None:
        length = length or SETTINGS[0][0]
        return _task(profile, Recall(length, pairs or dict(SETTINGS).get(length, length // 16)))
    return tuple(_task(profile, Recall(length, pairs)) for length, pairs in SETTINGS)


def _task(profile: Profile, of: Recall) -> Task:
    small = profile == "small"
    train, held_out = (20_000, 1_000) if small else (100_000, 3_000)
    batch = 64 if small else {256: 256, 512: 128}.get(of.length, 512)
    sizes = (train, held_out, held_out)
    return Task(
        name=f"mqar/{of.length}",
        profile=profile,
        summary="recall the value that stood beside each key",
        definition=(
            f"{of.pairs} pairs in {of.length} tokens, vocabulary {of.vocabulary}; "
            f"{train}/{held_out}/{held_out} examples"
        ),
        length=of.length,
        causal=True,
        hidden_answers=True,
        inputs=Tokens(of.vocabulary),
        outputs=TokenLabels(of.vocabulary),
        batch_size=batch,
        steps=600 if small else 64 * train // batch,
        source=lambda: generated(
            f"mqar-{of.length}-{profile}", of, sizes, lambda keys: draw(keys, of)
        ),
        decode=decode,
        rules={"majority": majority, "a value of the sequence": _any_value(of.pairs)},
        setting=Setting() if small else ZOOLOGY,
    )


def draw(keys: Keys, of: Recall) -> Draw:
    """One example per key; none is rejected.

    Args:
        keys: `[N]` keys of the random streams.
        of: The definition.

    Returns:
        Tokens and targets `[N, L]`; targets are -100 where nothing is asked.
    """
    half, context = of.vocabulary // 2, 2 * of.pairs
    asked = 1 + distinct(derive(keys, 0), half - 1, of.pairs)
    values = half + distinct(derive(keys, 1), of.vocabulary - half, of.pairs)
    gaps = _gaps(derive(keys, 2), of)
    inputs = integers(
        derive(derive(keys, 3)[:, None], np.arange(of.length)), of.vocabulary
    )  # filler
    inputs[:, 0:context:2] = asked
    inputs[:, 1:context:2] = values
    np.put_along_axis(inputs, context + 2 * gaps, asked, axis=1)
    targets = np.full(inputs.shape, IGNORED, dtype=np.int16)
    np.put_along_axis(targets, context + 2 * gaps, values.astype(np.int16), axis=1)
    return Draw(inputs.astype(np.int16), targets, np.ones(len(keys), dtype=np.bool_))


def _gaps(keys: Keys, of: Recall) -> NDArray[np.int64]:
    """Half the distances `[N, pairs]` from the context's end to the queries, without replacement.

    Drawing the k smallest of exponential variables divided by the weights is drawing k one after
    another by those weights (Efraimidis and Spirakis 2006).
    """
    space = (of.length - 2 * of.pairs) // 2
    weights = np.arange(1, space + 1, dtype=np.float64) ** (of.power - 1)
    # One of 2**20 levels each, so that the order never hangs on the last bit of a logarithm.
    levels = integers(derive(keys[:, None], np.arange(space)), 2**20)
    times = -np.log((levels + 0.5) / 2**20) / weights
    return np.argsort(times, axis=1, kind="stable")[:, : of.pairs]


def decode(inputs: NDArray, targets: NDArray) -> str:
    """The pairs and the queries of an example."""
    asked = np.flatnonzero(targets != IGNORED)
    pairs = " ".join(f"{inputs[2 * i]}:{inputs[2 * i + 1]}" for i in range(len(asked)))
    queries = " ".join(f"{inputs[i]}?{targets[i]}@{i}" for i in asked)
    return f"pairs {pairs} ... queries {queries}"


def _any_value(pairs: int) -> Callable[[Splits], float]:
    """Always say the first value of the sequence."""

    def accuracy(splits: Splits) -> float:
        split = splits["validation"]
        said = np.broadcast_to(split.inputs[:, 1:2], split.targets.shape)
        asked = split.targets != IGNORED
        return float((said == split.targets)[asked].mean())

    return accuracy
