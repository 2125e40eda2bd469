"""Pull requests on GitHub, or any server that speaks its REST API. Nothing is written there unless it is asked for."""

from __future__ import annotations

import asyncio
import re
import time
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
_PATIENCE_S = 60.0  # that a server's rate limit is waited for; where it takes longer, that is told
_TRIES = 3
_FETCH_S = 600.0
_PER_PAGE = 100
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class PullRequest:
    """A pull request, as the server describes it; `base` and `head` are commits.

    Attributes:
        is_open: whether it is neither merged nor closed; a draft is open.
    """

    number: int
    title: str
    body: str
    base: str
    head: str
    is_open: bool = True


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
                is_open=told.get("state", "open") == "open",
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

    async def patches(self, number: int) -> dict[str, str]:
        """The files of a pull request and their hunks, as far as the server shows them: comments stand there alone.

        GitHub shows 3,000 files, and of large or binary ones no hunks; those have "".

        Raises:
            InputError, WorkspaceError: as of `pull_request`.
        """
        found = await self._pages(f"/repos/{self.slug}/pulls/{number}/files")
        return {str(file["filename"]): str(file.get("patch") or "") for file in found}

    async def own_texts(self, number: int) -> list[str]:
        """The texts of reviews and of comments on lines that were posted with this token.

        Others' don't count: whoever writes one could make it look as if something was said.

        Raises:
            InputError, WorkspaceError: as of `pull_request`.
        """
        try:
            me = (await self._ask("GET", "/user"))["login"]
        except InputError:  # the token of an app is no user's
            me = None
        pull = f"/repos/{self.slug}/pulls/{number}"
        said = [*await self._pages(f"{pull}/reviews"), *await self._pages(f"{pull}/comments")]
        authors = [one.get("user") or {} for one in said]
        is_own = [author.get("login") == me if me else author.get("type") == "Bot" for author in authors]
        return [str(one.get("body")) for one, own in zip(said, is_own, strict=True) if own]

    async def post(self, number: int, review: Mapping[str, Any]) -> str:
        """Posts a review and returns its address.

        Raises:
            InputError: the token doesn't allow it.
            WorkspaceError: the server can't be reached, or refuses it.
        """
        told = await self._ask("POST", f"/repos/{self.slug}/pulls/{number}/reviews", json=dict(review))
        return str(told.get("html_url", ""))

    async def _pages(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        page = 1
        while True:
            new = await self._ask("GET", path, params={"per_page": _PER_PAGE, "page": page})
            if not isinstance(new, list) or not all(isinstance(one, dict) for one in new):
                raise WorkspaceError(f"GET {path} was answered with something that is no list")
            found += new
            if len(new) < _PER_PAGE:
                return found
            page += 1

    async def _ask(self, method: str, path: str, **given: Any) -> Any:
        for _ in range(_TRIES):
            try:
                response = await self._client.request(method, path, **given)
            except httpx.HTTPError as error:
                raise WorkspaceError(f"{self._client.base_url} can't be reached: {error}") from error
            wait = _wait_s(response)
            if wait is None:
                break
            if wait > _PATIENCE_S:
                raise WorkspaceError(
                    f"{method} {path}: the server's rate limit is used up for {wait / 60:.0f} minutes; try again then"
                    + ("" if self._token else ", or give a token, which has a higher one (GITHUB_TOKEN)")
                )
            await asyncio.sleep(wait)
        if response.status_code in (401, 403, 404):
            why = "it isn't there, or needs a token that may do this (GITHUB_TOKEN)"
            raise InputError("pr_number", f"{method} {path} was answered with {response.status_code}: {why}")
        if not response.is_success:
            raise WorkspaceError(f"{method} {path} was answered with {response.status_code}: {response.text[:500]}")
        try:
            return response.json()
        except ValueError as error:
            raise WorkspaceError(f"{method} {path} was answered with something that isn't JSON") from error


def _wait_s(response: httpx.Response) -> float | None:
    """Seconds until the server takes requests again; None where it isn't that it has had too many."""
    headers = response.headers
    if response.status_code not in (403, 429):
        return None
    if headers.get("retry-after", "").isdigit():
        return float(headers["retry-after"])
    if headers.get("x-ratelimit-remaining") == "0" and headers.get("x-ratelimit-reset", "").isdigit():
        return max(1.0, float(headers["x-ratelimit-reset"]) - time.time())
    return _PATIENCE_S if response.status_code == 429 else None


def _commit(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", value):
        raise ValueError(f"{value!r} is no commit")
    return value
