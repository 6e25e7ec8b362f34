"""The installer of the receiver: what it sets and leaves alone, and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from linux_host import LinuxHost, make_checkout

from training.fleet.install import linux, receiver

UNIT = "cis490-trainer-receiver"
KEYS = """# made keys
CIS490_OPERATOR_TOKEN_FILE={state}/tls/operator.token
CIS490_TLS_CERTIFICATE={state}/tls/receiver.pem
CIS490_HOST_NAMES=pi.lab"""


class Site:
    """A machine, a checkout on it, and the installer."""

    def __init__(self, host: LinuxHost, capfd: pytest.CaptureFixture[str]) -> None:
        self.host, self._capfd = host, capfd
        self.environ = {"HOME": str(host.home), "XDG_RUNTIME_DIR": "/run/user/1000"}
        self.state = host.root / "var/lib/cis490"
        self.settings = host.root / "etc/cis490/trainer-receiver.env"
        self.manifest = host.root / "etc/cis490/training_manifest.toml"
        host.init = KEYS.format(state=self.state)
        host.status_text = "listening on https://0.0.0.0:8445"

    def run(self, *words: str) -> tuple[int, list[str]]:
        self._capfd.readouterr()
        status = receiver.main(words, self.environ, self.host)
        shown = self._capfd.readouterr()
        return status, (shown.out + shown.err).splitlines()

    def install(self, *words: str) -> list[str]:
        status, said = self.run(*words)
        assert status == 0, said
        return said


@pytest.fixture
def site(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Site:
    host = LinuxHost(tmp_path, monkeypatch)
    monkeypatch.setattr(receiver, "CHECKOUT", make_checkout(tmp_path / "checkout", root))
    monkeypatch.setattr(linux.system, "is_administrator", lambda: True)
    return Site(host, capfd)


def test_from_nothing_it_makes_keys_settings_manifest_and_service(site: Site) -> None:
    said = site.install("--listen", "0.0.0.0:8445", "--host-names", "pi.lab")
    module = ("-P", "-m", "training.fleet.receiver")
    [init] = [words for words in site.host.ran if "init" in words]
    assert init[1:] == [*module, "init", "--folder", f"{site.state}/tls", "--host-names", "pi.lab"]
    assert (site.host.ran[-2][-1], site.host.accounts[-2]) == ("doctor", "cis490")
    assert site.settings.read_text().splitlines()[1:] == [
        f"CIS490_OPERATOR_TOKEN_FILE={site.state}/tls/operator.token",
        f"CIS490_TLS_CERTIFICATE={site.state}/tls/receiver.pem",
        "CIS490_HOST_NAMES=pi.lab",
        "CIS490_LISTEN_ADDR=0.0.0.0:8445",
    ]
    assert site.host.owner("etc/cis490") == "root:cis490"
    assert site.host.owner("etc/cis490/trainer-receiver.env") == "root:cis490"
    assert site.host.owner("var/lib/cis490") == "cis490:cis490"
    assert "[[jobs]]" not in site.manifest.read_text()
    assert "[[jobs]]" in site.manifest.with_name("training_manifest.toml.example").read_text()
    assert sorted(path.name for path in (site.host.root / "usr/local/bin").iterdir()) == ["cis490-jobs", UNIT]
    files = f"CIS490_READ_TOKEN_FILE={site.state}/tls/read.token CIS490_CA_FILE={site.state}/tls/ca.pem"
    operator = f"sudo -u cis490 env CIS490_OPERATOR_TOKEN_FILE={site.state}/tls/operator.token {files} "
    assert f"  a host:     {operator}CIS490_RECEIVER=https://pi.lab:8445 cis490-jobs invite HOST" in said
    assert "The receiver is listening on https://0.0.0.0:8445." in said


@pytest.mark.parametrize("listen", ["", "127.0.0.1:8445", "127.1.2.3:8445", "localhost:8445", "[::1]:8445"])
def test_on_this_machine_alone_it_has_tokens_and_no_certificate(site: Site, listen: str) -> None:
    said = site.install(*(["--listen", listen] if listen else []))
    assert site.settings.read_text().splitlines()[1:] == [
        f"CIS490_OPERATOR_TOKEN_FILE={site.state}/tls/operator.token",
        *([f"CIS490_LISTEN_ADDR={listen}"] if listen else []),
    ]
    assert any(f" CIS490_RECEIVER=http://{listen or '127.0.0.1:8445'} cis490-jobs status" in line for line in said)


def test_what_is_set_and_a_manifest_that_is_there_stay(site: Site) -> None:
    site.install("--listen", "0.0.0.0:8445", "--host-names", "pi.lab")
    site.host.init = site.host.init.replace("# made keys\n", "")
    with site.settings.open("a") as more:
        more.write("CIS490_LOG_LEVEL=debug\n")
    site.manifest.write_text("mine\n")
    before = site.host.files()
    assert site.install()[0] == "nothing to change"
    assert site.install("--listen", "0.0.0.0:8445", "--host-names", "pi.lab")[0] == "nothing to change"
    assert site.host.files() == before
    site.install("--listen", "0.0.0.0:9000")
    assert "CIS490_LISTEN_ADDR=0.0.0.0:9000\nCIS490_LOG_LEVEL=debug\n" in site.settings.read_text()
    assert site.manifest.read_text() == "mine\n"


def test_another_name_gets_another_certificate(site: Site) -> None:
    site.install("--listen", "0.0.0.0:8445", "--host-names", "pi.lab")
    site.host.init = "# the certificate does not name pi2.lab\nCIS490_HOST_NAMES=pi2.lab"
    said = site.install("--host-names", "pi2.lab")
    assert "issue the certificate again for pi2.lab" in said
    assert [words[4:6] for words in site.host.ran if "init" in words][1:] == [["init", "--folder"], ["init", "--renew"]]
    assert "CIS490_HOST_NAMES=pi2.lab\n" in site.settings.read_text()


def test_a_dry_run_makes_no_change(site: Site) -> None:
    said = site.install("--dry-run", "--listen", "0.0.0.0:8445")
    assert (site.host.files(), site.host.changes()) == ([], [])
    assert f"would make keys and tokens in {site.state}/tls" in said
    assert said[-1] == f"a dry run: {len(said) - 1} changes named, none made"


def test_uninstall_leaves_queue_and_keys_and_purge_leaves_nothing(site: Site) -> None:
    site.install()
    for name in ("queue.db", "queue.db-wal", "index.jsonl"):
        (site.state / name).touch()
    (site.state / "tls").mkdir()
    said = site.run("--uninstall")[1]
    assert said[-2:] == [f"left: {site.state}", f"left: {site.host.root}/etc/cis490"]
    assert {path.name for path in site.state.iterdir()} == {"queue.db", "queue.db-wal", "index.jsonl", "tls"}
    assert not (site.host.root / "opt/cis490/receiver").exists()
    site.run("--uninstall", "--purge")
    assert [path for path in site.host.root.rglob("*") if path.is_file()] == []
    assert (site.state.exists(), site.host.known) == (False, set())


def test_keys_that_cannot_be_made_end_it(site: Site) -> None:
    site.host.fail = {"init"}
    status, said = site.run("--listen", "0.0.0.0:8445")
    assert status == 1
    assert f"stopped at: the keys in {site.state}/tls: {UNIT} init ended with status 1" in said[-1]


def test_a_receiver_that_does_not_answer_is_an_error_that_says_where_to_look(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.host.status_text = "starting"
    monkeypatch.setattr(receiver, "LISTENING_S", 0.0)
    status, said = site.run()
    assert (status, f"does not answer yet; see what it says: sudo journalctl -u {UNIT}" in said[-1]) == (1, True)


def test_a_person_without_root_installs_for_themselves(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux.system, "is_administrator", lambda: False)
    said = site.install("--user")
    config = site.host.home / ".config/cis490"
    assert f"CIS490_MANIFEST={config}/training_manifest.toml" in (config / "trainer-receiver.env").read_text()
    assert (config / "training_manifest.toml").exists()
    assert (set(site.host.accounts), site.host.owners) == ({""}, {})
    assert "  uninstall:  scripts/install-trainer-receiver.sh --uninstall --user" in said
    assert site.run("--user", "--uninstall", "--purge")[0] == 0
    assert [path for path in site.host.home.rglob("*") if path.is_file()] == []
