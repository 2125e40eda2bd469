"""Jobs and their events, kept in SQLite or PostgreSQL so that no crash loses one. It knows nothing of what jobs do."""

from minimax_code.store.lease import Lease
from minimax_code.store.log import StoredLog
from minimax_code.store.packs import Packs
from minimax_code.store.row import JobRow, Wish
from minimax_code.store.store import Store, default_url

__all__ = ["JobRow", "Lease", "Packs", "Store", "StoredLog", "Wish", "default_url"]
