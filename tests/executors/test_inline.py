import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from nas.errors import NasError
from nas.executors.job import JobResult
from nas.study.study import Limits, Study
from tests.study.synthetic import begin, drive, job_function

ROOT = Path(__file__).parents[2]


def states(study):
    return [(trial.state, len(trial.scores), trial.attempt) for trial in study.trials()]


def test_jobs_run_one_after_the_other_in_this_process(tmp_path):
    study = begin(tmp_path, limits=Limits(5))
    seen = []

    def watched(job):
        assert [trial.state for trial in study.trials()].count("running") == 1
        seen.append((os.getpid(), job.trial, job.rung))
        return job_function(job)

    drive(tmp_path, watched)
    assert {process for process, _, _ in seen} == {os.getpid()}
    assert seen == sorted(seen)
    assert all(trial.finished for trial in study.trials())


def test_an_exception_of_a_job_fails_its_trial_alone(tmp_path):
    study = begin(tmp_path, limits=Limits(4))

    def broken(job):
        if job.trial == 1:
            raise RuntimeError("cannot")
        return job_function(job)

    drive(tmp_path, broken)
    assert [trial.state == "failed" for trial in study.trials()] == [False, True, False, False]
    assert "RuntimeError: cannot" in study.jobs(study.trials()[1])[0].log


def test_a_full_disk_in_a_job_stops_the_search_and_loses_nothing(tmp_path):
    study = begin(tmp_path, limits=Limits(4))

    def full(job):
        if (job.trial, job.rung, job.attempt) == (1, 1, 1):
            raise OSError(28, "No space left on device")
        return job_function(job)

    with pytest.raises(NasError, match="No space left on device"):
        drive(tmp_path, full)
    assert states(study) == [("complete", 3, 1), ("waiting", 1, 1)]
    drive(tmp_path, full)
    assert states(study)[1] == ("complete", 3, 2)
    assert len(study.trials()) == 4


def test_a_full_disk_of_the_record_stops_the_search_and_loses_nothing(tmp_path):
    study = begin(tmp_path, limits=Limits(6))

    def fills(job):
        if (job.trial, job.rung) == (2, 0):
            size = 10**6  # more than a page: the log of a failure of this size has no room
            return JobResult.failure("x" * size)
        return job_function(job)

    def limit(connection, record):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    event.listen(Engine, "connect", limit)
    try:
        with pytest.raises(NasError, match="the disk is full"):
            drive(tmp_path, fills)
    finally:
        event.remove(Engine, "connect", limit)
    done = [trial for trial in study.trials() if trial.finished]
    drive(tmp_path)
    trials = study.trials()
    assert all(trial.finished for trial in trials)
    assert len(trials) == 6
    assert [trials[trial.number] for trial in done] == done


def test_a_signal_interrupts_and_resume_goes_on(tmp_path):
    begin(tmp_path, limits=Limits(40))
    command = [sys.executable, "-m", "tests.study.synthetic", str(tmp_path), "0.3"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(10):
        process.stdout.readline()
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert f"study s is being run by process {process.pid} on" in refused.stderr
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    study = Study.open("s", storage=tmp_path)
    assert study.driver() is None
    assert "running" not in [trial.state for trial in study.trials()]
    finished = [trial for trial in study.trials() if trial.finished]
    start = time.monotonic()
    drive(tmp_path)
    assert time.monotonic() - start < 60  # nothing is waited for
    trials = study.trials()
    assert len(trials) == 40
    assert all(trial.state in ("complete", "pruned") for trial in trials)
    assert [trials[trial.number] for trial in finished] == finished
