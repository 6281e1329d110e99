import itertools
import json
import math
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest

from nas.errors import NasError
from nas.executors.job import JobResult, guarded, term_to_json
from nas.search.base import Proposal
from nas.search.driver import MAX_LOSSES, Driver
from nas.search.halving import Rungs
from nas.search.strategy import make_strategy
from nas.study.study import Limits, Study
from tests.study.synthetic import begin, drive, job_function, load_space, proposals, score

ROOT = Path(__file__).parents[2]


class Scripted:
    """A strategy that proposes what it was given: architecture and learning rate by number."""

    def __init__(self, space, script):
        self.space, self.script, self.seen = space, script, []

    def propose(self, history, rng):
        self.seen.append(list(history))
        text, learning_rate = self.script[len(history)]
        return Proposal(
            self.space.parse(text), learning_rate, "scripted", tuple(range(len(history)))[:2]
        )


@pytest.fixture
def scripted(tmp_path):
    """Makes a driver of a new study with a scripted strategy, its lease held."""
    leases = []

    def make(script, scores=None, **settings):
        study = begin(tmp_path, limits=Limits(len(script)), **settings)
        lease = study.lease().__enter__()
        leases.append(lease)
        space = load_space(tmp_path)
        return study, Driver(study, Scripted(space, script), space, lease)

    yield make
    for lease in leases:
        lease.__exit__()


def complete(value):
    return JobResult("complete", value, {"pair/one": value, "pair/two": value})


A, B, C = "net(conv(3))", "net(scan(4))", "net(seq(conv(3), scan(4)))"


def test_a_study_runs_until_its_trials_are_finished(tmp_path):
    begin(tmp_path, limits=Limits(40))
    seen = []
    study = drive(tmp_path, listener=seen.append)
    trials = study.trials()
    states = Counter(trial.state for trial in trials)
    assert len(trials) == 40
    assert set(states) <= {"complete", "pruned"}
    assert states["pruned"] > 10
    rungs = study.definition.rungs
    for trial in trials:
        expected = tuple(score(trial.text, trial.learning_rate, step) for step in rungs)
        assert trial.scores == expected[: len(trial.scores)]
        assert (len(trial.scores) == 3) == (trial.state == "complete")
    best = max((t for t in trials if t.state == "complete"), key=lambda t: t.scores[-1])
    stored = optuna.load_study(study_name="s", storage=study.url)
    assert stored.best_trial.number == best.number
    assert stored.best_value == best.scores[-1]
    assert stored.best_trial.user_attrs["architecture"] == best.text
    assert seen[-1].number == 39
    assert {trial.number for trial in seen if trial.state == "running"} == set(range(40))


def test_decisions_are_those_of_the_rungs_in_order(tmp_path):
    begin(tmp_path, limits=Limits(30), strategy="random")
    study = drive(tmp_path)
    rungs = Rungs(study.definition.rungs, study.definition.eta)
    recorded = [[], [], []]
    for trial in study.trials():
        for rung, value in enumerate(trial.scores):
            goes_on = rungs.continues(rung, recorded[rung], value)
            assert goes_on == (len(trial.scores) > rung + 1)
            recorded[rung].append(value)


def test_the_next_rung_comes_before_a_new_trial(scripted):
    _study, driver = scripted([(A, 1e-3), (B, 1e-3)])
    jobs = []
    while job := driver.next_job():
        jobs.append((job.trial, job.rung, job.until_step))
        driver.tell(job, complete(0.5))
    assert jobs == [(0, 0, 10), (0, 1, 30), (0, 2, 90), (1, 0, 10), (1, 1, 30), (1, 2, 90)]
    assert driver.done


def test_a_job_says_all_that_a_worker_needs(scripted, tmp_path):
    _study, driver = scripted([(C, 1e-3)])
    job = driver.next_job()
    assert job.architecture == term_to_json(load_space(tmp_path).parse(C).term)
    assert job.architecture == ["start", [["seq", [["conv", [["width", ["3"]]]],
                                                   ["scan", [["state", ["4"]]]]]]]]  # fmt: skip
    assert job.text == C
    assert (job.study, job.trial, job.attempt, job.rung) == ("s", 0, 1, 0)
    assert job.recipe == {"weight_decay": 0.05, "betas": [0.9, 0.98], "learning_rate": 1e-3}
    assert (job.task, job.tasks, job.profile, job.width) == (
        "pair", ("pair/one", "pair/two"), "small", 32,
    )  # fmt: skip
    assert (job.seed, job.until_step, job.final_step) == (3, 10, 90)
    assert job.folder == str(tmp_path / "studies/s/trial-000000/attempt-1")
    assert job.earlier == ()


