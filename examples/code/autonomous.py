"""A job for days. It goes on when this program ends; `minimax-code jobs follow JOB` takes it up again.

python examples/code/autonomous.py [SECONDS [BUDGET]]: how often to look, and what it may use, as in "100 API calls".
"""

import sys
import time

from minimax_code import MiniMaxCode, Task, Update

DESCRIPTION = """
Develop a complete machine learning pipeline for customer churn prediction.

Requirements:
1. Data ingestion from multiple sources (SQL, APIs, S3)
2. Feature engineering with automatic detection
3. Model training with hyperparameter optimization
4. Model evaluation with comprehensive metrics
5. Deployment to production with monitoring
6. Documentation and API

The agent should:
- Break this into manageable phases
- Execute each phase autonomously
- Report progress periodically
- Adjust strategy based on results
- Continue for several days as needed
"""


def print_progress(update: Update) -> None:
    """Told of each update, at least once."""
    print(f"\n[{update.timestamp}] {update.phase}: {update.message}")


def main(seconds: str = "3600", budget: str | None = None) -> None:
    """The model is that of the server in MINIMAX_BASE_URL, else a local one."""
    task = Task(
        description=DESCRIPTION,
        constraints={"budget_limit": budget} if budget else {},
        mode="autonomous",
        max_duration_days=5,
        checkpoint_frequency_hours=6,
        notification_callback=print_progress,
    )
    with MiniMaxCode(api_key="your-api-key", mode="autonomous") as code_client:
        job = code_client.start_autonomous_task(task)
        while not job.is_complete:
            status = job.get_status()
            print(f"Current phase: {status.current_phase}")
            print(f"Progress: {status.progress}%")
            print(f"Tasks completed: {status.tasks_completed}")
            print(f"Issues encountered: {status.issues}")
            time.sleep(float(seconds))
        final_result = job.get_results()

    print(f"\n{'=' * 60}\nAUTONOMOUS TASK COMPLETED\n{'=' * 60}")
    print(f"Success: {final_result.success} ({final_result.state})")
    print(f"Deliverables: {final_result.deliverables}")
    print(f"Duration: {final_result.total_duration}")
    for issue in final_result.issues:
        print(f"- {issue}")


if __name__ == "__main__":
    main(*sys.argv[1:])
