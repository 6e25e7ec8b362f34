"""Talks HTTP to a receiver, for the worker and for the operator's command.

Owns the connection (kept per thread), TLS, and the one place where requests are repeated: connection errors, 429, 503
and other 5xx, with full jitter, `Retry-After` and a deadline. Every request of the fleet has one effect however often
it arrives, so a repeat is always safe. Guarantees that tokens travel in headers only, never over plain HTTP beyond
loopback, never to a redirect's target or a proxy of the environment, and never into a message or an exception; and that
a refusal is raised as the class the receiver named. Standard library only; `ssl` is set up only for https.
"""

from __future__ import annotations

from training.fleet.client.addresses import DEFAULT_RECEIVER, Address, address
from training.fleet.client.client import Client
from training.fleet.tls.trust import certificate_files

__all__ = ["DEFAULT_RECEIVER", "Address", "Client", "address", "certificate_files"]
