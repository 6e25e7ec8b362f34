"""The work hosts do: everyday work, and harmless imitations of hostile work.

Each activity runs in a process of its own until its deadline, slows itself down to a share of one core, touches only
files below its home folder and only addresses of the lab or its own loopback. Nothing here can reach beyond the
namespaces: they have no uplink. When it runs and at which intensity is the plan's business.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import lzma
import random
import select
import shutil
import socket
import sqlite3
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SERVICE_PORT: Final = 8080
NAME_PORT: Final = 5300
"""Ports of the services every host runs (see `services`)."""

LOOPBACK: Final = "127.0.0.1"

_CHUNK_BYTES: Final = 32 * 1024
_SUBNET_END: Final = 24
_DOCUMENTS: Final = 140
_CLOSED_PORTS: Final = (22, 25, 443, 3306, 5432, 6379)
_WORDS: Final = ("host", "lease", "fleet", "metric", "model", "train", "queue", "store", "worker", "signal", "score")


@dataclass
class Site:
    """Where an activity works."""

    home: Path
    """Its host's folder; nothing outside is written."""
    peers: tuple[str, ...]
    """Addresses of the other hosts."""
    deadline: float
    """Monotonic time at which it stops."""
    intensity: float
    """0.1 to 1."""
    rng: random.Random
    """Its own random numbers."""

    def steps(self, share: float) -> Iterator[None]:
        """Yield until the deadline, sleeping so that work takes about a share of one core.

        Args:
            share: Wanted share of the elapsed time at full intensity, 0 to 1.

        Yields:
            None, once per step of work.
        """
        wanted = max(0.01, share * self.intensity)
        while time.monotonic() < self.deadline:
            began = time.process_time()
            at = time.monotonic()
            yield
            spent = max(time.process_time() - began, (time.monotonic() - at) * 0.5)
            self.rest(spent * (1 - wanted) / wanted)

    def paced(self, per_s: float) -> Iterator[None]:
        """Yield about `per_s * intensity` times a second with random gaps, until the deadline."""
        while time.monotonic() < self.deadline:
            yield
            self.rest(self.rng.expovariate(max(0.05, per_s * self.intensity)))

    def rest(self, seconds: float) -> None:
        """Sleep, but not past the deadline."""
        time.sleep(max(0.0, min(seconds, self.deadline - time.monotonic())))

    def peer(self) -> str:
        """Pick another host."""
        return self.rng.choice(self.peers)

    def documents(self) -> list[Path]:
        """List the host's documents, in order of name."""
        return sorted(path for path in (self.home / "documents").iterdir() if path.is_file())

    def read_document(self) -> bytes:
        """Read a document at random; empty when another activity took it away in that moment."""
        try:
            return self.rng.choice(self.documents()).read_bytes()
        except FileNotFoundError:
            return b""


