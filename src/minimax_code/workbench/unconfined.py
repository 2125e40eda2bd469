"""No sandbox: limits on what a command uses, none on what it reads, changes and reaches. Only if asked for by name."""

from __future__ import annotations

from pathlib import Path

from minimax_code.workbench.landlock import Launcher


class Unconfined(Launcher):
    """Runs commands as they are; receipts say so."""

    name = "none"

    def _rules(self, folder: Path, own: Path, writable: bool) -> None:
        return None
