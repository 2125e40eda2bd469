"""A cluster of specialists splits a task and works on its parts, those at the same time that don't need each other."""

from __future__ import annotations

import sys

from minimax_code.clusters import AgentCluster

CONFIG = {
    "max_agents": 10,
    "execution_mode": "parallel",
    "checkpoint_frequency": 3600,  # seconds
    "auto_retry": True,
    "max_retries": 3,
}
AGENTS = [
    {
        "id": "backend-dev-1",
        "name": "Backend Developer Alpha",
        "role": "Backend Engineer",
        "capabilities": ["python", "fastapi", "postgresql", "redis", "docker"],
    },
    {
        "id": "backend-dev-2",
        "name": "Backend Developer Beta",
        "role": "Backend Engineer",
        "capabilities": ["python", "django", "mysql", "celery", "kubernetes"],
    },
    {
        "id": "frontend-dev",
        "name": "Frontend Developer",
        "role": "Frontend Engineer",
        "capabilities": ["react", "typescript", "css", "nextjs", "graphql"],
    },
    {
        "id": "devops",
        "name": "DevOps Engineer",
        "role": "Infrastructure",
        "capabilities": ["docker", "kubernetes", "aws", "terraform", "ci-cd"],
    },
    {
        "id": "qa",
        "name": "QA Engineer",
        "role": "Quality Assurance",
        "capabilities": ["pytest", "selenium", "cypress", "load-testing", "security"],
    },
]
TASK = """
Build a complete real-time analytics platform with:
1. Data ingestion pipeline from multiple sources
2. Stream processing with Apache Kafka and Flink
3. Real-time dashboard with WebSocket updates
4. ML-powered anomaly detection
5. Automated alerting system
6. Complete CI/CD pipeline
7. Comprehensive monitoring and logging
"""


def main(task: str = TASK) -> None:
    """The model is that of the server in MINIMAX_BASE_URL."""
    cluster = AgentCluster(CONFIG, on_progress=lambda progress: print(f"{progress.percent:5.1f}% {progress.message}"))
    for agent in cluster.initialize_agents(AGENTS):
        print(f"Initialized agent: {agent.name} ({agent.role})")

    subtasks = cluster.decompose_task(task)
    print(f"\nExecuting {len(subtasks)} tasks with agent cluster...")
    results = cluster.execute_parallel(subtasks)

    print("\nProject Execution Report:")
    print(f"  Total tasks: {len(subtasks)}")
    print(f"  Completed: {len([result for result in results if result['success']])}")
    print(f"  Failed: {len([result for result in results if not result['success']])}")
    print(f"  Agents used: {len({result['agent_id'] for result in results})}")
    for result in results:
        for cause in result["causes"]:
            print(f"  {result['task_id']}: {cause}")


if __name__ == "__main__":
    main(*sys.argv[1:])
