"""A member of a team, as its user describes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minimax_code.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Agent:
    """Who works on a phase of a project.

    What it is called and knows is told to the model. It widens no permission: what an agent may do is set by the
    permissions of the client.

    Args:
        name: unique within a project.
        role: what it is there for.
        expertise: what it knows about.

    Raises:
        InputError: the name or the role is empty.
    """

    name: str
    role: str
    expertise: Sequence[str] = ()

    def __post_init__(self) -> None:
        for field in ("name", "role"):
            if not getattr(self, field).strip():
                raise InputError(field, "is empty; an agent needs one")
        object.__setattr__(self, "expertise", tuple(self.expertise))

    @property
    def text(self) -> str:
        """As a model reads it."""
        knows = f" You know about {', '.join(self.expertise)}." if self.expertise else ""
        return f"You are {self.name}, the {self.role} of a team.{knows}"
