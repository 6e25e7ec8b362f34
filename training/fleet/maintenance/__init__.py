"""Whether database, store and index still say the same, and copies of all three.

Owns the checks (`records`, `artifacts`, `fsck`), backups (`backup`) and bringing one back (`restore`). Guarantees that
a check changes nothing unless it is told to repair, that a repair rebuilds only what is derived and deletes nothing
that was damaged, that a backup appears whole or not at all and names the digest of each of its files, and that a
restore looks at every digest before it touches anything.
"""
