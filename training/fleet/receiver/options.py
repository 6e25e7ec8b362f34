"""The receiver's settings: the table, and what follows from it.

Owns the names, defaults and bounds. `docs/reference/settings.md` is checked against this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from training.fleet import store
from training.fleet.model.errors import ConfigurationError
from training.fleet.model.jobs import Terms
from training.fleet.settings import Setting, state_folder

_TERMS: Final = Terms()
MANIFEST: Final = Path("/etc/cis490/training_manifest.toml")


def table(environ: Mapping[str, str]) -> tuple[Setting, ...]:
    """Return the receiver's settings; paths default to places below the state folder."""
    state = state_folder(environ)
    return (
        Setting("listen_addr", "address and port to listen on; port 0 takes a free one", str, "127.0.0.1:8445"),
        Setting("manifest", "the training manifest", Path, MANIFEST),
        Setting("db", "the queue's database file", Path, state / "queue.db"),
        Setting("store_root", "folder of the artifacts", Path, state / "store"),
        Setting("incoming_root", "folder of uploads under way, on the store's file system", Path, state / "incoming"),
        Setting("index_path", "list of the artifacts, one JSON object a line", Path, state / "index.jsonl"),
        Setting("backup_root", "folder of the backups", Path, state / "backups"),
        Setting(
            "host_names",
            "names this receiver is addressed by; beyond loopback none means any, on loopback its names always work",
            str,
            (),
            many=True,
        ),
        Setting("operators", "TOML file with further operators and their rights; read again at a reload", Path),
        Setting("logins_root", "folder of the operators who logged in, and of their codes", Path, state / "logins"),
        Setting("enrolled_only", "workers must be enrolled, on loopback as well as beyond", bool, False),
        Setting(
            "schema_required",
            "the receiver starts no trainer: one that is not the project's own must give trainer.schema",
            bool,
            False,
        ),
        Setting("tls_certificate", "PEM file with the certificate chain; with it the receiver speaks https", Path),
        Setting("tls_key", "PEM file with the certificate's key", Path),
        Setting("tls_ca", "PEM file with the fleet's own authority, which workers' certificates come from", Path),
        Setting("tls_ca_key", "PEM file with that authority's key; with it the receiver issues certificates", Path),
        Setting(
            "tls_clients",
            "whether workers must show a certificate besides their secret",
            str,
            "off",
            choices=("off", "optional", "required"),
        ),
        Setting(
            "trusted_proxies",
            "addresses or networks of the proxy in front, whose identity headers count",
            str,
            (),
            many=True,
        ),
        Setting("lease_s", "seconds a lease lives after a heartbeat", float, _TERMS.lease_s, ge=1, le=86400),
        Setting("ack_s", "seconds a granted lease waits for its first heartbeat", float, _TERMS.ack_s, ge=1, le=3600),
        Setting("heartbeat_s", "seconds between heartbeats", float, _TERMS.heartbeat_s, ge=0.1, le=3600),
        Setting(
            "prefer_wait_s",
            "seconds a job that prefers CUDA waits before a host without it may take it",
            float,
            _TERMS.prefer_wait_s,
            ge=0,
            le=604800,
        ),
        Setting("backoff_s", "delay before a failed job's first retry", float, _TERMS.backoff_s, ge=0, le=86400),
        Setting("backoff_cap_s", "longest such delay", float, _TERMS.backoff_cap_s, ge=0, le=604800),
        Setting("max_artifact_bytes", "largest upload", int, store.MAX_BYTES, ge=1),
        Setting("floor_bytes", "free space that uploads leave to the database", int, store.FLOOR_BYTES, ge=0),
        Setting(
            "retain_days",
            "days after which the files of results are removed, but for those of named jobs; 0 keeps all",
            int,
            0,
            ge=0,
            le=36500,
        ),
        Setting(
            "retain_best",
            "results of each model, mode and split that retain_days leaves: those with the best headline metric",
            int,
            0,
            ge=0,
            le=1000000,
        ),
        Setting("max_connections", "open connections at most; 0 follows the limit of open files", int, 0, ge=0),
        Setting("drain_s", "seconds that requests under way may take to finish at the end", float, 10.0, ge=0, le=600),
        Setting("log_level", "least level that is logged", str, "info", choices=("debug", "info", "warning", "error")),
        Setting(
            "log_format",
            "form of the log; auto means text on a terminal, JSON elsewhere",
            str,
            "auto",
            choices=("auto", "text", "json"),
        ),
    )


def address(text: str) -> tuple[str, int]:
    """Return host and port of "HOST:PORT" or "[V6]:PORT".

    Raises:
        ConfigurationError: It is no such thing.
    """
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    v6 = host.startswith("[") and host.endswith("]")
    if not (colon and bare and port.isascii() and port.isdecimal() and int(port) < 65536 and (v6 or ":" not in bare)):
        raise ConfigurationError(
            f"listen_addr is {ascii(text)[:80]}", expected="HOST:PORT, such as 127.0.0.1:8445 or [::1]:8445"
        )
    return bare, int(port)
