"""A search with real training, killed wherever it is: it goes on as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from nas.study.study import Study

ROOT = Path(__file__).parents[2]
TRIALS = 10
SEARCH = ["search", "--task", "tiny", "--workers", "1", "--width", "16", "--name", "s",
          "--start", "transformer", "--start", "hawk", "--strategy", "evolution",
          "--profile", "small", "--final-seeds", "0", "--trials", str(TRIALS)]  # fmt: skip
RESUME = ["resume", "s", "--workers", "1", "--final-seeds", "0"]


def start(folder: Path, words: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.cli.tiny", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err


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
def test_killed_and_resumed_it_computes_what_an_unbroken_search_does(tmp_path, seed):
    rng = random.Random(seed)
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    finish(start(tmp_path / "whole", SEARCH))
    process = start(tmp_path / "broken", SEARCH)
    kills = 0
    for _ in range(5):
        # From when there is something to lose: the first line of progress.
        if process.stderr.readline():
            time.sleep(rng.random() * 1.5)
        if process.poll() is not None and process.returncode == 0:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
        process = start(tmp_path / "broken", RESUME)
    finish(process)
    assert kills >= 2
    assert shown(tmp_path / "broken") == shown(tmp_path / "whole")
