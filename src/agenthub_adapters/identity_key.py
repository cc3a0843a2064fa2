"""The key with which the hub marks the messages whose sender it knows.

Made at random when it is first needed, and kept in a file that only its user can read. Where it is
lost, or spoilt, there is a new one, and what was marked with the old one is verified no more. What
a mark is, and where it stands, is the codec's business.
"""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from agenthub_adapters import files

_SIZE = 32  # bytes: as long as what HMAC-SHA256 makes of it, longer adds nothing

_log = logging.getLogger(__name__)


class IdentityKey:
    """The key in a file. It is read each time, for another process may have made it anew.

    Every method raises OSError.
    """

    def __init__(self, path: Path, durable: files.DurableFiles) -> None:
        self.path = path
        self._durable = durable

    def read(self) -> bytes:
        """The key; empty where there is none that can be used."""
        return self._found() or b""

    def ensure(self) -> bytes:
        """The key, a new one where there is none; empty where there is one of somebody else's."""
        found = self._found()
        if found is None:
            with files.alone(self.path.parent):  # who begin at the same time have one key
                found = self._found()
                if found is None:
                    found = secrets.token_bytes(_SIZE)
                    self._durable.replace(self.path, found)
        if not found:
            _log.warning(
                "%s may not be read by this user: what is written is unverified", self.path
            )
        return found

    def _found(self) -> bytes | None:
        """None where a new one is to be made."""
        try:
            opened = files.read_regular(self.path, _SIZE + 1)
        except files.NotRegular as error:
            # others may well be able to read it: it must not be taken from them
            return b"" if isinstance(error.__cause__, PermissionError) else None
        return opened[0] if opened is not None and len(opened[0]) == _SIZE else None
