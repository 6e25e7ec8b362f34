"""Who may do what.

Owns the comparison of tokens and secrets, the rights of operators, and which machine may use an identity. Guarantees
that every comparison is in constant time over digests, and that no error tells a token. Leaves reading secrets to
`settings`, rows to `queue` and headers to `api`.
"""

from __future__ import annotations

from training.fleet.auth.addresses import host_name, is_loopback, neighbourhood
from training.fleet.auth.credentials import (
    RIGHTS,
    TOKENS,
    Caller,
    Credentials,
    Operator,
    Peer,
    Right,
    Role,
    demand_wide_tokens,
    operators_of,
)
from training.fleet.auth.identities import Identity, Registry
from training.fleet.auth.logins import Logins
from training.fleet.auth.sessions import Sessions

__all__ = [
    "RIGHTS",
    "TOKENS",
    "Caller",
    "Credentials",
    "Identity",
    "Logins",
    "Operator",
    "Peer",
    "Registry",
    "Right",
    "Role",
    "Sessions",
    "demand_wide_tokens",
    "host_name",
    "is_loopback",
    "neighbourhood",
    "operators_of",
]
