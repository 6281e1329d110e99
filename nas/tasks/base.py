"""Tasks: batches as pure functions of step and seed, splits, budgets and trivial baselines."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from nas.compiler.interface import Features, Inputs, Outputs, Values
from nas.tasks.metrics import ACCURACY, IGNORED, Metric
from nas.tasks.random_streams import permutation, stream
from nas.tasks.setting import Setting

SplitName = Literal["train", "validation", "test"]
Profile = Literal["small", "paper"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass
class Batch:
    """Examples for one step.

    Args:
        inputs: `[B, L]` int64 tokens, `[B, L, C]` float32 features, or `[B, 2, L]` int64 pairs.
        mask: `[B, L]` or `[B, 2, L]` bool, True where the input is real; None where all of it is.
        targets: `[B]` or `[B, L]` int64 classes, -100 where not asked; or `[B, numbers]` float32.
        accepted: `[B, L]` int64: bit c is 1 where class c, too, counts as right when the model is
            measured; None where the target alone does.
    """

    inputs: torch.Tensor
    mask: torch.Tensor | None
    targets: torch.Tensor
    accepted: torch.Tensor | None = None


@dataclass(frozen=True)
class Split:
    """The examples of one split.

    Args:
        inputs: `[N, L]` integers: tokens, or levels 0..255 of features, 0 after the end; or
            `[N, L, channels]` reals.
        targets: `[N]` or `[N, L]` integers; or `[N, numbers]` reals.
        lengths: `[N]` real positions of each example (of pairs `[N, 2]`); None where all have the
            full length.
        accepted: `[N, L]` int64, see `Batch`.
    """

    inputs: NDArray
    targets: NDArray
    lengths: NDArray | None = None
    accepted: NDArray | None = None

    def __len__(self) -> int:
        return len(self.inputs)


Splits = Mapping[SplitName, Split]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Data, budget and trivial baselines of one task in one profile; data is made on first use.

    Args:
        name: E.g. `lra/listops`.
        profile: `paper` (the published definition) or `small` (a shorter proxy, named as such).
        summary: What is asked, in a line.
        definition: What this profile's data and budget are, in a line.
        length: L, the padded length of every input.
        causal: Whether the model may only look back.
        inputs: What goes into the model.
        outputs: What comes out of it.
        batch_size: Examples per step.
        steps: The full training budget.
        source: Makes or reads the splits.
        decode: An example as text, from its inputs and its target.
        rules: Trivial rules by name: what each reaches on validation, in the task's metric.
        metric: What is counted; the score that is maximised follows from it.
        difficulty: How hard each example of a split is, `[N]` integers such as a number of pairs or
            a depth, for results by difficulty; None where all are alike.
        hidden_answers: Whether no input holds an answer, so that a model that looks ahead, too,
            is asked the same.
        longer: The same task at another length L, for what was not trained; None where there is
            no such thing.
        setting: How its publication trains on it.
    """

    name: str
    profile: Profile
    summary: str
    definition: str
    length: int
    causal: bool
    inputs: Inputs
    outputs: Outputs
    batch_size: int
    steps: int
    source: Callable[[], Splits] = field(repr=False)
    decode: Callable[[NDArray, NDArray], str] = field(repr=False)
    rules: Mapping[str, Callable[[Splits], float]] = field(repr=False, default_factory=dict)
    metric: Metric = ACCURACY
    difficulty: Callable[[Split], NDArray[np.int64]] | None = field(repr=False, default=None)
    hidden_answers: bool = False
    longer: Callable[[int], "Task"] | None = field(repr=False, default=None)
    setting: Setting = field(default_factory=Setting)

    @cached_property
    def splits(self) -> Splits:
        """The examples of every split."""
        return self.source()

    @cached_property
    def baselines(self) -> dict[str, float]:
        """What the trivial rules reach on validation, measured."""
        return {name: rule(self.splits) for name, rule in self.rules.items()}

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 over every example of every split, with the task's name and profile."""
        digest = hashlib.sha256(f"{self.name} {self.profile}".encode())
        for name in SPLITS:
            split = self.splits[name]
            for array in (split.inputs, split.targets, split.lengths, split.accepted):
                if array is None:
                    continue
                digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @property
    def epoch(self) -> int:
        """Steps of an epoch."""
        examples = len(self.splits["train"])
        return examples // min(self.batch_size, examples)

    def train_batch(self, step: int, seed: int) -> Batch:
        """The training batch of a step: a pure function, so that training continues exactly.

        Every epoch goes through a permutation of the training split; what does not fill a batch
        at its end is left out of that epoch.

        Args:
            step: Number of the step, from 0.
            seed: Seed of the run, which orders the data.
        """
        split = self.splits["train"]
        size = min(self.batch_size, len(split))
        epoch, index = divmod(step, self.epoch)
        return self._batch(split, self._order(seed, epoch)[index * size : (index + 1) * size])

    def evaluation(self, split: Literal["validation", "test"]) -> Iterator[Batch]:
        """The examples of a split in a fixed order, each once; the last batch may be smaller."""
        examples = self.splits[split]
        for start in range(0, len(examples), self.batch_size):
            yield self._batch(examples, slice(start, start + self.batch_size))

    def _order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        # The last permutation is remembered: it is asked for once a step.
        if self._last.get("key") != (seed, epoch):
            order = permutation(stream("epoch", seed, epoch), len(self.splits["train"]))
            self._last.update(key=(seed, epoch), order=order)
        return self._last["order"]

    @cached_property
    def _last(self) -> dict:
        return {}

    def _batch(self, split: Split, rows: NDArray[np.int64] | slice) -> Batch:
        found = split.inputs[rows]
        if not isinstance(self.inputs, Features):
            inputs = torch.from_numpy(found.astype(np.int64))
        elif np.issubdtype(found.dtype, np.floating):
            inputs = torch.from_numpy(found.astype(np.float32))
        else:
            levels = found.astype(np.float32) / 127.5 - 1.0
            inputs = torch.from_numpy(levels.reshape(len(levels), self.length, -1))
        mask = accepted = None
        if split.lengths is not None:
            mask = torch.from_numpy(np.arange(self.length) < split.lengths[rows][..., None])
        if split.accepted is not None:
            accepted = torch.from_numpy(split.accepted[rows])
        kind = np.float32 if isinstance(self.outputs, Values) else np.int64
        return Batch(inputs, mask, torch.from_numpy(split.targets[rows].astype(kind)), accepted)