def text(rng: random.Random, size_bytes: int) -> bytes:
    """Make compressible text of a given size."""
    line = " ".join(rng.choices(_WORDS, k=200)).encode()
    return (line * (size_bytes // len(line) + 1))[:size_bytes]


def keystream_xor(data: bytes, key: bytes) -> bytes:
    """Encrypt or decrypt with a SHAKE-256 keystream; an imitation, not for secrets."""
    stream = hashlib.shake_256(key).digest(len(data))
    return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")


def prepare(home: Path, rng: random.Random) -> None:
    """Fill a host's home folder with documents of 2 to 40 KiB."""
    folder = home / "documents"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(_DOCUMENTS):
        (folder / f"note-{number:03}.txt").write_bytes(text(rng, rng.randint(2, 40) * 1024))


# Benign work.


def compile_code(site: Site) -> None:
    """Compile small generated C files, as a build does."""
    folder = site.home / "build"
    folder.mkdir(exist_ok=True)
    for number, _ in enumerate(site.steps(0.35)):
        source = folder / f"unit_{number % 12}.c"
        bodies = (
            f"int f{n}(int x){{int s=0;for(int i=0;i<x;i++)s+=i*{site.rng.randint(2, 99)};return s;}}"
            for n in range(40)
        )
        source.write_text("\n".join(bodies))
        command = ["cc", f"-O{site.rng.randint(0, 2)}", "-c", str(source), "-o", str(source.with_suffix(".o"))]
        began = time.monotonic()
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)  # noqa: S603
        site.rest((time.monotonic() - began) * (1.5 / site.intensity))


def compress(site: Site) -> None:
    """Compress documents into an archive, now with zlib, now with xz."""
    target = site.home / f"archive-{site.rng.randrange(1000)}.z"
    use_xz = site.rng.random() < 0.4
    with target.open("wb") as out:
        for _ in site.steps(0.35):
            data = site.read_document()
            out.write(lzma.compress(data, preset=3) if use_xz else zlib.compress(data * 3, 9))
    target.unlink(missing_ok=True)


def checksum(site: Site) -> None:
    """Hash the documents, as an integrity check does: a lookalike of mining."""
    for _ in site.steps(0.3):
        data = site.read_document()
        for _ in range(site.rng.randint(4, 20)):
            hashlib.sha256(data).digest()


def vault(site: Site) -> None:
    """Write documents encrypted into one archive, as an encrypted backup does: a lookalike of bulk encryption."""
    target = site.home / f"vault-{site.rng.randrange(1000)}.bin"
    with target.open("wb") as out:
        for _ in site.paced(18):
            out.write(keystream_xor(site.read_document(), b"vault"))
            out.flush()
    target.unlink(missing_ok=True)


def unpack(site: Site) -> None:
    """Unpack small files into a tree, then remove it."""
    folder = site.home / f"tree-{site.rng.randrange(1000)}"
    folder.mkdir(exist_ok=True)
    for number, _ in enumerate(site.paced(35)):
        (folder / f"part-{number % 120:03}").write_bytes(text(site.rng, site.rng.randint(1, 24) * 1024))
    shutil.rmtree(folder, ignore_errors=True)


def edit(site: Site) -> None:
    """Change documents now and then, as a person does; brings back those that are missing."""
    for number, _ in enumerate(site.paced(3)):
        path = site.home / "documents" / f"note-{(number * 7) % _DOCUMENTS:03}.txt"
        path.write_bytes(text(site.rng, site.rng.randint(2, 40) * 1024))


def restore(site: Site) -> None:
    """Bring documents back that an encryption episode replaced."""
    locked = [path for path in site.documents() if path.suffix == ".locked"]
    for path, _ in zip(locked, site.paced(14), strict=False):
        path.with_suffix(".txt").write_bytes(text(site.rng, site.rng.randint(2, 40) * 1024))
        path.unlink(missing_ok=True)


def database(site: Site) -> None:
    """Insert, update and read rows of a local SQLite database."""
    base = sqlite3.connect(site.home / "orders.db", isolation_level=None)
    base.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
        "CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, amount REAL, note TEXT);"
        "CREATE INDEX IF NOT EXISTS amounts ON orders(amount); DELETE FROM orders WHERE id % 2;"
    )
    for _ in site.paced(10):
        base.execute("BEGIN")
        for _ in range(site.rng.randint(1, 12)):
            base.execute(
                "INSERT INTO orders(amount, note) VALUES(?, ?)", (site.rng.random(), "x" * site.rng.randint(10, 300))
            )
        base.execute("COMMIT")
        base.execute("SELECT sum(amount) FROM orders WHERE amount > ?", (site.rng.random(),)).fetchall()
    base.close()


def query(site: Site) -> None:
    """Send queries to the services of another host and, over loopback, of its own."""
    for _ in site.paced(14):
        target = site.peer() if site.rng.random() < 0.5 else LOOPBACK
        _request(target, "GET", f"/query/{site.rng.randint(50, 900)}")


def fetch(site: Site) -> None:
    """Fetch files of very unlike sizes from other hosts, with pauses to read."""
    for _ in site.paced(1.6):
        peer = site.peer()
        for _ in range(site.rng.randint(1, 6)):
            _request(peer, "GET", f"/file/{int(2 ** site.rng.uniform(10, 19.5))}")


def backup(site: Site) -> None:
    """Upload compressed documents at a steady rate: a lookalike of exfiltration."""
    peer = site.peer()
    per_s = site.rng.uniform(150_000, 900_000) * site.intensity

    def body() -> Iterator[bytes]:
        stop = min(site.deadline, time.monotonic() + site.rng.uniform(4, 15))
        while time.monotonic() < stop:
            data = zlib.compress(site.read_document() + site.rng.randbytes(_CHUNK_BYTES), 1)
            yield data
            site.rest(len(data) / per_s)

    for _ in site.paced(0.5):
        _request(peer, "PUT", "/backup", body())


def monitor(site: Site) -> None:
    """Ask all hosts of an outdated list, itself included, for their services: a lookalike of a sweep."""
    subnet = site.peers[0].rpartition(".")[0]
    gone = [f"{subnet}.{number}" for number in site.rng.sample(range(len(site.peers) + 2, _SUBNET_END), k=2)]
    for _ in site.paced(1.2):
        for target in (*site.peers, *gone, LOOPBACK):
            _knock(target, site.rng.choice((SERVICE_PORT, SERVICE_PORT, *_CLOSED_PORTS)), wait_s=0.02)


def session(site: Site) -> None:
    """Be logged in: read a document now and then, look at the own services over loopback."""
    for _ in site.paced(0.6):
        site.read_document()
        if site.rng.random() < 0.3:
            _request(LOOPBACK, "GET", f"/query/{site.rng.randint(50, 900)}")


