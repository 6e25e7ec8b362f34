"""What `doctor` looks at on the way from this host to its receiver: name, connection, TLS, clock, secret, manifest.

Guarantees that nothing secret goes over a connection whose other end was not verified. Leaves the host itself to
`doctor`.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from training.fleet import __version__, system
from training.fleet.capability.checkout import PACKED
from training.fleet.checks import (
    DAY_S,
    LIMIT_S,
    Ask,
    Look,
    Seen,
    ask,
    clock_keeper,
    fail,
    first_certificate,
    life_left,
    of_error,
    ok,
    skip,
    validity,
    warn,
)
from training.fleet.client import Address, Client, address
from training.fleet.client.addresses import proxy_address
from training.fleet.client.answer import read
from training.fleet.model.capability import Capability
from training.fleet.model.errors import FleetError
from training.fleet.settings import demand_private
from training.fleet.tls.trust import reason
from training.fleet.wire.worker import OwnView
from training.fleet.worker.identity import show_secret, visit
from training.fleet.worker.options import TOKEN, Options

if TYPE_CHECKING:
    import ssl

TRY_S: Final = 3.0
OFF_S: Final = 60.0
"""Seconds that a clock may differ from the receiver's without a word."""
STALE_S: Final = 3.0
"""How old the date of an answer may be: it has whole seconds, and is made once a second."""
BEGUN_AT: Final = 1704067200.0
"""2024: a clock that says less was never set."""
REACH: Final = frozenset({"address", "connection"})
"""Checks that stand for the way to the receiver."""


@dataclass(slots=True)
class Way:
    """This host's way to its receiver, and what the checks learn on it.

    Attributes:
        chosen: The worker's settings.
        name: Name the worker reports.
        where: The receiver's address taken apart.
        clock: Seconds since the epoch, UTC.
        run: Runs a program.
        certificate_life: Life of the certificate that the receiver shows, None before it was seen.
        own: What the receiver says of this worker, None before it was asked.
    """

    chosen: Options
    name: str
    where: Address
    clock: Callable[[], float] = time.time
    run: Ask = ask
    certificate_life: tuple[float, float] | None = None
    own: OwnView | None = field(default=None)


def looks(way: Way, capability: Callable[[], Capability]) -> list[Look]:
    """Return the checks in their order.

    Args:
        way: The way.
        capability: Returns what this session found on the host.
    """
    return [
        Look("address", lambda: host_address(way)),
        Look("connection", lambda: connection(way), ("address",)),
        Look("clock", lambda: clock(way), limit_s=3 * LIMIT_S),
        Look("certificate", lambda: certificate(way.chosen, way.clock())),
        Look("tls", lambda: tls(way), ("connection",)),
        Look("receiver", lambda: receiver(way), ("connection", "certificate", "tls")),
        Look("identity", lambda: identity(way), ("secret", "receiver")),
        Look("version", lambda: version(way), ("identity",)),
        Look("contract", lambda: contract(way, capability()), ("identity",)),
        Look("policy", lambda: policy(way), ("identity",)),
        Look("jobs", lambda: jobs(way), ("identity", "policy")),
        Look("running worker", lambda: running_worker(way, capability()), ("identity",)),
    ]


# ---- the network ----------------------------------------------------------------------------------------------------


def target(way: Way) -> tuple[str, int]:
    """Return host and port that are connected to: the receiver's, or the proxy's.

    Raises:
        ConfigurationError: The proxy is none.
    """
    return proxy_address(way.chosen.proxy, secure=way.where.secure) or (way.where.host, way.where.port)


def host_address(way: Way) -> Seen:
    """Check that the receiver's host name leads to addresses."""
    host, port = target(way)
    try:
        return ok(f"{ipaddress.ip_address(host)} is an address")
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return fail(
            f"the name {host} is not known here",
            f"correct --receiver, or give this host the name: getent hosts {host} must answer (DNS or /etc/hosts)",
        )
    return ok(f"{host} is {', '.join(dict.fromkeys(str(item[4][0]) for item in found))}")


