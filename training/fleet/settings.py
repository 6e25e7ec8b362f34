"""Settings of a program: where each value comes from, and secrets.

Owns the order of precedence (flag, then `CIS490_*` variable, then settings file, then default), the parsing of all
three forms from one table, and the reading of secrets. Guarantees that every fault is reported at once with its place,
that an unknown key of a file is a fault, and that a secret never comes from a flag. Leaves what the settings mean to
the programs.
"""

from __future__ import annotations

import argparse
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.fleet import system
from training.fleet.model.errors import ConfigurationError, Fault

PREFIX: Final = "CIS490_"
MAX_SECRET_BYTES: Final = 4096
TRUE_WORDS: Final = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS: Final = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that can be set.

    Attributes:
        name: Key in the settings file; `--name-with-dashes` is the flag and `CIS490_NAME` the variable.
        help: One line for people.
        kind: `str`, `int`, `float`, `bool` or `Path`.
        default: Value when nothing sets it; a tuple when `many`.
        many: Takes several values: the flag may be repeated, the variable separates by commas.
        ge: Least number, None for no bound.
        le: Largest number, None for no bound.
        choices: The only words allowed; empty for any.
    """

    name: str
    help: str
    kind: type = str
    default: Any = None
    many: bool = False
    ge: float | None = None
    le: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The command-line flag."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()


@dataclass(frozen=True, slots=True)
class Effective:
    """A value and what set it: "flag --db", "variable CIS490_DB", "file /etc/x.toml" or "default"."""

    value: Any
    source: str


class Settings(Mapping[str, Any]):
    """The effective settings of a program, by name."""

    def __init__(self, effective: Mapping[str, Effective]) -> None:
        self._effective = dict(effective)

    def __getitem__(self, name: str) -> Any:
        return self._effective[name].value

    def __iter__(self) -> Any:
        return iter(self._effective)

    def __len__(self) -> int:
        return len(self._effective)

    def source(self, name: str) -> str:
        """Return what set a value."""
        return self._effective[name].source

    def lines(self) -> list[str]:
        """Return one line per setting for people: name, value, source."""
        return [f"{name} = {_shown(item.value)}  ({item.source})" for name, item in self._effective.items()]

    def given(self) -> list[str]:
        """Return name, value and source of those that are not the defaults, for people."""
        found = self._effective.items()
        return [f"{name} = {_shown(item.value)} ({item.source})" for name, item in found if item.source != "default"]


def add_flags(parser: argparse.ArgumentParser, table: Iterable[Setting]) -> None:
    """Add one flag per setting, and `--config`, to a parser.

    The flags stay text; `read` parses and judges them together with the other sources.
    """
    parser.add_argument("--config", metavar="FILE", help="settings file (TOML); flags and variables win over it")
    for setting in table:
        default = _shown(setting.default) + (_in_units(setting.default) if setting.name.endswith("_bytes") else "")
        note = f"{setting.help} [{setting.variable}; default {default}]".replace("%", "%%")
        if setting.kind is bool:
            parser.add_argument(setting.flag, action=argparse.BooleanOptionalAction, default=None, help=note)
        elif setting.many:
            parser.add_argument(setting.flag, action="append", metavar="VALUE", help=note)
        else:
            parser.add_argument(setting.flag, metavar="VALUE", help=note)


def read(table: Iterable[Setting], flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Return the effective settings.

    Args:
        table: The settings of the program.
        flags: What `vars(parser.parse_args())` returns; None is not given. The key "config" names the file.
        environ: Environment variables; an empty one counts as unset. `CIS490_CONFIG` names the file as well.

    Raises:
        ConfigurationError: Something is wrong; `faults` lists all of it.
    """
    table = tuple(table)
    path = flags.get("config") or environ.get(PREFIX + "CONFIG")
    faults: list[Fault] = []
    document = _document(Path(path), table, faults) if path else {}
    effective = {setting.name: _effective(setting, flags, environ, document, str(path), faults) for setting in table}
    if faults:
        raise ConfigurationError(f"the settings have {len(faults)} fault(s)", faults=tuple(faults))
    return Settings(effective)


def secret(name: str, environ: Mapping[str, str]) -> str | None:
    """Return a secret, or None when it is not set.

    It comes from the variable itself, from the file that `NAME_FILE` names, or from the service manager's
    credentials: the file called `name` in lower case below `$CREDENTIALS_DIRECTORY`. One trailing newline of a file
    is no part of it.

    Args:
        name: The variable, "CIS490_OPERATOR_TOKEN".
        environ: Environment variables; an empty one counts as unset.

    Raises:
        ConfigurationError: Variable and file are both set, the file cannot be read, everybody can read it, or it does
            not hold one line of printable ASCII.

    Source: systemd.exec(5), Credentials.
    """
    value, path = environ.get(name), environ.get(name + "_FILE")
    if value and path:
        raise ConfigurationError(f"{name} and {name}_FILE are both set", "unset the other", expected="one of them")
    if value:
        return _checked_secret(name, value)
    if path:
        return _checked_secret(f"{name}_FILE ({path})", _secret_file(name, Path(path)))
    credential = Path(environ.get("CREDENTIALS_DIRECTORY", "")) / name.lower()
    if environ.get("CREDENTIALS_DIRECTORY") and credential.is_file():
        return _checked_secret(str(credential), _secret_file(name, credential))
    return None


