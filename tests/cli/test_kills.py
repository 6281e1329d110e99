"""A search with real training, killed wherever it is: it goes on as if nothing had happened."""

import random
import signal
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from nas.study.study import Study
from tests.cli import tiny

TRIALS = 10
SEARCH = ["search", "--task", "tiny", "--workers", "1", "--width", "16", "--name", "s",
          "--start", "transformer", "--start", "hawk", "--strategy", "evolution",
          "--profile", "small", "--final-seeds", "0", "--trials", str(TRIALS)]  # fmt: skip
RESUME = ["resume", "s", "--workers", "1", "--final-seeds", "0"]


def shown(folder: Path) -> list[dict]:
    """Trials with their scores, and every job's scores and loss curves."""
    study = Study.open("s", storage=folder / "results")
    rows = []
    for trial in study.trials():
        row = asdict(trial)
        del row["id"], row["attempt"]
        rows.append(row | {"jobs": [(job.rung, job.result, job.log) for job in study.jobs(trial)]})
    assert len(rows) == TRIALS
    return rows


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_killed_and_resumed_it_computes_what_an_unbroken_search_does(tmp_path, process, seed):
    rng = random.Random(seed)
    folders = [tmp_path / name for name in ("whole", "broken")]
    for folder in folders:
        folder.mkdir()
    whole, broken = (process(tiny.command, SEARCH, folder=folder) for folder in folders)
    kills = 0
    for _ in range(5):
        # From when there is something to lose: the first line of progress.
        broken.wait(lambda process: process.err)
        if broken.code is None:
            time.sleep(rng.random() * 1.5)
        broken.signal(signal.SIGKILL)
        if broken.finish().code == 0:
            break
        kills += 1
        broken = process(tiny.command, RESUME, folder=folders[1])
    for each in (whole, broken):
        code, _, err = each.finish()
        assert code == 0, err
    assert kills >= 2
    assert shown(folders[1]) == shown(folders[0])
