"""Pull requests on GitHub, or any server that speaks its REST API. Nothing is written there unless it is asked for."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import httpx

from minimax_code.errors import InputError, WorkspaceError
from minimax_code.review.repository import Repository
from minimax_code.workbench.git import Git

_TIMEOUT_S = 30.0
_FETCH_S = 600.0
_PER_PAGE = 100
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class PullRequest:
    """A pull request, as the server describes it; `base` and `head` are commits."""

    number: int
    title: str
    body: str
    base: str
    head: str


class GitHub:
    """One repository on a server.

    Args:
        repo_url: as people see it, "https://github.com/owner/name".
        token: what the server knows the caller by; None reads public repositories.

    Raises:
        InputError: the address isn't one of a repository.
    """

    def __init__(self, repo_url: str, token: str | None = None) -> None:
        parts = urlsplit(repo_url)
        names = parts.path.strip("/").removesuffix(".git").split("/")
        if parts.scheme not in ("http", "https") or not parts.hostname or len(names) != 2:
            raise InputError("repo_url", f"must be https://HOST/OWNER/NAME, got {repo_url!r}")
        if not all(_NAME.fullmatch(name) and name.strip(".") for name in names):
            raise InputError("repo_url", f"{'/'.join(names)!r} is no name of a repository")
        if parts.username or parts.password:
            raise InputError("repo_url", "must not hold a password; give the token by itself")
        if token and parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise InputError("repo_url", "must be https, as a token is sent to it")
        self.slug = "/".join(names)
        self.clone_url = f"{parts.scheme}://{parts.netloc}/{self.slug}.git"
        api = "https://api.github.com" if parts.hostname == "github.com" else f"{parts.scheme}://{parts.netloc}/api/v3"
        headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._token = token
        self._client = httpx.AsyncClient(base_url=api, headers=headers, timeout=_TIMEOUT_S)

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.aclose()

    async def pull_request(self, number: int) -> PullRequest:
        """What the server says of a pull request.

        Raises:
            InputError: there is none of that number, or it can't be seen with this token.
            WorkspaceError: the server can't be reached, or answers something else.
        """
        told = await self._ask("GET", f"/repos/{self.slug}/pulls/{number}")
        try:
            return PullRequest(
                number=number,
                title=str(told["title"]),
                body=str(told.get("body") or ""),
                base=_commit(told["base"]["sha"]),
                head=_commit(told["head"]["sha"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise WorkspaceError(f"{self.slug}#{number}: the server's answer is no pull request ({error!r})") from error

    @asynccontextmanager
    async def fetched(self, pull: PullRequest) -> AsyncIterator[Repository]:
        """The commits of a pull request, in a repository that ends with the context.

        Raises:
            WorkspaceError: they can't be fetched.
        """
        with TemporaryDirectory(prefix="minimax-code-") as name:
            env = {"GIT_DIR": name, "GIT_TERMINAL_PROMPT": "0"}
            if self._token:  # in the environment: a command line is seen by everybody
                secret = b64encode(f"x-access-token:{self._token}".encode()).decode()
                env |= {
                    "GIT_CONFIG_COUNT": "1",
                    "GIT_CONFIG_KEY_0": f"http.{self.clone_url}.extraHeader",
                    "GIT_CONFIG_VALUE_0": f"Authorization: Basic {secret}",
                }
            git = Git(env)
            await git("init", "--quiet", "--bare", "--template=", name)
            allowed = ("-c", "protocol.http.allow=always", "-c", "protocol.https.allow=always")
            refs = (f"+refs/pull/{pull.number}/head:refs/heads/head", pull.base)
            fetch = git(*allowed, "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", self.clone_url, *refs)
            try:
                await asyncio.wait_for(fetch, _FETCH_S)
            except TimeoutError as error:
                raise WorkspaceError(f"{self.clone_url} wasn't fetched within {_FETCH_S:g} seconds") from error
            yield Repository(Path(name))

    async def has_review(self, number: int, mark: str) -> bool:
        """Whether a review with a mark is there already.

        Raises:
            InputError: it can't be seen with this token.
            WorkspaceError: the server can't be reached, or answers something else.
        """
        page = 1
        while True:
            path = f"/repos/{self.slug}/pulls/{number}/reviews"
            reviews = await self._ask("GET", path, params={"per_page": _PER_PAGE, "page": page})
            if any(mark in str(review.get("body")) for review in reviews):
                return True
            if len(reviews) < _PER_PAGE:
                return False
            page += 1

    async def post(self, number: int, review: Mapping[str, Any]) -> str:
        """Posts a review and returns its address.

        Raises:
            InputError: the token doesn't allow it.
            WorkspaceError: the server can't be reached, or refuses it.
        """
        told = await self._ask("POST", f"/repos/{self.slug}/pulls/{number}/reviews", json=dict(review))
        return str(told.get("html_url", ""))

    async def _ask(self, method: str, path: str, **given: Any) -> Any:
        try:
            response = await self._client.request(method, path, **given)
        except httpx.HTTPError as error:
            raise WorkspaceError(f"{self._client.base_url} can't be reached: {error}") from error
        if response.status_code in (401, 403, 404):
            why = "it isn't there, or needs a token that may do this (GITHUB_TOKEN)"
            raise InputError("pr_number", f"{method} {path} was answered with {response.status_code}: {why}")
        if not response.is_success:
            raise WorkspaceError(f"{method} {path} was answered with {response.status_code}: {response.text[:500]}")
        try:
            return response.json()
        except ValueError as error:
            raise WorkspaceError(f"{method} {path} was answered with something that isn't JSON") from error


def _commit(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", value):
        raise ValueError(f"{value!r} is no commit")
    return value