def demand_private(name: str, path: Path) -> None:
    """Refuse a secret's file that everybody on the host can use; one that is not there is left to who reads it.

    Args:
        name: The setting or variable that names it.
        path: The file.

    Raises:
        ConfigurationError: Others can read or write it.
    """
    try:
        shared = system.everybody_can_read(path)
    except OSError:
        return
    if shared:
        raise ConfigurationError(
            f"{name}: everybody on this host can use {path}",
            f"run {system.private_command(path)}",
            expected="a private file",
        )


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return where a program keeps its state: the service manager's folder, or the user's.

    Raises:
        ConfigurationError: Neither is known.
    """
    try:
        return system.state_folder(environ)
    except RuntimeError:  # of pathlib, which finds no home
        raise ConfigurationError(
            f"the account {system.user()} has no home folder and $HOME is not set",
            "set HOME to a folder of this account, or STATE_DIRECTORY to the one for its state",
            expected="a place for the state of the program",
        ) from None


def full_path(path: Path) -> Path:
    """Return a path from the root on, with a leading ~ or ~USER replaced by the home folder.

    Raises:
        ConfigurationError: There is no such home folder.
    """
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        home = path.parts[0]
        raise ConfigurationError(
            f"the path {path} begins with {home}, and no home folder is known for that", "write the whole path"
        ) from None


def _effective(
    setting: Setting,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    document: Mapping[str, Any],
    path: str,
    faults: list[Fault],
) -> Effective:
    candidates = (
        (flags.get(setting.name), f"flag {setting.flag}"),
        (environ.get(setting.variable) or None, f"variable {setting.variable}"),
        (document.get(setting.name), f"file {path}"),
    )
    for raw, source in candidates:
        if raw is not None:
            return Effective(_judged(setting, raw, source, faults), source)
    return Effective(setting.default, "default")


def _document(path: Path, table: tuple[Setting, ...], faults: list[Fault]) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        faults.append(Fault(str(path), _shown(str(error)), "a readable TOML file", "correct it or leave out --config"))
        return {}
    names = [setting.name for setting in table]
    for key in document.keys() - set(names):
        near = difflib.get_close_matches(key, names, 1)
        remedy = f"did you mean {near[0]}?" if near else ""
        faults.append(Fault(f"file {path}", f"unknown key {key!r}", "one of " + ", ".join(names), remedy))
    return document


def _judged(setting: Setting, raw: Any, source: str, faults: list[Fault]) -> Any:
    """Return the parsed value; on a fault note it and return the default."""
    if setting.many:
        items = raw.split(",") if isinstance(raw, str) else raw
        if not isinstance(items, list):
            items = [raw]
        return tuple(_judged_one(setting, item, source, faults) for item in items)
    return _judged_one(setting, raw, source, faults)


def _judged_one(setting: Setting, raw: Any, source: str, faults: list[Fault]) -> Any:
    value = _parsed(setting.kind, raw.strip() if isinstance(raw, str) else raw)
    if value is None:
        faults.append(Fault(source, _shown(raw), EXPECTED[setting.kind]))
    elif setting.choices and value not in setting.choices:
        faults.append(Fault(source, _shown(raw), "one of " + ", ".join(setting.choices)))
    elif setting.ge is not None and value < setting.ge:
        faults.append(Fault(source, _shown(raw), f"at least {setting.ge:g}"))
    elif setting.le is not None and value > setting.le:
        faults.append(Fault(source, _shown(raw), f"at most {setting.le:g}"))
    else:
        return value
    return setting.default


EXPECTED: Final = {str: "text", Path: "a path", int: "a whole number", float: "a number", bool: "true or false"}
"""What a kind of setting asks for, for people."""


def _parsed(kind: type, raw: Any) -> Any:
    """Return a value of the kind, or None when the raw one is of another kind."""
    if kind is bool:
        return raw if isinstance(raw, bool) else _truth(raw)
    if isinstance(raw, bool):
        return None
    if kind in (str, Path):
        return kind(raw) if isinstance(raw, str) and raw and "\0" not in raw else None
    return _number(kind, raw)


def _truth(raw: Any) -> bool | None:
    word = raw.lower() if isinstance(raw, str) else None
    if word in TRUE_WORDS:
        return True
    return False if word in FALSE_WORDS else None


def _number(kind: type, raw: Any) -> Any:
    if not isinstance(raw, int | float | str) or (kind is int and isinstance(raw, float)):
        return None
    try:
        value = kind(raw)
    except (ValueError, OverflowError):
        return None
    return value if abs(value) <= 2**63 else None


def _secret_file(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            demand_private(name, path)
            data = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{name}: cannot read {path} ({error.strerror})",
            "make it or correct the path",
            expected="a file with the secret on one line",
        ) from error
    text = data.decode("latin-1")
    return text.removesuffix("\n").removesuffix("\r")


def _checked_secret(place: str, value: str) -> str:
    if not value or len(value) > MAX_SECRET_BYTES or not all("!" <= letter <= "~" for letter in value):
        raise ConfigurationError(
            f"{place} holds no usable secret",
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'",
            expected=f"1 to {MAX_SECRET_BYTES} printable ASCII characters without spaces",
        )
    return value


def _in_units(size_bytes: Any) -> str:
    """Return what stands behind a size: " bytes, 8 GiB", and only its unit where it is no whole number of MiB."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if isinstance(size_bytes, int) and size_bytes > 0 and size_bytes % factor == 0:
            return f" bytes, {size_bytes // factor} {unit}"
    return " bytes"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "not set" if value is None else ascii(value)[:120] if isinstance(value, str) else str(value)
