"""`cis490-trainer-receiver init`: the keys, certificates and tokens of a new receiver.

Owns which files are made, their names, and what is printed. Guarantees that every file is private, that nothing which
is there is overwritten, and that it can be run again. Leaves what stands in a certificate to `certificates`.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from training.fleet.files import replace_shared, write_new
from training.fleet.model.errors import ConfigurationError
from training.fleet.settings import demand_private, full_path, state_folder
from training.fleet.tls import certificates
from training.fleet.tls.certificates import Authority, CertificateFacts

AUTHORITY: Final = ("ca.pem", "ca.key")
SERVER: Final = ("receiver.pem", "receiver.key")
TOKENS: Final = {"operator.token": "CIS490_OPERATOR_TOKEN_FILE", "read.token": "CIS490_READ_TOKEN_FILE"}
OWN_NAMES: Final = ("localhost", "127.0.0.1", "::1")
"""Every certificate holds these: the receiver's own machine can always reach it."""


def run_init(words: Sequence[str]) -> int:
    """Make what a receiver needs to speak https, where it is missing.

    Args:
        words: Arguments after "init".

    Returns:
        0 when everything is there.

    Raises:
        FleetError: A file cannot be written or read, others can read a key, or half of a pair is missing.
    """
    given = _parser().parse_args(words)
    folder: Path = full_path(given.folder or state_folder(os.environ) / "tls")
    try:
        kit = _Kit(folder)
        authority = _authority(kit)
        held = _server(kit, authority, _names(given.host_names), renew=given.renew)
        for name in TOKENS:
            kit.make(name, f"{secrets.token_urlsafe(32)}\n".encode())
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {error.filename} ({error.strerror})",
            "run init as who owns the receiver's files, or give --folder another place",
        ) from error
    digest = certificates.facts(authority.pem).fingerprint
    sys.stdout.write("\n".join([*kit.said, *_lines(folder, digest, held)]) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cis490-trainer-receiver init",
        description="Make an authority, a certificate and tokens for a receiver. What is there already is kept. "
        "The output can be appended to the receiver's environment file.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--host-names",
        action="append",
        default=[],
        metavar="NAME",
        help="name or address that others reach the receiver by; may be repeated [this machine's name]",
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to [tls below the state folder]")
    parser.add_argument("--renew", action="store_true", help="issue the receiver's certificate again, with its key")
    return parser


def _names(given: list[str]) -> list[str]:
    return list(dict.fromkeys(name.strip() for item in given for name in item.split(",") if name.strip()))


def _authority(kit: _Kit) -> Authority:
    """Return the folder's authority; made when there is none."""
    if kit.lacks_both(AUTHORITY):
        pair = certificates.make_authority(time.time())
        kit.make("ca.key", pair.key_pem)
        kit.make("ca.pem", pair.certificate_pem)
    else:
        kit.keep(AUTHORITY)
    return Authority.read(kit.folder / "ca.pem", kit.folder / "ca.key")


def _server(kit: _Kit, authority: Authority, names: list[str], *, renew: bool) -> CertificateFacts:
    """Return what the receiver's certificate says; made when there is none, made again when asked to."""
    if kit.lacks_both(SERVER):
        wanted = [*(names or [socket.gethostname().lower()]), *OWN_NAMES]
        pair = authority.server(wanted, time.time())
        kit.make("receiver.key", pair.key_pem)
        kit.make("receiver.pem", pair.certificate_pem)
        return certificates.facts(pair.certificate_pem)
    held = certificates.facts((kit.folder / "receiver.pem").read_bytes())
    if not renew:
        kit.keep(SERVER)
        if missing := [name for name in names if name.lower() not in held.names]:
            kit.said.append(f"# the certificate does not name {', '.join(missing)}; --renew issues it again with them")
        return held
    key = (kit.folder / "receiver.key").read_bytes()
    pair = authority.server([*names, *OWN_NAMES] if names else held.names, time.time(), key_pem=key)
    kit.renew("receiver.pem", pair.certificate_pem)
    return certificates.facts(pair.certificate_pem)


def _lines(folder: Path, digest: str, held: CertificateFacts) -> list[str]:
    """Return the settings that go with the files, and what to do next."""
    names = [name for name in held.names if name not in OWN_NAMES]
    return [
        f"# the authority's SHA-256 is {digest}",
        "CIS490_LISTEN_ADDR=0.0.0.0:8445",
        f"CIS490_HOST_NAMES={','.join(names)}",
        f"CIS490_TLS_CERTIFICATE={folder / 'receiver.pem'}",
        f"CIS490_TLS_KEY={folder / 'receiver.key'}",
        f"CIS490_TLS_CA={folder / 'ca.pem'}",
        f"CIS490_TLS_CA_KEY={folder / 'ca.key'}",
        "CIS490_TLS_CLIENTS=required",
        *(f"{variable}={folder / name}" for name, variable in TOKENS.items()),
        "# next: put the lines above into the receiver's environment file, start it, and for each host run",
        f"#   cis490-jobs --ca-file {folder / 'ca.pem'} invite HOST",
        "# and on that host what it prints, or",
        f"#   cis490-training-worker enrol --receiver https://{(names or OWN_NAMES)[0]}:8445 --host HOST "
        f"--ca-sha256 {digest}",
    ]


class _Kit:
    """The folder, and what was done in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True)
            _give(folder, folder.parent)

    def lacks_both(self, pair: tuple[str, str]) -> bool:
        """Return whether a certificate and its key are missing.

        Raises:
            ConfigurationError: One of them is there, or others can read the key.
        """
        certificate, key = (self.folder / name for name in pair)
        demand_private(pair[1], key)
        if certificate.exists() != key.exists():
            there, missing = (certificate, key) if certificate.exists() else (key, certificate)
            raise ConfigurationError(f"{there} is there and {missing} is not", f"bring it back, or move {there} away")
        return not key.exists()

    def keep(self, names: tuple[str, ...]) -> None:
        """Say that files stay as they are."""
        self.said += [f"# kept {self.folder / name}" for name in names]

    def make(self, name: str, content: bytes) -> None:
        """Write a file unless it is there."""
        path = self.folder / name
        demand_private(name, path)
        if path.exists():
            self.keep((name,))
            return
        write_new(path, content)
        _give(path, self.folder)
        self.said.append(f"# made {path}")

    def renew(self, name: str, content: bytes) -> None:
        """Write a file again."""
        path = self.folder / name
        replace_shared(path, content)
        _give(path, self.folder)
        self.said.append(f"# renewed {path}")


def _give(path: Path, like: Path) -> None:
    """Give what root made to who owns the folder above it: the receiver's user."""
    if os.geteuid() == 0:
        owner = like.stat()
        # That user may have put a link in its place meanwhile, and must not be given what it leads to.
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
