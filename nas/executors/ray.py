"""Run jobs on a Ray cluster, or on several processes of this machine, through Ray Tune.

Ray Tune only executes: one Ray trial is one job, that is one rung of one trial of the study. The
study decides what is next and is the only record: nothing of Ray's own state is kept or restored.
"""

import logging
import os
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import AuthenticationError
from ray.tune.search import Searcher

from nas.errors import NasError, UsageError
from nas.executors.job import Job, JobFunction, JobResult, JobSource, guarded, run_job

MAX_LOSSES = 6
"""So many workers dead in a row, with no result in between, end the run: all would die."""

_QUIET = {
    # Tune's own records of a run: loggers per trial, snapshots of the experiment. The study has it.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ctrl-C ends the run at once: what is running continues from its checkpoint on resume.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


_WORKER = {
    "OMP_NUM_THREADS": "1",
    # glibc gives every block of some megabytes back to the kernel and pays for fresh pages at the
    # next step; layers allocate and free such blocks all the time.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 29),
    "MALLOC_TOP_PAD_": str(1 << 24),
}


def run(
    source: JobSource,
    *,
    workers: int,
    address: str | None = None,
    gpus: float = 0.0,
    folder: Path | None = None,
    job_function: JobFunction = run_job,
) -> None:
    """Execute a study's jobs until it is done.

    Args:
        source: Where jobs come from and results go to; this process alone writes the record.
        workers: Jobs at a time.
        address: A Ray cluster (`host:6379`, `ray://host:10001`, `auto`); None: this machine.
        gpus: GPUs a job takes, e.g. 1.0, or 0.5 for two jobs on one.
        folder: Where Tune keeps files while it runs; all nodes of a cluster must see it.
        job_function: What a worker runs.

    Raises:
        UsageError: The cluster cannot be reached, refuses the token or lacks the resources.
        NasError: The run failed, or a result could not be recorded.
        KeyboardInterrupt: Interrupted; the record is complete, running jobs continue on resume.
    """
    os.environ.update({k: v for k, v in _QUIET.items() if k not in os.environ})
    if folder is not None:
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".ray-*"):  # by a driver that was killed
            shutil.rmtree(left, ignore_errors=True)
    _connect(address, workers, gpus)
    # A worker's death is reported by the study, in a line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix=".ray-", dir=folder) as scratch:
            searcher = StudySearcher(source, Path(scratch) / "study")
            tuner = tune.Tuner(
                tune.with_resources(_trainable(job_function), {"cpu": 1, "gpu": gpus}),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    max_concurrent_trials=workers,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name="study",
                    storage_path=scratch,
                    verbose=0,
                    # A job whose worker died comes back to the study, which hands it out again.
                    failure_config=tune.FailureConfig(max_failures=0),
                    # The jobs write their own checkpoints, which outlive this run.
                    checkpoint_config=tune.CheckpointConfig(
                        checkpoint_frequency=0, checkpoint_at_end=False
                    ),
                ),
            )
            try:
                tuner.fit()
            except Exception as error:
                if searcher.failure is None:
                    raise NasError(f"Ray Tune stopped: {last_line(str(error))}") from error
            if searcher.failure is not None:
                raise searcher.failure
    finally:
        # First the workers, so that nothing is written once the jobs are taken back.
        ray.shutdown()
        # Where the record cannot be written any more, the next driver finds them running.
        with suppress(NasError):
            source.suspend()


def _connect(address: str | None, workers: int, gpus: float) -> None:
    """Start Ray here or join a cluster; jobs get one thread of linear algebra each."""
    if address is not None:
        _probe(address)
    environment: dict[str, Any] = {"env_vars": _WORKER}
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            # On the loopback alone: nobody else's business, and no token to manage.
            # A Ray of its own, even where one runs already that nobody has asked to use.
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                runtime_env=environment,
                _node_ip_address="127.0.0.1",
                **options,
            )
        else:
            ray.init(address=address, runtime_env=environment, **options)
    except AuthenticationError as error:
        raise UsageError(
            f"the Ray cluster at {address} wants a token: set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN (or ~/.ray/auth_token) to the cluster's"
        ) from error
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address is None:
            raise NasError(f"cannot start Ray here: {last_line(str(error))}") from error
        # Ray sends no token to an address unless it is told to, and then only says "failed".
        raise UsageError(
            f"cannot reach the Ray cluster at {address}: {last_line(str(error))}; if it wants a "
            "token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from error
    total = ray.cluster_resources()
    if total.get("CPU", 0) < 1 or total.get("GPU", 0) < gpus:
        raise UsageError(
            f"the cluster has {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs; a job "
            f"needs 1 and {gpus:g}"
        )


def _probe(address: str) -> None:
    """Make sure that something listens there: Ray itself waits for minutes before it says so."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot reach the Ray cluster at {address}: {error}") from error


class StudySearcher(Searcher):
    """Takes the next job from the study and gives it the result.

    Tune pickles searchers into its own folder, for a restore that is never made: there is nothing
    in it.

    Args:
        source: The study's driver, or its final comparison.
        logs: Tune's folder of this run, where it writes why a worker died.
    """

    def __init__(self, source: JobSource, logs: Path) -> None:
        super().__init__(metric="score", mode="max")
        self._source = source
        self._logs = logs
        self._losses = 0
        self._jobs: dict[str, Job] = {}
        self.failure: Exception | None = None

    # Tune's own signature leaves out FINISHED, which its documentation asks for.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next job as a configuration; None: none at the moment."""
        try:
            job = self._source.next_job()
        except Exception as error:
            self.failure = error
            raise
        if job is None:
            return str(Searcher.FINISHED) if self._source.done else None
        self._jobs[trial_id] = job
        return {"job": job.to_json()}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A job has ended: with a result, or by the death of its worker."""
        job = self._jobs.pop(trial_id, None)
        if job is None:
            return
        try:
            if error:
                self._lose(job, trial_id)
            elif result is not None and "result" in result:
                self._losses = 0
                self._source.tell(job, JobResult.from_json(result["result"]))
        except Exception as failure:
            self.failure = failure
            raise

    def _lose(self, job: Job, trial_id: str) -> None:
        """Give back a job whose worker died; when every worker dies, no job is to blame."""
        try:
            why = last_line((self._logs / trial_id / "error.txt").read_text(errors="replace"))
        except OSError:
            why = "its process or node died"
        self._losses += 1
        self._source.lost(job, why)
        if self._losses >= MAX_LOSSES:
            raise NasError(f"{self._losses} workers died one after the other, the last of: {why}")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is the record."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Searcher, ()


def _trainable(job_function: JobFunction) -> type:
    class Worker(tune.Trainable):
        """One job a Ray trial; the process is reused unless a job spoilt it."""

        def setup(self, config: dict[str, Any]) -> None:
            import torch

            torch.set_num_threads(1)
            self.spoilt = False

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            if self.spoilt:
                # Tune forgets a trial whose reset it is refused; a death it reports to the study,
                # which hands the job out again, to a new process.
                os._exit(1)
            return True

        def step(self) -> dict[str, Any]:
            result = guarded(job_function, Job.from_json(self.config["job"]))
            # After a CUDA error every later call fails, and lost memory may not have come back.
            self.spoilt = any(word in result.error for word in ("CUDA", "memory"))
            return {"result": result.to_json(), "score": result.score or 0.0, "done": True}

    return Worker


def last_line(text: str) -> str:
    """The last line of a trace, which says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
