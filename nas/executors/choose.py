"""Which executor runs a study, and with how many workers."""

import os
from pathlib import Path

from nas.executors.job import JobFunction, JobSource, run_job


def worker_count(workers: int | None, address: str | None) -> int:
    """Jobs at a time: as asked for, else one a GPU, else one a core of this machine."""
    if workers is not None:
        return workers
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return max(1, len(os.sched_getaffinity(0)))


def execute(
    source: JobSource,
    *,
    workers: int,
    address: str | None = None,
    folder: Path | None = None,
    job_function: JobFunction = run_job,
) -> None:
    """Run all jobs of a source: in this process for one worker, else with Ray.

    Args:
        source: The driver of a study, or its final comparison.
        workers: Jobs at a time.
        address: A Ray cluster; None: this machine.
        folder: The study's folder, where an executor may keep files while it runs.
        job_function: What runs a job.

    Raises:
        NasError: The work failed; the record is complete as far as it got.
        KeyboardInterrupt: Interrupted; what was running goes on with `nas resume`.
    """
    if workers == 1 and address is None:
        import torch

        from nas.executors import inline

        # As in Ray's workers: the same sums in the same order, whoever runs a job.
        torch.set_num_threads(1)
        inline.run(source, job_function=job_function)
    else:
        import torch

        from nas.executors import ray

        gpus = min(1.0, torch.cuda.device_count() / workers) if address is None else 0.0
        ray.run(
            source,
            workers=workers,
            address=address,
            gpus=gpus,
            folder=folder,
            job_function=job_function,
        )
