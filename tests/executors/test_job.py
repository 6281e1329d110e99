import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.compiler.interface import Label, Tokens
from nas.errors import NasError
from nas.executors import job as job_module
from nas.executors.job import (
    Job,
    JobResult,
    guarded,
    run_job,
    term_from_json,
    term_to_json,
)
from nas.grammar.derivation import Term
from nas.tasks.base import Split, Task
from nas.tasks.recipe import Recipe
from nas.tasks.registry import TASKS, Entry

ROOT = Path(__file__).parents[2]
STEPS = {"pair/one": 40, "pair/two": 20}
MLP = Term("mlp", (Term("expansion", ("2",)), Term("activation", ("gelu",))))
NET = Term("net", (Term("res", (MLP,)),))


def make_task(name: str) -> Task:
    """Is token 1 more frequent than token 2?"""

    def split(seed: int, size: int) -> Split:
        inputs = np.random.default_rng(seed).integers(1, 3, size=(size, 9)).astype(np.int16)
        return Split(inputs, ((inputs == 1).sum(1) > 4).astype(np.int64))

    return Task(
        name=name,
        profile="small",
        summary="",
        definition="",
        length=9,
        causal=False,
        inputs=Tokens(3),
        outputs=Label(2),
        batch_size=16,
        steps=STEPS[name],
        source=lambda: {"train": split(0, 256), "validation": split(1, 50), "test": split(2, 50)},
        decode=lambda x, y: "",
    )


def register() -> None:
    TASKS["pair"] = Entry("two tasks", lambda profile, data, **knobs: tuple(map(make_task, STEPS)))


@pytest.fixture(autouse=True)
def pair(monkeypatch):
    monkeypatch.setitem(TASKS, "pair", TASKS.get("pair"))
    register()
    job_module._load_tasks.cache_clear()
    yield
    job_module._load_tasks.cache_clear()


def make_job(folder, **changes) -> Job:
    values = {
        "study": "s",
        "trial": 3,
        "attempt": 1,
        "rung": 1,
        "architecture": term_to_json(NET),
        "text": "net(res(mlp(2, gelu)))",
        "task": "pair",
        "tasks": ("pair/one", "pair/two"),
        "profile": "small",
        "data_hashes": {name: make_task(name).data_hash for name in STEPS},
        "width": 8,
        "recipe": Recipe(learning_rate=1e-2).as_dict(),
        "seed": 5,
        "until_step": 50,
        "final_step": 100,
        "folder": str(folder / "attempt-1"),
    }
    return Job(**values | changes)


TERMS = st.recursive(
    st.builds(Term, st.text(max_size=5)),
    lambda terms: st.builds(
        Term, st.text(max_size=5), st.lists(terms | st.text(max_size=5), max_size=3).map(tuple)
    ),
)


@given(TERMS)
def test_a_term_travels_as_json(term):
    assert term_from_json(json.loads(json.dumps(term_to_json(term)))) == term


def test_a_job_and_its_result_travel_as_json(tmp_path):
    job = make_job(tmp_path, earlier=("a", "b"), seconds=1.5)
    assert Job.from_json(job.to_json()) == job
    assert len(job.to_json()) < 2000
    result = JobResult("complete", 0.1 + 0.2, {"a": 1 / 3}, {"a": [[1, 0.7]]}, 2.0, "", "")
    assert JobResult.from_json(result.to_json()) == result


def test_every_sub_task_counts_the_same_and_trains_its_share(tmp_path):
    result = run_job(make_job(tmp_path))
    assert result.status == "complete"
    assert set(result.scores) == set(STEPS)
    assert result.score == pytest.approx(sum(result.scores.values()) / 2, abs=0)
    # Half of 40 and half of 20 steps: the rung is a share of each sub-task's own budget.
    assert [result.losses[name][-1][0] for name in STEPS] == [20, 10]
    checkpoints = sorted(p.name for p in (tmp_path / "attempt-1").glob("*/step-*"))
    assert checkpoints == ["step-00000010", "step-00000020"]
    assert result.seconds > 0


def test_a_later_attempt_goes_on_and_computes_the_same(tmp_path):
    whole = run_job(make_job(tmp_path / "whole", until_step=100))
    first = make_job(tmp_path / "parts", until_step=30)
    run_job(first)
    earlier = first.folder
    second = replace(
        first, until_step=100, attempt=2, folder=str(tmp_path / "2"), earlier=(earlier,)
    )
    before = sorted(Path(earlier).rglob("*"))
    result = run_job(second)
    assert result.score == whole.score
    assert [curve[-1] for curve in result.losses.values()] == [
        curve[-1] for curve in whole.losses.values()
    ]
    assert sorted(Path(earlier).rglob("*")) == before  # an earlier attempt's folder is only read


def test_what_is_finished_is_only_scored_again(tmp_path, monkeypatch):
    job = make_job(tmp_path)
    result = run_job(job)
    monkeypatch.setattr("nas.training.train._step", None)  # no step is taken
    again = run_job(replace(job, attempt=2, folder=str(tmp_path / "2"), earlier=(job.folder,)))
    assert (again.score, again.scores) == (result.score, result.scores)


def test_a_checkpoint_beyond_the_rung_is_not_used(tmp_path):
    # As when a trial does again what a trial that came further has done.
    far = make_job(tmp_path / "far", until_step=100)
    run_job(far)
    job = make_job(tmp_path / "near", until_step=50)
    result = run_job(replace(job, earlier=(far.folder,)))
    assert result == replace(run_job(make_job(tmp_path / "alone")), seconds=result.seconds)


