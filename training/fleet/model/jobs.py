"""What a job is: its specification, its identity, its constraints and the words for its life.

Owns the vocabulary (statuses, modes, failure kinds) and the job id. Guarantees that the id of a specification is the
same on every platform and Python. Leaves reading manifests to `manifest` and decisions to `placement`.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any, Final, Literal, get_args

from training.fleet.model.errors import InvalidMessageError

Status = Literal["pending", "claimed", "running", "completed", "failed", "cancelled"]
Mode = Literal["realistic", "oracle"]
FailKind = Literal[
    "oom_gpu",
    "oom_ram",
    "spec_rejected",
    "trainer_error",
    "timeout",
    "stalled",
    "disk_full",
    "no_artifact",
    "lost",
    "host_fault",
    "preempted",
]
Direction = Literal["higher", "lower"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
FAIL_KINDS: Final[tuple[FailKind, ...]] = get_args(FailKind)
FREE_KINDS: Final = frozenset({"disk_full", "host_fault", "preempted"})
"""Failure kinds that cost the job no attempt."""

MAX_INTEGER: Final = 2**53 - 1
MAX_DEPTH: Final = 8
MAX_SPEC_BYTES: Final = 65536
MAX_MANIFEST_BYTES: Final = 32 * 2**20
"""Longest manifest that is read, sent or accepted."""
DEFAULT_DATASET: Final = "default"
"""Name under which a worker reports the dataset it uses for jobs that name none."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The time limits of leases.

    Attributes:
        ack_s: Seconds a granted lease waits for its first heartbeat.
        lease_s: Seconds a running lease lives after its last heartbeat (`stale_after_s`).
        heartbeat_s: Seconds between a worker's heartbeats.
        prefer_wait_s: Seconds a job that prefers CUDA waits before a host without it may take it.
        backoff_s: Delay before the first retry of a failed attempt; doubles with each further one.
        backoff_cap_s: Longest such delay.
        refunds: How often an attempt may be given back for free between two requeues (lost claims only).
    """

    ack_s: float = 90.0
    lease_s: float = 600.0
    heartbeat_s: float = 30.0
    prefer_wait_s: float = 600.0
    backoff_s: float = 30.0
    backoff_cap_s: float = 1800.0
    refunds: int = 3


@dataclass(frozen=True, slots=True)
class DatasetRef:
    """A dataset by name and, where declared, by content.

    Attributes:
        name: The name the manifest and the hosts use.
        digest: "sha256:<64 hex>" of its content, or None when the manifest declares none.
    """

    name: str
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """What is trained. Its normal form is the job's identity; constraints and limits never enter it.

    Attributes:
        model: Name of the model, as the trainer declares it.
        mode: `realistic` or `oracle`.
        hyper: Hyper-parameters as the manifest gives them; defaults are the trainer's.
        split_recipe: Name of the split.
        train_hosts: Host globs of the training rows; `("*",)` is all.
        seed: Seed of everything random.
        dataset: The dataset, or None for the host's default one.
        revision: Revision of the trainer, or None when the manifest declares none.
    """

    model: str
    mode: str
    hyper: Mapping[str, Any] = field(default_factory=dict)
    split_recipe: str = "hosts"
    train_hosts: tuple[str, ...] = ("*",)
    seed: int = 490
    dataset: DatasetRef | None = None
    revision: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the normal form as plain data, ready for `canonical`.

        Raises:
            InvalidMessageError: A value has no place in an identity (NaN, a date, a huge integer, too deep).
        """
        body: dict[str, Any] = {
            "v": 1,
            "model": self.model,
            "mode": self.mode,
            "hyper": dict(self.hyper),
            "split_recipe": self.split_recipe,
            "train_hosts": list(normal_hosts(self.train_hosts)),
            "seed": self.seed,
        }
        if self.dataset is not None:
            body["dataset"] = {"name": self.dataset.name}
            if self.dataset.digest is not None:
                body["dataset"]["digest"] = self.dataset.digest
        if self.revision is not None:
            body["revision"] = self.revision
        normal = normalise(body)
        assert isinstance(normal, dict)
        return normal

    def job_id(self) -> str:
        """Return the identity: 64 hex digits, the SHA-256 of the canonical normal form."""
        data = canonical(self.document())
        if len(data) > MAX_SPEC_BYTES:
            raise InvalidMessageError(
                f"the specification takes {len(data)} bytes", expected=f"at most {MAX_SPEC_BYTES}"
            )
        return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a job needs of a host. Jobs with equal requirements are placed alike.

    Attributes:
        model: Name of the model, matched against the host's policy and its trainer.
        require_cuda: Only a host with usable CUDA.
        prefer_cuda: A host with usable CUDA if one is to be had.
        min_vram_gib: Least memory of one GPU, GiB as people name it; 0 is none.
        min_ram_gib: Least memory of the host, GiB as people name it; 0 is none.
        allowed_hosts: Host globs; empty is any.
        dataset: Dataset the host must hold, or None.
        contract: Digest of the trainer's declaration the host's own trainer must match, or None when unknown
            or when the manifest names another trainer than the project's.
        over_vram_gib: Learned from an `oom_gpu`: only hosts with more GPU memory than this; 0 is none.
        over_ram_gib: Learned from an `oom_ram`: only hosts with more memory than this; 0 is none.
    """

    model: str
    require_cuda: bool = False
    prefer_cuda: bool = False
    min_vram_gib: float = 0
    min_ram_gib: float = 0
    allowed_hosts: tuple[str, ...] = ()
    dataset: DatasetRef | None = None
    contract: str | None = None
    over_vram_gib: float = 0
    over_ram_gib: float = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a job without being asked of a host.

    Attributes:
        priority: Larger first.
        timeout_s: Wall-clock limit of one attempt, seconds.
        max_attempts: How many attempts may fail before the job does, 1 to 100.
    """

    priority: int = 0
    timeout_s: int = 86400
    max_attempts: int = 3


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator lets a host do; capability here may only lower what detection finds.

    Attributes:
        allow_jobs: Model globs the host may train.
        deny_jobs: Model globs it may not; wins over `allow_jobs`.
        slots: Jobs that each of its processes may hold at once, 1 to 64.
        cuda: True if its GPU may be used, False if not; None leaves it to detection.
        vram_gib: GPU memory it offers, GiB; None leaves it to detection.
        ram_gib: Memory it offers, GiB; None leaves it to detection.
        sessions: Worker programs that may work under its name at once, 1 to 1000.
    """

    allow_jobs: tuple[str, ...] = ("*",)
    deny_jobs: tuple[str, ...] = ()
    slots: int = 1
    cuda: bool | None = None
    vram_gib: float | None = None
    ram_gib: float | None = None
    sessions: int = 1


@dataclass(frozen=True, slots=True)
class Trainer:
    """The program that trains the jobs of a manifest.

    Attributes:
        command: Argument vector; `{python}` stands for the worker's interpreter.
        contract: "sha256:<hex>" of its declaration, or None when the manifest gives no way to know it.
        env: Environment variables it gets on every host.
    """

    command: tuple[str, ...] = ("{python}", "-m", "training.trainer.run")
    contract: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)


def contract_with(contract: str | None, env: Mapping[str, str]) -> str | None:
    """Return the digest that workers compare: that of a declaration and of the variables that the trainer gets.

    A worker that knows nothing of the variables then refuses the job instead of training without them.
    """
    if contract is None or not env:
        return contract
    return "sha256:" + hashlib.sha256(canonical({"contract": contract, "env": dict(env)})).hexdigest()


@dataclass(frozen=True, slots=True)
class Headline:
    """The one figure by which results are compared, as the trainer declares it.

    Attributes:
        name: Name of the metric.
        direction: Which values are better.
    """

    name: str
    direction: Direction = "higher"


def normalise(value: Any, depth: int = 0) -> Any:
    """Return plain data in the normal form of identities: strings NFC, nothing that JSON cannot say.

    Args:
        value: Nested dicts with string keys, lists, tuples, strings, numbers, booleans, None.
        depth: Nesting so far; callers leave it at 0.

    Raises:
        InvalidMessageError: NaN, an infinity, a date, an integer beyond 2^53-1, a lone surrogate, or nesting
            beyond 8 levels.
    """
    if depth > MAX_DEPTH:
        raise InvalidMessageError(f"nested deeper than {MAX_DEPTH} levels", "flatten the hyper-parameters")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, Mapping):
        return _mapping(value, depth)
    if isinstance(value, list | tuple):
        return [normalise(item, depth + 1) for item in value]
    raise InvalidMessageError(
        f"found {value!r} ({type(value).__name__})", expected="text, a number, a boolean or a list"
    )


def normal_hosts(names: Iterable[str]) -> tuple[str, ...]:
    """Return host names or globs in normal form: NFC, lower case, sorted, each once.

    Raises:
        InvalidMessageError: A name is not valid text.
    """
    # Lower case of a composed text need not be composed: J and a caron has no composed form, j and a caron has.
    return tuple(sorted({_text(_text(name).lower()) for name in names}))


def _mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    normal: dict[str, Any] = {}
    for key, item in value.items():
        name = _text(key)
        if name in normal:
            raise InvalidMessageError(
                f"the key {name!r} stands there twice once both spellings are normalised", "leave one of them out"
            )
        normal[name] = normalise(item, depth + 1)
    return normal


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidMessageError(f"found {value!r} as a name", expected="text")
    normal = unicodedata.normalize("NFC", value)
    try:
        normal.encode()
    except UnicodeEncodeError:
        raise InvalidMessageError(f"found {value!r}", expected="valid Unicode text") from None
    return normal


def _number(value: float) -> int | float:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidMessageError(f"found {value}", expected="a finite number")
    if abs(value) > MAX_INTEGER and (isinstance(value, int) or value.is_integer()):
        # Its digits are left out: Python refuses to write more than 4,300 of them.
        raise InvalidMessageError("found a larger number", expected="an integer between -(2^53-1) and 2^53-1")
    return value


def canonical(value: Any) -> bytes:
    """Return the canonical JSON of plain data.

    Args:
        value: What `normalise` returns: finite numbers, text, lists and dicts with text keys.

    Source: RFC 8785, JSON Canonicalization Scheme.
    """
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be"))
        return b"{" + b",".join(canonical(key) + b":" + canonical(item) for key, item in items) + b"}"
    if isinstance(value, list | tuple):
        return b"[" + b",".join(canonical(item) for item in value) + b"]"
    if isinstance(value, str):
        return encode_basestring(value).encode()
    if isinstance(value, float):
        return _es_number(value).encode()
    return json.dumps(value).encode()


def _es_number(value: float) -> str:
    """Return a finite number as ECMAScript writes it.

    Source: ECMA-262, Number::toString; RFC 8785 section 3.2.2.3.
    """
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    digits, exponent = _shortest(abs(value))
    count = len(digits)
    if count <= exponent <= 21:
        return sign + digits + "0" * (exponent - count)
    if 0 < exponent <= 21:
        return f"{sign}{digits[:exponent]}.{digits[exponent:]}"
    if -6 < exponent <= 0:
        return f"{sign}0.{'0' * -exponent}{digits}"
    power = f"e{'+' if exponent > 0 else '-'}{abs(exponent - 1)}"
    return f"{sign}{digits[0]}{'.' + digits[1:] if count > 1 else ''}{power}"


def _shortest(value: float) -> tuple[str, int]:
    """Return the shortest digits of a positive number and n, so that it equals 0.digits times 10^n."""
    mantissa, _, power = f"{value!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + ("" if fraction == "0" and not power else fraction)).lstrip("0")
    leading = len(whole + fraction) - len((whole + fraction).lstrip("0"))
    exponent = len(whole) - leading + int(power or 0)
    return digits.rstrip("0"), exponent


def requirement_digest(requirement: Requirement) -> str:
    """Return the key under which equal requirements meet: 64 hex digits."""
    body = {
        "model": requirement.model,
        "require_cuda": requirement.require_cuda,
        "prefer_cuda": requirement.prefer_cuda,
        "min_vram_gib": requirement.min_vram_gib,
        "min_ram_gib": requirement.min_ram_gib,
        "allowed_hosts": list(requirement.allowed_hosts),
        "dataset": None if requirement.dataset is None else [requirement.dataset.name, requirement.dataset.digest],
        "contract": requirement.contract,
        "over_vram_gib": requirement.over_vram_gib,
        "over_ram_gib": requirement.over_ram_gib,
    }
    return hashlib.sha256(canonical(normalise(body))).hexdigest()
