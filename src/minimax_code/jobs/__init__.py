"""Jobs that outlive the process that started them: their workers, and the handle that their user has."""

from minimax_code.jobs.job import Job
from minimax_code.jobs.spec import JobSpec
from minimax_code.jobs.status import JobStatus
from minimax_code.jobs.update import Update

__all__ = ["Job", "JobSpec", "JobStatus", "Update"]
