"""One life of the receiver, from opening the database to closing it.

Owns the order of start and end. The order of the start is: database, locks of the store, leases, store, index,
manifest, listening, READY; of the end: STOPPING, no new work, requests under way, database.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import uvicorn

from training.fleet.api import openapi
from training.fleet.api.access import Access
from training.fleet.api.app import make_app
from training.fleet.api.bridge import Bridge
from training.fleet.api.disks import Disks
from training.fleet.api.fleet import EdgeAuthority, Fleet
from training.fleet.api.front import Front
from training.fleet.api.keeping import Keeper
from training.fleet.api.loading import Loader
from training.fleet.api.metrics import Meters
from training.fleet.api.parking import Lot
from training.fleet.auth import Credentials, Logins, Sessions, is_loopback
from training.fleet.auth.sessions import SILENT_S
from training.fleet.blobs import Blobs, open_blobs
from training.fleet.database import Database, open_database
from training.fleet.files import make_folder
from training.fleet.locks import file_held
from training.fleet.maintenance.artifacts import Places
from training.fleet.maintenance.prune import Pruner
from training.fleet.model.errors import EX_FAILURE, ConfigurationError, FleetError, passing
from training.fleet.model.jobs import Terms
from training.fleet.queue import Queue, StoredRows
from training.fleet.receiver import options
from training.fleet.receiver.connections import guarded
from training.fleet.receiver.logs import Repeats
from training.fleet.receiver.reloading import ReloadFile, state_file
from training.fleet.receiver.retention import retain_forever
from training.fleet.receiver.server import KEEP_ALIVE_S, Server, connection_limit, knowing_clients, listen
from training.fleet.service import Service
from training.fleet.settings import Settings
from training.fleet.single_file import INSTALLER, JOBS, WORKER, digest_of
from training.fleet.store import Index, Intake, PartIntake, Store, index_lines
from training.fleet.tls import serving
from training.fleet.tls.serving import Tls
from training.fleet.wire.people import Reload

DUE_S: Final = 0.02
"""Shortest time between two sweeps."""
CERTIFICATE_S: Final = 60.0
"""Seconds between two looks at the certificate's files."""
HEADER_BYTES: Final = 16384
GC_ALLOCATIONS: Final = 20_000
SILENT_BEATS: Final = 3
"""Heartbeats that a machine must have left out before another one may use its identity."""
CERTIFICATES: Final = {"receiver": "tls_certificate", "authority": "tls_ca"}
"""Settings of the certificates whose end `/metrics` shows, by the name it shows."""
SIGNAL_ACTOR: Final = "operator:signal"

_log = logging.getLogger(__name__)


