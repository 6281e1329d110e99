"""The task of one's own data, from its encoded columns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import Features, Label, Outputs, TokenLabels, Tokens, Values
from nas.errors import UsageError
from nas.tasks.base import (
    IGNORED,
    SPLITS,
    Profile,
    Split,
    Splits,
    Task,
    average,
    bins,
    lookup,
    majority,
)
from nas.tasks.metrics import ACCURACY, BITS, SQUARED_ERROR, Metric

_SMALL = {"train": 20_000, "validation": 2_000, "test": 2_000}
_LARGEST_TABLE = 2**24


@dataclass(frozen=True)
class _Asked:
    """What is asked, and how answers are counted.

    Args:
        what: For people.
        outputs: What comes out of a model.
        metric: What is counted.
        rules: Trivial rules.
        note: What else must be said of it, with its separator.
    """

    what: str
    outputs: Outputs
    metric: Metric
    rules: Mapping[str, Callable[[Splits], float]]
    note: str = ""


def make_task(
    name: str,
    arrays: Mapping[str, NDArray],
    profile: Profile,
    *,
    causal: bool = False,
    steps: int | None = None,
    batch: int = 64,
) -> Task:
    """The task of encoded columns.

    Args:
        name: The task's name.
        arrays: See `nas.tasks.own.columns.encode`.
        profile: `paper`: all rows; `small`: at most 20,000 for training and 2,000 each for
            validation and test.
        causal: Whether a model may only look back; the next token always is.
        steps: Of training; default: 600, or twenty epochs.
        batch: Rows a step.

    Raises:
        UsageError: A split has too few rows, or there are too many classes.
        ValueError: An impossible knob.
    """
    if batch < 1 or (steps is not None and steps < 1):
        raise ValueError("steps and batch are at least 1")
    small, ahead = profile == "small", bool(arrays["next"])
    splits, dropped = _splits(arrays, small)
    sizes = "/".join(str(len(splits[split])) for split in SPLITS)
    inputs = arrays["inputs"]
    if inputs.dtype.kind == "f":
        into: Tokens | Features = Features(inputs.shape[2])
    else:
        seen = max(int(inputs.max()), int(arrays["targets"].max()) if ahead else 0)
        into = Tokens(256 if arrays["text"] else seen + 1)
    asked = _asked(arrays, splits, into)
    return Task(
        name=name,
        profile=profile,
        summary=f"one's own data: {asked.what}",
        definition=(
            f"{len(inputs)} rows of up to {inputs.shape[1]} {_kind(arrays)}; {sizes} examples"
            + f"; {dropped} left out of training that stand in another split, too" * bool(dropped)
            + asked.note
        ),
        length=inputs.shape[1],
        causal=causal or ahead,
        inputs=into,
        outputs=asked.outputs,
        batch_size=batch,
        steps=steps or (600 if small else max(600, 20 * len(splits["train"]) // batch)),
        source=lambda: splits,
        decode=partial(_decode, _kind(arrays), arrays.get("names")),
        rules=asked.rules,
        metric=asked.metric,
    )


def _asked(arrays: Mapping[str, NDArray], splits: Splits, into: Tokens | Features) -> _Asked:
    targets = arrays["targets"]
    if targets.dtype.kind == "f":
        values = _values(splits["train"].targets)
        count = "a real number" if values.numbers == 1 else f"{values.numbers} real numbers"
        note = (
            "; the error is in the targets' own unit, squared; the model is trained on them in "
            f"deviations of {values.deviation:.4g} from their mean in training"
        )
        return _Asked(f"{count} a row", values, SQUARED_ERROR, {"mean": average}, note)
    if arrays["next"]:
        assert isinstance(into, Tokens)
        frequencies = {"token frequencies": _frequencies}
        return _Asked("the next token", TokenLabels(into.vocabulary), BITS, frequencies)
    classes = int(targets.max()) + 1
    rules: dict[str, Callable[[Splits], float]] = {"majority": majority}
    if targets.ndim == 2:
        return _Asked(f"{classes} classes a position", TokenLabels(classes), ACCURACY, rules)
    if (arrays["lengths"] != arrays["inputs"].shape[1]).any():
        rules["length"] = lookup(_length)
    if isinstance(into, Tokens) and into.vocabulary * classes <= _LARGEST_TABLE:
        rules["first token"] = lookup(lambda s: s.inputs[:, 0].astype(np.int64))
    return _Asked(f"{classes} classes a row", Label(classes), ACCURACY, rules)


def _values(targets: NDArray) -> Values:
    """Reals with their mean, and the deviation of all of them, in the training split."""
    known = targets.astype(np.float64)
    # The mean of equal numbers may differ from them in its last digit.
    variance = np.where(np.ptp(known, axis=0) > 0, known.var(axis=0), 0.0).mean()
    return Values(known.shape[1], tuple(known.mean(axis=0).tolist()), float(variance) ** 0.5 or 1.0)


def _kind(arrays: Mapping[str, NDArray]) -> str:
    if arrays["inputs"].dtype.kind == "f":
        return "real numbers"
    return "bytes" if arrays["text"] else "tokens"


def _decode(kind: str, names: NDArray | None, row: NDArray, target: NDArray) -> str:
    if kind == "real numbers":
        shown = np.array2string(row, precision=3, threshold=24)
    elif kind == "bytes":
        shown = bytes(int(t) for t in row if t).decode("utf-8", "replace")
    else:
        shown = " ".join(str(int(token)) for token in row)
    if target.dtype.kind == "f":
        return f"{shown}\n= " + " ".join(f"{number:.6g}" for number in target)
    if target.ndim == 0:
        return f"{shown}\n= {target if names is None else names[int(target)]}"
    return f"{shown}\n= " + " ".join(str(int(t)) if t != IGNORED else "." for t in target)


def _splits(arrays: Mapping[str, NDArray], small: bool) -> tuple[Splits, int]:
    """The splits, and how many rows were left out of training as they stand in another, too."""
    marks, lengths = arrays["marks"], arrays["lengths"]
    found = arrays["split"].copy()
    held_out = np.isin(marks, marks[found > 0]) & (found == 0)
    in_both = (found == 1) & np.isin(marks, marks[found == 2])
    found[held_out | in_both] = -1
    padded = (lengths != arrays["inputs"].shape[1]).any()
    splits: dict[Any, Split] = {}
    for number, name in enumerate(SPLITS):
        rows = np.flatnonzero(found == number)
        if small and len(rows) > _SMALL[name]:  # which ones is decided by their hashes
            rows = np.sort(rows[np.argsort(marks[rows], kind="stable")[: _SMALL[name]]])
        if not len(rows):
            raise UsageError(
                f"no rows for {name}: give more, or say train, validation and test in a column "
                "`split`"
            )
        splits[name] = Split(
            arrays["inputs"][rows], arrays["targets"][rows], lengths[rows] if padded else None
        )
    return splits, int(held_out.sum() + in_both.sum())


def _length(split: Split) -> NDArray[np.int64]:
    assert split.lengths is not None
    return bins(split.lengths, 0, split.inputs.shape[1] + 1)


def _frequencies(splits: Splits) -> float:
    """Bits of a token by its frequency in training, each counted once more."""
    train, asked = (
        splits[name].targets[splits[name].targets != IGNORED] for name in ("train", "validation")
    )
    counts = np.bincount(train, minlength=int(max(train.max(), asked.max())) + 1) + 1.0
    return float(-np.log2(counts / counts.sum())[asked].mean())
