"""Torch and the trainer: what of them is installed here and works.

Everything that can crash or hang (torch, git, a trainer that lies elsewhere) runs in a child with a time limit.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

from training.fleet.capability import child
from training.fleet.model.capability import Problem

_MARK = "cis490-probe "
_TORCH_PROBE = f"""
import json, torch
usable, problem = False, ""
try:
    usable = torch.cuda.is_available() and float((torch.ones(2, device="cuda") * 2).sum()) == 4.0
except Exception as error:
    problem = f"{{type(error).__name__}}: {{error}}"
print("\\n{_MARK}" + json.dumps([torch.__version__, bool(usable), problem[:300]]), flush=True)
"""


def torch_version() -> str | None:
    """Return torch's version from its package metadata, None when it is not installed.

    Importing torch takes seconds; that is worth it only where there is a card.
    """
    from importlib.metadata import PackageNotFoundError, version  # an idle worker does not carry it

    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def try_torch(problems: list[str], timeout_s: float) -> tuple[str | None, bool]:
    """Return the version of torch and whether CUDA works with it, tried in a child."""
    if importlib.util.find_spec("torch") is None:
        return None, False
    status, out = child.run([sys.executable, "-c", _TORCH_PROBE], timeout_s)
    found = [line.removeprefix(_MARK) for line in out.splitlines() if line.startswith(_MARK)]
    try:
        version, usable, problem = json.loads(found[-1]) if found else (None, False, "")
        version = None if version is None else str(version)
    except (ValueError, TypeError):
        version, usable, problem = None, False, "rubbish on its output"
    if status != 0 or version is None:
        problems.append(
            Problem(f"the probe of torch {child.ending(status, timeout_s)}: {problem or child.last_line(out)}", "torch")
        )
    elif problem:
        problems.append(Problem(f"torch is there but CUDA does not work: {problem}", "torch"))
    return version, usable is True and status == 0


def revision(checkout: Path, problems: list[str]) -> tuple[str | None, bool | None]:
    """Return commit and dirtiness of a checkout, None and None outside one."""
    git = shutil.which("git")
    if not (checkout / ".git").exists() or git is None:
        return None, None
    status, commit = child.run([git, "-C", str(checkout), "rev-parse", "HEAD"], child.TOOL_TIMEOUT_S)
    if status != 0:
        problems.append(
            f"git {child.ending(status, child.TOOL_TIMEOUT_S)}, so the revision is unknown: {child.last_line(commit)}"
        )
        return None, None
    status, changes = child.run(
        [git, "-C", str(checkout), "status", "--porcelain", "--", "training"], child.TOOL_TIMEOUT_S
    )
    return commit.strip()[:64], bool(changes.strip()) if status == 0 else None


def own_trainer(problems: list[str]) -> tuple[str | None, tuple[str, ...] | None]:
    """Return the digest of the project's own trainer's declaration and the models whose libraries are here."""
    try:
        from training.trainer import hyper  # a host may carry the fleet without the trainer
    except ImportError:
        problems.append("this host has no trainer of its own; only manifests with another trainer run here")
        return None, None
    models = tuple(model for model in hyper.MODELS if not hyper.missing_libraries(model))
    return hyper.contract_digest(hyper.describe()), models


def asked_trainer(home: Path, problems: list[str]) -> tuple[str | None, tuple[str, ...] | None]:
    """Return the same for the trainer that lies in a folder or is installed beside Python; it is asked in a child."""
    from training.trainer.hyper import contract_digest

    command = [sys.executable, "-m", "training.trainer.run", "--describe"]
    status, out = child.run(command, child.TOOL_TIMEOUT_S, home)
    try:
        found = json.loads(out)
        libraries = {model: found["$defs"][model]["x-libraries"] for model in found["properties"]["model"]["enum"]}
        models = tuple(model for model in libraries if all(map(importlib.util.find_spec, libraries[model])))
        return contract_digest(found), models
    except (ValueError, KeyError, TypeError):
        why = f"{child.ending(status, child.TOOL_TIMEOUT_S)}: {child.last_line(out)}"
        problems.append(
            f"no trainer was found in {home} (it {why}); give the checkout's "
            "folder with --trainer-dir, or only manifests with another trainer run here"
        )
        return None, None
