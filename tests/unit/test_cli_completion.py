from __future__ import annotations

import shutil
import subprocess

import pytest

from training.fleet.cli.completion import commands, script
from training.fleet.cli.program import main, parser


def test_completion_knows_every_command_and_its_options() -> None:
    known = {item.name: item for item in commands(parser())}
    assert list(known) == [
        "status", "list", "compare", "best", "show", "why", "hosts", "host", "events", "get", "card", "open", "predict",
        "evaluate", "cancel", "requeue", "plan", "reload", "apply", "manifest", "backup", "prune", "fsck", "invite",
        "identity", "login", "context", "completion",
    ]  # fmt: skip
    assert "--allow-shrink" in known["reload"].options
    assert known["completion"].words == ("bash", "zsh", "fish")
    assert [name for name, item in known.items() if item.takes_jobs] == [
        "show", "why", "get", "card", "open", "predict", "evaluate", "cancel", "requeue",
    ]  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script_that_needs_no_receiver(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert text == script(shell, parser())
    assert text.startswith(f"# {shell} completion for cis490-jobs")
    assert "requeue" in text


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["cis490-jobs", "re"], ["requeue", "reload"]),
        (["cis490-jobs", "list", "--status", "ca"], ["cancelled"]),
        (["cis490-jobs", "--json", "reload", "--al"], ["--allow-shrink"]),
        (["cis490-jobs", "completion", "f"], ["fish"]),
        (["cis490-jobs", "get", "--only", "m"], ["metrics", "model"]),
    ],
    ids=["command", "value", "option", "word", "kind"],
)
def test_bash_offers_what_fits(words: list[str], offered: list[str]) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}"
    ask = f"{line}; _cis490_jobs; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(
        [bash, "--norc", "-c", script("bash", parser()) + ask], capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout.split() == offered
    assert done.stderr == ""
