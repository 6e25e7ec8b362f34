"""The receivers that a person has logged in to: one file each, and which of them is used.

Guarantees that a file is for its user alone, that a token is never shown, and that it is used for the receiver alone
that it belongs to. A file is TOML, and as its certificate stands in lines of its own, TLS reads it as a file of
authorities too: address, authority and token lie in one place and cannot come from two.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.fleet.files import replace_shared
from training.fleet.model.errors import ConfigurationError, NotFoundError
from training.fleet.settings import demand_private

NAME: Final = re.compile(r"[0-9a-z][0-9a-z._-]{0,62}")
_CURRENT: Final = "current"
_TOKEN: Final = re.compile(r"[!-~]{16,256}")


@dataclass(frozen=True, slots=True)
class Context:
    """One receiver.

    Attributes:
        name: How the person calls it.
        receiver: Its address.
        token: The person's token there.
        path: Its file, which holds the authority to trust as well.
        has_authority: Whether it does; otherwise the system's are trusted.
    """

    name: str
    receiver: str
    token: str
    path: Path
    has_authority: bool


class Contexts:
    """All of them.

    Args:
        environ: Environment variables, which say where a person's settings lie.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.folder = config_folder(environ) / "receivers"

    def names(self) -> list[str]:
        """Return their names, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.toml") if NAME.fullmatch(path.stem))

    def current(self) -> str | None:
        """Return the name of the one in use, None without one."""
        try:
            found = (self.folder / _CURRENT).read_text(encoding="utf-8").strip()
        except OSError:
            return None
        return found if NAME.fullmatch(found) and self._path(found).exists() else None

    def get(self, name: str) -> Context:
        """Return one of them.

        Raises:
            NotFoundError: There is none of this name.
            ConfigurationError: Its file cannot be read, or everybody can.
        """
        path = self._known(name)
        demand_private("the login", path)
        try:
            text = path.read_text(encoding="utf-8")
            found = tomllib.loads(text)
            receiver, token = found["receiver"], found["token"]
        except (OSError, ValueError, KeyError, RecursionError) as error:
            raise ConfigurationError(f"the login {path} cannot be read ({error})", "log in again") from None
        if not (isinstance(receiver, str) and isinstance(token, str) and _TOKEN.fullmatch(token)):
            raise ConfigurationError(f"the login {path} holds no address or no token", "log in again")
        return Context(name, receiver, token, path, bool(found.get("authority")))

    def in_use(self, receiver: str | None) -> Context | None:
        """Return the one in use, None without one or where the caller names another receiver.

        Args:
            receiver: What a flag or a variable names; None where neither does.
        """
        name = self.current()
        found = None if name is None else self.get(name)
        if found is not None and receiver is not None and receiver.rstrip("/") != found.receiver:
            return None
        return found

    def keep(self, name: str, receiver: str, token: str, authority: str) -> Path:
        """Write one, use it from now on, and return its file.

        Args:
            name: How the person calls it.
            receiver: Its address.
            token: The person's token there.
            authority: The certificate to trust in PEM, empty to trust the system's.
        """
        make_private_folder(self.folder)
        lines = [
            "# Written by `cis490-jobs login`; it holds a token.",
            # What JSON writes of a text is TOML as well.
            f"receiver = {json.dumps(receiver)}",
            f"token = {json.dumps(token)}",
        ]
        if authority:
            lines += ['authority = """', authority.strip(), '"""']
        path = self._path(name)
        replace_shared(path, ("\n".join(lines) + "\n").encode())
        replace_shared(self.folder / _CURRENT, f"{name}\n".encode())
        return path

    def use(self, name: str) -> None:
        """Use this one from now on."""
        self._known(name)
        replace_shared(self.folder / _CURRENT, f"{name}\n".encode())

    def remove(self, name: str) -> None:
        """Delete one; the receiver knows its token until an operator is ended there."""
        self._known(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.toml"

    def _known(self, name: str) -> Path:
        path = self._path(name)
        if not (NAME.fullmatch(name) and path.exists()):
            raise NotFoundError(
                f"found no login {ascii(name)[:80]}", f"log in, or take one of: {', '.join(self.names()) or 'none yet'}"
            )
        return path


def config_folder(environ: Mapping[str, str]) -> Path:
    """Return where a person keeps settings. Source: XDG Base Directory Specification; FOLDERID_RoamingAppData."""
    if os.name == "nt":
        return Path(environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "cis490"
    home = Path(environ.get("HOME") or "~").expanduser()
    return Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "cis490"


def make_private_folder(folder: Path) -> None:
    """Make a folder and those above it, for this user alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
