"""MAD's in-context recall, plain and noisy (Poli et al. 2024), as the public code defines them.

A sequence is key-value pairs; within it every key has one value, drawn anew for each sequence. The
model reads it token by token. In training every next token is its target, as in the original;
what is measured are the values of keys that stood before. In the noisy task some pairs are two
tokens of a vocabulary of noise instead.

Unlike the original: the accuracy is over all that is asked, not the mean of the classes'
accuracies; the best run is to be chosen on validation, not on the test set; and one pair that is
no noise always stands before the last (there with a probability of 1e-8, a crash, it does not).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.tasks.base import IGNORED, Profile, Splits, Task
from nas.tasks.generate import Draw
from nas.tasks.mad.common import knob, make
from nas.tasks.named import task
from nas.tasks.random_streams import Keys, derive, integers

VERSION = 1


@dataclass(frozen=True)
class InContextRecall:
    """The definition of a data set.

    Args:
        vocabulary: V: keys are the first half of what is no noise, values the second, noise ids
            the last.
        length: L, tokens of the pairs; the last is not shown, so that inputs have L - 1.
        noise: Share of pairs that are noise.
        noise_ids: Of the vocabulary.
        version: Of the generator's code.
    """

    vocabulary: int
    length: int
    noise: float = 0.0
    noise_ids: int = 0
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.vocabulary - self.noise_ids < 4:
            least = self.noise_ids + 4
            raise ValueError(f"a vocabulary of {self.vocabulary} is too small: at least {least}")
        if self.vocabulary > 2**15:
            raise ValueError(f"a vocabulary has at most {2**15} tokens, not {self.vocabulary}")
        if self.length < 4 or self.length % 2:
            raise ValueError(f"the length is an even number from 4 on, not {self.length}")
        if not 0 <= self.noise < 1:
            raise ValueError(f"the share of noise is at least 0 and below 1, not {self.noise}")

    @property
    def keys(self) -> int:
        """Different keys: 0 .. keys - 1."""
        return (self.vocabulary - self.noise_ids) // 2

    @property
    def values(self) -> int:
        """Different values, from `keys` on."""
        return self.vocabulary - self.noise_ids - self.keys


@task("mad/in-context-recall", "recall the value of a key of the sequence (MAD)")
def in_context_recall(
    profile: Profile,
    *,
    vocabulary: int = 16,
    length: int | None = None,
    examples: int = 12_800,
) -> Task:
    """In-context recall.

    Args:
        profile: `paper` (128 tokens) or `small` (32).
        vocabulary: V.
        length: Tokens, instead.
        examples: Training examples.

    Raises:
        ValueError: The vocabulary is too small or the length odd.
    """
    of = InContextRecall(vocabulary, knob(length, profile, 32, 128))
    return _task("in-context-recall", profile, of, examples, "recall the value of a key")


@task("mad/noisy-in-context-recall", "recall the value of a key among noise (MAD)")
def noisy_in_context_recall(
    profile: Profile,
    *,
    vocabulary: int = 32,
    length: int | None = None,
    examples: int = 12_800,
    noise: float = 0.2,
) -> Task:
    """In-context recall where some pairs are noise, of 16 ids of its own.

    Args:
        profile: `paper` (128 tokens) or `small` (32).
        vocabulary: V, noise ids included.
        length: Tokens, instead.
        examples: Training examples.
        noise: Share of pairs that are noise.

    Raises:
        ValueError: The vocabulary is too small, the length odd or the share impossible.
    """
    of = InContextRecall(vocabulary, knob(length, profile, 32, 128), noise, 16)
    return _task(
        "noisy-in-context-recall", profile, of, examples, "recall the value of a key among noise"
    )


def _task(name: str, profile: Profile, of: InContextRecall, examples: int, summary: str) -> Task:
    noisy = f", {of.noise:.0%} of pairs noise of {of.noise_ids} ids" if of.noise_ids else ""
    return make(
        name,
        profile,
        summary,
        f"{of.keys} keys, {of.values} values, {of.length} tokens{noisy}",
        of,
        of.length - 1,
        of.vocabulary,
        examples,
        decode,
        lambda keys: draw(keys, of),
        held_out=lambda keys: draw(keys, of, only_recall=True),
        rules={"the most recent value": recent},
        # Most of the loss is of keys and first values, which nothing tells: learning takes longer.
        steps=1_200,
    )


def draw(keys: Keys, of: InContextRecall, *, only_recall: bool = False) -> Draw:
    """One sequence per key; none is rejected.

    Args:
        keys: `[N]` keys of the random streams.
        of: The definition.
        only_recall: Whether only the values of keys that stood before are asked, as in validation
            and test; otherwise every next token is.

    Returns:
        Tokens and targets `[N, L - 1]`.
    """
    count, pairs = len(keys), of.length // 2
    asked = integers(derive(derive(keys, 0)[:, None], np.arange(pairs)), of.keys)
    # A value's stream is that of its key: a key that comes again has the same value.
    values = np.empty((count, of.keys), dtype=np.int16)
    values[:] = of.keys + integers(derive(derive(keys, 1)[:, None], np.arange(of.keys)), of.values)
    noisy = np.zeros((count, pairs), dtype=np.bool_)
    if of.noise > 0:
        levels = integers(derive(derive(keys, 2)[:, None], np.arange(pairs - 1)), 2**30)
        noisy[:, :-1] = levels < of.noise * 2**30
        noisy[np.arange(count), integers(derive(keys, 3), pairs - 1)] = False
    first = _first(asked, noisy, of.keys)
    last = _one_of(first[:, :-1], derive(keys, 4))
    asked[:, -1] = np.take_along_axis(asked, last[:, None], axis=1)[:, 0]
    first[:, -1] = False
    tokens = np.empty((count, 2 * pairs), dtype=np.int16)
    tokens[:, 0::2] = asked
    tokens[:, 1::2] = np.take_along_axis(values, asked, axis=1)
    if of.noise > 0:
        noise = integers(derive(derive(keys, 5)[:, None], np.arange(2 * pairs)), of.noise_ids)
        wide = np.repeat(noisy, 2, axis=1)
        tokens[wide] = of.keys + of.values + noise[wide]
    targets = tokens[:, 1:].copy()
    if only_recall:
        targets[:, 1::2] = IGNORED
        targets[:, 0::2][first | noisy] = IGNORED
    return Draw(tokens[:, :-1], targets, np.ones(count, dtype=np.bool_))


def _first(asked: NDArray, noisy: NDArray[np.bool_], keys: int) -> NDArray[np.bool_]:
    """Where `[N, pairs]` a key stands for the first time."""
    rows = np.arange(len(asked))
    seen = np.zeros((len(asked), keys + 1), dtype=np.bool_)
    first = np.empty(asked.shape, dtype=np.bool_)
    for i in range(asked.shape[1]):
        now = np.where(noisy[:, i], keys, asked[:, i])
        first[:, i] = ~seen[rows, now] & ~noisy[:, i]
        seen[rows, now] = True
    return first


def _one_of(marked: NDArray[np.bool_], keys: Keys) -> NDArray[np.int64]:
    """A marked place of each row, all alike likely, `[N]`."""
    number = np.cumsum(marked.astype(np.int64), axis=1)
    chosen = 1 + integers(keys, number[:, -1])
    return (number == chosen[:, None]).argmax(axis=1)


def decode(inputs: NDArray, targets: NDArray) -> str:
    """The pairs; a `?` is behind a key that is asked, with its value."""
    words = []
    for i, (token, target) in enumerate(zip(inputs.tolist(), targets.tolist(), strict=True)):
        asked = i % 2 == 0 and target != IGNORED
        words.append(f"{token}?{target}" if asked else str(token))
    return " ".join(words)


def recent(splits: Splits) -> float:
    """Say the token before the key: the value that stood last, in the plain tasks."""
    split = splits["validation"]
    asked = split.targets[:, 1:] != IGNORED
    return float((split.inputs[:, :-1] == split.targets[:, 1:])[asked].mean())
