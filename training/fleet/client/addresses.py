"""Where a receiver listens, and the proxy in front of it.

Owns taking the addresses apart. Guarantees that plain HTTP, which would show the token, goes nowhere beyond loopback,
and that no message repeats a password that stood in an address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from training.fleet.model.errors import ConfigurationError

DEFAULT_RECEIVER: Final = "http://127.0.0.1:8445"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a receiver listens, taken apart.

    Attributes:
        url: As given, without a trailing slash.
        secure: Whether it is https.
        host: Host name or address.
        port: TCP port.
        prefix: Path in front of every route, empty for most.
    """

    url: str
    secure: bool
    host: str
    port: int
    prefix: str


def address(url: str) -> Address:
    """Take a receiver's URL apart.

    Raises:
        ConfigurationError: It is no http(s) URL, or it is http to another machine, which would show the token.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _bad_address("something that is no URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise _bad_address(f"{_without_secrets(url)!r}")
    if parts.username is not None or parts.query or parts.fragment:
        raise _bad_address("an address with a user, a query or a fragment")
    secure = parts.scheme == "https"
    if not secure and not _loopback(host):
        raise ConfigurationError(
            f"the receiver's address is http://{host}, which would send the token in the clear",
            f"give an https address, or an http one on this machine ({DEFAULT_RECEIVER})",
        )
    prefix = parts.path.rstrip("/")
    shown = f"[{host}]" if ":" in host else host
    where = f"{parts.scheme}://{shown}:{port or (443 if secure else 80)}{prefix}"
    return Address(where, secure, host, port or (443 if secure else 80), prefix)


def _bad_address(found: str) -> ConfigurationError:
    return ConfigurationError(f"the receiver's address is {found}", expected=f"one such as {DEFAULT_RECEIVER}")


def _without_secrets(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)[:200]


def _loopback(host: str) -> bool:
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def proxy_address(url: str | None, *, secure: bool) -> tuple[str, int] | None:
    """Return host and port of a proxy, None without one.

    Args:
        url: "http://host:port", None for none.
        secure: Whether the receiver speaks https; nothing else goes through a proxy.

    Raises:
        ConfigurationError: It is no such address, or the receiver does not speak https.
    """
    if url is None:
        return None
    parts = urlsplit(url)
    if not secure or parts.scheme != "http" or not parts.hostname or parts.username is not None:
        raise ConfigurationError(
            "the proxy cannot be used", expected="http://host:port in front of an https receiver, without a user"
        )
    return parts.hostname, parts.port or 8080
