"""Real Ray, real processes, real kills."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from nas.errors import NasError, UsageError
from nas.executors import ray
from nas.executors.job import Job, JobResult
from nas.study.study import Limits, Study
from tests.study.synthetic import begin, drive, job_function, score

ROOT = Path(__file__).parents[2]
TRIALS = 40


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Workers import this module by its name."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def kill_itself_at_first(job: Job) -> JobResult:
    if job.trial in (3, 17) and job.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return job_function(job)


def always_die(job: Job) -> JobResult:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def raise_sometimes(job: Job) -> JobResult:
    if job.trial == 5:
        raise ZeroDivisionError("in the job")
    if job.trial == 3:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return job_function(job)


def assert_complete(study: Study, trials: int = TRIALS) -> None:
    """None lost, none finished twice, every score what its job computes."""
    found = study.trials()
    assert [trial.number for trial in found] == list(range(trials))
    assert all(trial.state in ("complete", "pruned") for trial in found)
    for trial in found:
        rungs = study.definition.rungs[: len(trial.scores)]
        assert trial.scores == tuple(score(trial.text, trial.learning_rate, s) for s in rungs)
        done = Counter(job.rung for job in study.jobs(trial))
        assert set(done.values()) <= {1}
        if trial.replayed is None:
            assert 0 in done


def test_a_study_with_two_workers_is_complete_whatever_dies(tmp_path):
    begin(tmp_path, limits=Limits(TRIALS))
    study = drive(tmp_path, kill_itself_at_first, run=partial(ray.run, workers=2))
    assert_complete(study)
    assert [trial.number for trial in study.trials() if trial.attempt > 1] == [3, 17]


def test_an_exception_in_a_job_is_a_failed_trial_with_its_trace(tmp_path):
    begin(tmp_path, limits=Limits(8))
    study = drive(tmp_path, raise_sometimes, run=partial(ray.run, workers=2))
    trials = study.trials()
    assert [trial.number for trial in trials if trial.state == "failed"] == [3, 5]
    (job,) = study.jobs(trials[5])
    assert "ZeroDivisionError: in the job" in job.log
    assert "raise_sometimes" in job.log


def test_when_every_worker_dies_the_run_ends_with_one_line(tmp_path):
    begin(tmp_path, limits=Limits(TRIALS))
    with pytest.raises(NasError, match="workers died one after the other") as error:
        drive(tmp_path, always_die, run=partial(ray.run, workers=2))
    assert "\n" not in str(error.value)
    study = Study.open("s", storage=tmp_path)
    assert {trial.state for trial in study.trials()} <= {"waiting", "failed"}


def test_an_address_without_a_cluster_is_refused(tmp_path):
    begin(tmp_path, limits=Limits(2))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UsageError, match="cannot reach the Ray cluster") as error:
        drive(tmp_path, run=partial(ray.run, workers=2, address=address))
    assert address in str(error.value)


def test_a_driver_killed_at_random_moments_loses_nothing(tmp_path):
    kill_until_complete(tmp_path, kills=3, seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 11))
def test_soak_of_kills(tmp_path, seed):
    kill_until_complete(tmp_path, kills=8, seed=seed)


def kill_until_complete(folder: Path, kills: int, seed: int) -> None:
    """Kill the driver, a worker, or both, at random moments; then let it finish."""
    rng = random.Random(seed)
    begin(folder, limits=Limits(TRIALS))
    log = folder / "jobs.log"
    log.touch()
    for _ in range(kills):
        driver = start(folder)
        before = len(log.read_text().splitlines())
        # Somewhere in the middle: some jobs later, and some milliseconds.
        enough = before + rng.randint(1, 14)
        wait_for(lambda n=enough: len(log.read_text().splitlines()) >= n, driver)
        time.sleep(rng.random() * 0.1)
        victims = rng.choice(["driver", "worker", "both"])
        if victims != "driver":
            worker = int(log.read_text().splitlines()[-1].split()[3])
            kill(worker)
        if victims == "worker":
            time.sleep(rng.random())
        kill(driver.pid)
        driver.wait()
    assert start(folder).wait(timeout=120) == 0
    study = Study.open("s", storage=folder)
    assert_complete(study)
    # The same job, trained to its end, is not trained again unless its result was never told.
    ended = Counter(
        tuple(line.split()[:3]) for line in log.read_text().splitlines() if "end" in line
    )
    assert sum(count - 1 for count in ended.values()) <= 2 * kills


def start(folder: Path, *address: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.executors.drive", str(folder), "0.05", *address]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        if process.poll() is not None:
            return
        assert time.monotonic() < deadline, "the study does not go on"
        time.sleep(0.01)


def test_a_study_runs_on_a_cluster_by_its_address_and_token(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block"]
    command += ["--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    cluster = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not listens(port):
            assert time.monotonic() < deadline, "the cluster does not start"
            time.sleep(0.2)
        begin(tmp_path, limits=Limits(12))
        assert start(tmp_path, f"127.0.0.1:{port}").wait(timeout=120) == 0
        assert_complete(Study.open("s", storage=tmp_path), 12)
    finally:
        os.killpg(cluster.pid, signal.SIGTERM)
        cluster.wait(timeout=60)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