def majority(splits: Splits) -> float:
    """Accuracy on validation of always saying the training split's most frequent class."""
    train, validation = splits["train"].targets, splits["validation"].targets
    commonest = np.bincount(train[train != IGNORED]).argmax()
    return float((validation[validation != IGNORED] == commonest).mean())


def average(splits: Splits) -> float:
    """Mean squared error on validation of always saying the training targets' mean."""
    said = splits["train"].targets.mean(axis=0, dtype=np.float64)
    return float(((splits["validation"].targets - said) ** 2).mean())


def lookup(feature: Callable[[Split], NDArray[np.int64]]) -> Callable[[Splits], float]:
    """A rule that knows one integer of an example: says its most frequent class in training.

    Args:
        feature: `[N]` non-negative integers from a split.
    """

    def accuracy(splits: Splits) -> float:
        train, validation = splits["train"], splits["validation"]
        seen, asked = feature(train), feature(validation)
        values = int(max(seen.max(), asked.max())) + 1
        classes = int(max(train.targets.max(), validation.targets.max())) + 1
        table = np.bincount(seen * classes + train.targets, minlength=values * classes)
        answers = table.reshape(values, classes).argmax(axis=1)
        # A value never seen in training gets the most frequent class.
        unseen = table.reshape(values, classes).sum(axis=1) == 0
        answers[unseen] = np.bincount(train.targets).argmax()
        return float((answers[asked] == validation.targets).mean())

    return accuracy


def bins(values: NDArray, low: float, high: float, count: int = 32) -> NDArray[np.int64]:
    """Numbers as integers `0 .. count - 1` by equal steps from `low` to `high`, for `lookup`."""
    return np.clip((values - low) / (high - low) * count, 0, count - 1).astype(np.int64)
