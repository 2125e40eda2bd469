"""Teams of agents: a task is split into sub-tasks, which go to the agents that know about them."""

from minimax_code.clusters.agent import Agent
from minimax_code.clusters.cluster import AgentCluster
from minimax_code.clusters.config import ClusterConfig
from minimax_code.clusters.errand import Errand, Outcome, Work
from minimax_code.clusters.progress import Progress
from minimax_code.clusters.router import TaskRouter
from minimax_code.clusters.subtask import Subtask, SubtaskResult

__all__ = [
    "Agent",
    "AgentCluster",
    "ClusterConfig",
    "Errand",
    "Outcome",
    "Progress",
    "Subtask",
    "SubtaskResult",
    "TaskRouter",
    "Work",
]
