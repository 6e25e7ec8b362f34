"""What a clone holds, whatever git is set to do with the ends of lines."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from training.contracts.dataset_folder import dataset_digest

ROOT = Path(__file__).resolve().parents[2]
LINES = ("scripts/demo.sh", "scripts/install-training-worker-windows.ps1", "training/needs.py", "data/lab/episodes.csv")


def test_a_clone_of_windows_holds_the_bytes_and_the_dataset_that_were_committed(tmp_path: Path) -> None:
    first, clone = tmp_path / "first", tmp_path / "clone"
    shutil.copytree(ROOT / "data/lab", first / "data/lab")
    for name in (".gitattributes", *LINES):
        (first / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, first / name)
    # Both line ends in one file, as a recorder on Windows would commit it.
    (first / "recorded.csv").write_bytes(b"time,cpu\r\n0,1\n")
    git("-C", str(first), "init", "-q")
    git("-C", str(first), "add", ".")
    git("-C", str(first), "commit", "-q", "-m", "Add files")
    git("clone", "-q", "-c", "core.eol=crlf", str(first), str(clone))
    for name in (*LINES, "recorded.csv"):
        assert (clone / name).read_bytes() == (first / name).read_bytes(), name
    assert dataset_digest(clone / "data/lab") == dataset_digest(ROOT / "data/lab")


def git(*words: str) -> None:
    settings = ("core.autocrlf=true", "core.safecrlf=false", "user.name=a", "user.email=a@b.c")
    subprocess.run(["git", *(word for one in settings for word in ("-c", one)), *words], check=True)