def connection(way: Way) -> Seen:
    """Try every address of the receiver, of either kind."""
    host, port = target(way)
    good, bad = [], []
    for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as link:
            link.settimeout(TRY_S)
            try:
                link.connect(place)
                good.append(str(place[0]))
            except OSError as error:
                bad.append(f"{place[0]} {reason(error).found}")
    if not good:
        return fail(
            f"nobody answers at {host} port {port}: {', '.join(bad)}",
            "start the receiver (systemctl status cis490-trainer-receiver there), open its port in the firewall, "
            "or correct --receiver",
        )
    return ok(f"port {port} answers at {', '.join(good)}" + (f"; not at {', '.join(bad)}" if bad else ""))


def _opened(way: Way, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    """Return a connection to the receiver, through the proxy where there is one."""
    host, port = target(way)
    if context is None:
        return http.client.HTTPConnection(host, port, timeout=TRY_S)
    link = http.client.HTTPSConnection(host, port, timeout=TRY_S, context=context)
    if way.chosen.proxy is not None:
        link.set_tunnel(way.where.host, way.where.port)
    return link


# ---- time -----------------------------------------------------------------------------------------------------------


def clock(way: Way) -> Seen:
    """Compare this host's clock with the receiver's, whose certificate is not believed for that."""
    now = way.clock()
    kept, remedy = clock_keeper(way.run)
    if now < BEGUN_AT:
        return fail(f"says {_utc(now)}, so it was never set", remedy)
    apart_s = _apart_s(way)
    off_s = apart_s or 0.0
    said = "the receiver's clock could not be asked" if apart_s is None else f"{_apart(off_s)} the receiver's"
    life = way.certificate_life
    if apart_s is not None and life is not None and not life[0] <= now < life[1] and life[0] <= now - off_s < life[1]:
        return fail(f"{said}, outside the life of the receiver's certificate", remedy)
    if abs(off_s) > DAY_S:
        return fail(f"{said}: it says {_utc(now)}", remedy)
    if abs(off_s) > OFF_S:
        return warn(f"{said}: it says {_utc(now)}", remedy)
    if kept is False:
        return warn(f"{said}, but nothing keeps it in step", remedy)
    return ok(said + (", and is kept in step" if kept else ""))


def _utc(now: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))


def _apart(off_s: float) -> str:
    if not off_s:
        return "agrees with"
    return f"is {abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'}"


def _apart_s(way: Way) -> float | None:
    """Return by how much this clock is ahead of the receiver's for certain, seconds; None without an answer.

    Nothing secret is sent, and no certificate is believed.
    """
    context = None
    if way.where.secure:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        link = _opened(way, context)
        try:
            link.connect()
            if context is not None:
                way.certificate_life = validity(link.sock.getpeercert(binary_form=True) or b"")  # type: ignore[union-attr]
            sent_at = way.clock()
            link.request("GET", f"{way.where.prefix}/healthz", headers={"User-Agent": f"cis490/{__version__}"})
            theirs = parsedate_to_datetime(link.getresponse().headers["Date"]).timestamp()
            return max(0.0, sent_at - STALE_S - theirs) + min(0.0, way.clock() - theirs)
        finally:
            link.close()
    except (OSError, ValueError, TypeError, http.client.HTTPException):
        return None


# ---- TLS ------------------------------------------------------------------------------------------------------------


def tls(way: Way) -> Seen:
    """Agree on TLS as the worker would."""
    if not way.where.secure:
        return ok("none: plain http stays on this machine")
    import ssl

    authority = way.chosen.ca_file
    try:
        context = ssl.create_default_context(cafile=None if authority is None else str(authority))
    except OSError as error:
        return fail(
            f"the authorities' file {authority} cannot be used ({reason(error).found})",
            "enrol this host again, or set ca_file to the receiver's ca.pem",
        )
    if way.chosen.certificate is not None:
        with contextlib.suppress(OSError):  # what is wrong with it stands under "certificate"
            context.load_cert_chain(*way.chosen.certificate)
    link = _opened(way, context)
    try:
        link.connect()
        shown: Any = link.sock.getpeercert()  # type: ignore[union-attr]
        spoken = link.sock.version()  # type: ignore[union-attr]
    except (OSError, http.client.HTTPException) as error:
        found, remedy = reason(error)
        return fail(found, remedy or "check --receiver and what stands between this host and it")
    finally:
        link.close()
    return _judged(way, shown, spoken)


