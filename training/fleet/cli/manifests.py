"""The commands about the manifest: plan, reload, apply, and the list of those that came in force."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any, Final

from training.fleet.cli import plans
from training.fleet.cli.commands import Call
from training.fleet.cli.remote import read
from training.fleet.cli.text import clean
from training.fleet.cli.typed import program, shell_word
from training.fleet.model.errors import EX_FAILURE, ConfigurationError, ManifestError, NotFoundError, TooLargeError
from training.fleet.model.jobs import MAX_MANIFEST_BYTES
from training.fleet.wire.manifests import ManifestList, ManifestView
from training.fleet.wire.people import Plan

EX_CHANGES: Final = 3
"""Exit status of `plan --exit-code` when a reload would change something."""


def plan(call: Call) -> int:
    """Show what a reload would change; return 1 on a fault, and with `--exit-code` 3 if something would change."""
    given = call.options
    try:
        answer = call.remote.plan(b"" if given.file is None else _text_of(given.file))
    except ManifestError as fault:
        call.console.complain(fault)
        return EX_FAILURE
    _show(call, answer, done=False)
    verb = "reload" if given.file is None else f"apply {shell_word(clean(str(given.file)))}"
    moved = _offer(call, answer, verb)
    return EX_CHANGES if moved and given.exit_code else 0


def _offer(call: Call, answer: dict[str, Any], verb: str) -> bool:
    """Print the command that applies exactly this plan; return True if it would change something."""
    found = read(Plan, answer)
    moved = any(found.counts.get(name, 0) for name in ("added", "changed", "dropped")) or bool(found.tables)
    if moved and not call.console.as_json:
        call.console.err.write(f"apply exactly this with: {program()} {verb} --if-plan {clean(found.digest)}\n")
    return moved


def reload(call: Call) -> int:
    """Make the receiver read its manifest again, and show what changed."""
    _show(call, call.remote.reload(**_terms(call)), done=True)
    return 0


def apply(call: Call) -> int:
    """Hand a manifest in, bring it in force, and show what changed."""
    given = call.options
    answer = call.remote.apply(_text_of(given.file), **_terms(call), if_manifest=given.if_manifest)
    _show(call, answer, done=True)
    return 0


def _terms(call: Call) -> dict[str, Any]:
    given = call.options
    return {"allow_shrink": given.allow_shrink, "if_plan": given.if_plan, "keep_dropped": given.keep_dropped}


def _text_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as fault:
        raise ManifestError(
            f"cannot read {path}: {fault.strerror}", "name a manifest, or none for the receiver's"
        ) from None
    if len(data) > MAX_MANIFEST_BYTES:
        raise TooLargeError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes", "split the manifest")
    if not data.strip():
        raise ManifestError(f"{path} is empty", expected="a manifest with [manifest] and [[jobs]]")
    return data


def _show(call: Call, answer: dict[str, Any], *, done: bool) -> None:
    if call.console.as_json:
        call.console.document(answer)
    else:
        keep = getattr(call.options, "keep_dropped", False)
        call.console.lines(plans.plan(read(Plan, answer), call.console.terminal, done=done, keep=keep))


# ---- those that came in force ---------------------------------------------------------------------------------------


def manifest(call: Call) -> int:
    """List the manifests that came in force, show one, compare two, or bring one back."""
    action, which = call.options.action, call.options.which
    least, most = _WANTED[action]
    if not least <= len(which) <= most:
        expected = f"{least} to {most}" if least != most else f"{least}"
        raise ConfigurationError(
            f"`manifest {action}` got {len(which)} numbers",
            "`cis490-jobs manifest history` shows them",
            expected=expected,
        )
    status: int = _ACTIONS[action](call, which)
    return status


def _history(call: Call, _which: list[str]) -> int:
    answer = call.remote.manifests()
    if call.console.as_json:
        call.console.document(answer)
    else:
        call.console.lines(plans.history(read(ManifestList, answer).manifests, call.console.terminal))
    return 0


def _print(call: Call, which: list[str]) -> int:
    """Print one manifest: byte by byte into a file, on a terminal with control characters made visible."""
    found = _chosen(call, which[0] if which else None)
    text = call.remote.manifest_text(found.digest)
    console = call.console
    if console.as_json:
        console.document({"digest": found.digest, "text": text.decode(errors="replace")})
    elif console.terminal.width is None and console.out is sys.stdout:
        console.out.flush()
        sys.stdout.buffer.write(text)
    else:
        console.lines([clean(line) for line in text.decode(errors="replace").splitlines()])
    return 0


def _diff(call: Call, which: list[str]) -> int:
    """Show how one manifest differs from another, the one in force where only one is named."""
    first, second = _chosen(call, which[0]), _chosen(call, which[1] if len(which) > 1 else None)
    old, new = (call.remote.manifest_text(one.digest).decode(errors="replace").splitlines() for one in (first, second))
    before, after = (f"manifest {one.number} ({one.digest[:12]})" for one in (first, second))
    lines = [clean(line) for line in difflib.unified_diff(old, new, before, after, lineterm="")]
    if call.console.as_json:
        call.console.document({"from": first.digest, "to": second.digest, "diff": lines})
    else:
        call.console.lines(lines)
    return 0


def _rollback(call: Call, which: list[str]) -> int:
    """Bring an old manifest back, with the checks of `apply`; with `--plan` only say what that would change."""
    found = _chosen(call, which[0])
    text = call.remote.manifest_text(found.digest)
    if call.options.plan:
        answer = call.remote.plan(text)
        _show(call, answer, done=False)
        _offer(call, answer, f"manifest rollback {found.number}")
        return 0
    answer = call.remote.apply(text, **_terms(call), if_manifest=call.options.if_manifest, how="rollback")
    _show(call, answer, done=True)
    return 0


_ACTIONS: Final = {"history": _history, "show": _print, "diff": _diff, "rollback": _rollback}
_WANTED: Final = {"history": (0, 0), "show": (0, 1), "diff": (1, 2), "rollback": (1, 1)}
"""How many manifests each action names, at least and at most."""


def _chosen(call: Call, which: str | None) -> ManifestView:
    """Return the manifest that a number or the first digits of a digest name, the one in force for None.

    Raises:
        NotFoundError: None of those that are kept.
    """
    found = read(ManifestList, call.remote.manifests()).manifests
    if which is None:
        fitting = [one for one in found if one.in_force]
    elif which.isdecimal() and len(which) < MIN_DIGEST:
        fitting = [one for one in found if one.number == int(which)]
    else:
        fitting = [one for one in found if one.digest.startswith(which.lower())]
    if not fitting:
        told = "in force" if which is None else f"{which}"
        raise NotFoundError(f"found no manifest {told} among the {len(found)} that are kept", _HISTORY)
    if len({one.digest for one in fitting}) > 1:
        raise NotFoundError(f"{which} fits several manifests", f"give more digits; {_HISTORY}")
    return fitting[0]


MIN_DIGEST: Final = 8
"""Digits from which on a word names a manifest by its digest and not by its number."""
_HISTORY: Final = "`cis490-jobs manifest history` lists them"
