"""What a trial costs that trains nothing: proposing it, its record, and the way to a worker."""

import tempfile
import time
from pathlib import Path

from nas.executors.choose import execute
from nas.executors.job import Job, JobResult
from nas.grammar.space import Space
from nas.resources import find_space
from nas.search.base import Observation
from nas.search.driver import Driver
from nas.search.setup import ETA
from nas.search.strategy import make_strategy
from nas.study.definition import Definition
from nas.study.study import Limits, Study


def run(
    *, count: int = 200, workers: int = 2, strategy: str = "random"
) -> dict[str, float | int | str]:
    """Run a study of trials that train nothing, through the real record and executor.

    Args:
        count: Number of trials.
        workers: 1 runs them in this process, more through Ray Tune.
        strategy: Which strategy proposes them.

    Returns:
        `ms_per_trial` from the first finished trial to the last, so without the start of Ray and
        of its workers, which `seconds_to_first` is.
    """
    space = Space.load(
        str(find_space("hybrid.lark")), context={"L": (256,), "D": 64, "causal": False}
    )
    definition = Definition(
        space="hybrid.lark",
        space_hash=space.hash,
        task="nothing",
        tasks=("nothing",),
        profile="small",
        width=64,
        strategy=strategy,
        seed=0,
        rungs=(1,),
        eta=ETA,
    )
    finished: list[float] = []

    def listen(observation: Observation) -> None:
        if observation.state == "complete":
            finished.append(time.perf_counter())

    with tempfile.TemporaryDirectory(prefix="nas-bench-") as folder:
        study = Study.create("bench", definition, storage=Path(folder), limits=Limits(count))
        start = time.perf_counter()
        with study.lease() as lease:
            driver = Driver(study, make_strategy(strategy, space), space, lease, listener=listen)
            execute(driver, workers=workers, job_function=_nothing)
        study.close()
    return {
        "trials": len(finished),
        "workers": workers,
        "executor": "inline" if workers == 1 else "ray",
        "strategy": strategy,
        "seconds_to_first": finished[0] - start,
        "ms_per_trial": 1000 * (finished[-1] - finished[0]) / (len(finished) - 1),
    }


def _nothing(job: Job) -> JobResult:
    return JobResult("complete", 0.5)
