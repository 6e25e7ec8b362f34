"""Which build of torch an installation gets: for the CPU, for CUDA, or none.

Owns the choice, how it is remembered, and the commands of pip that install it. Guarantees that an address of an index
comes from the person or from pip's own configuration and never from here, and that a build asked for is what is there
afterwards. On Linux PyPI has the build with CUDA, on Windows the one for the CPU; each is pinned by its hash. Every
other build is pinned by its version, because its hash depends on who built it.

Source:
    PEP 440, local version identifiers: torch==2.13.0 accepts 2.13.0+cu130, and torch==2.13.0+cpu nothing else.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.fleet.install.code import pip_install, requirements_file
from training.fleet.install.steps import StopError, say
from training.fleet.model.errors import EX_CONFIG, EX_UNAVAILABLE, EX_USAGE

KINDS: Final = ("auto", "cpu", "cuda", "none")
OWN: Final = "own"
"""Remembered where a person put torch into an environment that upgrades keep: theirs stays."""
NEEDS_BYTES: Final = 8 * 10**9
"""Room that the build with CUDA needs: 4.7 GB stay, and the packages lie beside them until all are unpacked."""
_VERSION: Final = re.compile(r"^torch==(\S+)$", re.MULTILINE)
TORCH_VERSION_PROBE: Final = "from importlib.metadata import version; print(version('torch'))"
"""Program that prints the version of torch in an environment, and ends with 1 where there is none."""
_HAS_CUDA: Final = "import sys, torch; sys.exit(torch.version.cuda is None)"


@dataclass(frozen=True, slots=True)
class TorchChoice:
    """What a person chose, now or at an earlier installation.

    Attributes:
        kind: One of `KINDS`, or `OWN`; "auto" decides by the card, each time.
        index: Address of the package index that torch comes from; empty for pip's own configuration.
    """

    kind: str = "auto"
    index: str = ""

    def text(self) -> str:
        """Return it as it is remembered."""
        return f"{self.kind} {self.index}".strip() + "\n"


def remembered(text: str) -> TorchChoice:
    """Return a choice that was remembered; what cannot be read counts as none made."""
    kind, _, index = text.strip().partition(" ")
    return TorchChoice(kind, index) if kind in (*KINDS, OWN) else TorchChoice()


def of_version(version: str) -> TorchChoice:
    """Return the choice that fits a torch that somebody installed by hand on Linux; "" for none."""
    if not version:
        return TorchChoice()
    return TorchChoice("cpu" if version.endswith("+cpu") else "cuda")


def index_address(text: str) -> str:
    """Return the address of an index.

    Raises:
        ValueError: It is none, or it holds a password, which a list of processes would show.
    """
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("https", "http", "file") or any(letter.isspace() for letter in text):
        raise ValueError(f"found {ascii(text)[:120]}; expected an address such as https://HOST/PATH")
    if "@" in parts.netloc:
        raise ValueError("found a name or password in the address; put it into pip's own configuration")
    return text


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """The build that an installation gets.

    Attributes:
        choice: What was chosen.
        kind: "cpu", "cuda" or "none".
        optional: The build is left out where pip finds it nowhere, because nobody asked for it by name.
        windows: The host runs Windows.
    """

    choice: TorchChoice
    kind: str
    optional: bool
    windows: bool

    @classmethod
    def of(
        cls, choice: TorchChoice, requirements: str, has_card: Callable[[], bool], *, windows: bool = os.name == "nt"
    ) -> TorchBuild:
        """Decide on a build.

        Args:
            choice: What was chosen.
            requirements: Name of the list of packages, empty for none: then there is no torch either.
            has_card: Looks for a card with its driver.
            windows: The host runs Windows.

        Raises:
            StopError: A build was asked for and the packages that use it were not.
        """
        if not requirements and choice.kind in ("cpu", "cuda"):
            raise StopError(
                EX_USAGE, f"found --torch {choice.kind} without the trainer's packages; give --torch none as well"
            )
        if not requirements or choice.kind in ("none", OWN):
            return cls(choice, "none", False, windows)
        if choice.kind != "auto":
            return cls(choice, choice.kind, False, windows)
        if not has_card():
            return cls(choice, "cpu", True, windows)
        if windows and not choice.index:
            say(
                "note: this PC has a card, and for Windows the package index has torch for the CPU alone; for CUDA run "
                "this again with --torch cuda --torch-index URL, the address that torch's own install page names"
            )
            return cls(choice, "cpu", True, windows)
        return cls(choice, "cuda", False, windows)

    def mark(self) -> str:
        """Return what an installation depends on: another mark is another installation."""
        return f"torch {self.kind} {self.choice.index}" if self.kind != "none" else ""

    def is_pinned_by_hash(self) -> bool:
        """Return True if it is the build that PyPI has for this system."""
        return not self.choice.index and self.kind == ("cpu" if self.windows else "cuda")

    def needs_bytes(self) -> int:
        """Return how much room it needs while it is installed."""
        return NEEDS_BYTES if self.kind == "cuda" else 0

    def commands(self, checkout: Path, python: Path, more: list[str]) -> list[list[str]]:
        """Return the commands that install it, in order.

        Args:
            checkout: Where the lists of packages lie.
            python: The Python of the environment.
            more: Further flags of pip.
        """
        if self.kind == "none":
            return []
        if self.is_pinned_by_hash():
            return [pip_install(python, requirements_file(checkout, "torch-index"), more)]
        return [
            pip_install(python, requirements_file(checkout, "torch"), more),
            [*_pip(python), *more, *self._index(), self.requirement(checkout)],
        ]

    def question(self, checkout: Path, python: Path, more: list[str]) -> list[str]:
        """Return the command that ends with 0 if pip finds the build."""
        return [*_pip(python), "--dry-run", "--no-deps", *more, *self._index(), self.requirement(checkout)]

    def requirement(self, checkout: Path) -> str:
        """Return the requirement of torch for pip."""
        found = _VERSION.search((checkout / "requirements/torch-index.in").read_text(encoding="utf-8"))
        if found is None:
            raise StopError(EX_CONFIG, "requirements/torch-index.in names no version of torch; get the project again")
        return f"torch=={found[1]}+cpu" if self.kind == "cpu" and not self.windows else f"torch=={found[1]}"

    def check(self, python: Path) -> list[str] | None:
        """Return the command that ends with 0 if the build has CUDA; None where it need not."""
        return [str(python), "-c", _HAS_CUDA] if self.kind == "cuda" else None

    @staticmethod
    def left_out() -> str:
        """Return the note for a host that nobody asked a build for and that gets none."""
        return (
            "note: torch is left out, because pip finds no build for the CPU; the models that need it cannot train "
            "here. To have it, run this again with --torch cpu --torch-index URL, the address that torch's own install "
            "page names"
        )

    def lacking(self) -> StopError:
        """Return why the build that was asked for is not there, and what to do."""
        name = f"torch for {self.kind.upper()}"
        where = self.choice.index or "what pip is configured to ask"
        return StopError(
            EX_UNAVAILABLE,
            f"pip could not install {name}; found none at {where}, or it cannot be reached; give --torch-index URL, "
            "the address that torch's own install page names for this system, or --torch none",
        )

    def _index(self) -> list[str]:
        return ["--index-url", self.choice.index] if self.choice.index else []


def _pip(python: Path) -> list[str]:
    flags = ["--disable-pip-version-check", "--no-input", "--upgrade", "--only-binary", ":all:"]
    return [str(python), "-m", "pip", "install", *flags]
