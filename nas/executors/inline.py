"""Run jobs one after the other in this process: no Ray, nothing to start."""

from contextlib import suppress

from nas.errors import NasError
from nas.executors.job import JobFunction, JobSource, guarded, run_job


def run(source: JobSource, *, job_function: JobFunction = run_job) -> None:
    """Execute a study's jobs until it is done.

    Args:
        source: Where jobs come from and results go to.
        job_function: What runs a job.

    Raises:
        NasError: A result could not be recorded, or the machine could not do a job.
        KeyboardInterrupt: Interrupted; what was running waits in the record for `nas resume`.
    """
    try:
        while (job := source.next_job()) is not None:
            source.tell(job, guarded(job_function, job))
    except BaseException:
        # Where the record cannot be written any more, the next driver finds them running.
        with suppress(NasError):
            source.suspend()
        raise
    source.suspend()
