"""Kills drivers at chosen moments of their work with the database, and has the next ones go on.

A script, so that its forks have neither threads nor connections of another. Each study is driven by
processes that kill themselves with SIGKILL at a moment of a plan, until the plan is through; then
one is left to finish. Prints what became of each study as a line of JSON.

    python -m tests.study.kills FOLDER TRIALS PLAN...

A plan is a list of moments, `statement:7` (before the 7th statement of that driver), `commit:3`
(before its 3rd commit) or `committed:3` (after it), joined by commas; an empty one kills nobody.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from sqlalchemy import event
from sqlalchemy.engine import Engine

from nas.study.study import Limits, Study
from tests.study.synthetic import begin, drive, proposals


def fork(work: Callable[[], object]) -> int:
    """Run something in a fork; its wait status."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(process, 0)[1]


def kill_at(moment: str) -> None:
    """Have this process killed at a moment."""
    kind, number = moment.split(":")
    counts = {"statement": 0, "commit": 0}
    target = int(number)

    def kill() -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("not reached")

    def before(*arguments: object) -> None:
        counts["statement"] += 1
        if (kind == "statement" and counts["statement"] == target) or (
            kind == "committed" and counts["commit"] == target
        ):
            kill()

    def commit(*arguments: object) -> None:
        if kind == "commit" and counts["commit"] == target - 1:
            kill()
        counts["commit"] += 1

    event.listen(Engine, "before_cursor_execute", before)
    event.listen(Engine, "commit", commit)


def run(folder: Path, moments: list[str], trials: int) -> dict:
    folder.mkdir()
    fork(lambda: begin(folder, limits=Limits(trials)))
    kills = 0
    for moment in moments:

        def work(moment: str = moment) -> None:
            kill_at(moment)
            drive(folder)

        status = fork(work)
        if not os.WIFSIGNALED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        kills += 1
    status = fork(lambda: drive(folder))
    result = folder / "result.json"

    def write() -> None:
        study = Study.open("s", storage=folder)
        jobs = [[job.rung for job in study.jobs(trial)] for trial in study.trials()]
        result.write_text(json.dumps({"proposals": proposals(study), "jobs": jobs}))

    fork(write)
    return {"exit": status, "kills": kills, **json.loads(result.read_text())}


def main() -> None:
    folder, trials, plans = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    # Imports, mappings and compiled statements are then there for every fork.
    (folder / "warm").mkdir()
    begin(folder / "warm", limits=Limits(2)).close()
    drive(folder / "warm").close()
    for number, plan in enumerate(plans):
        moments = [moment for moment in plan.split(",") if moment]
        print(json.dumps(run(folder / str(number), moments, trials)), flush=True)


if __name__ == "__main__":
    main()
