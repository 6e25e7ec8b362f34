"""Every command in every page: the real parser of its program takes it, and those that look run against a receiver.

A command of ours that no rule covers fails, and so does a program that nobody named here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tls_installation import TlsInstallation
from typed_docs import ROOT, TypedCommand, typed, typed_in

from training.fleet.cli import usage

OF_THE_SYSTEM = {
    ".", "[", "caddy", "cat", "cd", "certutil", "chmod", "chown", "command", "cp", "curl", "cut", "docker", "done",
    "echo", "eval", "exit", "export", "fi", "for", "gcc", "git", "grep", "if", "install", "kill", "mkdir", "pip",
    "rsync", "set", "sha256sum", "source", "systemctl", "tee", "umask", "uv", "zcat",
}  # fmt: skip
"""Programs that are not ours; tests/system types the lines that they stand in."""
SCRIPTS = {
    "scripts/install-training-worker.sh": ("training.fleet.worker", ["install"]),
    "scripts/install-trainer-receiver.sh": ("training.fleet.install.receiver", []),
    "scripts/demo.sh": ("tools.demo", []),
    "cis490-jobs": ("training.fleet.cli", []),
    "cis490-training-worker": ("training.fleet.worker", []),
    "cis490-training-worker.pyz": ("training.fleet.worker", []),
    "cis490-trainer-receiver": ("training.fleet.receiver", []),
    "tools/cis490_jobs.py": ("training.fleet.cli", []),
    "tools/build_worker.py": ("tools.build_worker", []),
    "tools/record_telemetry.py": ("tools.telemetry.program", []),
}
"""Our programs by the name they are typed with: the module whose `main` takes the words, and words in front of them."""
SHELL = {
    "scripts/test-windows.sh": r"3\.1[1-3]|--long",
    "scripts/test.sh": r"--quick|--long|--torch|--|tests/\S+|-\w|\w+",
}
"""Scripts that parse their words themselves, with the words that they take."""
PLACEHOLDERS = {"DIGEST": "0" * 64, "JOB": "a1b2", "HEX": "0" * 64}
OF_PYTHON = {"venv", "pip", "pytest"}
"""Modules that are not ours."""
OF_A_PAGE = {"distance.py"}
"""Programs that a page holds itself; test_own_trainer_guide.py types them."""


class Taken(BaseException):
    """The parser took the words; nothing after it runs."""


def rule_of(words: tuple[str, ...]) -> tuple[str, list[str]] | None:
    """Return the module and the words for the program of a command; None for one of the system.

    Raises:
        KeyError: Nobody named this program.
    """
    name, rest = words[0].removeprefix("/usr/local/bin/").removeprefix("./"), list(words[1:])
    if re.match(r"[A-Z_][A-Z0-9_]*=", name):
        return None  # variables of the shell and nothing else
    if re.fullmatch(r"(.*/)?python3?(\.exe)?", name):
        if rest[:1] in (["-c"], ["-"]):
            return None
        if rest[:1] == ["-m"]:
            return None if rest[1] in OF_PYTHON else (rest[1], rest[2:])
        name, rest = rest[0], rest[1:]
    if name in OF_A_PAGE:
        return None
    if name in SHELL:
        assert all(re.fullmatch(SHELL[name], word) for word in rest), words
        return None
    if name in OF_THE_SYSTEM:
        return None
    module, front = SCRIPTS[name]
    if name.endswith("worker.sh") and "--uninstall" in rest:
        return module, ["uninstall", *(word for word in rest if word != "--uninstall")]
    return module, [*front, *rest]


def take(module: str, words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Have the real parser of a program judge words, and go no further."""
    if module == "training.fleet.worker" and words == ["session"]:
        return  # it has no parser: this word is all it takes
    ours = {kind: kind.parse_args for kind in (usage.Parser, argparse.ArgumentParser)}

    def judged(self: argparse.ArgumentParser, *given: Any) -> Any:
        next(real for kind, real in ours.items() if isinstance(self, kind))(self, *given)
        raise Taken

    found = importlib.import_module(module)
    main: Callable[..., Any] = getattr(found, "main", None) or importlib.import_module(f"{module}.__main__").main
    with patch.context() as patched:
        for kind in ours:
            patched.setattr(kind, "parse_args", judged)
        patched.setattr("sys.argv", [module, *words])
        with pytest.raises(Taken):
            main(*([] if main.__code__.co_argcount == 0 else [words]))


