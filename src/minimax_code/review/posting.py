"""Reviews of pull requests on a server, which are posted there only where that is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from minimax_code.errors import InputError
from minimax_code.model import Model
from minimax_code.review import render
from minimax_code.review.config import ReviewConfig, read_config
from minimax_code.review.github import GitHub
from minimax_code.review.result import Review
from minimax_code.review.reviewer import review_commits
from minimax_code.skills.effort import Effort
from minimax_code.workbench.sandbox import Sandbox


async def review_pull_request(
    repo_url: str,
    pr_number: int,
    config: Mapping[str, Any] | ReviewConfig | None = None,
    *,
    model: Model | None = None,
    effort: Effort | None = None,
    sandbox: Sandbox | None = None,
    python: str | None = None,
    token: str | None = None,
    post: bool = False,
) -> tuple[Review, str]:
    """The review of a pull request, and the address where it was posted, or "".

    Nothing is posted unless `post` is true, and no head gets a second review.

    Args:
        repo_url: "https://github.com/owner/name", or the like on a server that speaks GitHub's REST API.
        model, effort: as in `review_range`.
        token: what the server knows the caller by; by default GITHUB_TOKEN of the environment.

    Raises:
        InputError: an argument is wrong, or the token doesn't allow it.
        WorkspaceError: the server can't be reached, or the commits can't be fetched.
        SandboxError: no sandbox can be had.
        ModelError: the model can't be reached.
    """
    config = read_config(config)
    if pr_number < 1:
        raise InputError("pr_number", f"must be 1 or more, got {pr_number}")
    server = GitHub(repo_url, token or os.environ.get("GITHUB_TOKEN") or None)
    try:
        pull = await server.pull_request(pr_number)
        async with server.fetched(pull) as repository:
            found = await review_commits(
                repository, pull.base, pull.head, config, model=model, effort=effort, sandbox=sandbox, python=python
            )
        if not post or await server.has_review(pr_number, render.mark_of(found.head)):
            return found, ""
        return found, await server.post(pr_number, render.github(found))
    finally:
        await server.close()
