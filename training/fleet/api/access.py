"""Who may do what, while operators come and go.

Owns the credentials in force and reading them again at a reload. Guarantees that a faulty file never replaces
operators that worked. Leaves the judgement of a credential to `auth`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from training.fleet.auth import Credentials
from training.fleet.model.errors import FleetError

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Access:
    """The credentials of one receiver.

    Attributes:
        credentials: Those in force.
        reread: Reads the operators again; None where they are fixed.
        problems: What was wrong with the operators when they were last read, for people.
    """

    credentials: Credentials
    reread: Callable[[], Credentials] | None = None
    problems: list[str] = field(default_factory=list)

    def reload(self) -> None:
        """Read the operators again; if they are faulty, those before stay in force."""
        if self.reread is None:
            return
        try:
            self.credentials = replace(self.reread(), registry=self.credentials.registry)
            self.problems.clear()
            _log.info("operators read", extra={"data": {"operators": [one.name for one in self.credentials.operators]}})
        except FleetError as error:
            self.problems[:] = [f"the operators before stay in force: {error.message}"]
            _log.error("operators refused", extra={"data": {"reason": error.message}})
