"""The task of one's own data, from its encoded columns."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import Features, Label, Outputs, TokenLabels, Tokens
from nas.errors import UsageError
from nas.tasks.base import IGNORED, SPLITS, Profile, Split, Splits, Task, bins, lookup, majority
from nas.tasks.metrics import ACCURACY, BITS

_SMALL = {"train": 20_000, "validation": 2_000, "test": 2_000}
_LARGEST_TABLE = 2**24


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
    inputs, targets, names = arrays["inputs"], arrays["targets"], arrays.get("names")
    length = inputs.shape[1]
    if reals := inputs.dtype.kind == "f":
        into: Tokens | Features = Features(inputs.shape[2])
    else:
        seen = max(int(inputs.max()), int(targets.max()) if ahead else 0)
        into = Tokens(256 if arrays["text"] else seen + 1)
    classes = into.vocabulary if ahead and isinstance(into, Tokens) else int(targets.max()) + 1
    outputs: Outputs = Label(classes) if targets.ndim == 1 else TokenLabels(classes)
    asked = "the next token" if ahead else f"{classes} classes"
    per = "" if ahead else " a row" if targets.ndim == 1 else " a position"
    kind = "real numbers" if reals else "bytes" if arrays["text"] else "tokens"
    rules: dict[str, Callable[[Splits], float]] = {"majority": majority}
    if ahead:
        rules = {"token frequencies": _frequencies}
    if targets.ndim == 1:
        if (arrays["lengths"] != length).any():
            rules["length"] = lookup(_length)
        if isinstance(into, Tokens) and into.vocabulary * classes <= _LARGEST_TABLE:
            rules["first token"] = lookup(lambda s: s.inputs[:, 0].astype(np.int64))

    def decode(row: NDArray, target: NDArray) -> str:
        if reals:
            shown = np.array2string(row, precision=3, threshold=24)
        elif arrays["text"]:
            shown = bytes(int(t) for t in row if t).decode("utf-8", "replace")
        else:
            shown = " ".join(str(int(token)) for token in row)
        if targets.ndim == 1:
            return f"{shown}\n= {target if names is None else names[int(target)]}"
        return f"{shown}\n= " + " ".join(str(int(t)) if t != IGNORED else "." for t in target)

    return Task(
        name=name,
        profile=profile,
        summary=f"one's own data: {asked}{per}",
        definition=(
            f"{len(inputs)} rows of up to {length} {kind}; {sizes} examples"
            + f"; {dropped} left out of training that stand in another split, too" * bool(dropped)
        ),
        length=length,
        causal=causal or ahead,
        inputs=into,
        outputs=outputs,
        batch_size=batch,
        steps=steps or (600 if small else max(600, 20 * len(splits["train"]) // batch)),
        source=lambda: splits,
        decode=decode,
        rules=rules,
        metric=BITS if ahead else ACCURACY,
    )


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
