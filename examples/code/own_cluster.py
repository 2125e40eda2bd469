"""A cluster of one's own, made of agents and a router: rounds of tasks, each for the free agent that fits it best."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from minimax_code.clusters import Agent, TaskRouter

PROMPT = """
Decompose the following task into independent, executable sub-tasks.
Each sub-task should:
- Be executable by a single agent
- Have clear inputs and outputs
- Have minimal dependencies on other tasks
- Be achievable in 1-4 hours

Task: {task}

Return a JSON array of sub-tasks with:
- id: unique identifier
- description: clear description
- dependencies: list of task IDs this depends on
- estimated_duration: in hours
- required_capabilities: list of needed skills
"""

Task = dict[str, Any]


class MiniMaxCodeAgentCluster:
    """Agents for complex software development tasks.

    `minimax_code.clusters.AgentCluster` does the same without rounds, writes everything down and tries again.
    """

    def __init__(self, cluster_config: dict[str, Any]) -> None:
        self.config = cluster_config
        self.agents: list[Agent] = []
        self.task_router = TaskRouter()
        self.completed_tasks: list[Task] = []

    def initialize_agents(self, agent_specs: list[Task]) -> None:
        """Adds specialized agents."""
        for spec in agent_specs:
            agent = Agent(
                id=spec["id"],
                name=spec["name"],
                role=spec["role"],
                capabilities=spec["capabilities"],
                model=spec.get("model", "minimax-m3"),
                max_concurrent_tasks=spec.get("max_concurrent", 3),
            )
            self.agents.append(agent)
            print(f"Initialized agent: {agent.name} ({agent.role})")

    def decompose_task(self, task: str) -> list[Task]:
        """Splits a complex task into manageable sub-tasks."""
        self.task_router.capabilities = [name for agent in self.agents for name in agent.capabilities]
        subtasks: list[Task] = json.loads(self.task_router.decompose(PROMPT.format(task=task)))
        print(f"Decomposed into {len(subtasks)} sub-tasks")
        return subtasks

    def execute_parallel(self, tasks: list[Task]) -> list[Task]:
        """Does tasks in rounds: each round all those whose dependencies have succeeded."""
        while ready := self._find_ready_tasks(tasks):
            self.completed_tasks += self._execute_batch([(self._select_agent(task), task) for task in ready])
        return self.completed_tasks

    def _find_ready_tasks(self, tasks: list[Task]) -> list[Task]:
        begun = {one["task_id"] for one in self.completed_tasks}
        done = {one["task_id"] for one in self.completed_tasks if one["success"]}
        return [task for task in tasks if task["id"] not in begun and done.issuperset(task["dependencies"])]

    def _select_agent(self, task: Task) -> Agent:
        available = [agent for agent in self.agents if agent.is_available()]
        return max(available, key=lambda agent: (agent.match(task["required_capabilities"]), -agent.num_begun))

    def _execute_batch(self, assignments: list[tuple[Agent, Task]]) -> list[Task]:
        before = {one["task_id"]: one["result"] for one in self.completed_tasks if one["success"]}

        def execute_task(agent: Agent, task: Task) -> Task:
            print(f"Agent {agent.name} executing task {task['id']}")
            for _ in range(1 + self.config["max_retries"]):
                result = agent.execute(task, inputs=before)
                if result["success"]:
                    break
            return {"task_id": task["id"], "agent_id": agent.id, "result": result, "success": result["success"]}

        with ThreadPoolExecutor(self.config["max_agents"]) as executor:
            return list(executor.map(execute_task, *zip(*assignments, strict=True)))


def create_development_cluster() -> MiniMaxCodeAgentCluster:
    """Agents for software development."""
    cluster = MiniMaxCodeAgentCluster({"max_agents": 10, "max_retries": 3})
    cluster.initialize_agents(
        [
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
    )
    return cluster


def execute_complex_project(project_task: str) -> None:
    """Has a complex project done; the model is that of the server in MINIMAX_BASE_URL."""
    cluster = create_development_cluster()
    subtasks = cluster.decompose_task(project_task)
    print(f"\nExecuting {len(subtasks)} tasks with agent cluster...")
    results = cluster.execute_parallel(subtasks)

    print("\nProject Execution Report:")
    print(f"  Total tasks: {len(subtasks)}")
    print(f"  Completed: {len([result for result in results if result['success']])}")
    print(f"  Failed: {len([result for result in results if not result['success']])}")
    print(f"  Agents utilized: {len({result['agent_id'] for result in results})}")


PROJECT = """
Build a complete real-time analytics platform with:
1. Data ingestion pipeline from multiple sources
2. Stream processing with Apache Kafka and Flink
3. Real-time dashboard with WebSocket updates
4. ML-powered anomaly detection
5. Automated alerting system
6. Complete CI/CD pipeline
7. Comprehensive monitoring and logging
"""

if __name__ == "__main__":
    execute_complex_project(" ".join(sys.argv[1:]) or PROJECT)
