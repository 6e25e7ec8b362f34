"""Torch and the trainer: what of them is installed here and works.

Everything that can crash or hang (torch, git, a trainer that lies elsewhere) runs in a child with a time limit.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from training.fleet.capability import child
from training.fleet.model.capability import Problem

_MARK = "cis490-probe "
_NO_CUDA = re.compile(r"^cuda\b[^=\n]*= *None", re.MULTILINE)
"""How the generated `torch/version.py` names a build without CUDA."""
_TORCH_PROBE = f"""
import json, torch
def attempt(device):
    try:
        return "" if float((torch.ones(2, device=device) * 2).sum()) == 4.0 else "it computes wrongly"
    except Exception as error:
        return f"{{type(error).__name__}}: {{error}}"[:300]
def card(number):
    try:
        found = torch.cuda.get_device_properties(number)
        major, minor = torch.cuda.get_device_capability(number)
        free = int(torch.cuda.mem_get_info(number)[0])
        return [str(found.name)[:80], int(found.total_memory), free, f"{{major}}.{{minor}}"]
    except Exception:
        return ["CUDA device", 0, 0, ""]
tried, cards, problem = [], [], ""
try:
    if torch.cuda.is_available():
        count = torch.cuda.device_count() if hasattr(torch.cuda, "device_count") else 0
        tried = [attempt(f"cuda:{{number}}") for number in range(count)] or [attempt("cuda")]
        cards = [card(number) for number in range(len(tried))]
except Exception as error:
    problem = f"{{type(error).__name__}}: {{error}}"[:300]
print("\\n{_MARK}" + json.dumps([torch.__version__, tried, cards, problem]), flush=True)
"""


@dataclass(frozen=True, slots=True)
class TorchView:
    """What torch sees.

    Attributes:
        version: Of torch, None when it is not there or does not load.
        tried: What went wrong on each card, in the order in which they were shown; empty for one that works.
        cards: Name, memory, free memory and compute capability of each.
    """

    version: str | None = None
    tried: tuple[str, ...] = ()
    cards: tuple[tuple[str, int, int, str], ...] = ()


def torch_version() -> str | None:
    """Return torch's version from its package metadata, None when it is not installed.

    Importing torch takes seconds; that is worth it only where there is a card.
    """
    from importlib.metadata import PackageNotFoundError, version  # an idle worker does not carry it

    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def torch_may_use_cuda() -> bool:
    """Return True unless the installed torch says that it was built without CUDA; read without loading it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        said = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return _NO_CUDA.search(said) is None


def try_torch(problems: list[str], timeout_s: float, visible: str | None = None) -> TorchView:
    """Return what torch sees and can use, tried in a child.

    Args:
        problems: Gets what did not work.
        timeout_s: Longest time for the child.
        visible: The cards it is shown, as CUDA_VISIBLE_DEVICES takes them; None for those of this process.
    """
    if importlib.util.find_spec("torch") is None:
        return TorchView()
    shown = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    status, out = child.run([sys.executable, "-c", _TORCH_PROBE], timeout_s, extra=shown)
    found = [line.removeprefix(_MARK) for line in out.splitlines() if line.startswith(_MARK)]
    try:
        version, tried, seen, problem = json.loads(found[-1]) if found else (None, [], [], "")
        view = TorchView(None if version is None else str(version), tuple(tried), tuple(tuple(one) for one in seen))
    except (ValueError, TypeError):
        view, problem = TorchView(), "rubbish on its output"
    if status != 0 or view.version is None:
        problems.append(
            Problem(f"the probe of torch {child.ending(status, timeout_s)}: {problem or child.last_line(out)}", "torch")
        )
        return TorchView(view.version)
    if problem:
        problems.append(Problem(f"torch is there but CUDA does not work: {problem}", "torch"))
    return view


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
