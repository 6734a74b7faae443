"""What an error of SQLite says about the file, its disk, or the question alone. Pure.

    damage     the file is broken                         recovery
    trouble    the disk is full, away or locked           the same again, later
    neither    the question or the value was wrong        told to whoever asked: nobody else is to suffer for it

By class and words: Python 3.10 does not tell SQLite's codes.
"""

from __future__ import annotations

import sqlite3

_DAMAGE = ("disk image is malformed", "malformed database schema", "not a database", "unsupported file format")
_TROUBLE = ("disk is full", "disk i/o error", "locked", "busy", "readonly", "unable to open", "out of memory", "interrupted")


def is_damage(error: BaseException) -> bool:
    """Whether the file is broken. Subclasses of DatabaseError, but for OperationalError, speak of values and questions."""
    if type(error) is sqlite3.DatabaseError:
        return True
    return isinstance(error, sqlite3.OperationalError) and any(sign in str(error).lower() for sign in _DAMAGE)


def is_trouble(error: BaseException) -> bool:
    """Whether the disk or another process is in the way, so that the same may succeed later."""
    return isinstance(error, sqlite3.OperationalError) and any(sign in str(error).lower() for sign in _TROUBLE)
