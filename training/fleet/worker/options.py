"""What can be set about a worker, and the checked result."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.fleet.capability.checkout import CHECKOUT
from training.fleet.client import DEFAULT_RECEIVER, address, certificate_files
from training.fleet.model.capability import Datasets
from training.fleet.model.errors import ConfigurationError, Fault
from training.fleet.model.jobs import DEFAULT_DATASET
from training.fleet.model.variables import refused
from training.fleet.settings import Setting, Settings, full_path, read, secret, state_folder
from training.fleet.worker.run.run import Rules

TABLE: Final = (
    Setting("receiver", "address of the receiver", str, DEFAULT_RECEIVER),
    Setting("name", "host name to report instead of the machine's own"),
    Setting("work_dir", "folder for runs and state", Path),
    Setting("dataset", "NAME=FOLDER of a dataset; the first is also the default one", str, (), many=True),
    Setting("slots", "trainings at once", int, 1, ge=1, le=64),
    Setting("threads", "threads per training; 0 shares the cores between the slots", int, 0, ge=0, le=1024),
    Setting("grace_s", "seconds a trainer gets to stop by itself", float, 20.0, ge=0, le=3600),
    Setting("stall_s", "seconds without output or progress before a stop; 0 never", float, 1800.0, ge=0),
    Setting("stop_limit_s", "seconds an upload may still take once the worker is told to stop", float, 80.0, ge=0),
    Setting("keep_s", "seconds the folder of a failed or lost run is kept", float, 86400.0, ge=0),
    Setting("min_free_gib", "free disk, GiB, below which no job is taken and a run is ended", float, 1.0, ge=0),
    Setting("stop_when_lost", "stop a trainer when the receiver is out of reach for most of the lease", bool, False),
    Setting("probe_timeout_s", "seconds for the child that tries torch and CUDA", float, 20.0, ge=1, le=600),
    Setting("trainer_dir", "folder that relative paths in a manifest's trainer command start from", Path, CHECKOUT),
    Setting("pass_env", "environment variable of this host that trainers get as well", str, (), many=True),
    Setting("worker_secret_file", "file of this worker's own secret, as `enrol` writes it", Path),
    Setting("ca_file", "PEM file with the authorities to trust for https", Path),
    Setting("client_certificate", "PEM file with this host's certificate, and its key unless client_key is set", Path),
    Setting("client_key", "PEM file with that certificate's key", Path),
    Setting("proxy", "http://host:port through which https goes"),
    Setting("log_file", "file for what the worker says, instead of standard error", Path),
)  # fmt: skip
TOKEN: Final = "CIS490_WORKER_TOKEN"  # noqa: S105 - the name of the variable
SECRET: Final = "CIS490_WORKER_SECRET"  # noqa: S105 - the name of the credential
_MAX_DATASETS = 64


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of a worker, checked.

    Attributes:
        receiver: Address of the receiver.
        receiver_is_set: Whether somebody set it.
        token: The worker's own secret, else the token that workers on one machine share; None without one.
        secret_file: File of the worker's own secret, None where it has none there.
        name: Host name to report, None for the machine's own.
        work_dir: Folder for runs and state.
        datasets: Dataset folders; "default" is always among them when there is any.
        slots: Trainings at once.
        threads: Threads per training, 0 for an even share.
        stop_limit_s: Seconds an upload may still take once told to stop.
        keep_s: Seconds a failed or lost run's folder is kept.
        probe_timeout_s: Seconds for the probe of torch.
        ca_file: Authorities to trust, None for the system's.
        certificate: Files of this host's certificate and its key, None without one.
        proxy: Proxy for https, None without one.
        log_file: Where the worker's own lines go, None for standard error.
        rules: What trainers are kept to.
    """

    receiver: str
    receiver_is_set: bool
    token: str | None
    secret_file: Path | None
    name: str | None
    work_dir: Path
    datasets: Datasets
    slots: int
    threads: int
    stop_limit_s: float
    keep_s: float
    probe_timeout_s: float
    ca_file: Path | None
    certificate: tuple[Path, Path] | None
    proxy: str | None
    log_file: Path | None
    rules: Rules


