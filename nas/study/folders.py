"""Where the checkpoints of trials are, and which of them are still of use."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from nas.study.history import Trial


def trial_folder(folder: Path, trial: Trial) -> Path:
    """The folder of a trial in its study's folder."""
    return folder.absolute() / f"trial-{trial.number:06d}"


def attempt_folders(folder: Path, trial: Trial) -> list[str]:
    """The folders of a trial's attempts, the present one first.

    A worker can outlive its driver by some seconds and still write: it writes where no later
    attempt does.
    """
    base = trial_folder(folder, trial)
    return [str(base / f"attempt-{attempt}") for attempt in range(trial.attempt, 0, -1)]


def tidy(folder: Path, trial: Trial) -> None:
    """Remove the checkpoints of a finished trial, but for the last attempt's of a completed one."""
    if trial.state == "complete":
        for earlier in attempt_folders(folder, trial)[1:]:
            shutil.rmtree(earlier, ignore_errors=True)
    else:
        shutil.rmtree(trial_folder(folder, trial), ignore_errors=True)


def sweep(folder: Path, trials: Iterable[Trial]) -> None:
    """Tidy what a driver that was killed could not."""
    for trial in trials:
        if trial.finished and trial_folder(folder, trial).exists():
            tidy(folder, trial)
