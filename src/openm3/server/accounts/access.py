"""Who may use the API: a key is looked up before anything of a request is read, and its limits go with every answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openm3.errors import DatabaseError, InputError
from openm3.server.accounts.account import Account
from openm3.server.accounts.database import Database
from openm3.server.accounts.keys import PREFIX, Key, KeyStore
from openm3.server.accounts.ledger import LEASE_S, Ledger
from openm3.server.accounts.plans import Plan, read_plans
from openm3.server.callers import ANONYMOUS, Caller
from openm3.server.errors import ApiError, shape_of
from openm3.server.settings import Settings

_GUARDED = ("/v1/", "/anthropic/")
_BEATS = 4  # in a lease: one may be late, another get lost

_log = logging.getLogger(__name__)


class Accounts:
    """The keys and books that a server goes by.

    Without any key it is open to everybody; the first key that is ever made closes it at once, and revoking all keys
    doesn't open it again.

    Args:
        database: of keys and books; it is brought up to date.
        plans: by name.
        open_to_all: requests without a key are served, whatever keys there are.

    Raises:
        DatabaseError: the database can't be used.
        InputError: a key in use has a plan that there isn't.
    """

    def __init__(self, database: Database, plans: Mapping[str, Plan], *, open_to_all: bool = False) -> None:
        database.migrate()
        self._database, self._plans, self._open_to_all = database, plans, open_to_all
        self.keys, self.ledger = KeyStore(database), Ledger(database)
        for key in self.keys.list():
            if key.revoked_at is None and key.plan not in plans:
                raise InputError(
                    "plans", f"the key {key.id} ({key.name}) has the plan {key.plan!r}, which is not there"
                )
        self._has_keys = self.keys.any()

    @property
    def is_open(self) -> bool:
        """Whether requests need no key, as far as was last seen."""
        return self._open_to_all or not self._has_keys

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Keeps this process's lease while the server runs."""
        await self._database.run(self.ledger.beat)
        beats = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            beats.cancel()
            with suppress(asyncio.CancelledError):
                await beats
            await self._database.run(self.ledger.resign)
            self.close()

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    async def caller(self, token: str | None) -> Caller:
        """Who sends a token.

        Raises:
            ApiError: 401, where a key is needed, or where it has the form of one and is none.
        """
        if token is not None and token.startswith(PREFIX):
            key = await self._database.run(self.keys.check, token)
            if key is None:
                raise _unauthorized("the key is wrong, expired or revoked")
            return self._caller_of(key)
        if not await self._admits_anybody():
            raise _unauthorized("a key is needed, as Authorization: Bearer KEY or x-api-key: KEY")
        return ANONYMOUS

    async def holder(self, key_id: str) -> Caller:
        """The caller that has a key, for work that goes on without it.

        Raises:
            ApiError: 401, where it is revoked or expired.
        """
        now = time.time()
        for key in await self._database.run(self.keys.list):
            if key.id == key_id and key.state(now) == "active":
                return self._caller_of(key)
        raise _unauthorized("the key is expired or revoked")

    async def _admits_anybody(self) -> bool:
        if self.is_open and not self._open_to_all:
            self._has_keys = await self._database.run(self.keys.any)
        return self.is_open

    def _caller_of(self, key: Key) -> Caller:
        plan = self._plans.get(key.plan)
        if plan is None:  # made since the server has read its plans
            raise ApiError(403, f"the plan {key.plan!r} of this key is not known to the server", code="unknown_plan")
        account = Account(self._database, self.ledger, key.id, plan)
        return Caller(key_id=key.id, plan=plan.name, weight=plan.weight, meter=account, may_use=plan.allows)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / _BEATS)
            try:
                await self._database.run(self.ledger.beat)
            except DatabaseError as error:  # requests fail with the same; the next beat may find it back
                _log.error("%s", error)


def accounts_of(settings: Settings) -> Accounts | None:
    """The keys and books that the settings name, if they name any."""
    if settings.database is None:
        return None
    plans = read_plans(Path(settings.plans) if settings.plans else None)
    return Accounts(Database(settings.database), plans, open_to_all=settings.open)


def check_host(host: str, settings: Settings) -> None:
    """Refuses to be open to other machines unless that is asked for.

    Raises:
        InputError: no key was made, and the address is not this machine's own.
    """
    accounts = accounts_of(settings)
    if accounts is None:
        return
    with closing(accounts):
        if accounts.is_open and not settings.open and not _is_loopback(host):
            raise InputError(
                "--host",
                f"{host} lets other machines in, and there is no key yet; `openm3 keys create --plan plus` makes one; "
                "--open serves everybody",
            )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Access:
    """Lets nobody in who isn't a caller; `request.state.caller` says who it is."""

    def __init__(self, app: ASGIApp, accounts: Accounts) -> None:
        self._app, self._accounts = app, accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_GUARDED):
            return await self._app(scope, receive, send)
        caller = await self._accounts.caller(_token(Headers(scope=scope)))
        scope.setdefault("state", {})["caller"] = caller
        account = caller.meter

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start" and isinstance(account, Account):
                headers = MutableHeaders(scope=message)
                allowance = await account.look()
                headers.update(dict(allowance.headers()))
                if shape_of(scope["path"]) == "anthropic":
                    headers.update(dict(allowance.anthropic_headers(datetime.now(UTC))))
            await send(message)

        await self._app(scope, receive, send_with_limits)


def _token(headers: Headers) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else headers.get("x-api-key")


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
