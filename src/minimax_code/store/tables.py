"""The tables of a store, for SQLite and PostgreSQL alike. Times are seconds since 1970."""

from __future__ import annotations

import sqlalchemy as sa

# Of the tables: one more with each change of theirs. A store of an older version gets what it lacks when it is opened,
# so a column that is added may be null, or has a default.
VERSION = 2

metadata = sa.MetaData()

meta = sa.Table("minimax_code_store", metadata, sa.Column("version", sa.Integer, nullable=False))

# What is true of a job is in its events. A row has what must be known without reading them.
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("queue", sa.Text, nullable=False, server_default="tasks"),  # which workers it is for
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),  # JSON: what is to be done
    sa.Column("wish", sa.Text, nullable=False),  # the user's: run, pause or cancel
    sa.Column("outcome", sa.Text),  # once it has ended
    sa.Column("owner", sa.Text),  # the worker that has it, or had it last
    sa.Column("token", sa.BigInteger, nullable=False),  # counts leases: who writes with an older one is refused
    sa.Column("lease_until", sa.Double, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),  # of the newest event
    sa.Column("hash", sa.Text, nullable=False),  # of the newest event, and so of all before it
    sa.Column("worked_s", sa.Double, nullable=False),  # how long workers have had it, by clocks that never jump
    sa.Column("told", sa.BigInteger, nullable=False),  # the newest event that callbacks have been told of
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("job", sa.Text, sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),  # from 1, without holes
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),  # JSON, and the very text that was hashed
    sa.Column("hash", sa.Text, nullable=False),
)
packs = sa.Table(
    "packs",
    metadata,
    sa.Column("job", sa.Text, sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("tree", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("data", sa.LargeBinary),  # git's; none of one that was too large
)
