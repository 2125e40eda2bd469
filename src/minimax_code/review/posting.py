"""Reviews of pull requests on a server, which are posted there only where that is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from minimax_code.errors import InputError, WorkspaceError
from minimax_code.model import Model
from minimax_code.review import render
from minimax_code.review.change import read_change
from minimax_code.review.config import ReviewConfig, read_config
from minimax_code.review.github import GitHub
from minimax_code.review.result import Comment, Review
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

    Nothing is posted unless `post` is true, no head gets a second review, and what was said of a line before isn't
    said again. What the server doesn't show in its diff is in the review's text alone.

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
        if post and not pull.is_open:
            raise InputError("pr_number", f"{pr_number} is closed, so no review is posted; leave out --post (post)")
        async with server.fetched(pull) as repository:
            found = await review_commits(
                repository, pull.base, pull.head, config, model=model, effort=effort, sandbox=sandbox, python=python
            )
        return found, await post_review(server, pr_number, found) if post else ""
    finally:
        await server.close()


async def post_review(server: GitHub, number: int, review: Review) -> str:
    """Posts what wasn't said before, and returns where, or "" where this head has a review.

    Raises:
        InputError: the token doesn't allow it.
        WorkspaceError: the server can't be reached, or refuses it.
    """
    said = "\n".join(await server.own_texts(number))
    if render.mark_of(review.head) in said:
        return ""
    shown = await server.patches(number)
    comments = tuple(
        comment
        for comment in review.comments
        if render.mark_of(comment.fingerprint) not in said and _shows(shown.get(comment.path, ""), comment)
    )
    return await server.post(number, render.github(review.model_copy(update={"comments": comments})))


def _shows(hunks: str, comment: Comment) -> bool:
    """Whether all lines of a comment are in one hunk that the server shows."""
    try:
        change = read_change("the base", "the head", f"--- a/file\n+++ b/file\n{hunks}\n")
    except WorkspaceError:  # it was cut
        return False
    hunk = change.hunk_at("file", comment.line)
    return hunk is not None and (comment.start_line or comment.line) in hunk.shown