def _judged(way: Way, shown: dict[str, Any], spoken: str) -> Seen:
    import ssl

    begins, ends = (ssl.cert_time_to_seconds(shown[name]) for name in ("notBefore", "notAfter"))
    life = life_left(begins, ends, way.clock(), "on the receiver: cis490-trainer-receiver init --renew")
    issuer = {name: value for part in shown.get("issuer", ()) for name, value in part}.get("commonName", "unknown")
    pinned = f"trusted by {way.chosen.ca_file}" if way.chosen.ca_file else "trusted by this system"
    return life.about(f"{spoken}, certificate of {way.where.host} by {issuer}, {pinned},")


def certificate(chosen: Options, now: float) -> Seen:
    """Check this host's own certificate: there, private, a pair with its key, not near its end."""
    if chosen.certificate is None:
        return ok("this host has none of its own to show")
    path, key = chosen.certificate
    renew = "enrol this host again: an operator runs cis490-jobs invite"
    for one in (path, key):
        try:
            one.read_bytes()
        except OSError as error:
            return fail(f"{one} cannot be read ({(error.strerror or 'no access').lower()})", renew)
    demand_private("client_key", key)
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(path, key)
    except OSError as error:
        return fail(f"{path} and {key} are no pair ({reason(error).found})", renew)
    life = validity(first_certificate(path) or b"")
    if life is None:
        return warn(f"the life of {path} cannot be read", renew)
    return life_left(*life, now, f"{renew}; a worker that runs renews it by itself").about(path)


# ---- the receiver's word --------------------------------------------------------------------------------------------


def receiver(way: Way) -> Seen:
    """Ask whether a receiver is there, without showing the secret."""
    client = _client(way, None)
    try:
        found = client.get("/healthz", deadline_s=0)
    except FleetError as error:
        return of_error(error, "look at the receiver: cis490-trainer-receiver doctor there")
    finally:
        client.close()
    if found.get("status") != "ok":
        return fail(f"{way.where.url} is no receiver", "correct --receiver")
    return ok(f"a receiver answers at {way.where.url}")


def secret(chosen: Options) -> Seen:
    """Say which secret the worker shows; that its file can be used was found out before."""
    if chosen.secret_file is not None and chosen.token:
        return ok(f"{chosen.secret_file} is there, for its user alone")
    if chosen.token:
        return ok(f"taken from {TOKEN} or a credential of the service manager")
    return ok("none is set, which only a receiver on this machine may allow")


def identity(way: Way) -> Seen:
    """Show the receiver the secret and ask what it knows of this worker; nothing changes there."""
    client = _client(way, way.chosen.token)
    try:
        said = show_secret(client, way.name, deadline_s=0)
        if said is None:
            return warn("the receiver takes the secret and is too old to say more", "give the receiver this version")
        way.own = read(OwnView, said)
    except FleetError as error:
        return of_error(error, f"have an operator run cis490-jobs invite {way.name} and use what it prints here")
    finally:
        client.close()
    return _known_as(way, way.own)


def _client(way: Way, token: str | None) -> Client:
    chosen = way.chosen
    files = {"ca_file": chosen.ca_file, "certificate": chosen.certificate, "proxy": chosen.proxy}
    here = None if token is None else visit()
    return Client(chosen.receiver, token, timeout_s=TRY_S, session=here, **files)  # type: ignore[arg-type]


def _known_as(way: Way, own: OwnView) -> Seen:
    if own.worker != way.name:
        return fail(
            f"this worker calls itself {way.name} and its secret is that of {own.worker}",
            f"start it with --name {own.worker}, or enrol it as {way.name}: cis490-jobs invite {way.name}",
        )
    if own.alerts:
        return fail(
            own.alerts[0],
            f"enrol the other machine under a name of its own, or cis490-jobs events --worker {own.worker}",
        )
    return ok(f"the receiver takes it as {own.worker} ({own.identity if own.identity != 'none' else 'not enrolled'})")