def options(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Options:
    """Return the checked settings.

    Args:
        flags: Parsed command line by setting name; None is not given.
        environ: Environment variables.

    Raises:
        ConfigurationError: Something is wrong; all of it is listed.
    """
    found = effective(flags, environ)
    return checked(found, environ, token_of(found, environ))


def effective(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Return the settings in force, each with its source.

    Raises:
        ConfigurationError: One of them cannot be read.
    """
    return read(TABLE, {**flags, "config": flags.get("config") or _enrolled_settings(flags, environ)}, environ)


def token_of(found: Settings, environ: Mapping[str, str]) -> str | None:
    """Return what this worker shows the receiver, None where it has nothing.

    Raises:
        ConfigurationError: Its file cannot be used.
    """
    return _own_secret(secret_file_of(found), environ) or secret(TOKEN, environ)


def checked(found: Settings, environ: Mapping[str, str], token: str | None) -> Options:
    """Return the settings in the form the worker uses.

    Args:
        found: The settings in force.
        environ: Environment variables.
        token: What the worker shows the receiver.

    Raises:
        ConfigurationError: They do not go together.
    """
    work_dir = full_path(found["work_dir"] or state_folder(environ) / "worker")
    folders = _folders(found)
    return Options(
        receiver=found["receiver"],
        receiver_is_set=found.source("receiver") != "default",
        token=token,
        secret_file=secret_file_of(found),
        name=found["name"],
        work_dir=work_dir,
        datasets=Datasets(folders, work_dir / "datasets.json"),
        slots=found["slots"],
        threads=found["threads"],
        stop_limit_s=found["stop_limit_s"],
        keep_s=found["keep_s"],
        probe_timeout_s=found["probe_timeout_s"],
        ca_file=found["ca_file"],
        certificate=certificate_files(found["client_certificate"], found["client_key"]),
        proxy=found["proxy"],
        log_file=found["log_file"],
        rules=Rules(
            grace_s=found["grace_s"],
            stall_s=found["stall_s"],
            min_free_bytes=int(found["min_free_gib"] * 2**30),
            stop_when_lost=found["stop_when_lost"],
            trainer_dir=full_path(found["trainer_dir"]),
            folders=folders,
            pass_env=_variables(found),
        ),
    )


def settings_path(environ: Mapping[str, str]) -> Path:
    """Return the settings file that `enrol` writes and that a worker takes where none is named."""
    return state_folder(environ) / "worker.toml"


def _enrolled_settings(flags: Mapping[str, Any], environ: Mapping[str, str]) -> str | None:
    """Return the file that `enrol` wrote, None where another one or another receiver is named.

    The secret it names is shown to the receiver it was made for and to no other.
    """
    try:
        path = settings_path(environ)
    except ConfigurationError:  # an account without a home has not enrolled there
        return None
    if environ.get("CIS490_CONFIG") or not path.is_file():
        return None
    named = flags.get("receiver") or environ.get("CIS490_RECEIVER")
    return str(path) if named is None or _is_of(path, named) else None


def _is_of(path: Path, receiver: str) -> bool:
    """Return True if the settings belong to this receiver.

    An unreadable file counts as belonging, so that the caller reports it instead of skipping it.
    """
    try:
        own = str(tomllib.loads(path.read_text(encoding="utf-8-sig")).get("receiver", ""))
    except (OSError, ValueError, RecursionError):
        return True
    try:
        return address(receiver).url == address(own).url
    except ConfigurationError:
        return False


def secret_file_of(found: Settings) -> Path | None:
    """Return the file of the worker's own secret; one that the service manager holds cannot be written to."""
    given: Path | None = found["worker_secret_file"]
    return full_path(given) if given is not None else None


def _own_secret(path: Path | None, environ: Mapping[str, str]) -> str | None:
    if path is not None:
        return secret(SECRET, {f"{SECRET}_FILE": str(path)})
    return secret(SECRET, {"CREDENTIALS_DIRECTORY": environ.get("CREDENTIALS_DIRECTORY", "")})


def _variables(found: Settings) -> tuple[str, ...]:
    names = found["pass_env"]
    faults = [
        Fault(found.source("pass_env"), f"{name!a}, which {why}", "another variable")
        for name in names
        if (why := refused(name, of_manifest=False))
    ]
    if faults:
        raise ConfigurationError("variables are named that no trainer gets", faults=tuple(faults))
    return tuple(names)


def _folders(found: Settings) -> dict[str, Path]:
    """Return dataset name to folder; the first one given is the default unless one is named so."""
    faults: list[Fault] = []
    folders: dict[str, Path] = {}
    for item in found["dataset"]:
        name, _, folder = item.partition("=")
        if not name or not folder or len(folders) >= _MAX_DATASETS:
            faults.append(Fault(found.source("dataset"), repr(item), "NAME=FOLDER, such as lab=/data/lab"))
        elif name in folders:
            faults.append(Fault(found.source("dataset"), f"{name!r} twice", "each name once"))
        else:
            folders[name] = full_path(Path(folder))
    if faults:
        raise ConfigurationError("datasets are not given as they must be", faults=tuple(faults))
    return {DEFAULT_DATASET: next(iter(folders.values())), **folders} if folders else {}
