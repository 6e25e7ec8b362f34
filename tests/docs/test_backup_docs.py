"""The guide on backups holds commands that exist, and names every file that the code makes."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from training.fleet.cli import program
from training.fleet.maintenance import artifacts, backup
from training.fleet.receiver import offline


@pytest.fixture
def guide(root: Path) -> str:
    return (root / "docs" / "guides" / "backup-and-restore.md").read_text()


def commands(guide: str) -> list[list[str]]:
    """Return each command of the guide, split as a shell does."""
    blocks = "\n".join(re.findall(r"```(?:sh)?\n(.*?)```", guide, re.DOTALL)).replace("\\\n", " ")
    lines = (re.sub(r"^[\d*]+ \S+ \S+ \S+ \S+  ", "", line) for line in blocks.splitlines())
    return [shlex.split(line) for line in lines]


def test_every_command_of_the_guide_is_one_the_program_takes(guide: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(offline, "fsck", lambda *_: seen.append("fsck") or offline.Report())
    monkeypatch.setattr(offline, "restore", lambda *_, **__: seen.append("restore") or [])
    for words in commands(guide):
        if words and Path(words[0]).name == "cis490-jobs":
            assert isinstance(program.parser().parse_args(words[1:]), argparse.Namespace)
            seen.append(words[1])
        elif "cis490-trainer-receiver" in words and "systemctl" not in words:
            rest = words[words.index("cis490-trainer-receiver") + 1 :]
            assert {"fsck": offline.run_fsck, "restore": offline.run_restore}[rest[0]](rest[1:]) == 0
    assert seen == ["backup", "backup", "backup", "fsck", "fsck", "fsck", "restore", "fsck"]


@pytest.mark.parametrize("name", [backup.DATABASE, backup.INDEX, backup.MANIFEST, f"{backup.STORE}/", backup.CONTENTS])
def test_the_guide_lists_each_file_of_a_backup(guide: str, name: str) -> None:
    assert f"| `{name}` |" in guide


def test_the_guide_and_the_reference_name_the_quarantine(guide: str, root: Path) -> None:
    place = f"<store-root>/{artifacts.QUARANTINE}/<sha256>-<n>"
    assert place in guide
    assert place in (root / "docs" / "reference" / "store.md").read_text()