_UNTOLD: Final = "not looked at, because the receiver is too old to say"


def version(way: Way) -> Seen:
    """Compare the versions of worker and receiver."""
    own = way.own
    if own is None:
        return skip(_UNTOLD)
    if own.version == __version__:
        return ok(f"{__version__}, as the receiver")
    file = f"fetch {way.where.url}/v1/worker.pyz and start it in place of this file"
    remedy = file if PACKED else f"install version {own.version} here, or {file}"
    return warn(f"this worker is {__version__}, the receiver {own.version}", remedy)


def contract(way: Way, found: Capability) -> Seen:
    """Compare what this host's trainer declares with what the manifest was checked against."""
    own = way.own
    if own is None:
        return skip(_UNTOLD)
    if own.contract is None:
        return ok("the manifest names a trainer of its own, which is compared when a job comes")
    if found.contract == own.contract:
        return ok(f"the trainer declares what the manifest was checked against, {own.contract[:19]}…")
    return fail(
        f"the trainer here declares {(found.contract or 'nothing')[:19]}, the manifest was checked against "
        f"{own.contract[:19]}",
        "give this host the receiver's version of the trainer, then start the worker again",
    )


def policy(way: Way) -> Seen:
    """Say what the manifest lets this host do."""
    own = way.own
    if own is None:
        return skip(_UNTOLD)
    if own.policy is None:
        return fail(
            f"the manifest admits no host {own.worker}",
            f"on the receiver, add [hosts.{own.worker}] (or [hosts.default]) to the manifest, then cis490-jobs reload",
        )
    allowed, denied = (", ".join(own.policy.get(key, ())) or "none" for key in ("allow_jobs", "deny_jobs"))
    said = f"[{own.table}] allows {allowed} and denies {denied}, {own.policy.get('slots', 1)} at once"
    if own.drift:
        return warn(f"{said}; {own.drift[0]}", "correct the declaration in the manifest, or repair this host")
    return ok(said)


def jobs(way: Way) -> Seen:
    """Say whether a job that waits could run here."""
    own = way.own
    if own is None:
        return skip(_UNTOLD)
    if own.capability is None:
        return warn(f"{own.waiting} jobs wait, and this worker has not called yet", "start the worker")
    if own.able or not own.waiting:
        return ok(f"{own.able} of {own.waiting} jobs that wait could run here")
    why = "; ".join(own.reasons) or "no reason is known"
    return warn(
        f"none of {own.waiting} jobs that wait can run here: {why}", "cis490-jobs why JOB says what would let it"
    )


def running_worker(way: Way, found: Capability) -> Seen:
    """Compare the card that the running worker sees with the one that this session sees."""
    own = way.own
    if own is None:
        return skip(_UNTOLD)
    if own.capability is None or own.state == "away":
        return skip("not looked at, because no worker of this name calls now")
    theirs, ours = _card(own.capability), _card(found)
    if theirs == ours:
        return ok(f"it reports what this session sees: {ours}")
    return fail(f"it reports {theirs}, this session sees {ours}", _session_remedy())


def _card(capability: Capability) -> str:
    if capability.cuda_usable:
        return "a usable card"
    return "a card that cannot be used" if capability.cuda_present else "no card"


def _session_remedy() -> str:
    if system.LONGEST_ROOT is not None:
        return "let the task run as this user: schtasks /query /tn cis490-training-worker /v, then start it again"
    return (
        "start the worker again: sudo systemctl restart cis490-training-worker; if that changes nothing, look at "
        "systemctl show cis490-training-worker -p User -p PrivateDevices -p DeviceAllow and add its user to the "
        "groups video and render"
    )


def way_of(chosen: Options, name: str) -> Way:
    """Return the way to the receiver of some settings.

    Raises:
        ConfigurationError: The address is none.
    """
    return Way(chosen, name, address(chosen.receiver))
