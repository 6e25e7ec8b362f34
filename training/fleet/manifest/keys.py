"""Every key a manifest may hold: what it takes, what is expected of it, and the default.

Owns the vocabulary of the file. The reader, the docs test and the messages all use these tables. Guarantees that a
boolean is never taken for a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from training.fleet.model.jobs import MODES, Limits, Policy, Requirement, Spec, Trainer, normal_hosts
from training.fleet.model.names import SHA256
from training.fleet.model.variables import MAX_VALUE_CHARS, MAX_VARIABLES

NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,63}")
DIGEST: Final = re.compile(f"sha256:{SHA256}")
_GLOB = re.compile(r"[0-9A-Za-z_.*?\[\]!-]{1,100}")
_REVISION = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.+/-]{0,99}")
_LABEL = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.+-]{0,63}")
_HEX = re.compile(r"[0-9a-fA-F]+")
_LONGEST = 200
MAX_LIST = 1000
MAX_TAGS: Final = 16
MAX_EXPANDED: Final = 10_000
"""Jobs that one `[[jobs]]` table may stand for, and points that its grid may have."""


class WrongValueError(ValueError):
    """A value its key does not take; the caller knows the place and what was expected."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table.

    Attributes:
        expected: What its value must be, for people.
        read: Returns the normal form of a value or raises `WrongValueError`.
        default: What stands when the key does not, in normal form; None is nothing.
    """

    expected: str
    read: Callable[[Any], Any]
    default: Any = None


def _whole(low: int, high: int, unit: str, default: int | None) -> Key:
    def read(value: Any) -> int:
        if type(value) is int and low <= value <= high:
            return value
        raise WrongValueError

    return Key(f"a whole number{unit} from {low} to {high}", read, default)


def _gib(default: float | None) -> Key:
    def read(value: Any) -> float:
        if type(value) in (int, float) and 0 <= value <= 10000:
            return int(value) if value == int(value) else float(value)
        raise WrongValueError

    return Key("a number of GiB from 0 to 10000", read, default)


def _flag(default: bool | None) -> Key:
    def read(value: Any) -> bool:
        if type(value) is bool:
            return value
        raise WrongValueError

    return Key("true or false", read, default)


def _text(pattern: re.Pattern[str], expected: str) -> Key:
    def read(value: Any) -> str:
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        raise WrongValueError

    return Key(expected, read)


def _mode() -> Key:
    def read(value: Any) -> str:
        if isinstance(value, str) and value in MODES:
            return value
        raise WrongValueError

    return Key(" or ".join(f'"{mode}"' for mode in MODES), read)


def _texts(value: Any, fits: Callable[[str], object]) -> list[str]:
    if not isinstance(value, list) or len(value) > MAX_LIST:
        raise WrongValueError
    if not all(isinstance(item, str) and fits(item) for item in value):
        raise WrongValueError
    return value


def _model_globs(default: tuple[str, ...]) -> Key:
    def read(value: Any) -> tuple[str, ...]:
        return tuple(_texts(value, _GLOB.fullmatch))

    return Key('a list of model names or globs, such as ["gbt", "m*"]', read, default)


def _host_globs() -> Key:
    def read(value: Any) -> tuple[str, ...]:
        return tuple(sorted({item.lower() for item in _texts(value, _GLOB.fullmatch)}))

    return Key('a list of host names or globs, such as ["gpu-*"]; empty is any', read, ())


def _train_hosts() -> Key:
    def read(value: Any) -> tuple[str, ...]:
        hosts = _texts(value, lambda item: 0 < len(item) <= _LONGEST and item.isprintable())
        if not hosts:
            raise WrongValueError
        return normal_hosts(hosts)

    return Key('a list of host names or globs of the dataset, not empty, such as ["*"]', read, ("*",))


def _table() -> Key:
    def read(value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        raise WrongValueError

    return Key("a table of hyper-parameters, such as { max_iter = 300 }", read, {})


def _job_name() -> Key:
    def read(value: Any) -> str:
        # A name of hex digits alone could be taken for the first digits of an id.
        if isinstance(value, str) and _LABEL.fullmatch(value) and not _HEX.fullmatch(value):
            return value
        raise WrongValueError

    return Key("a name of at most 64 letters, digits and _ . + -, with more in it than hex digits", read)


def _tags() -> Key:
    def read(value: Any) -> tuple[str, ...]:
        if isinstance(value, list) and len(value) > MAX_TAGS:
            raise WrongValueError
        return tuple(sorted(set(_texts(value, _LABEL.fullmatch))))

    return Key(f"a list of at most {MAX_TAGS} words of letters, digits and _ . + -", read, ())


def _seeds() -> Key:
    one = _whole(0, 2**32 - 1, "", None)

    def read(value: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or not 0 < len(value) <= MAX_EXPANDED:
            raise WrongValueError
        return tuple(one.read(seed) for seed in value)

    return Key(f"a list of whole numbers up to {2**32 - 1}, such as [1, 2, 3], at most {MAX_EXPANDED} of them", read)


def _grid() -> Key:
    def read(value: Any) -> dict[str, list[Any]]:
        if not isinstance(value, dict) or not value:
            raise WrongValueError
        if not all(isinstance(values, list) and values for values in value.values()):
            raise WrongValueError
        return value

    return Key("a table of lists by hyper-parameter, none empty, such as { max_iter = [100, 300] }", read)


def _command() -> Key:
    def read(value: Any) -> tuple[str, ...]:
        words = _texts(value, lambda item: 0 < len(item) <= _LONGEST * 20 and "\0" not in item)
        if not words:
            raise WrongValueError
        return tuple(words)

    return Key('a list of words, not empty, such as ["{python}", "my_trainer.py"]', read, Trainer().command)


def _path() -> Key:
    def read(value: Any) -> str:
        if isinstance(value, str) and value and "\0" not in value:
            return value
        raise WrongValueError

    return Key("the path of a JSON Schema file, relative to the manifest", read)


def _variables() -> Key:
    def read(value: Any) -> dict[str, str]:
        if not isinstance(value, dict) or len(value) > MAX_VARIABLES:
            raise WrongValueError
        _texts(list(value.values()), lambda text: "\0" not in text and len(text) <= MAX_VALUE_CHARS)
        return value

    return Key(f'a table of at most {MAX_VARIABLES} texts, such as {{ MY_FLAG = "1" }}', read, {})


def _schema() -> Key:
    def read(value: Any) -> int:
        if type(value) is int and value == 1:
            return value
        raise WrongValueError

    return Key("1, the only form of the file there is", read)


def _name(what: str) -> Key:
    return _text(NAME, f"the name of a {what}: letters, digits, dot, dash and underscore, at most 64")


MANIFEST: Final[dict[str, Key]] = {
    "schema": _schema(),
    "jobs": _whole(0, 10**9, "", None),
}
HOST_TABLE: Final[dict[str, Key]] = {
    "allow_jobs": _model_globs(Policy().allow_jobs),
    "deny_jobs": _model_globs(Policy().deny_jobs),
    "slots": _whole(1, 64, "", Policy().slots),
    "sessions": _whole(1, 1000, "", Policy().sessions),
    "cuda": _flag(None),
    "vram_gib": _gib(None),
    "ram_gib": _gib(None),
}
DATASET: Final[dict[str, Key]] = {
    "digest": _text(DIGEST, '"sha256:" and 64 hex digits in lower case'),
}
TRAINER: Final[dict[str, Key]] = {
    "command": _command(),
    "schema": _path(),
    "env": _variables(),
    "revision": _text(_REVISION, "the trainer's revision, such as a git commit, at most 100 characters"),
}
JOB: Final[dict[str, Key]] = {
    "model": _name("model"),
    "mode": _mode(),
    "dataset": _name("dataset"),
    "hyper": _table(),
    "split_recipe": Key(_name("split").expected, _name("split").read, Spec("", "").split_recipe),
    "train_hosts": _train_hosts(),
    "seed": _whole(0, 2**32 - 1, "", Spec("", "").seed),
    "seeds": _seeds(),
    "grid": _grid(),
    "random": _whole(1, MAX_EXPANDED, "", None),
    "random_seed": _whole(0, 2**32 - 1, "", 0),
    "require_cuda": _flag(Requirement("").require_cuda),
    "prefer_cuda": _flag(Requirement("").prefer_cuda),
    "min_vram_gib": _gib(Requirement("").min_vram_gib),
    "min_ram_gib": _gib(Requirement("").min_ram_gib),
    "allowed_hosts": _host_globs(),
    "priority": _whole(-1000000, 1000000, "", Limits().priority),
    "timeout_s": _whole(1, 30 * 86400, " of seconds", Limits().timeout_s),
    "max_attempts": _whole(1, 100, "", Limits().max_attempts),
    "name": _job_name(),
    "tags": _tags(),
}
OWN: Final = ("model", "hyper", "grid", "random", "random_seed", "name")
"""Keys that belong to one job."""
DEFAULTS: Final[dict[str, Key]] = {name: key for name, key in JOB.items() if name not in OWN}
"""Keys that `[defaults]` may set."""
TABLES: Final[dict[str, dict[str, Key]]] = {
    "manifest": MANIFEST,
    "defaults": DEFAULTS,
    "hosts.NAME": HOST_TABLE,
    "datasets.NAME": DATASET,
    "trainer": TRAINER,
    "jobs": JOB,
}
"""Every table by its name in the file, for the reference page."""
