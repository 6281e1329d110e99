"""Forecasting of transformer temperatures (ETTh1, ETTh2: Zhou et al. 2021, "Informer").

Seven hourly channels; from a window of 96 or 336 hours the next 96 to 720 hours of all channels are
asked. As published, the first 12 months (of 30 days) are for training, then 4 for validation and 4
for test, channels are standardised by the training months, and the inputs of a held-out window
may reach back into the part before it, its targets never. The rest of the file is left out. Two
windows an hour apart are nearly the same: so are neighbours across the border of two parts.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from nas.compiler.interface import Features, Values
from nas.tasks.archives import (
    DamagedDataError,
    MissingDataError,
    content,
    data_folders,
    original,
)
from nas.tasks.base import SPLITS, Profile, Split, Splits, Task, average
from nas.tasks.metrics import SQUARED_ERROR
from nas.tasks.named import task

CHANNELS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
MONTH = 30 * 24
DAY = 24
_LARGEST = 2**26


@dataclass(frozen=True)
class Forecast:
    """The definition of a forecasting data set.

    Args:
        length: L, hours of a window.
        horizon: Hours that are asked.
        months: Of training, validation and test.
        every: Hours from one window to the next; more than one leaves windows out.
    """

    length: int = 96
    horizon: int = 96
    months: tuple[int, int, int] = field(default=(12, 4, 4))
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.horizon <= self.months[1] * MONTH:
            raise ValueError(f"horizon is 1 to {self.months[1] * MONTH} hours, not {self.horizon}")
        if not DAY <= self.length <= self.months[0] * MONTH - self.horizon:
            raise ValueError(
                f"length is {DAY} to {self.months[0] * MONTH - self.horizon} hours, "
                f"not {self.length}"
            )


@task("ett/h1", "the next hours of a transformer's loads and temperature", data=True)
def h1(
    profile: Profile, data: Path | None, *, length: int | None = None, horizon: int | None = None
) -> Task:
    """ETTh1.

    Args:
        profile: `paper` (96 hours from 96) or `small` (24 from 48, every fourth window).
        data: Folder with `ETTh1.csv`, packed or not, or `ett/` with it.
        length: Hours of a window, instead: 96 and 336 are published.
        horizon: Hours that are asked, instead: 96, 192, 336 and 720 are published.

    Raises:
        ValueError: A window does not fit the months.
        MissingDataError: The file is not there.
    """
    return _task("h1", profile, data, length, horizon)


@task("ett/h2", "the next hours of another transformer", data=True)
def h2(
    profile: Profile, data: Path | None, *, length: int | None = None, horizon: int | None = None
) -> Task:
    """ETTh2; see `h1`."""
    return _task("h2", profile, data, length, horizon)


def _task(
    name: str, profile: Profile, data: Path | None, length: int | None, horizon: int | None
) -> Task:
    small = profile == "small"
    of = Forecast(
        (48 if small else 96) if length is None else length,
        (24 if small else 96) if horizon is None else horizon,
        every=4 if small else 1,
    )
    path = find(f"ETT{name}.csv", data)
    return Task(
        name=f"ett/{name}",
        profile=profile,
        summary="what will the next hours of all channels be?",
        definition=(
            f"{path.name}: {of.horizon} hours of {len(CHANNELS)} channels from {of.length}, months "
            f"{'/'.join(map(str, of.months))}{f', every {of.every}th window' if small else ''}; "
            "standardised by the training months"
        ),
        length=of.length,
        # A whole window is seen before anything is asked.
        causal=False,
        inputs=Features(len(CHANNELS)),
        outputs=Values(of.horizon * len(CHANNELS)),
        batch_size=32,
        steps=600 if small else 10 * 8_400 // 32,
        source=lambda: load(path, of),
        decode=decode,
        rules={
            "mean": average,
            "last value": lambda splits: _error(splits, _last(splits, 1)),
            "same hour of the last day": lambda splits: _error(splits, _last(splits, DAY)),
        },
        metric=SQUARED_ERROR,
    )


def find(name: str, data: Path | None) -> Path:
    """The file of a data set.

    Raises:
        MissingDataError: It is not in the folder, its sub-folder `ett`, or named.
    """
    folders = data_folders(data, "ett")
    if (path := original(folders, [name])) is not None:
        return path
    where = f"into {folders[0]}" if folders else "into a folder and name it with --data or NAS_DATA"
    raise MissingDataError(
        f"ett needs its data: put {name} (https://github.com/zhouhaoyi/ETDataset) {where}"
    )


def read(path: Path) -> NDArray[np.float64]:
    """The hours `[N, 7]` of a file.

    Raises:
        DamagedDataError: It is damaged, or no such table.
    """
    try:
        header, *lines = content(path, _LARGEST).decode("utf-8").split("\n")
        rows = [line.split(",")[1:] for line in lines if line.strip()]
        if header.strip().split(",") != ["date", *CHANNELS]:
            raise ValueError(f"its columns must be date, {', '.join(CHANNELS)}")
        for number, row in enumerate(rows, start=2):
            if len(row) != len(CHANNELS):
                raise ValueError(f"line {number} has {len(row) + 1} columns")
        hours = np.array(rows, dtype=np.float64).reshape(len(rows), len(CHANNELS))
    except ValueError as error:
        raise DamagedDataError(f"{path}: {' '.join(str(error).split())}") from error
    if not np.isfinite(hours).all():
        raise DamagedDataError(f"{path}: holds a number that is not finite")
    return hours


def load(path: Path, of: Forecast) -> Splits:
    """The splits: every window whose targets are all of the split's months.

    Raises:
        DamagedDataError: The file is damaged, or of fewer hours than the months have.
    """
    hours = read(path)
    ends = np.cumsum((0, *of.months)) * MONTH
    if len(hours) < ends[-1]:
        raise DamagedDataError(f"{path}: {len(hours)} hours, fewer than {ends[-1]}: cut off")
    known = hours[: ends[1]]
    spread = known.std(axis=0)
    normal = ((hours - known.mean(axis=0)) / np.where(spread == 0, 1, spread)).astype(np.float32)
    splits = {}
    for name, start, end in zip(SPLITS, ends, ends[1:], strict=False):
        part = normal[max(0, start - of.length) : end]
        windows = sliding_window_view(part, of.length + of.horizon, axis=0)[:: of.every]
        inputs, targets = windows[..., : of.length], windows[..., of.length :]
        # Windows overlap in memory, and become arrays only as batches are made of them.
        splits[name] = Split(
            inputs.transpose(0, 2, 1),
            np.ascontiguousarray(targets.transpose(0, 2, 1)).reshape(len(targets), -1),
        )
    return splits


def decode(inputs: NDArray, targets: NDArray) -> str:
    """The last day of the oil's temperature, and what comes."""
    before = " ".join(f"{value:.2f}" for value in inputs[-DAY:, -1])
    after = " ".join(f"{value:.2f}" for value in targets.reshape(-1, inputs.shape[1])[:DAY, -1])
    return f"OT ... {before}\n-> {after} ..."


def _last(splits: Splits, hours: int) -> NDArray:
    """The last hours of the validation windows, again and again."""
    validation = splits["validation"]
    channels = validation.inputs.shape[2]
    horizon = validation.targets.shape[1] // channels
    again = np.arange(horizon) % hours - hours
    return validation.inputs[:, again].reshape(len(validation), -1)


def _error(splits: Splits, said: NDArray) -> float:
    return float(((splits["validation"].targets - said.astype(np.float64)) ** 2).mean())
