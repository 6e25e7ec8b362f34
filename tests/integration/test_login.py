"""The first hour of an operator: one line that logs in, and what is kept of it."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tls_installation import TlsInstallation


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsInstallation]:
    with TlsInstallation(tmp_path_factory.mktemp("login")) as made:
        yield made


def kept(site: TlsInstallation, name: str = "localhost") -> Path:
    return site.home / ".config/cis490/receivers" / f"{name}.toml"


def test_one_line_logs_in_and_every_command_works_without_a_variable(site: TlsInstallation) -> None:
    line = site.line_of("alice", "--roles", "read,operate,enrol")
    assert [line[1], *line[2:6:2], line[5]] == [site.address, "--code", "--ca-sha256", site.ca_sha256]
    done = site.jobs(*line)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"logged in to {site.address} as alice, who may read, operate, enrol\n")
    for words in (["status"], ["list"], ["plan"], ["invite", "pi"], ["events"], ["worker", "list"]):
        assert site.jobs(*words).returncode == 0, words
    assert stat.S_IMODE(kept(site).stat().st_mode) == 0o600
    token = re.findall(r'token = "(.*)"', kept(site).read_text())[0]
    assert token not in done.stdout + done.stderr + site.jobs("context").stdout + site.log.read_text()
    everything = "".join(path.read_text() for path in (site.folder / "state/logins").iterdir())
    assert token not in everything
    assert line[3] not in everything


def test_a_code_is_good_once(site: TlsInstallation) -> None:
    line = site.line_of("once")
    assert site.jobs(*line).returncode == 0
    again = site.jobs(*line)
    assert (again.returncode, "the code is unknown, used or too old" in again.stderr) == (77, True)
    assert len(again.stderr.splitlines()) == 1


def test_roles_hold_for_who_logged_in(site: TlsInstallation) -> None:
    site.jobs(*site.line_of("reader", "--roles", "read"), "--name", "as-reader")
    assert site.jobs("status").returncode == 0
    refused = site.jobs("plan")
    assert (refused.returncode, "operator reader has read" in refused.stderr) == (77, True)
    site.jobs("context", "rm", "as-reader")
    assert site.jobs("plan").returncode == 77


def test_another_receiver_is_refused_before_the_code_is_sent(site: TlsInstallation) -> None:
    line = site.line_of("careful")
    line[5] = "0" * 64
    refused = site.jobs(*line, "--name", "wrong")
    assert (refused.returncode, "shows a certificate authority with the fingerprint" in refused.stderr) == (78, True)
    assert not kept(site, "wrong").exists()
    line[5] = site.ca_sha256
    assert site.jobs(*line, "--name", "right").returncode == 0


def test_a_token_goes_to_the_receiver_alone_that_it_belongs_to(site: TlsInstallation) -> None:
    site.jobs(*site.line_of("mine"), "--name", "mine")
    elsewhere = site.jobs("--receiver", "http://127.0.0.1:9", "plan")
    assert (elsewhere.returncode, "found none; log in" in elsewhere.stderr) == (77, True)
    by_variable = site.jobs("plan", CIS490_RECEIVER="http://127.0.0.1:9")
    assert by_variable.returncode == 77
    assert site.jobs("--receiver", site.address, "plan").returncode == 0


def test_variables_win_over_the_login(site: TlsInstallation) -> None:
    site.jobs(*site.line_of("weak", "--roles", "read"), "--name", "weak")
    assert site.jobs("plan").returncode == 77
    token_file = site.settings["CIS490_OPERATOR_TOKEN_FILE"]
    assert site.jobs("plan", CIS490_OPERATOR_TOKEN_FILE=token_file).returncode == 0


def test_several_receivers_are_listed_used_and_forgotten(site: TlsInstallation) -> None:
    for name in ("one", "two"):
        assert site.jobs(*site.line_of(name), "--name", name).returncode == 0
    assert f"* two\t{site.address}\n" in site.jobs("context").stdout
    assert site.jobs("context", "use", "one").returncode == 0
    assert f"* one\t{site.address}\n" in site.jobs("context", "list").stdout
    assert site.jobs("context", "rm", "one").returncode == 0
    assert "one" not in site.jobs("context").stdout.split()
    unknown = site.jobs("context", "use", "nowhere")
    assert (unknown.returncode, "found no login 'nowhere'" in unknown.stderr) == (1, True)
    assert site.jobs("context", "use").returncode == 78


def test_an_operator_that_is_removed_is_refused_after_a_reload(site: TlsInstallation) -> None:
    site.jobs(*site.line_of("gone"), "--name", "gone")
    assert site.jobs("plan").returncode == 0
    assert site.operator("gone", "--remove").returncode == 0
    before = site.log.read_text().count("operators read")
    site.reload()
    while site.log.read_text().count("operators read") == before:
        assert site.jobs("status").returncode in (0, 77)
    assert site.jobs("plan").returncode == 77
    assert site.operator("gone", "--remove").returncode == 1


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["login", "https://localhost:1", "--code", "short"], 78, "the code has 5 characters; expected 32 of"),
        (["login", "https://localhost:1", "--code", "x" * 65], 78, "the code has 65 characters"),
        (["login", "https://localhost:1"], 77, "found no code; give --code, or set $CIS490_LOGIN_CODE"),
        (["login", "http://pi.lab", "--code", "x" * 32], 78, "would send the token in the clear"),
        (["login", "https://localhost:1", "--code", "x" * 32, "--ca-sha256", "abc"], 78, "is no fingerprint"),
        (["login", "https://localhost:1", "--name", "../x", "--code", "x" * 32], 78, "found the name '../x'"),
    ],
)
def test_a_wrong_line_is_told_in_one_line(site: TlsInstallation, words: list[str], status: int, said: str) -> None:
    done = site.jobs(*words)
    assert (done.returncode, len(done.stderr.splitlines())) == (status, 1)
    assert said in done.stderr


@pytest.mark.parametrize("text", ["", "receiver = 1\n", "no toml", 'receiver = "https://x"\ntoken = "short"\n'])
def test_a_file_that_cannot_be_read_is_told_and_never_shown(site: TlsInstallation, text: str) -> None:
    path = kept(site, "broken")
    path.write_text(text)
    path.chmod(0o600)
    assert site.jobs("context", "use", "broken").returncode == 0
    done = site.jobs("status")
    assert (done.returncode, "log in again" in done.stderr, len(done.stderr.splitlines())) == (78, True, 1)
    assert "broken" in site.jobs("context").stdout
    site.jobs("context", "rm", "broken")


def test_a_file_that_others_can_read_is_refused(site: TlsInstallation) -> None:
    site.jobs(*site.line_of("open"), "--name", "open")
    kept(site, "open").chmod(0o604)
    done = site.jobs("status")
    assert (done.returncode, "everybody on this host can use" in done.stderr) == (78, True)
    site.jobs("context", "rm", "open")


def test_a_program_gets_a_token_and_lines_for_the_operators_file(site: TlsInstallation) -> None:
    done = site.operator("prometheus", "--roles", "read", "--token")
    assert re.fullmatch(r"[0-9A-Za-z_-]{43}\n", done.stdout)
    assert "[operators.prometheus]" in done.stderr


@pytest.mark.parametrize("words", [["Bad Name"], ["operator"], ["alice", "--roles", "root"]])
def test_a_name_or_role_that_is_none_is_told(site: TlsInstallation, words: list[str]) -> None:
    done = site.operator(*words)
    assert (done.returncode, len(done.stderr.splitlines())) == (78, 1)


def test_what_lies_on_the_receiver_says_neither_code_nor_token(site: TlsInstallation) -> None:
    line = site.line_of("quiet")
    (text,) = [
        path.read_text() for path in (site.folder / "state/logins").glob("code-*.json") if '"quiet"' in path.read_text()
    ]
    assert line[3] not in text
    assert json.loads(text)["token_sha256"] == ""


# ---- with nothing but Python: the programs come from the receiver

CURL = """#!{python}
import ssl, sys, urllib.request
assert sys.argv[1] == "-fsSk" and sys.argv[3] == "-o"
context = ssl._create_unverified_context()
data = urllib.request.urlopen(sys.argv[2], context=context).read()
open(sys.argv[4], "wb").write(data{spoilt})
"""


def bare(site: TlsInstallation, folder: Path, line: str, spoilt: str = "") -> subprocess.CompletedProcess[str]:
    """Type a line in a shell that has Python, sha256sum, and stand-ins for curl and sudo."""
    programs = folder / "programs"
    programs.mkdir(parents=True)
    for name, text in (("curl", CURL.format(python=sys.executable, spoilt=spoilt)), ("sudo", '#!/bin/sh\nexec "$@"\n')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "python3").symlink_to(
        Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    )
    environ = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(
        ["sh", "-c", line], env=environ, cwd=folder, capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_person_with_nothing_but_python_fetches_the_command_and_logs_in(
    site: TlsInstallation, tmp_path: Path
) -> None:
    (line,) = [line for line in site.operator("bare").stderr.splitlines() if line.startswith("curl ")]
    done = bare(site, tmp_path, line)
    assert done.returncode == 0, done.stderr
    assert "logged in" in done.stdout
    looked = bare(site, tmp_path / "again", f"HOME={tmp_path} python3 {tmp_path}/cis490-jobs.pyz status")
    assert (looked.returncode, site.address in looked.stdout) == (0, True), looked.stderr


def test_an_installer_that_is_not_the_one_of_the_invite_is_not_run(site: TlsInstallation, tmp_path: Path) -> None:
    site.jobs(*site.line_of("doorman", "--roles", "enrol,read"), "--name", "doorman")
    said = site.jobs("invite", "pi", "--dataset", "lab=/srv/my data")
    line = said.stdout.splitlines()[0]
    assert "--dataset 'lab=/srv/my data'" in line
    done = bare(site, tmp_path / "good", f"{line} --dry-run")
    assert done.returncode in (69, 77, 78), done.stdout + done.stderr
    assert "cis490-training-worker install: " in done.stderr
    spoilt = bare(site, tmp_path / "spoilt", f"{line} --dry-run", spoilt=" + b'x'")
    assert spoilt.returncode == 1
    assert "cis490-training-worker" not in spoilt.stderr + spoilt.stdout