def test_no_job_while_the_last_trials_run(scripted):
    _, driver = scripted([(A, 1e-3), (B, 1e-3)])
    first, second = driver.next_job(), driver.next_job()
    assert driver.next_job() is None
    assert not driver.done
    driver.tell(first, JobResult.failure("x"))
    driver.tell(second, JobResult.failure("x"))
    assert driver.next_job() is None
    assert driver.done


def test_several_workers_see_each_others_trials(scripted):
    _study, driver = scripted([(A, 1e-3), (B, 1e-3), (C, 1e-3)])
    _first, second = driver.next_job(), driver.next_job()
    driver.tell(second, complete(0.4))
    assert driver.next_job().trial == 1
    driver.next_job()
    states = [[(o.state, o.rung, o.score) for o in seen] for seen in driver._strategy.seen]
    assert states == [
        [],
        [("running", None, None)],
        [("running", None, None), ("running", 0, 0.4)],
    ]


def test_many_threads_do_every_job_once(tmp_path):
    study = begin(tmp_path, limits=Limits(40))
    space = load_space(tmp_path)
    told = []

    def work(driver):
        while not driver.done:
            job = driver.next_job()
            if job is None:
                time.sleep(0.001)
                continue
            told.append((job.trial, job.rung))
            driver.tell(job, job_function(job))

    with study.lease() as lease:
        driver = Driver(study, make_strategy("random", space), space, lease)
        threads = [threading.Thread(target=work, args=(driver,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    trials = study.trials()
    assert sorted(told) == [
        (t.number, rung) for t in trials for rung in range(len(t.scores)) if t.replayed is None
    ]
    assert [trial.number for trial in trials] == list(range(40))
    assert all(trial.state in ("complete", "pruned") for trial in trials)


def test_an_answer_counts_once(scripted):
    study, driver = scripted([(A, 1e-3)])
    job = driver.next_job()
    driver.tell(job, complete(0.5))
    driver.tell(job, complete(0.9))
    assert study.trials()[0].scores == (0.5,)
    job = driver.next_job()
    driver.lost(job, "gone")
    driver.tell(job, complete(0.9))  # the worker lived, and its job is another's now
    assert study.trials()[0].scores == (0.5,)
    again = driver.next_job()
    assert (again.attempt, again.rung) == (2, 1)
    driver.tell(job, complete(0.9))
    assert study.trials()[0].scores == (0.5,)
    driver.tell(again, complete(0.6))
    assert study.trials()[0].scores == (0.5, 0.6)


def test_attempts_have_folders_of_their_own_and_go_on_from_earlier_ones(scripted, tmp_path):
    study, driver = scripted([(A, 1e-3)])
    folder = tmp_path / "studies/s/trial-000000"
    for attempt in range(1, 4):
        job = driver.next_job()
        assert job.folder == str(folder / f"attempt-{attempt}")
        assert job.earlier == tuple(str(folder / f"attempt-{a}") for a in range(attempt - 1, 0, -1))
        Path(job.folder).mkdir(parents=True)
        driver.lost(job, "gone")
    for _ in range(3):
        job = driver.next_job()
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        driver.tell(job, complete(0.5))
    assert study.trials()[0].state == "complete"
    assert [path.name for path in folder.iterdir()] == ["attempt-4"]  # what nobody needs is gone


def test_checkpoints_of_stopped_trials_are_removed(scripted, tmp_path):
    study, driver = scripted([(A, 1e-3), (B, 1e-3), (C, 1e-3), ("net(conv(7))", 1e-3)])
    while job := driver.next_job():
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        driver.tell(job, JobResult.failure("x") if job.trial == 3 else complete(1 - job.trial / 10))
    states = [trial.state for trial in study.trials()]
    assert states == ["complete", "complete", "pruned", "failed"]
    assert sorted(p.name for p in (tmp_path / "studies/s").iterdir()) == [
        "trial-000000", "trial-000001",
    ]  # fmt: skip


def test_the_same_work_is_not_done_twice(scripted):
    script = [(A, 1e-3), (A, 3e-3), (A, 1e-3), (B, 1e-3)]
    study, driver = scripted(script)
    jobs = []
    while job := driver.next_job():
        jobs.append((job.trial, job.rung))
        driver.tell(job, complete(0.9 if job.trial == 0 else 0.1))
    trials = study.trials()
    assert (2, 0) not in jobs
    assert trials[2].replayed == 0
    assert trials[2].scores == trials[0].scores
    assert trials[2].state == "complete"
    assert trials[1].replayed is None  # another learning rate is another measurement
    assert len(driver._strategy.seen[3]) == 3
    assert driver._strategy.seen[3][2].score == 0.9


def test_a_replayed_trial_is_stopped_where_the_earlier_one_was(scripted):
    texts = [A, B, C, "net(conv(4))"]
    study, driver = scripted([(text, 1e-3) for text in (*texts, texts[3])])
    while job := driver.next_job():
        driver.tell(job, complete(0.9 - job.trial / 10))
    trials = study.trials()
    assert [trial.state for trial in trials] == ["complete", "complete"] + 3 * ["pruned"]
    assert (trials[4].replayed, trials[4].scores, trials[4].attempt) == (3, trials[3].scores, 0)
    assert study.jobs(trials[4]) == []


def test_a_listener_may_ask_the_driver(tmp_path):
    study = begin(tmp_path, limits=Limits(2))
    space = load_space(tmp_path)
    heard = []

    def listen(observation):
        # As a display does that draws in another thread, which the listener waits for.
        thread = threading.Thread(target=lambda: heard.append((observation, driver.history)))
        thread.start()
        thread.join(timeout=30)
        assert not thread.is_alive()

    with study.lease() as lease:
        driver = Driver(study, make_strategy("random", space), space, lease, listener=listen)
        while job := driver.next_job():
            driver.tell(job, job_function(job))
    assert len(heard) >= 4
    assert all(history[observation.number] == observation for observation, history in heard)


def test_a_replayed_trial_goes_on_where_the_earlier_one_stopped(scripted, tmp_path):
    # Trial 2 is stopped at rung 0; as trial 6 the same work is among the best third.
    values = {0: 0.9, 1: 0.8, 2: 0.5, 3: 0.1, 4: 0.1, 5: 0.1}
    texts = [A, B, C, "net(conv(4))", "net(conv(7))", "net(scan(8))"]
    script = [(text, 1e-3) for text in texts] + [(C, 1e-3)]
    study, driver = scripted(script, eta=2)
    jobs = []
    while job := driver.next_job():
        jobs.append((job.trial, job.rung))
        if job.trial == 6:
            assert str(tmp_path / "studies/s/trial-000002/attempt-1") in job.earlier
        driver.tell(job, complete(values.get(job.trial, 0.6)))
    trials = study.trials()
    assert trials[2].state == "pruned"
    assert trials[6].replayed == 2
    assert trials[6].scores[0] == 0.5
    assert (6, 0) not in jobs
    assert (6, 1) in jobs


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_score_that_is_no_number_fails_the_trial_and_the_search_goes_on(scripted, value):
    study, driver = scripted([(A, 1e-3), (B, 1e-3)])
    driver.tell(driver.next_job(), JobResult("complete", value))
    (trial,) = study.trials()
    assert trial.state == "failed"
    assert "not a finite number" in study.jobs(trial)[0].log
    assert driver.next_job().trial == 1


def test_a_failure_keeps_its_log(scripted):
    study, driver = scripted([(A, 1e-3), (B, 1e-3)])

    def broken(job):
        raise ZeroDivisionError("no\nluck")

    driver.tell(job := driver.next_job(), guarded(broken, job))
    (trial,) = study.trials()
    (job,) = study.jobs(trial)
    assert trial.state == "failed"
    assert job.log.startswith("ZeroDivisionError: no luck\nTraceback")
    assert "in broken" in job.log
    observed = driver.history[0]
    assert (observed.state, observed.score, observed.rung) == ("failed", None, None)
    assert driver.next_job().trial == 1


def test_what_the_machine_could_not_do_is_no_fault_of_the_trial(scripted):
    study, driver = scripted([(A, 1e-3)])

    def full(job):
        raise OSError(28, "No space left on device", "/data/x")

    job = driver.next_job()
    with pytest.raises(NasError, match="No space left on device"):
        driver.tell(job, guarded(full, job))
    assert study.trials()[0].state == "waiting"
    assert driver.next_job().attempt == 2


def test_a_stopped_job_waits(scripted):
    study, driver = scripted([(A, 1e-3)])
    driver.tell(driver.next_job(), JobResult("stopped"))
    assert study.trials()[0].state == "waiting"
    assert driver.next_job().attempt == 2


def test_a_trial_that_loses_its_worker_again_and_again_fails(scripted):
    study, driver = scripted([(A, 1e-3), (B, 1e-3)])
    for _ in range(MAX_LOSSES):
        job = driver.next_job()
        assert job.trial == 0
        driver.lost(job, "killed for memory")
    (trial,) = study.trials()
    assert trial.state == "failed"
    assert f"lost {MAX_LOSSES} times, at last: killed for memory" in study.jobs(trial)[0].log
    assert driver.next_job().trial == 1


def test_time_stops_the_study_and_not_the_trials(tmp_path):
    study = begin(tmp_path, limits=Limits(seconds=1.5))
    jobs = []

    def slow(job):
        jobs.append(job)
        time.sleep(min(0.2, job.seconds))
        return JobResult("stopped") if job.seconds < 0.2 else job_function(job)

    start = time.monotonic()
    drive(tmp_path, slow)
    assert time.monotonic() - start >= 1.5
    assert 0 < jobs[0].seconds <= 1.5
    assert all(a.seconds > b.seconds for a, b in itertools.pairwise(jobs))
    finished = {trial.state for trial in study.trials()} - {"waiting"}
    assert finished <= {"complete", "pruned"}
    study.limits = Limits(trials=6)
    drive(tmp_path)
    uninterrupted = other_study(tmp_path, 6)
    assert proposals(study) == proposals(uninterrupted)


def other_study(tmp_path, trials, **changes):
    folder = tmp_path / "uninterrupted"
    folder.mkdir()
    begin(folder, limits=Limits(trials), **changes)
    return drive(folder)


@pytest.mark.parametrize("strategy", ["random", "evolution", "mcts"])
def test_more_trials_later_are_those_that_would_have_come(tmp_path, strategy):
    study = begin(tmp_path, limits=Limits(7), strategy=strategy)
    drive(tmp_path)
    assert len(study.trials()) == 7
    study.limits = Limits(20)
    drive(tmp_path)
    uninterrupted = other_study(tmp_path, 20, strategy=strategy)
    assert proposals(study) == proposals(uninterrupted)
    texts = [trial.text for trial in study.trials()]
    assert len(set(texts)) > 5


def test_the_seed_decides(tmp_path):
    begin(tmp_path, limits=Limits(10), strategy="random")
    one = drive(tmp_path)
    two = other_study(tmp_path, 10, strategy="random", seed=4)
    assert [t.text for t in one.trials()[2:]] != [t.text for t in two.trials()[2:]]


def test_a_second_driver_is_refused(tmp_path):
    study = begin(tmp_path, limits=Limits(3))
    with study.lease(), pytest.raises(NasError, match="study s is being run by process"):
        drive(tmp_path)


def test_a_record_that_cannot_be_written_stops_the_driver(scripted):
    study, driver = scripted([(A, 1e-3), (B, 1e-3)])
    job = driver.next_job()
    with study.storage.engine.connect() as connection:
        connection.exec_driver_sql("UPDATE nas_leases SET token = 'x'")
        connection.commit()
    with pytest.raises(NasError, match="taken over"):
        driver.tell(job, complete(0.5))
    with pytest.raises(NasError, match="taken over"):
        driver.next_job()
    assert [trial.scores for trial in study.trials()] == [()]


def test_the_dashboard_finds_its_notes(scripted):
    study, driver = scripted([(A, 1e-3), (C, 3e-3), (C, 3e-3)])
    while job := driver.next_job():
        driver.tell(job, complete(0.5))
    attributes = study.storage.get_study_system_attrs(study.id)
    keys = [trial.id for trial in study.trials()]
    notes = [attributes[f"dashboard:{key}:note_str:0"] for key in keys]
    assert [attributes[f"dashboard:{key}:note_ver"] for key in keys] == [1, 1, 1]
    assert notes[0] == f"`{A}`\n\nscripted, learning rate 0.001"
    assert notes[1] == f"`{C}`\n\nscripted, learning rate 0.003, from trial 0"
    assert notes[2].endswith("from trial 0, 1, result of trial 1")


# Killed drivers


def kill_studies(folder, trials, plans):
    command = [sys.executable, "-m", "tests.study.kills", folder, str(trials), *plans]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


def assert_same_studies(expected, others):
    for other in others:
        assert other["exit"] == 0
        assert other["proposals"] == expected["proposals"]
        assert other["jobs"] == expected["jobs"]  # every rung finished once


def test_killed_around_every_commit_it_goes_on_as_if_nothing_had_happened(tmp_path):
    # The first commits take the lease and propose trial 0; then a rung or a proposal each.
    plans = [f"{kind}:{n}" for n in range(1, 12) for kind in ("commit", "committed")]
    expected, *others = kill_studies(tmp_path, 3, ["", *plans])
    assert expected["kills"] == 0
    assert [trial[1] for trial in expected["proposals"]] == ["complete", "complete", "complete"]
    assert all(other["kills"] == 1 for other in others)
    assert_same_studies(expected, others)


def test_killed_again_and_again_at_any_statement(tmp_path):
    rng = random.Random(7)
    plans = [",".join(f"statement:{rng.randint(30, 900)}" for _ in range(60)) for _ in range(2)]
    expected, *others = kill_studies(tmp_path, 40, ["", *plans])
    assert len(expected["proposals"]) == 40
    assert all(trial[1] in ("complete", "pruned") for trial in expected["proposals"])
    assert all(other["kills"] >= 5 for other in others)
    assert_same_studies(expected, others)


@pytest.mark.soak
def test_killed_at_every_statement(tmp_path):
    plans = [f"statement:{n}" for n in range(1, 300)]
    expected, *others = kill_studies(tmp_path, 4, ["", *plans])
    assert_same_studies(expected, others)


def test_killed_from_outside_at_random_moments(tmp_path):
    study = begin(tmp_path, limits=Limits(40))
    rng = random.Random(11)
    command = [sys.executable, "-m", "tests.study.synthetic", tmp_path, "0.002"]
    kills, ended = 0, []
    while True:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(rng.randint(1, 10)):  # after so many jobs, and a moment more
            if not process.stdout.readline():
                break
        time.sleep(rng.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.stdout.read()
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
        assert kills < 100
        # What is recorded stays: finished trials are never touched again.
        now = [(t.number, t.text, t.state, t.scores) for t in study.trials() if t.finished]
        assert set(ended) <= set(now)
        ended = now
    assert kills >= 2
    trials = study.trials()
    assert [trial.number for trial in trials] == list(range(40))
    assert all(trial.state in ("complete", "pruned") for trial in trials)
    assert proposals(study) == proposals(other_study(tmp_path, 40))


def test_ctrl_c_keeps_the_state(tmp_path):
    study = begin(tmp_path, limits=Limits(6))

    def interrupted(job):
        if (job.trial, job.rung) == (1, 1):
            raise KeyboardInterrupt
        return job_function(job)

    with pytest.raises(KeyboardInterrupt):
        drive(tmp_path, interrupted)
    assert study.driver() is None
    states = [(trial.state, len(trial.scores)) for trial in study.trials()]
    assert states == [("complete", 3), ("waiting", 1)]
    drive(tmp_path)
    assert proposals(study) == proposals(other_study(tmp_path, 6))


def test_left_over_folders_are_swept(tmp_path):
    study = begin(tmp_path, limits=Limits(8), strategy="random")
    drive(tmp_path)
    pruned = next(trial for trial in study.trials() if trial.state == "pruned")
    folder = study.folder / f"trial-{pruned.number:06d}/attempt-1"
    folder.mkdir(parents=True)  # as an orphaned worker writes it after its driver's death
    study.limits = Limits(9)
    drive(tmp_path)
    assert not folder.parent.exists()
    assert Study.open("s", storage=tmp_path).trials()[8].finished