def chatter(site: Site) -> None:
    """Send the small talk of any host: name lookups and a health report."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.settimeout(0.3)
        for _ in site.paced(1.5):
            try:
                out.sendto(site.rng.randbytes(site.rng.randint(24, 60)), (site.peer(), NAME_PORT))
                out.recv(512)
            except OSError:
                continue
            if site.rng.random() < 0.1:
                _request(site.peers[0], "PUT", "/health", [site.rng.randbytes(site.rng.randint(150, 700))])


# Hostile-like work.


def mine(site: Site) -> None:
    """Hash as a coin miner does, and report shares to a pool."""
    block = site.rng.randbytes(72)
    report = _Report(site, "/share")
    for nonce, _ in enumerate(site.steps(0.4)):
        for low in range(1500):
            hashlib.sha256(hashlib.sha256(block + nonce.to_bytes(4, "big") + low.to_bytes(4, "big")).digest()).digest()
        report.when_due()


def encrypt(site: Site) -> None:
    """Encrypt the host's documents in bulk and replace them, as ransomware does."""
    key = site.rng.randbytes(16)
    report = _Report(site, "/key")
    while time.monotonic() < site.deadline:
        for path, _ in zip(site.documents(), site.paced(20), strict=False):
            try:
                data = keystream_xor(path.read_bytes(), key + path.name.encode())
            except FileNotFoundError:  # restored or encrypted by another activity meanwhile
                continue
            path.with_suffix(".locked").write_bytes(data)
            if path.suffix != ".locked":
                path.unlink(missing_ok=True)
            report.when_due()


def exfiltrate(site: Site) -> None:
    """Upload documents in bursts."""
    for _ in site.paced(0.7):
        per_s = site.rng.uniform(400_000, 2_500_000) * site.intensity

        def body(per_s: float = per_s) -> Iterator[bytes]:
            for _ in range(site.rng.randint(10, 60)):
                if time.monotonic() > site.deadline:
                    return
                data = site.read_document()
                yield keystream_xor(data, b"out")
                site.rest(len(data) / per_s)

        _request(site.peer(), "PUT", "/drop", body())


def sweep_loopback(site: Site) -> None:
    """Try the ports of the host's own loopback one after the other."""
    port = site.rng.randint(1, 20_000)
    for _ in site.paced(12):
        for _ in range(site.rng.randint(2, 12)):
            port = port % 65_535 + 1
            _knock(LOOPBACK, port, wait_s=0.01)


def sweep_peers(site: Site) -> None:
    """Try a few ports on every address of the lab's subnet, used or not."""
    subnet = site.peers[0].rpartition(".")[0]
    for _ in site.paced(9):
        target = f"{subnet}.{site.rng.randint(1, _SUBNET_END)}"
        for port in site.rng.sample((SERVICE_PORT, *_CLOSED_PORTS), k=site.rng.randint(1, 4)):
            _knock(target, port, wait_s=0.01)


class _Report:
    """Small uploads to one peer at random intervals: what a miner tells its pool, or malware its command host."""

    def __init__(self, site: Site, path: str) -> None:
        self._site = site
        self._path = path
        self._peer = site.peers[-1]
        self._due_at = time.monotonic()

    def when_due(self) -> None:
        """Send one report when its time has come."""
        if time.monotonic() >= self._due_at:
            _request(self._peer, "PUT", self._path, [self._site.rng.randbytes(self._site.rng.randint(80, 300))])
            self._due_at = time.monotonic() + self._site.rng.uniform(0.8, 3.0)


ACTIVITIES: Final[dict[str, Callable[[Site], None]]] = {
    "compile": compile_code,
    "compress": compress,
    "checksum": checksum,
    "vault": vault,
    "unpack": unpack,
    "edit": edit,
    "restore": restore,
    "database": database,
    "query": query,
    "fetch": fetch,
    "backup": backup,
    "monitor": monitor,
    "session": session,
    "chatter": chatter,
    "mine": mine,
    "encrypt": encrypt,
    "exfiltrate": exfiltrate,
    "sweep_loopback": sweep_loopback,
    "sweep_peers": sweep_peers,
}
"""Every activity by the name the plan uses."""


def _request(peer: str, method: str, path: str, body: Iterator[bytes] | list[bytes] | None = None) -> None:
    """Send one HTTP request to a host of the lab and read the answer; a host that is away is no fault."""
    connection = http.client.HTTPConnection(peer, SERVICE_PORT, timeout=5)
    try:
        connection.request(method, path, body=body, encode_chunked=body is not None, headers=_headers(body))
        answer = connection.getresponse()
        while answer.read(_CHUNK_BYTES):
            pass
    except (OSError, http.client.HTTPException):
        return
    finally:
        connection.close()


def _headers(body: object) -> dict[str, str]:
    return {} if body is None else {"Transfer-Encoding": "chunked"}


def _knock(address: str, port: int, *, wait_s: float) -> None:
    """Begin a TCP connection, wait shortly for what comes, and let go."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as knocker:
        knocker.setblocking(False)
        if knocker.connect_ex((address, port)) == errno.EINPROGRESS:
            select.select([], [knocker], [], wait_s)
