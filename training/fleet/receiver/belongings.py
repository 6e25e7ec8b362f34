"""What `doctor` looks at among a receiver's files: database, store, backups, keys and certificates.

Guarantees that nothing is changed, and that a running receiver is not disturbed: what it has open is left to it. Leaves
the whole comparison of rows, artifacts and index to `fsck`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from training.fleet import system
from training.fleet.checks import DAY_S, Look, Seen, fail, first_certificate, life_left, ok, skip, validity, warn
from training.fleet.database.sqlite.pages import log_path
from training.fleet.database.sqlite.reading import NEWEST_SCHEMA, DatabaseError, of_receiver
from training.fleet.maintenance.backup import CONTENTS
from training.fleet.model.errors import ConfigurationError
from training.fleet.receiver import options
from training.fleet.settings import Settings, demand_private

OLD_S: Final = 7 * DAY_S
"""A backup that is older is worth a warning."""
SUMS_BYTES: Final = 256 * 2**20
"""Files up to this size are compared with their sums."""
MOUNTS: Final = Path("/proc/self/mountinfo")
NETWORK: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.s3fs", "afs")
MAKE: Final = "cis490-trainer-receiver init"
RENEW: Final = f"{MAKE} --renew"
MIB: Final = 2**20


def looks(chosen: Settings, *, runs: Callable[[], bool]) -> list[Look]:
    """Return the checks in their order.

    Args:
        chosen: The effective settings.
        runs: Says whether a receiver runs on these files.
    """
    return [
        Look("folders", lambda: folders(chosen)),
        Look("database", lambda: database(chosen["db"], runs=runs()), ("folders",), 60.0),
        Look("file system", lambda: file_system(chosen["db"])),
        Look("store", lambda: store(chosen), ("folders",)),
        Look("free space", lambda: free_space(chosen)),
        Look("backups", lambda: backups(chosen["backup_root"], time.time())),
        Look("keys", lambda: keys(chosen)),
        Look("certificate", lambda: certificate(chosen, time.time()), ("keys",)),
        Look("names", lambda: names(chosen), ("certificate",)),
        Look("authority", lambda: authority(chosen, time.time()), ("keys",)),
    ]


# ---- folders and disk -----------------------------------------------------------------------------------------------


def existing(path: Path) -> Path:
    """Return a path, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def folders(chosen: Settings) -> Seen:
    """Check that this user can write where the receiver must."""
    places = {name: chosen[name] for name in ("store_root", "incoming_root", "backup_root")}
    places |= {"db": chosen["db"].parent, "index_path": chosen["index_path"].parent}
    for name, folder in places.items():
        place = existing(folder)
        if not place.is_dir():
            return fail(
                f"{name}: {place} is no folder", f"move it away, or give --{name.replace('_', '-')} another place"
            )
        if not os.access(place, os.W_OK | os.X_OK):
            user = f"uid {os.geteuid()}"
            remedy = f"run doctor as the receiver's user, or: sudo chown {os.geteuid()} {place}"
            return fail(f"{name}: {user} cannot write in {place}", remedy)
    loose = [place for place in map(existing, places.values()) if system.everybody_can_rename_in(place)]
    if loose:
        said = f"everybody may write to {loose[0]}, and could put something else in the place of what is there"
        return warn(said, f"chmod o-w {loose[0]}")
    made = sum(folder.is_dir() for folder in places.values())
    return ok(f"{made} of {len(places)} are there, and this user can write in them or make them")


def file_system(db: Path, mounts: Path = MOUNTS) -> Seen:
    """Check that the database is on a disk of this machine: locks of network file systems are not to be trusted."""
    kind = _kind_of(existing(db).resolve(), mounts)
    if not kind:
        return skip("not looked at, because this system does not name its file systems")
    if kind in NETWORK:
        return warn(
            f"{db} is on {kind}, a network file system", "move the state to a disk of this machine and give --db"
        )
    return ok(f"the database is on {kind}")


def _kind_of(path: Path, mounts: Path) -> str:
    """Return the kind of file system a path is on. Source: proc(5), mountinfo."""
    best, kind = -1, ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        words = before.split()
        if len(words) < 5 or not after:
            continue
        point = Path(words[4].replace("\\040", " "))
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind


def store(chosen: Settings, mounts: Path = MOUNTS) -> Seen:
    """Check that uploads can be renamed into the store, and that its locks hold."""
    root, incoming = existing(chosen["store_root"]), existing(chosen["incoming_root"])
    if root.stat().st_dev != incoming.stat().st_dev:
        return fail(
            f"{incoming} and {root} are on two file systems",
            "give --incoming-root a folder on that of --store-root",
        )
    kind = _kind_of(root.resolve(), mounts)
    if kind in NETWORK:
        return warn(
            f"{root} is on {kind}, a network file system, whose locks hold on one host",
            "let one host alone run a receiver on it, or move the store to a disk of this machine",
        )
    return ok("store and incoming are on one file system")


def free_space(chosen: Settings) -> Seen:
    """Compare the free space with what uploads leave to the database."""
    free, floor = shutil.disk_usage(existing(chosen["store_root"])).free, chosen["floor_bytes"]
    said = f"{free / MIB:.0f} MiB are free, uploads leave {floor / MIB:.0f} MiB to the database (floor_bytes)"
    if free < floor:
        return fail(said, "make room on the store's disk; every upload is refused until then")
    if free < 2 * floor:
        return warn(said, "make room on the store's disk")
    return ok(said)


