"""What the six tasks of MAD share: sizes, budget and the shape of a task."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import Outputs, TokenLabels, Tokens
from nas.tasks.base import IGNORED, Profile, Splits, Task, majority
from nas.tasks.generate import Generator, generated
from nas.tasks.recipe import Recipe
from nas.tasks.setting import Setting

EPOCHS = 200
HELD_OUT = 1_280
PUBLISHED = Setting(
    source="MAD (Poli et al. 2024), which chose on its test set",
    backbone="there each of two mixers is followed by an MLP",
    depth=2,
    widths=(128,),
    recipe=Recipe(warmup=0.0, betas=(0.9, 0.999), last=1e-6),
    learning_rates=(1e-4, 5e-4, 1e-3),
    weight_decays=(0.0, 0.1),
    enough=0.999,
)


def make(
    name: str,
    profile: Profile,
    summary: str,
    told: str,
    of: object,
    length: int,
    vocabulary: int,
    examples: int,
    decode: Callable[[NDArray, NDArray], str],
    generator: Generator,
    *,
    held_out: Generator | None = None,
    rules: Mapping[str, Callable[[Splits], float]] | None = None,
    hidden_answers: bool = False,
    causal: bool = True,
    outputs: Outputs | None = None,
    steps: int = 600,
) -> Task:
    """A task of MAD: 1280 validation and test examples; 200 epochs of batches of 128 in `paper`.

    Args:
        name: Behind `mad/`.
        profile: `paper` or `small` (batches of 64).
        summary: What is asked, in a line.
        told: The definition's numbers, in a line, without those of examples.
        of: The definition.
        length: Positions of an input.
        vocabulary: V.
        examples: Training examples.
        decode: See `Task`.
        generator: Makes the training examples.
        held_out: Makes the others; None: as training's are made.
        rules: Trivial rules beside the majority class.
        hidden_answers: See `Task`.
        causal: See `Task`.
        outputs: None: a token at each position.
        steps: Of `small`.

    Raises:
        ValueError: There are no training examples.
    """
    if examples < 1:
        raise ValueError(f"a task needs at least 1 training example, not {examples}")
    small = profile == "small"
    sizes = (examples, HELD_OUT, HELD_OUT)
    batch = 64 if small else 128
    return Task(
        name=f"mad/{name}",
        profile=profile,
        summary=summary,
        definition=f"{told}; {'/'.join(map(str, sizes))} examples",
        length=length,
        causal=causal,
        hidden_answers=hidden_answers,
        inputs=Tokens(vocabulary),
        outputs=outputs or TokenLabels(vocabulary),
        batch_size=batch,
        steps=steps if small else EPOCHS * max(1, examples // batch),
        source=lambda: generated(f"mad-{name}-{profile}", of, sizes, generator, held_out=held_out),
        decode=decode,
        rules={"majority": _commonest if held_out else majority, **(rules or {})},
        setting=Setting() if small else PUBLISHED,
    )


def knob(value: int | None, profile: Profile, small: int, paper: int) -> int:
    """A knob's value: the one that was set, else the profile's."""
    if value is not None:
        return value
    return small if profile == "small" else paper


def _commonest(splits: Splits) -> float:
    """Say the commonest answer of the test split: in training more is a target than is asked."""
    test, validation = splits["test"].targets, splits["validation"].targets
    said = np.bincount(test[test != IGNORED]).argmax()
    return float((validation[validation != IGNORED] == said).mean())
