"""SQLite behind the protocol of `database`: the embedded database of one receiver.

Owns everything that is SQLite's alone: the writer thread, the write-ahead log, the sums of pages, the statements in
this dialect. Nothing outside of this folder names SQLite but who opens it.
"""

from training.fleet.database.sqlite.writer import Sqlite

__all__ = ["Sqlite"]
