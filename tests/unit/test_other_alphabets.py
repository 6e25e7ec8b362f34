"""What programs print where the terminal or the pipe cannot hold a letter, and who has no home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.fleet.model.errors import ConfigurationError
from training.fleet.settings import full_path, state_folder

LETTERS = "сервер-🦊"


IMPORT = [
    "import",
    "csv",
    f"{LETTERS}.csv",
    f"out-{LETTERS}",
    "--label",
    "y",
    "--host",
    "h",
    "--time",
    "t",
    "--name",
    "x",
]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "koi8-r"])
@pytest.mark.parametrize(
    "words",
    [
        ["training.trainer.datasets", *IMPORT],
        ["training.fleet.worker", "--work-dir", LETTERS, "--config", LETTERS],
        ["training.fleet.receiver", "--config", LETTERS],
        ["training.fleet.cli", "plan", LETTERS],
    ],
    ids=lambda words: words[0],
)
def test_a_letter_that_the_output_cannot_hold_is_escaped(
    tmp_path: Path, root: Path, encoding: str, words: list[str]
) -> None:
    rows = "".join(f"{host},{at},{int(at // 10 % 4 == 3)},{at % 7}\n" for host in "ab" for at in range(100))
    (tmp_path / f"{LETTERS}.csv").write_text(f"h,t,y,cpu\n{rows}")
    environ = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(root), "HOME": str(tmp_path), "LC_ALL": "C.UTF-8",
        "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding, "CIS490_OPERATOR_TOKEN": "o" * 40,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=tmp_path, env=environ, capture_output=True, check=False, timeout=60
    )
    said = (done.stdout + done.stderr).decode(encoding)
    assert "Traceback" not in said
    assert "\\U0001f98a" in said
    assert done.returncode == (0 if "import" in words else done.returncode or 99)


def test_an_account_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(ConfigurationError, match="has no home folder") as caught:
        state_folder({})
    assert "set HOME" in caught.value.remedy
    assert state_folder({"STATE_DIRECTORY": "/srv/x"}) == Path("/srv/x")


def test_the_home_of_nobody_is_no_fault_of_the_program() -> None:
    with pytest.raises(ConfigurationError, match="begins with ~nobody-of-that-name"):
        full_path(Path("~nobody-of-that-name/data"))
    assert full_path(Path("data")) == Path.cwd() / "data"
