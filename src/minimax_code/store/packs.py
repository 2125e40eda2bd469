"""The files of jobs, in a store that several machines share: so each of them can go on with a job."""

from __future__ import annotations

import sqlalchemy as sa

from minimax_code.errors import LeaseError
from minimax_code.store.database import Database
from minimax_code.store.lease import Lease
from minimax_code.store.tables import jobs, packs
from minimax_code.store.threads import in_thread


class Packs:
    """Packs of one job: of each tree what those before it don't have. The holder of its lease may add to them.

    Attributes:
        sizes: bytes of each pack, by the tree.
        is_whole: False once there was one that was too large to be kept; what follows is not kept either.

    Raises:
        StoreError: they can't be read.
    """

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database, self._lease = database, lease
        query = sa.select(packs.c.tree, packs.c.size, packs.c.data.is_(None).label("lacks"))
        with database.read() as connection:
            rows = connection.execute(query.where(packs.c.job == lease.job)).all()
        self.sizes: dict[str, int] = {row.tree: row.size for row in rows}
        self.is_whole = not any(row.lacks for row in rows)

    async def add(self, tree: str, data: bytes | None) -> None:
        """Keeps a pack; None: it is too large.

        Raises:
            StoreError: it can't be written, or (`LeaseError`) another worker has taken the job.
        """
        await in_thread(self._add, tree, data)

    async def read(self) -> list[bytes]:
        """All packs.

        Raises:
            StoreError: they can't be read.
        """
        return await in_thread(self._read)

    async def clear(self) -> None:
        """Forgets all of them: nobody will go on with the job.

        Raises:
            StoreError: they can't be removed.
        """
        await in_thread(self._clear)

    def _clear(self) -> None:
        with self._database.write() as connection:
            connection.execute(packs.delete().where(packs.c.job == self._lease.job))
        self.sizes, self.is_whole = {}, True

    def _add(self, tree: str, data: bytes | None) -> None:
        job, size = self._lease.job, len(data or b"")
        with self._database.write() as connection:
            held = sa.select(jobs.c.token).where(jobs.c.id == job).with_for_update()
            if connection.execute(held).scalar_one() != self._lease.token:
                raise LeaseError(f"{job} was taken by another worker: nothing more of it can be written here")
            connection.execute(packs.insert().values(job=job, tree=tree, size=size, data=data))
        self.sizes[tree] = size
        self.is_whole = self.is_whole and data is not None

    def _read(self) -> list[bytes]:
        query = sa.select(packs.c.data).where(packs.c.job == self._lease.job, packs.c.data.is_not(None))
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())