def backups(root: Path, now: float) -> Seen:
    """Say how old the newest backup is."""
    newest = max(_made(root), default=None)
    if newest is None:
        return warn(f"there is none in {root}", "cis490-jobs backup, from a timer")
    age = f"the newest in {root} is {max(0.0, now - newest) / DAY_S:.1f} days old"
    return warn(age, "cis490-jobs backup, from a timer") if now - newest > OLD_S else ok(age)


def _made(root: Path) -> Iterator[float]:
    for contents in root.glob(f"*/{CONTENTS}"):
        try:
            body = json.loads(contents.read_text(encoding="utf-8"))
            yield datetime.fromisoformat(body["made_at"]).timestamp()
        except (OSError, ValueError, KeyError, TypeError):
            continue


# ---- the database ---------------------------------------------------------------------------------------------------


def database(path: Path, *, runs: bool) -> Seen:
    """Look at the file: schema, sums of its pages, whether it can be written."""
    if not path.exists():
        return ok(f"{path} is made at the first start")
    if not os.access(path, os.R_OK | os.W_OK):
        return fail(f"{path} cannot be written by this user", f"sudo chown cis490: {path}*, or run as its owner")
    if runs:
        return ok(f"{path} is open in the receiver that runs; cis490-jobs fsck has it checked")
    if log_path(path).exists():
        return ok(f"{path} has a log of a receiver that was killed; the next start takes it up")
    try:
        return _looked_into(path)
    except ConfigurationError as error:  # another program has it open, such as a receiver at another address
        return warn(error.finding, error.remedy)
    except DatabaseError as error:
        return fail(f"{path} is damaged ({error})", "cis490-trainer-receiver fsck, then restore the newest backup")


def _looked_into(path: Path) -> Seen:
    with of_receiver(path) as reading:
        schema, sums = reading.schema(), reading.sums
        if schema > NEWEST_SCHEMA:
            return fail(
                f"{path} has schema {schema}, this program knows up to {NEWEST_SCHEMA}",
                "install the version that wrote it, or a newer one",
            )
        if sums is None:
            return warn(f"{path}, schema {schema}, has no sums of its pages", "start the receiver, which makes them")
        small = path.stat().st_size <= SUMS_BYTES
        differing = sums.differing() if small else []
    if differing:
        return fail(f"{len(differing)} pages of {path} differ from their sums", "cis490-trainer-receiver fsck")
    pages = "pages as their sums say" if small else "pages; fsck compares them with their sums"
    return ok(f"{path}, schema {schema}, {sums.pages} {pages}")


# ---- keys and certificates ------------------------------------------------------------------------------------------


def keys(chosen: Settings) -> Seen:
    """Check that keys can be read here and by nobody else."""
    given = {name: chosen[name] for name in ("tls_key", "tls_ca_key") if chosen[name] is not None}
    if not given:
        return ok("no key is set")
    for name, path in given.items():
        try:
            path.read_bytes()
        except OSError as error:
            why = (error.strerror or "no access").lower()
            return fail(f"{name}: {path} cannot be read ({why})", f"run as its owner, or make it: {MAKE}")
        demand_private(name, path)
        if os.name != "nt" and path.stat().st_mode & 0o020:
            return warn(f"{name}: the group of {path} can write it", f"chmod g-w {path}")
    return ok(f"{', '.join(given)}: private")


def certificate(chosen: Settings, now: float) -> Seen:
    """Check the receiver's certificate: a pair with its key, not near its end."""
    path: Path | None = chosen["tls_certificate"]
    if path is None:
        return ok("none: plain http is spoken")
    from training.fleet.tls import serving

    serving.make(chosen)  # refuses what is no pair
    life = validity(first_certificate(path) or b"")
    if life is None:
        return fail(f"{path} holds no certificate", f"make one: {RENEW}")
    return life_left(*life, now, RENEW).about(path)


def names(chosen: Settings) -> Seen:
    """Check that the certificate holds every name the receiver is addressed by."""
    path: Path | None = chosen["tls_certificate"]
    if path is None:
        return ok("no certificate that would need them")
    try:
        from training.fleet.tls import certificates
    except ModuleNotFoundError as error:
        return skip(f"not looked at, because the package {error.name} is not installed")
    held = {name.lower() for name in certificates.facts(path.read_bytes()).names}
    host, _ = options.address(chosen["listen_addr"])
    wanted = [name.lower() for name in chosen["host_names"]]
    missing = [name for name in wanted if name not in held and f"*.{name.partition('.')[2]}" not in held]
    if missing:
        listed = ",".join(sorted(held | set(wanted)))
        return fail(f"the certificate lacks {', '.join(missing)}", f"{RENEW} --host-names {listed}")
    return ok(f"the certificate is for {', '.join(sorted(held)) or host}")


def authority(chosen: Settings, now: float) -> Seen:
    """Check the fleet's own authority, and that the receiver can renew its certificate."""
    ca, key = chosen["tls_ca"], chosen["tls_ca_key"]
    if ca is None:
        return ok("no certificate authority is configured (tls_ca is not set)")
    life = validity(first_certificate(ca) or b"")
    if life is None:
        return fail(f"{ca} holds no certificate", "set tls_ca to the authority's certificate in PEM")
    seen = life_left(*life, now, "make a new authority, then enrol every host again").about(ca)
    if key is None:
        return seen._replace(found=f"{seen.found}; its key is elsewhere, so certificates are renewed there")
    if seen.state != "ok":
        return seen
    from training.fleet.tls import serving

    serving.issuer(chosen)  # refuses what is no pair
    where = chosen["tls_certificate"]
    if where is not None and not os.access(where.parent, os.W_OK):
        return fail(
            f"{where} cannot be renewed, because {where.parent} cannot be written", f"sudo chown cis490 {where.parent}"
        )
    return ok(f"{seen.found}; the receiver renews its certificate by itself")
