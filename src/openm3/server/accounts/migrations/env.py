"""Alembic runs this: the migrations happen in the transaction that `Database.migrate` has begun."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
