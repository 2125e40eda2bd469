"""A job for days. It goes on when this program ends; `minimax-code jobs follow JOB` takes it up again."""

import sys
import time
from typing import Any

from minimax_code import MiniMaxCode, Task


def print_progress(update: Any) -> None:
    """Told of each update, at least once."""
    print(f"[{update.timestamp}] {update.phase}: {update.message}")


task = Task(
    description="""Develop a complete machine learning pipeline for customer churn prediction.
    Break this into manageable phases, and document it.""",
    mode="autonomous",
    max_duration_days=5,
    checkpoint_frequency_hours=6,
    notification_callback=print_progress,
)
with MiniMaxCode(api_key="your-api-key") as code_client:
    job = code_client.start_autonomous_task(task)
    while not job.is_complete:
        status = job.get_status()
        print(f"Current phase: {status.current_phase}, progress: {status.progress}%, issues: {status.issues}")
        time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 3600)
    final_result = job.get_results()
print(f"Success: {final_result.success}")
print(f"Deliverables: {final_result.deliverables}")
print(f"Duration: {final_result.total_duration}")
