"""Identities and the audit trail as text: who may work here, and who did what.

Owns the commands `events`, `invite` and `identity` and their words.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from training.fleet.cli.commands import Call
from training.fleet.cli.instants import as_range
from training.fleet.cli.known import refuse_unknown
from training.fleet.cli.remote import read
from training.fleet.cli.text import Terminal, arranged, clean, dated, moment, table, zone
from training.fleet.cli.views import identity
from training.fleet.model.errors import ConfigurationError
from training.fleet.wire.identities import IdentityPage, IdentityView, Invite
from training.fleet.wire.people import AcceptedLoss, EventPage, FleetEvent

IDENTITY_COLUMNS: Final = ("NAME", "STATE", "ENROLLED", "REVOKED", "ID", "CERTIFICATE")
TRAIL_COLUMNS: Final = ("TIME", "WHO", "WHAT", "ABOUT", "TO", "WHY", "MODEL")


def events(call: Call) -> int:
    """Show the audit trail, newest first."""
    given, terminal = call.options, call.console.terminal
    job = None if given.job is None else call.remote.resolve(given.job)
    filters = {name: value for name, value in (("job", job), ("worker", given.worker)) if value is not None}
    filters |= as_range(given.since, given.until, utc=terminal.utc)
    answer = call.remote.collect("/v1/events", "events", filters, given.limit)
    found = read(EventPage, answer).events
    if not found:
        refuse_unknown(call, {"host": given.worker}, "event")
    if call.console.as_json:
        call.console.document(answer)
    elif found or terminal.width is None:
        call.console.lines(trail(found, terminal))
    else:
        call.console.lines(["no event matches"])
    return 0


def trail(found: Sequence[FleetEvent], terminal: Terminal) -> list[str]:
    """Return the audit trail as a table."""
    rows = [
        [
            moment(event.at, terminal),
            event.actor,
            event.action,
            identity(event.job, terminal) if event.job else event.worker or "-",
            event.to_status or "-",
            event.why,
            f"{event.model} {event.mode}" if event.model else "-",
        ]
        for event in found
    ]
    if terminal.width is None:
        return table(TRAIL_COLUMNS, rows, terminal)
    time = f"TIME ({zone([event.at for event in found], terminal)})"
    header, rows = arranged(TRAIL_COLUMNS, rows, ("TIME", "WHO", "WHAT", "ABOUT", "TO", "MODEL", "WHY"))
    return table([time, *header[1:]], rows, terminal)


def invite(call: Call) -> int:
    """Print the commands with which a host can enrol, once."""
    answer = call.remote.invite(call.options.host, call.options.ttl)
    if call.console.as_json:
        call.console.document(answer)
        return 0
    made = read(Invite, answer)
    call.console.note(invite_notes(made, call.remote.address, call.console.terminal))
    call.console.lines(invite_lines(made, call.remote.address, call.options.dataset), whole=True)
    return 0


def invite_lines(made: Invite, receiver: str, datasets: Sequence[str] = ()) -> list[str]:
    """Return the commands with which a host enrols: for Linux, then for Windows.

    The first two fetch the installer from the receiver and run it only if it is the one of the invite; the others are
    for a clone of the project.

    Args:
        made: The invite.
        receiver: Its address.
        datasets: NAME=FOLDER of datasets that the host holds.
    """
    pinned = clean(made.ca_sha256) if made.ca_sha256 else ""
    host, code, url = clean(made.worker), clean(made.code), clean(receiver)
    held = [clean(item) for item in datasets]
    own = f"--receiver {url} --host {host} --code {code}"
    own += "".join([f" --ca-sha256 {pinned}" if pinned else "", *(f" --dataset {shlex.quote(item)}" for item in held)])
    windows = f"-Receiver {url} -HostName {host} -Code {code}"
    windows += "".join([f" -CaSha256 {pinned}" if pinned else "", f" -Dataset {_quoted(held)}" if held else ""])
    clone = [
        f"scripts/install-training-worker.sh {own}",
        f"powershell -ExecutionPolicy Bypass -File scripts\\install-training-worker-windows.ps1 {windows}",
    ]
    if made.installer_sha256 is None:
        return clone
    file, digest = "cis490-installer.pyz", clean(made.installer_sha256)
    own_windows = own.partition(" --dataset ")[0] + "".join(f" --dataset {_quoted([item])}" for item in held)
    return [
        f"curl -fsSk {url}/v1/installer.pyz -o {file} && echo '{digest}  {file}' | sha256sum -c && sudo python3 {file} "
        f"install {own}",
        f"curl.exe -fsSk {url}/v1/installer.pyz -o {file}; if ((Get-FileHash {file}).Hash -eq '{digest}') "
        f"{{ py {file} install {own_windows} }} else {{ 'this is not the installer of the invite' }}",
        *clone,
    ]


def _quoted(items: Sequence[str]) -> str:
    """Return words as one word of PowerShell."""
    return "'" + ",".join(items).replace("'", "''") + "'"


def invite_notes(made: Invite, receiver: str, terminal: Terminal) -> list[str]:
    """Return what an operator should know of an invite."""
    host, until = clean(made.worker), dated(made.expires_at, terminal)
    notes = [f"One of these, run on {host}, installs and enrols it; the code works once, until {until}:"]
    if made.replaces:
        notes.append(f"{clean(made.worker)} is enrolled already; enrolling it again revokes its present secret.")
    if receiver.startswith("http://"):
        notes.append(
            "This address works on this machine only; elsewhere give the receiver's https address with --receiver."
        )
    return notes


def identities(call: Call) -> int:
    """List enrolled hosts, revoke one, make it change its key, or accept what it cannot train with any more."""
    action, name = call.options.action, call.options.name
    if action == "list":
        answer = call.remote.collect("/v1/identities", "identities", {})
        found = [one for one in read(IdentityPage, answer).identities if name in (None, one.worker)]
    elif name is None:
        raise ConfigurationError(
            f"`identity {action}` needs the name of a host", "`cis490-jobs identity list` shows all"
        )
    elif action == "accept":
        return _accept(call, name)
    else:
        answer = call.remote.change_worker(name, action)
        found = [read(IdentityView, answer)]
    if not found and name is not None:
        refuse_unknown(call, {"host": name}, "identity")
    if call.console.as_json:
        call.console.document(answer)
    elif found or call.console.terminal.width is None:
        call.console.lines(identity_table(found, call.console.terminal))
    else:
        call.console.lines(["no host is enrolled; `cis490-jobs invite HOST` prints the command that enrols one"])
    return 0


def _accept(call: Call, name: str) -> int:
    answer = call.remote.change_worker(name, "accept")
    lost = read(AcceptedLoss, answer).lost
    if call.console.as_json:
        call.console.document(answer)
    else:
        call.console.lines([clean(f"{name} works without {', '.join(lost)}" if lost else f"{name} had lost nothing")])
    return 0


def identity_table(found: Sequence[IdentityView], terminal: Terminal) -> list[str]:
    """Return identities as a table."""
    rows = [
        [
            one.worker,
            one.state,
            moment(one.created_at, terminal),
            moment(one.revoked_at, terminal),
            one.id,
            (one.fingerprint or "-")[:16],
        ]
        for one in found
    ]
    place = zone([label for one in found for label in (one.created_at, one.revoked_at)], terminal)
    header = [f"{name} ({place})" if name in ("ENROLLED", "REVOKED") else name for name in IDENTITY_COLUMNS]
    return table(header, rows, terminal, ("CERTIFICATE", "ID"))