def run(
    settings: Settings,
    credentials: Credentials,
    environ: Mapping[str, str],
    reread: Callable[[], Credentials],
    front: Front | None = None,
) -> int:
    """Serve until asked to end.

    Args:
        settings: The effective settings.
        credentials: Who may do what.
        environ: Environment variables, for the service manager.
        reread: Reads the credentials again, at a reload.
        front: What stands in front of the receiver; None for nothing.

    Returns:
        The exit status.

    Raises:
        FleetError: The receiver could not start.
    """
    factory = uvicorn.Config(_nothing, loop="auto", log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_life(settings, credentials, Service(environ), reread, front))


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stand in for an application where uvicorn only chooses its event loop."""


async def _life(
    settings: Settings,
    credentials: Credentials,
    service: Service,
    reread: Callable[[], Credentials],
    front: Front | None,
) -> int:
    host, port = options.address(settings["listen_addr"])
    secure = serving.make(settings)
    async with contextlib.AsyncExitStack() as stack:
        database = _open_database(settings["db"], settings["backup_root"])
        stack.callback(database.close)
        _hold_store(stack, settings)
        with file_held(settings["index_path"]):
            fleet = await start_fleet(settings, database, credentials, reread)
        # Held again, because the start may have put another file under its name.
        stack.enter_context(file_held(settings["index_path"]))
        stack.callback(fleet.close)
        link = listen(host, port)
        stack.callback(link.close)
        server = make_server(settings, fleet, host, secure=secure, front=front)
        status = await _serve(settings, service, database, fleet, server, link, secure)
    if database.broken is not None:  # it may have failed only when it was closed
        _log.error("a disk failed", extra={"data": {"reason": database.broken.message}})
        status = EX_FAILURE
    _log.info("ended", extra={"data": {"status": status}})
    return status


def _open_database(path: Path, copies: Path) -> Database:
    try:
        make_folder(path.parent)
    except OSError as error:
        words = f"cannot make the folder of db {path} ({error})"
        refusal = passing(error, words, "look at its disk")
        raise refusal or ConfigurationError(words, "give --db another place") from error
    return open_database(path, copies)


def _hold_store(stack: contextlib.AsyncExitStack, settings: Settings) -> None:
    """Keep every other receiver, `fsck` and `restore` out of the store, whatever database they have."""
    blobs = open_blobs(settings["store_root"], settings["incoming_root"])
    blobs.make()
    stack.enter_context(blobs.held())


async def start_fleet(
    settings: Settings,
    database: Database,
    credentials: Credentials,
    reread: Callable[[], Credentials] | None = None,
) -> Fleet:
    """Return the fleet with its leases revived, its index whole and its manifest loaded.

    Args:
        settings: The effective settings.
        database: Where the queue is.
        credentials: Who may do what.
        reread: Reads the credentials again, at a reload; None where they are fixed.

    Raises:
        FleetError: One of the parts cannot be opened or loaded.
    """
    meters = Meters({name: settings[key] for name, key in CERTIFICATES.items() if settings[key] is not None})
    bridge = Bridge(database, asyncio.get_running_loop(), meters.commits.observe)
    queue = Queue(terms=_terms(settings))
    queue.on_ended(meters.count_ending)
    await bridge.run(queue.start)
    blobs = open_blobs(settings["store_root"], settings["incoming_root"], settings["floor_bytes"])
    store, index = Store(blobs, settings["max_artifact_bytes"]), Index(settings["index_path"])
    rows = StoredRows(database, queue.artifacts)
    intake = Intake(store, rows, index)
    pruner = Pruner(database, queue, store, intake)
    await asyncio.to_thread(_open_store, blobs, index, rows, pruner)
    loader = Loader(
        database,
        queue,
        settings["manifest"],
        settings["db"].with_name("manifest.applied.toml"),
        schema_required=settings["schema_required"],
    )
    lot = Lot(queue.eligible)
    queue.on_ready(lambda ready: bridge.notify(functools.partial(lot.publish, ready)))
    await loader.start()
    for program in (WORKER, JOBS, INSTALLER):  # before an upgrade changes the code on disk
        await asyncio.to_thread(digest_of, program)
    return Fleet(
        queue=queue,
        store=store,
        intake=intake,
        part_intake=PartIntake(store, rows),
        loader=loader,
        bridge=bridge,
        lot=lot,
        keeper=_keeper(settings, database, blobs, pruner),
        access=Access(replace(credentials, registry=queue.identities.registry), reread),
        sessions=_sessions(queue),
        disks=_disks(settings),
        description=openapi.document,
        authority=EdgeAuthority(serving.issuer(settings), *serving.shown_authority(settings)),
        meters=meters,
        logins=Logins(settings["logins_root"]),
    )


def _sessions(queue: Queue) -> Sessions:
    """Return the sessions, with the places that workers had before this start."""
    sessions = Sessions(time.monotonic, _silent_s(queue.terms))
    for identity in queue.identities.registry:
        if identity.revoked_at is None and identity.place is not None:
            sessions.remember(identity.worker, identity.place)
    return sessions


def _silent_s(terms: Terms) -> float:
    """Return how long a machine must be silent before another one may use its identity."""
    return min(terms.lease_s, max(SILENT_S, SILENT_BEATS * terms.heartbeat_s))


def _keeper(settings: Settings, database: Database, blobs: Blobs, pruner: Pruner) -> Keeper:
    places = Places(blobs, settings["index_path"])
    db: Path = settings["db"]
    copy = db.with_name(f"{db.name}.fsck")
    with contextlib.suppress(OSError):  # the next check removes it, or says why it cannot
        copy.unlink(missing_ok=True)
    return Keeper(database, places, db.with_name("manifest.applied.toml"), settings["backup_root"], copy, pruner)


def _disks(settings: Settings) -> Disks:
    folders = {
        "db": settings["db"].parent,
        "store_root": settings["store_root"],
        "incoming_root": settings["incoming_root"],
        "index_path": settings["index_path"].parent,
    }
    return Disks(folders, settings["floor_bytes"])


def _terms(settings: Settings) -> Terms:
    names = ("ack_s", "lease_s", "heartbeat_s", "prefer_wait_s", "backoff_s", "backoff_cap_s")
    return Terms(**{name: settings[name] for name in names})


def _open_store(blobs: Blobs, index: Index, rows: StoredRows, pruner: Pruner) -> None:
    blobs.prepare()
    if left := pruner.finish():
        _log.info("removed what a prune had left", extra={"data": {"artifacts": left}})
    index.open()
    if index.rebuild(index_lines(rows)):
        _log.warning("the index was not what the database says and was written again")


def make_server(
    settings: Settings,
    fleet: Fleet,
    host: str,
    http: Literal["auto", "h11", "httptools"] = "auto",
    secure: Tls | None = None,
    front: Front | None = None,
) -> Server:
    """Return the server, not yet listening.

    Args:
        settings: The effective settings.
        fleet: What it serves.
        host: Address it will listen on.
        http: Parser; "auto" takes httptools when it is installed.
        secure: TLS, None to speak plain HTTP.
        front: What stands in front of it; None for nothing.
    """
    names = frozenset(name.lower() for name in settings["host_names"])
    wide = not is_loopback(host) or bool(settings["trusted_proxies"])
    app = make_app(fleet, names, any_host=wide and not names, front=front)
    config = uvicorn.Config(
        app,
        http=http,
        loop="auto",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings["drain_s"])),
        h11_max_incomplete_event_size=HEADER_BYTES,
        ssl_context_factory=None if secure is None else lambda _config, _default: secure.context,
    )
    config.load()
    limit = connection_limit(settings["max_connections"])
    fleet.lot.most = max(1, limit // 2)  # the other half is for everything else that this address asks
    config.http_protocol_class = knowing_clients(guarded(config.http_protocol_class, limit))
    return Server(config)


async def _serve(
    settings: Settings,
    service: Service,
    database: Database,
    fleet: Fleet,
    server: Server,
    link: socket.socket,
    secure: Tls | None,
) -> int:
    """Answer requests until the end is asked for; return the exit status."""
    ending = _Ending(fleet, server, service)
    database.on_broken = lambda error: fleet.bridge.notify(functools.partial(ending.fail, error.message))
    fleet.store.watch(lambda why: fleet.bridge.notify(functools.partial(ending.fail, why)))
    told = ReloadFile(state_file(settings["db"]))
    await asyncio.to_thread(told.start)
    _listen_to_signals(fleet, service, ending, secure, told)
    chores = [asyncio.create_task(_sweep_forever(fleet)), asyncio.create_task(retain_forever(fleet, settings))]
    if secure is not None:
        chores.append(asyncio.create_task(_keep_certificate(secure)))
    if service.watchdog_s:
        chores.append(asyncio.create_task(_pat_watchdog(fleet, service)))
    # What lives now lives to the end, and requests leave few cycles behind: looking for them often would only hold
    # requests up.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)
    address = _shown_address(link, settings)
    _log.info("listening", extra={"data": {"address": address, "jobs": sum(fleet.queue.counts().values())}})
    service.ready(f"listening on {address}")
    try:
        await server.serve(sockets=[link])
    finally:
        for chore in chores:
            chore.cancel()
    return ending.status


def _shown_address(link: socket.socket, settings: Settings) -> str:
    host, port = link.getsockname()[:2]
    scheme = "https" if settings["tls_certificate"] else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class _Ending:
    """The orderly end, asked for by a signal or by a disk that failed."""

    def __init__(self, fleet: Fleet, server: Server, service: Service) -> None:
        self.status = 0
        self._fleet = fleet
        self._server = server
        self._service = service

    def begin(self) -> None:
        """Take no new work, let requests under way finish, then end."""
        _log.info("draining", extra={"data": {"parked": len(self._fleet.lot)}})
        self._service.stopping()
        self._fleet.drain()
        self._server.stop()

    def fail(self, reason: str) -> None:
        """End with a failure, so that the service manager starts the receiver again."""
        _log.error("a disk failed", extra={"data": {"reason": reason}})
        self.status = EX_FAILURE
        self.begin()


def _listen_to_signals(fleet: Fleet, service: Service, ending: _Ending, secure: Tls | None, told: ReloadFile) -> None:
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        if secure is not None:
            secure.refresh(time.time())
        task = loop.create_task(_reload(fleet, service, told))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.begin)
    loop.add_signal_handler(signal.SIGHUP, reload)


async def _reload(fleet: Fleet, service: Service, told: ReloadFile) -> None:
    """Read operators and manifest again because of a signal. What is wrong is logged, shown and told who waits."""
    service.reloading()
    number = await asyncio.to_thread(told.begin)
    fleet.access.reload()
    faults = [*fleet.access.problems, *await _reload_manifest(fleet)]
    await asyncio.to_thread(told.end, number, faults)
    service.ready(f"refused: {faults[0]}" if faults else "manifest read")


async def _reload_manifest(fleet: Fleet) -> list[str]:
    """Read the manifest again; return why it was refused, line by line, nothing when it was not."""
    try:
        plan = await fleet.loader.reload(Reload(), SIGNAL_ACTOR, "signal")
    except FleetError as error:
        faults = [str(fault) for fault in error.faults]
        _log.error("manifest refused", extra={"data": {"reason": error.message, "faults": faults}})
        return error.lines
    except Exception as error:  # noqa: BLE001 - a fault here must not end the receiver
        _log.exception("the manifest could not be loaded")
        return [f"the manifest could not be loaded: {error!r}"]
    _log.info("manifest applied", extra={"data": {"manifest": plan.manifest, **plan.counts}})
    return []


async def _sweep_forever(fleet: Fleet) -> None:
    """End leases and back-offs that are over, at the latest every few seconds."""
    longest_s, repeats = fleet.queue.longest_sleep_s, Repeats(time.monotonic)
    while True:
        due = fleet.queue.next_deadline()
        wait_s = longest_s if due is None else min(longest_s, due - time.monotonic())
        await asyncio.sleep(max(DUE_S, wait_s))
        try:
            await fleet.run(fleet.queue.sweep)
        except FleetError as error:
            if repeats.is_due(error.code):
                _log.warning("sweep failed", extra={"data": {"reason": error.message}})
            await asyncio.sleep(1)
        except Exception as error:  # noqa: BLE001 - the sweeper must live on
            if repeats.is_due(type(error).__name__):
                _log.exception("sweep failed")
            await asyncio.sleep(1)


async def _keep_certificate(secure: Tls) -> None:
    """Look at the certificate once a minute: renew it before it ends, and load it when its file changed."""
    while True:
        try:
            secure.refresh(time.time())
        except Exception:  # noqa: BLE001 - who looks must live on
            _log.exception("the certificate could not be looked at")
        await asyncio.sleep(CERTIFICATE_S)


async def _pat_watchdog(fleet: Fleet, service: Service) -> None:
    """Show the service manager that the loop and the writer thread are alive."""
    while True:
        await fleet.run(lambda _tx: None)
        service.alive()
        await asyncio.sleep(service.watchdog_s / 3)
