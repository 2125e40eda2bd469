"""What lies under a name of a folder that isn't ours. What lies behind a link is elsewhere, whatever its name."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class Kinds:
    """Kinds of files of a folder, as it is now.

    Args:
        root: the folder; names are relative to it.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root.absolute())
        self._real = {b"": True}  # folders that are no links, nor behind one

    def is_file(self, name: bytes) -> bool:
        """Whether it is what git keeps: a file or a link."""
        mode = self.mode(name)
        return stat.S_ISREG(mode) or stat.S_ISLNK(mode)

    def is_folder(self, name: bytes) -> bool:
        """Whether it is a folder, and no link to one."""
        return stat.S_ISDIR(self.mode(name))

    def mode(self, name: bytes) -> int:
        """Its mode, as `os.lstat` has it; 0 where nothing is."""
        folder, _, _ = name.rpartition(b"/")
        if folder not in self._real:
            self._real[folder] = self.is_folder(folder)
        try:
            return os.lstat(os.path.join(self._root, name)).st_mode if self._real[folder] else 0
        except OSError:
            return 0