def test_a_damaged_checkpoint_is_named_and_left_aside(tmp_path, capsys):
    job = make_job(tmp_path, until_step=100)
    expected = run_job(make_job(tmp_path / "whole", until_step=100))
    run_job(replace(job, until_step=50))
    (damaged,) = Path(job.folder, "pair-one").glob("step-*/state.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-7])
    result = run_job(job)
    assert (result.score, result.scores) == (expected.score, expected.scores)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: trial 3: ")
    assert "damaged checkpoint" in line
    assert str(damaged.parent) in line


def test_other_data_is_refused(tmp_path):
    job = make_job(tmp_path, data_hashes={"pair/two": "0" * 64})
    with pytest.raises(NasError, match=r"the data of pair/two is not the study's .*--data"):
        run_job(job)
    job = make_job(tmp_path, tasks=("pair/one", "pair/three"))
    with pytest.raises(NasError, match=r"pair/three, part of the study's score, has no data here"):
        run_job(job)


def test_a_loss_that_is_not_finite_fails_with_its_step(tmp_path):
    recipe = Recipe(learning_rate=1e30, clip=1e30).as_dict()
    result = run_job(make_job(tmp_path, recipe=recipe))
    assert result.status == "failed"
    assert result.score is None
    assert "pair/one: the loss became non-finite at step" in result.error


def test_time_stops_it_with_a_checkpoint(tmp_path):
    job = make_job(tmp_path, seconds=0.0)
    result = run_job(job)
    assert (result.status, result.score) == ("stopped", None)
    assert list(Path(job.folder).glob("pair-one/step-*"))
    whole = run_job(make_job(tmp_path / "whole"))
    assert run_job(replace(job, seconds=None)).score == whole.score


def test_an_architecture_that_cannot_be_built_is_a_failure_with_a_trace(tmp_path):
    job = make_job(tmp_path, architecture=["net", [["attention", [["heads", ["3"]]]]]])
    result = guarded(run_job, job)
    assert result.status == "failed"  # the search goes on with others
    assert "attention" in result.error
    assert "Traceback" in result.log


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("two\nlines"), "failed", "ValueError: two lines"),
        (MemoryError(), "failed", "MemoryError"),
        (RuntimeError("x"), "failed", "RuntimeError: x"),
        (OSError(28, "No space left on device"), "unable", "No space left"),
        (NasError("missing data"), "unable", "missing data"),
    ],
)
def test_guarded_tells_the_architectures_faults_from_the_machines(error, status, line, tmp_path):
    def broken(job):
        raise error

    result = guarded(broken, make_job(tmp_path))
    assert result.status == status
    assert line in result.error
    assert "\n" not in result.error
    assert result.log.startswith("Traceback")


def test_ctrl_c_passes_through(tmp_path):
    def interrupted(job):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(interrupted, make_job(tmp_path))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import nas.training.checkpoint as checkpoint
from nas.executors.job import Job, run_job
from tests.executors.test_job import register
register()
whole, *jobs = map(Job.from_json, sys.argv[2:])
run_job(whole)  # what is imported on the way is there for every fork
left = [0]
def die(function):
    def wrapped(*arguments):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return wrapped
checkpoint._write = die(checkpoint._write)  # before the first file of a checkpoint, or its second
Path.rename = die(Path.rename)              # all is written and the checkpoint is not yet there
for moment, job in enumerate(jobs, 1):
    left[0] = moment
    process = os.fork()
    if process == 0:
        run_job(job)
        os._exit(0)
    print(os.WTERMSIG(os.waitpid(process, 0)[1]))
"""


def test_killed_in_a_checkpoints_write_the_next_attempt_computes_the_same(tmp_path):
    unbroken, *jobs = [make_job(tmp_path / str(n), until_step=100) for n in range(13)]
    arguments = [job.to_json() for job in (unbroken, *jobs)]
    command = [sys.executable, "-c", KILLED, str(ROOT), *arguments]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.stdout.split() == [str(int(signal.SIGKILL))] * 12, process.stderr
    whole = run_job(unbroken)
    for job in jobs:
        again = replace(job, attempt=2, folder=f"{job.folder}-again", earlier=(job.folder,))
        result = run_job(again)
        assert (result.score, result.scores) == (whole.score, whole.scores)
        for name in STEPS:
            assert result.losses[name][-1] == whole.losses[name][-1]


def test_a_full_disk_is_the_machines_fault_and_keeps_the_checkpoints(tmp_path):
    job = make_job(tmp_path, until_step=50)
    run_job(job)
    kept = sorted(path.name for path in Path(job.folder).glob("pair-one/*"))
    script = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"  # a real limit: EFBIG
        "from nas.executors.job import Job, run_job, guarded;"
        "from tests.executors.test_job import register; register();"
        "print(guarded(run_job, Job.from_json(sys.argv[2])).to_json())"
    )
    later = replace(job, until_step=100)
    command = [sys.executable, "-c", script, str(ROOT), later.to_json()]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    result = JobResult.from_json(process.stdout)
    assert result.status == "unable"
    assert os.strerror(27) in result.error
    assert sorted(path.name for path in Path(job.folder).glob("pair-one/*")) == kept
    assert run_job(later).status == "complete"
    assert math.isfinite(run_job(later).score)
