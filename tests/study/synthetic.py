"""A study whose jobs take no time: a small space, and scores by a formula.

Run as a script it drives such a study in a process of its own, which a test can kill.
"""

import hashlib
import json
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from nas.errors import NasError
from nas.executors import inline
from nas.executors.job import Job, JobResult
from nas.grammar.space import Space
from nas.search.driver import Driver
from nas.search.strategy import make_strategy
from nas.study.definition import Definition
from nas.study.engine import connect
from nas.study.study import Limits, Study

SPACE = """//@ version 1
//@ max_depth 8
start: "net" "(" block ")"
block: "conv" "(" width ")"              -> conv //@ 0.5
     | "scan" "(" state ")"              -> scan //@ 0.3
     | "seq" "(" block "," block ")"     -> seq  //@ 0.3 * 0.8**depth
!width: "3" | "4" | "7"
state: INT                               //@ int 1..64 log2
%import common.INT
%import common.WS
%ignore WS
"""

START = ("net(conv(3))", "net(seq(scan(4), conv(7)))")


def load_space(folder: Path) -> Space:
    path = folder / "tiny.lark"
    if not path.exists():
        path.write_text(SPACE)
    return Space.load(path)


def definition(space_hash: str = "abc", **changes) -> Definition:
    values = {
        "space": "tiny.lark",
        "space_hash": space_hash,
        "space_files": {"tiny.lark": SPACE},
        "task": "pair",
        "tasks": ("pair/one", "pair/two"),
        "data_hashes": {"pair/one": "1" * 64, "pair/two": "2" * 64},
        "profile": "small",
        "width": 32,
        "caps": {"parameters": 1e6},
        "strategy": "evolution",
        "seed": 3,
        "rungs": (10, 30, 90),
        "eta": 3,
        "recipe": {"weight_decay": 0.05, "betas": [0.9, 0.98]},
        "start": START,
    }
    return Definition(**values | changes)


def score(text: str, learning_rate: float, steps: int) -> float:
    """In [0, 1), higher with more steps, the same in every process."""
    digest = hashlib.sha256(f"{text} {learning_rate}".encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32 * (1 - 1 / (1 + steps))


def job_function(job: Job) -> JobResult:
    value = score(job.text, job.recipe["learning_rate"], job.until_step)
    scores = dict.fromkeys(job.tasks, value)
    return JobResult("complete", value, scores, {name: [[1, 0.5]] for name in job.tasks}, 0.25)


@cache
def empty_database() -> bytes:
    """Optuna's tables take half a second to make: once is enough."""
    with tempfile.TemporaryDirectory() as folder:
        connect(f"sqlite:///{folder}/empty.db", create=True).engine.dispose()
        return Path(folder, "empty.db").read_bytes()


def begin(folder: Path, *, limits: Limits | None = None, **changes) -> Study:
    space = load_space(folder)
    (folder / "s.db").write_bytes(empty_database())
    return Study.create("s", definition(space.hash, **changes), storage=folder, limits=limits)


def drive(folder: Path, function=job_function, run=inline.run, **settings) -> Study:
    """Go on with the study in a folder until it is done."""
    study = Study.open("s", storage=folder)
    space = load_space(folder)
    start = [space.parse(text) for text in study.definition.start]
    strategy = make_strategy(study.definition.strategy, space, start=start)
    with study.lease() as lease:
        run(Driver(study, strategy, space, lease, **settings), job_function=function)
    return study


def proposals(study: Study) -> list[tuple]:
    """What a strategy decided and what came of it: equal when two studies went the same way."""
    return [
        (t.number, t.state, t.text, t.hash, t.learning_rate, t.origin, t.parents, t.scores,
         t.replayed)
        for t in study.trials()
    ]  # fmt: skip


def main() -> None:
    """Drive the study of a folder slowly, with a line on standard output for every job."""
    folder, pause = Path(sys.argv[1]), float(sys.argv[2])

    def slow(job: Job) -> JobResult:
        print(json.dumps([job.trial, job.attempt, job.rung]), flush=True)
        time.sleep(pause)
        return job_function(job)

    try:
        drive(folder, slow)
    except NasError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
