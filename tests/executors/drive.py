"""Drives the study of a folder through Ray, in a process of its own that a test can kill.

    python -m tests.executors.drive FOLDER SECONDS_PER_JOB [ADDRESS]

Every job appends a line to `FOLDER/jobs.log`: trial, attempt, rung, process, "begin" or "end".
"""

import os
import sys
import time
from functools import partial
from pathlib import Path

from nas.errors import NasError
from nas.executors import ray
from nas.executors.job import Job, JobResult
from tests.study.synthetic import drive, job_function


def logged(folder: str, pause: float, job: Job) -> JobResult:
    def say(word: str) -> None:
        line = f"{job.trial} {job.attempt} {job.rung} {os.getpid()} {word}\n"
        with open(Path(folder) / "jobs.log", "a") as file:
            file.write(line)

    say("begin")
    time.sleep(pause)
    result = job_function(job)
    say("end")
    return result


def main() -> None:
    folder, pause = Path(sys.argv[1]), float(sys.argv[2])
    function = partial(logged, str(folder), pause)
    try:
        address = sys.argv[3] if len(sys.argv) > 3 else None
        shared = folder / "shared"
        drive(folder, function, run=partial(ray.run, workers=2, address=address, folder=shared))
    except NasError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