COMMANDS = list(dict.fromkeys(typed()))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.line[:60]}")
def test_a_command_of_a_page_is_one_that_its_program_takes(
    command: TypedCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # a program may write before its last parser sees the words
    try:
        rule = rule_of(command.words)
    except KeyError:
        pytest.fail(f"{command.page}: no rule covers {command.line}")
    if rule is not None:
        take(rule[0], [PLACEHOLDERS.get(word, word) for word in rule[1]], monkeypatch)


@pytest.mark.parametrize(
    "line",
    ["cis490-jobs stauts", "cis490-jobs list --limit many", "cis490-trainer-receiver operator", "python3 -m bench --x",
     "scripts/install-training-worker.sh --torch gpu", "python -m training.trainer.predict --bundle"],
)  # fmt: skip
def test_a_wrong_command_would_be_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = typed_in(f"```sh\n{line}\n```\n", "page")
    rule = rule_of(command.words)
    assert rule is not None
    with pytest.raises(SystemExit):
        take(*rule, monkeypatch)


def test_a_program_that_nobody_named_would_be_found() -> None:
    (command,) = typed_in("```sh\nsudo -u x env A=b cis490-new --flag\n```\n", "page")
    with pytest.raises(KeyError):
        rule_of(command.words)


def test_lines_are_taken_apart_as_a_shell_does() -> None:
    text = (
        "```sh\nA=1 sudo -u me env B=2 one --x 'a b' && two > out 2>/dev/null; (three) | xargs -r four &\n"
        'cat > f <<END\nnot this\nEND\neval "$(five --six)"\nseven \\\n    --eight # and why\n```\n'
    )
    assert [command.words for command in typed_in(text, "page")] == [
        ("one", "--x", "a b"), ("two",), ("three",), ("four", "JOB"), ("cat",), ("five", "--six"), ("eval", "SAID"),
        ("seven", "--eight"),
    ]  # fmt: skip


# ---- those that look, against a receiver

OF_A_RESULT = {"best", "get", "card", "open", "predict", "evaluate"}
"""They need a trained model; e2e/test_take_home.py types them."""


MANIFEST = """
[manifest]
schema = 1
[defaults]
priority = {priority}
dataset = "lab"
mode = "oracle"
split_recipe = "time"
[datasets.lab]
[hosts.default]
[[jobs]]
model = "gbt"
tags = ["night"]
hyper = {{ max_iter = 2, history = false }}
[[jobs]]
model = "cnn"
tags = ["alice"]
"""
ROWS = "".join(f"{row},{row % 40 // 36},{row * 7 % 11 + row % 40 // 36 * 3}\n" for row in range(400))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsInstallation]:
    with TlsInstallation(tmp_path_factory.mktemp("typed")) as made:
        folder = made.folder
        (folder / "lab.csv").write_text("time,bad,load\n" + ROWS)
        columns = ("--label", "bad", "--time", "time", "--name", "lab")
        done = made.run("training.trainer.datasets", "import", "csv", "lab.csv", "lab", *columns)
        assert done.returncode == 0, done.stderr
        assert made.jobs(*made.line_of("alice", "--roles", "read,operate,enrol")).returncode == 0
        (folder / "day.csv").symlink_to("lab.csv")  # the names of data in the pages
        (folder / "data").mkdir()
        (folder / "data/lab").symlink_to(folder / "lab")
        for priority in (1, 2):  # two manifests, so that pages may compare them
            made.manifest.write_text(MANIFEST.format(priority=priority))
            assert made.jobs("reload", "--allow-shrink").returncode == 0
        (code,) = re.findall(r"--code (\S+)", made.jobs("invite", "gpu-tower").stdout.splitlines()[0])
        words = ("enrol", "--receiver", made.address, "--host", "gpu-tower", "--ca-sha256", made.ca_sha256)
        done = made.run("training.fleet.worker", *words, CIS490_INVITE=code)
        assert done.returncode == 0, done.stderr
        done = made.run("training.fleet.worker", "--once", "--wait", "20", "--dataset", f"lab={folder / 'lab'}")
        assert done.returncode == 0, done.stderr
        yield made


def jobs_commands() -> list[tuple[str, ...]]:
    """Return the words of every command of `cis490-jobs` in the pages, each once."""
    found = []
    for command in COMMANDS:
        with contextlib.suppress(KeyError):  # told by its own test
            found.append(rule_of(command.words))
    ours = (tuple(rule[1]) for rule in found if rule is not None and rule[0] == "training.fleet.cli")
    return [words for words in dict.fromkeys(ours) if words[0] not in OF_A_RESULT]


def filled(site: TlsInstallation, words: tuple[str, ...], job: str) -> list[str]:
    """Return the words with what stands for something in a page replaced by it."""
    if words[0] == "--receiver":
        return filled(site, words[2:], job)
    if words[0] == "login":
        return site.line_of("bob", "--roles", "read,operate,enrol")
    known = {"JOB": job, "a1b2": job, "330e": job, "11": "1", "12": "2"}
    if "DIGEST" in words:
        file = words[1:2] if words[0] == "apply" else ()
        known["DIGEST"] = re.findall(r"--if-plan ([0-9a-f]{64})", site.jobs("plan", *file).stderr)[0]
    return [known.get(word, word) for word in words if word != "--watch"]


def prepare(site: TlsInstallation, words: tuple[str, ...], job: str) -> None:
    """Bring the fleet and the files into the state that a command of a page speaks of."""
    if words[0] in ("cancel", "requeue") and job[:4] == filled(site, words, job)[-1][:4]:
        site.jobs("requeue" if words[0] == "cancel" else "cancel", job)
    changed = MANIFEST.format(priority=next(PRIORITIES))
    if words[0] == "reload" and "DIGEST" in words:
        site.manifest.write_text(changed)
    for word in words:
        if word.endswith(".toml"):
            file = site.folder / word
            file.parent.mkdir(exist_ok=True)
            file.write_text((ROOT / word).read_text() if (ROOT / word).exists() else changed)


PRIORITIES = itertools.count(3)
"""No two manifests are equal, so that each plan changes something."""


@pytest.mark.parametrize("words", jobs_commands(), ids=" ".join)
def test_every_command_about_the_fleet_runs_against_a_receiver_with_tls(
    site: TlsInstallation, words: tuple[str, ...]
) -> None:
    ids = {model: job for job, model in re.findall(r"(?m)^([0-9a-f]{8,})\t(\w+)", site.jobs("list").stdout)}
    job = ids["cnn" if words[0] in ("cancel", "requeue", "why") else "gbt"]
    prepare(site, words, job)
    done = site.jobs(*filled(site, words, job))
    assert done.returncode in ((0, 3) if "--exit-code" in words else (0,)), done.stdout + done.stderr


def test_the_pages_name_every_command_about_the_fleet() -> None:
    text = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    cli = importlib.import_module("training.fleet.cli.program")
    completion = importlib.import_module("training.fleet.cli.completion")
    names = [item.name for item in completion.commands(cli.parser())]
    assert [name for name in names if f"cis490-jobs {name}" not in text and f"### `{name}" not in text] == []
