"""The static checks say the same, whatever is installed beside what they are pinned with."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

NETWORK = '''
"""A network, as the project's own are written."""

import torch
from torch import nn


class Network(nn.Module):
    """A class of a package that the checker may know or not."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows."""
        torch.backward(rows)
        return rows


shift: int = torch.version("word")
'''
TORCH = "class Tensor: ...\ndef version(number: int) -> str: ...\ndef backward(rows): ...\n"
MODULES_OF = {"backports": "backports-zstd", "prometheus_client": "prometheus-client", "sklearn": "scikit-learn"}


@pytest.mark.parametrize("installed", [False, True], ids=["without torch", "with a typed torch"])
def test_the_type_check_says_the_same_with_torch_and_without(root: Path, tmp_path: Path, installed: bool) -> None:
    shutil.copy(root / "pyproject.toml", tmp_path)
    network = tmp_path / "training" / "trainer" / "models" / "networks.py"
    network.parent.mkdir(parents=True)
    network.write_text(NETWORK)
    packages = tmp_path / "packages"
    (packages / "torch" / "nn").mkdir(parents=True)
    if installed:
        (packages / "torch" / "__init__.pyi").write_text(TORCH)
        (packages / "torch" / "nn" / "__init__.pyi").write_text("class Module: ...\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-site-packages", "--cache-dir", os.devnull, str(network)],
        cwd=tmp_path, env=os.environ | {"MYPYPATH": str(packages)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "Success: no issues found in 1 source file\n")


def test_the_type_check_reads_no_package_that_is_not_pinned(root: Path) -> None:
    """What is not pinned may be there or not, so its types must not count."""
    overrides = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["mypy"]["overrides"]
    unread = {
        module.removesuffix(".*")
        for override in overrides
        if override.get("follow_imports") == "skip" and override.get("ignore_missing_imports")
        for module in override["module"]
    }
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (root / "requirements" / "dev.txt").read_text(), re.MULTILINE))
    found = imported(root)
    assert {"torch", "numpy", "msgspec"} <= found
    assert {name for name in found - unread if MODULES_OF.get(name, name) not in pinned} == set()


def imported(root: Path) -> set[str]:
    """Return the packages that the checked code imports beside the standard library and itself."""
    names = set()
    for folder in ("training", "tools", "bench"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {item.name for item in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names.add(node.module or "")
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {
        "training", "tools", "bench", "compression",
    }  # fmt: skip
