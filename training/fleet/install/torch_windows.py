"""The torch of a worker on Windows, in an environment that stays from one version to the next."""

from __future__ import annotations

from pathlib import Path

from training.fleet.capability import cards
from training.fleet.install.programs import Programs
from training.fleet.install.steps import say
from training.fleet.install.torch_build import OWN, TORCH_VERSION_PROBE, TorchBuild, TorchChoice, remembered


class WindowsTorch:
    """The torch of an installation.

    Args:
        root: Where the installation keeps what it was told.
        python: The Python of its environment.
        programs: What starts programs.
    """

    def __init__(self, root: Path, python: Path, programs: Programs) -> None:
        self._record = root / "torch.txt"
        self._python = python
        self._programs = programs

    def wanted(self, requirements: str, given: TorchChoice | None) -> TorchBuild:
        """Return the build to install.

        Args:
            requirements: Name of the list of packages, empty for none.
            given: What the person chose now; None for what an earlier run was told, or else what suits the card.

        Raises:
            StopError: What is chosen cannot be.
        """
        return TorchBuild.of(given or self._kept(), requirements, lambda: bool(cards.find([])), windows=True)

    def _kept(self) -> TorchChoice:
        """Return the choice of an earlier run. A torch that a person put there stays theirs."""
        if self._record.is_file():
            return remembered(self._record.read_text(encoding="utf-8", errors="replace"))
        if self._python.exists() and self._programs.ask([str(self._python), "-c", TORCH_VERSION_PROBE])[1]:
            return TorchChoice(OWN)
        return TorchChoice()

    def want(self, checkout: Path, build: TorchBuild) -> None:
        """Have that build in the environment.

        Args:
            checkout: Where the lists of packages lie.
            build: The build.

        Raises:
            StopError: It cannot be installed.
        """
        if build.choice.kind == OWN:
            return
        text = build.choice.text()
        if self._record.is_file() and self._record.read_text(encoding="utf-8") != text:
            # One of another kind makes way first: pip would keep it, because its version is the same.
            self._programs.ask([str(self._python), "-m", "pip", "uninstall", "-y", "-qq", "torch"])
        for command in build.commands(checkout, self._python, []):
            if self._programs.show(command) != 0:
                if build.optional:
                    say(build.left_out())
                    break
                raise build.lacking()
        check = build.check(self._python)
        if check is not None and self._programs.ask(check)[0] != 0:
            raise build.lacking()
        self._record.write_text(text, encoding="utf-8")
