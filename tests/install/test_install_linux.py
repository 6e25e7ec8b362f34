"""The installer of a worker on Linux: what it runs in which order, what it leaves, what it says."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from linux_host import CODE, LinuxHost, make_checkout

from training.fleet.install import linux, release, worker, worker_linux
from training.fleet.install.linux import with_setting
from training.fleet.install.torch_build import TorchBuild

UNIT = "cis490-training-worker"
ENROL = ("--receiver", "https://pi.lab:8445", "--host", "gpu-tower", "--ca-sha256", "ab")
INVITE = (*ENROL, "--code", CODE)
PIP = (
    "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--require-hashes", "--no-deps",
    "--only-binary", ":all:", "-qq",
)  # fmt: skip


class Site:
    """A host, a checkout on it, and the installer."""

    def __init__(self, host: LinuxHost, checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.host, self.checkout, self._capfd = host, checkout, capfd
        self.environ = {"HOME": str(host.home), "XDG_RUNTIME_DIR": "/run/user/1000", "CIS490_RECEIVER": "elsewhere"}
        self.state, self.prefix = host.root / "var/lib/cis490-worker", host.root / "opt/cis490/worker"

    def run(self, *words: str) -> tuple[int, list[str]]:
        self._capfd.readouterr()
        status = worker.run_installer(words, self.environ, self.host)
        shown = self._capfd.readouterr()
        return status, (shown.out + shown.err).splitlines()

    def install(self, *words: str) -> list[str]:
        status, said = self.run("install", *words)
        assert status == 0, said
        return said

    def newer(self) -> None:
        (self.checkout / "training" / "fleet" / "one.py").write_text("2\n")

    def release(self) -> Path:
        return (self.prefix / "current").readlink()


@pytest.fixture
def site(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Site:
    host = LinuxHost(tmp_path, monkeypatch)
    checkout = make_checkout(tmp_path / "checkout", root)
    monkeypatch.setattr(worker, "CHECKOUT", checkout)
    monkeypatch.setattr(linux.system, "is_administrator", lambda: True)
    return Site(host, checkout, capfd)


@pytest.fixture
def person(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return the site of a person without root."""
    monkeypatch.setattr(linux.system, "is_administrator", lambda: False)
    site.state, site.prefix = site.host.home / ".local/state/cis490", site.host.home / ".local/share/cis490/worker"
    return site


def test_from_nothing_it_makes_examines_enrols_and_starts(site: Site) -> None:
    said = site.install(*INVITE)
    made, current = site.release(), str(site.prefix / "current" / "venv" / "bin" / "python")
    python = str(made / "venv" / "bin" / "python")
    module = ("-P", "-m", "training.fleet.worker")
    assert site.host.changes() == [
        ["useradd", "--system", "--user-group", "--home-dir", str(site.state), "--no-create-home",
         "--shell", "/usr/sbin/nologin", "cis490-worker"],
        ["/usr/bin/python3", "-m", "venv", str(made / "venv")],
        [python, *PIP, "-r", str(site.checkout / "requirements" / "trainer.txt")],
        [python, "-m", "compileall", "-q", str(made / "app")],
        [python, *module, "--self-test", "--config", "/dev/null"],
        [python, *module, "enrol", *ENROL[:4], "--ca-sha256", "ab"],
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", "-q", UNIT],
        ["systemctl", "restart", UNIT],
        [current, *module, "doctor"],
    ]  # fmt: skip
    wanted = [
        "add the system account cis490-worker",
        f"make the folder {site.state} (0700 cis490-worker:cis490-worker)",
        f"make the folder {site.host.root}/etc/cis490 (0750 root:root)",
        f"write {site.host.root}/etc/cis490/training-worker.env",
        f"install the code and its packages into {made}",
        TorchBuild.left_out(),
        "have the host examine itself",
        "enrolled as gpu-tower at https://pi.lab:8445",
        f"take {made} into use",
        f"write {site.host.root}/usr/local/bin/{UNIT}",
        f"write {site.host.root}/etc/systemd/system/{UNIT}.service",
        "tell systemd of the unit",
        f"have {UNIT} started at every boot",
        f"start {UNIT}",
        "",
        "This host works for the fleet: listed at https://pi.lab:8445 as gpu-tower.",
    ]
    assert said[: len(wanted)] == wanted
    assert f"  uninstall:  sudo {site.host.root}/usr/local/bin/{UNIT} uninstall" in said


def test_what_it_leaves_is_readable_or_closed_as_it_should_be(site: Site) -> None:
    site.checkout.chmod(0o700)
    (site.checkout / "training" / "fleet").chmod(0o700)
    (site.checkout / "training" / "fleet" / "one.py").chmod(0o600)
    (site.checkout / "training" / "fleet" / "__pycache__").mkdir()
    (site.checkout / "training" / "fleet" / "__pycache__" / "one.pyc").touch()
    site.install(*INVITE)
    app, root = site.release() / "app", site.host.root
    rights = {name: stat.S_IMODE((root / name).stat().st_mode) for name in
              ("var/lib/cis490-worker", "etc/cis490", "etc/cis490/training-worker.env", f"usr/local/bin/{UNIT}",
               f"etc/systemd/system/{UNIT}.service")}  # fmt: skip
    assert list(rights.values()) == [0o700, 0o750, 0o640, 0o755, 0o644]
    assert [site.host.owner(name) for name in rights] == ["cis490-worker:cis490-worker", *["root:root"] * 4]
    assert sorted(str(path.relative_to(app)) for path in app.rglob("*") if path.is_file()) == [
        "LICENSE", "etc/systemd/cis490-training-worker.service", "requirements/torch-index.in",
        "requirements/torch-index.txt", "requirements/torch.txt", "requirements/trainer.txt", "training/fleet/one.py",
    ]  # fmt: skip
    assert (app / "training" / "fleet" / "one.py").stat().st_mode & 0o044 == 0o044
    assert (site.release() / "venv" / "site" / "cis490.pth").read_text() == f"{app}\n"
    unit = (site.checkout / f"etc/systemd/{UNIT}.service").read_text()
    assert (root / f"etc/systemd/system/{UNIT}.service").read_text() == unit


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_the_code_of_the_invite_reaches_the_enrolment_alone_and_by_a_pipe(site: Site, by: str) -> None:
    if by == "variable":
        site.environ["CIS490_INVITE"] = CODE
    said = site.install(*(INVITE if by == "flag" else ENROL))
    reads = [words for words, given in zip(site.host.ran, site.host.given, strict=True) if given]
    assert [words[4] for words in reads] == ["enrol"]
    assert "CIS490_INVITE" not in site.environ
    assert not any(CODE in word for words in site.host.ran for word in words)
    assert not any(CODE in value for environ in site.host.environs for value in (environ or {}).values())
    assert not any(CODE in line for line in said)


def test_what_runs_as_the_account_of_the_service_has_nothing_of_the_callers_environment(site: Site) -> None:
    site.environ |= {"AWS_SECRET": "x", "CIS490_WORKER_TOKEN": "t"}
    site.install(*INVITE)
    ran = zip(site.host.ran, site.host.accounts, site.host.environs, strict=True)
    found = {word: (who, environ or {}) for words, who, environ in ran for word in words}
    for word in ("--self-test", "enrol"):
        who, environ = found[word]
        assert who == "cis490-worker"
        assert set(environ) == {"PATH", "HOME", "LANG", "STATE_DIRECTORY"}
        assert (environ["HOME"], environ["STATE_DIRECTORY"]) == (str(site.state), str(site.state))


def test_the_doctor_gets_the_settings_of_the_service_and_none_of_the_caller(site: Site) -> None:
    site.install(*INVITE)
    (site.host.root / "etc/cis490/training-worker.env").write_text(
        "# a comment\nCIS490_DATASET=lab=/srv/lab\nCIS490_LOG_FILE=\"/srv/my log\"\nPATH=x\nCIS490_SLOTS='2'"
    )
    site.environ |= {"CIS490_SLOTS": "9", "PATH": "/usr/bin"}
    site.install()
    assert (site.host.ran[-2][-1], site.host.accounts[-2]) == ("doctor", "cis490-worker")
    environ = site.host.environs[-2] or {}
    assert {name: value for name, value in environ.items() if name not in ("HOME", "XDG_RUNTIME_DIR")} == {
        "CIS490_DATASET": "lab=/srv/lab",
        "CIS490_LOG_FILE": "/srv/my log",
        "CIS490_SLOTS": "2",
        "STATE_DIRECTORY": str(site.state),
        "PATH": "/usr/bin",
    }


def test_run_again_it_changes_nothing(site: Site) -> None:
    site.install(*INVITE)
    before, ran = site.host.files(), len(site.host.ran)
    assert site.install()[0] == "nothing to change"
    assert site.install(*INVITE)[:2] == ["already enrolled as gpu-tower: good", "nothing to change"]
    assert site.host.files() == before
    assert [words[4] for words in site.host.changes(ran)] == ["doctor", "enrol", "doctor"]


def test_newer_code_is_examined_beside_the_old_and_taken_into_use_once_the_service_has_stopped(site: Site) -> None:
    site.install(*INVITE, "--without-trainer")
    old, ran = site.release(), len(site.host.ran)
    site.newer()
    said = site.install()
    assert site.release() != old
    steps = [f"install the code and its packages into {site.release()}", "have the host examine itself"]
    steps += [f"stop {UNIT} in order: a running job is finished or given back", f"take {site.release()} into use"]
    steps += [f"start {UNIT}", f"delete {old}"]
    assert [line for line in said if line in steps] == steps
    assert not old.exists()
    assert not any("pip" in words for words in site.host.changes(ran))  # it knows what was left out before
    assert not any("enrol" in words for words in site.host.changes(ran))
    site.install("--with-trainer")
    assert any("pip" in words for words in site.host.changes(ran))


def test_a_host_that_cannot_train_keeps_its_old_version(site: Site) -> None:
    site.install(*INVITE)
    old = site.release()
    site.newer()
    site.host.fail = {"--self-test"}
    status, said = site.run("install")
    assert (status, site.release()) == (1, old)
    assert "the host cannot train yet: correct what FAIL says" in said[-1]
    assert site.host.service["ActiveState"] == "active"


def test_without_the_trainers_packages_other_trainers_can_run(site: Site) -> None:
    site.host.fail = {"--self-test"}
    said = site.install(*INVITE, "--without-trainer")
    assert "only trainers of another kind can run here" in "\n".join(said)
    assert ["/usr/bin/python3", "-m", "venv", "--without-pip", str(site.release() / "venv")] in site.host.ran


def test_a_release_that_was_cut_off_is_made_again(site: Site) -> None:
    site.host.fail = {"compileall"}
    status, said = site.run("install", *INVITE)
    assert status == 1
    assert "stopped at: install the code and its packages into " in said[-1]
    assert "fix what stands above and run the same command again, it goes on where it stopped" in said[-1]
    assert not (site.prefix / "current").exists()
    site.host.fail = set()
    site.install(*INVITE)
    assert (site.release() / "complete").exists()


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "told to stop"),
        (PermissionError(13, "Permission denied", "x.env"), 1, "Permission denied: x.env"),
        (ValueError("odd"), 1, "a fault of the installer itself, please report it: ValueError: odd"),
    ],
)
def test_whatever_stops_it_is_one_line_with_the_step(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, said: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(linux.Linux, "_write", fail)
    found, lines = site.run("install", *INVITE)
    assert found == status
    assert f"install: stopped at: write {site.host.root}/etc/cis490/training-worker.env: {said}; " in lines[-1]
    assert "Traceback" not in "\n".join(lines)


def test_settings_in_another_encoding_stay_as_they_are(site: Site) -> None:
    settings = site.host.root / "etc/cis490/training-worker.env"
    site.install(*INVITE)
    settings.write_bytes(b"# caf\xe9\nCIS490_SLOTS=2\n")
    assert site.install()[0] == "nothing to change"
    assert settings.read_bytes() == b"# caf\xe9\nCIS490_SLOTS=2\n"


@pytest.mark.parametrize("more", [(), ("--without-trainer",)])
def test_a_dry_run_says_every_change_and_makes_none(
    site: Site, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.setattr(linux.system, "is_administrator", lambda: False)  # it needs no root
    said = site.install(*INVITE, *more, "--dry-run")
    assert site.host.files() == []
    assert site.host.changes() == []
    assert all(line.startswith("would ") for line in said[:-1])
    assert "would enrol this host at https://pi.lab:8445" in said
    assert said[-1] == f"a dry run: {len(said) - 1} changes named, none made"


def test_a_code_that_is_refused_ends_it_before_anything_runs(site: Site) -> None:
    status, said = site.run("install", *ENROL, "--code", "old")
    assert status == 77
    assert "this host is not enrolled, see above; run the same command again with a code that is good" in said[-1]
    assert site.host.service["ActiveState"] == "inactive"
    assert not (site.prefix / "current").exists()


def test_a_code_that_is_not_given_is_asked_for_where_there_is_a_terminal(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or CODE)
    site.install(*ENROL)
    site.install(*ENROL)  # it is enrolled now
    assert asked == ["One-time code: "]


def test_an_uninstalled_host_keeps_its_settings_and_is_not_enrolled(site: Site) -> None:
    site.install(*INVITE)
    status, said = site.run("uninstall")
    assert status == 0
    assert [line for line in said if line.startswith("delete ")] == [
        f"delete {site.host.root}/etc/systemd/system/{UNIT}.service",
        f"delete {site.host.root}/usr/local/bin/{UNIT}",
        f"delete {site.prefix}",
        f"delete {site.state}/worker.secret",
    ]
    assert said.index(f"stop {UNIT} in order: a running job is finished or given back") == 0
    assert said[-3:] == [
        f"left: {site.state}",
        f"left: {site.host.root}/etc/cis490/training-worker.env",
        "datasets were not touched; an operator ends the identity: cis490-jobs identity revoke HOST",
    ]
    status, said = site.run("install")
    assert (status, "this host is not enrolled and no --receiver is given" in said[-1]) == (2, True)
    assert site.run("uninstall")[1][0] == "nothing to change"


def test_a_purge_leaves_neither_file_nor_account(site: Site) -> None:
    site.install(*INVITE)
    assert site.run("uninstall", "--purge")[0] == 0
    left = [path for path in site.host.root.rglob("*") if path.is_file() or "cis490-worker" in path.name]
    assert (left, site.host.known) == ([], set())


def test_somebody_elses_command_of_that_name_is_left_alone(site: Site) -> None:
    path = site.host.root / "usr/local/bin" / UNIT
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\necho mine\n")
    said = site.install(*INVITE)
    assert path.read_text() == "#!/bin/sh\necho mine\n"
    assert any(line.startswith(f"left alone: {path} is not this installer's") for line in said)


def test_datasets_are_checked_kept_and_shown_to_the_self_test(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_linux, "_UNSEEN", ())
    (tmp_path / "lab").mkdir()
    status, said = site.run("install", *INVITE, "--dataset", f"lab={tmp_path}/lab")
    assert (status, "expected NAME=DIR, and the file dataset.toml in DIR" in said[-1]) == (78, True)
    assert site.run("install", *INVITE, "--dataset", str(tmp_path))[0] == 78
    assert site.host.files() == []
    for name in ("lab", "big"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "dataset.toml").touch()
    wanted = f"lab={tmp_path}/lab,big={tmp_path}/big"
    site.install(*INVITE, "--dataset", f"lab={tmp_path}/lab", "--dataset", f"big={tmp_path}/big")
    settings = site.host.root / "etc/cis490/training-worker.env"
    assert settings.read_text().splitlines()[1:] == [f"CIS490_DATASET={wanted}"]
    with settings.open("a") as more:
        more.write("CIS490_SLOTS=2\n")
    site.newer()
    site.install()
    tests = [
        words[words.index("--self-test") + 1 :]
        for words in site.host.ran
        if "--self-test" in words and "--json" not in words
    ]
    assert tests == [["--dataset", wanted, "--config", "/dev/null"], ["--dataset", wanted]]
    site.install("--dataset", f"big={tmp_path}/big")
    assert settings.read_text().splitlines()[1:] == [f"CIS490_DATASET=big={tmp_path}/big", "CIS490_SLOTS=2"]


@pytest.mark.parametrize("place", ["home/me/lab", "root/lab", "run/user/0/lab", "tmp/lab"])
def test_a_dataset_that_the_service_cannot_see_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(worker_linux, "_is_readable", lambda _path: True)
    status, said = site.run("install", *INVITE, "--dataset", f"lab=/{place}")
    assert status == 78
    assert f"the service cannot see /{place}" in said[-1]
    assert site.host.files() == []


def test_a_host_without_the_openmp_runtime_gets_it_with_the_trainer_alone(site: Site) -> None:
    site.host.fail = {release._OPENMP}
    said = site.install(*INVITE, "--dry-run")
    assert said[0] == "would install the system package libgomp1"
    assert "would install the system package libgomp1" not in site.install(*INVITE, "--without-trainer", "--dry-run")
    site.install(*INVITE)
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-qq", "-y", "--no-install-recommends"]
    assert site.host.changes()[:2] == [["apt-get", "update", "-qq"], [*apt, "libgomp1"]]


@pytest.mark.parametrize(
    ("failing", "status", "words"),
    [
        ({release._OPENMP, "update"}, 69, "the system lacks libgomp1; install that and run this again: sudo apt-get"),
        ({release._ENSUREPIP, "update"}, 69, "cannot make environments; install that and run this again"),
        ({"pip"}, 69, "pip could not install requirements/trainer.txt; is the package index reachable?"),
        ({"useradd"}, 1, "stopped at: add the system account cis490-worker"),
    ],
)
def test_what_is_lacking_is_said_with_what_to_do(site: Site, failing: set[str], status: int, words: str) -> None:
    site.host.fail = failing
    found, said = site.run("install", *INVITE)
    assert found == status
    assert words in said[-1]


def test_packages_come_from_a_folder_where_one_is_given(site: Site, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    site.install(*INVITE, "--wheels", str(tmp_path / "wheels"))
    [pip] = [words for words in site.host.changes() if "pip" in words]
    assert pip[-5:-2] == ["--no-index", "--find-links", str(tmp_path / "wheels")]
    status, said = site.run("install", "--wheels", str(tmp_path / "none"))
    assert (status, "expected a folder with the packages" in said[-1]) == (78, True)


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("no-such", "found no program no-such; give --python a Python 3.11 or newer"),
        ("old", "found old, which is no Python; give --python a Python 3.11 or newer"),
        ("python-of-me", "in a home folder; give --python another"),
    ],
)
def test_a_python_that_cannot_serve_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch, python: str, words: str
) -> None:
    if python == "python-of-me":
        monkeypatch.setattr(linux.shutil, "which", lambda _name, path=None: str(Path("/", "home", "me", "python")))
    site.host.fail = {"/usr/bin/old"}
    status, said = site.run("install", *INVITE, "--python", python)
    assert status == 78
    assert words in said[-1]
    assert site.host.files() == []


def test_the_python_that_is_named_makes_the_environment(site: Site) -> None:
    site.environ["PYTHON"] = "python3.13"
    site.install(*INVITE)
    assert ["/usr/bin/python3.13", "-m", "venv", str(site.release() / "venv")] in site.host.ran


def test_a_receiver_that_does_not_list_the_host_is_an_error_that_says_where_to_look(site: Site) -> None:
    site.host.status_text = "looking at this host"
    site.host.service["ActiveState"] = "failed"

    def managed(words: list[str]) -> tuple[int, str]:
        return (0, "failed") if "ActiveState" in words else LinuxHost._managed(site.host, words)

    site.host._managed = managed  # type: ignore[method-assign]
    status, said = site.run("install", *INVITE)
    assert status == 1
    assert f"does not list it yet; see what it says: sudo journalctl -u {UNIT}" in said[-1]
    assert site.host.ran[-1] == ["systemctl", "--no-pager", "-n", "15", "status", UNIT]


def test_status_says_what_the_service_does(site: Site) -> None:
    status, said = site.run("status")
    assert (status, f"the service {UNIT} is not installed" in said[-1]) == (1, True)
    site.install(*INVITE)
    status, said = site.run("status")
    assert (status, said[0]) == (0, f"{UNIT} is active: listed at https://pi.lab:8445")
    assert said[1] == f"  code:       {site.release()}"
    site.host.service["ActiveState"] = "inactive"
    status, said = site.run("status")
    assert (status, f"the service does not run; start it: sudo systemctl start {UNIT}" in said[-1]) == (1, True)


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_rights_that_do_not_fit_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    status, said = site.run(command, "--user")
    assert (status, "--user is for an account of a person, and this is root" in said[-1]) == (77, True)
    monkeypatch.setattr(linux.system, "is_administrator", lambda: False)
    status, said = site.run(command)
    assert (status, "needs root; run it with sudo, or give --user" in said[-1]) == (77, True)
    assert site.host.files() == []


def test_a_person_without_root_installs_for_themselves(person: Site) -> None:
    said = person.install(*INVITE, "--user")
    assert set(person.host.accounts) == {""}
    assert person.host.owners == {}
    assert all(words[1] == "--user" for words in person.host.ran if words[0] == "systemctl")
    unit = (person.host.home / f".config/systemd/user/{UNIT}.service").read_text().splitlines()
    assert f"ExecStart={person.prefix}/current/venv/bin/python -P -m training.fleet.worker" in unit
    assert f"EnvironmentFile=-{person.host.home}/.config/cis490/training-worker.env" in unit
    assert unit[-2:] == ["[Install]", "WantedBy=default.target"]
    assert not any(line.startswith(("User=", "Protect", "Capability", "#")) for line in unit)
    assert ["loginctl", "enable-linger"] in person.host.ran
    assert "  uninstall:  " + f"{person.host.home}/.local/bin/{UNIT} uninstall --user" in said
    assert person.install("--user")[0] == "nothing to change"
    person.run("uninstall", "--user", "--purge")
    assert [path for path in person.host.home.rglob("*") if path.is_file()] == []


def test_a_person_who_may_not_stay_after_logging_out_is_told(person: Site) -> None:
    person.host.fail = {"enable-linger"}
    assert any("it stops when you log out" in line for line in person.install(*INVITE, "--user"))
    said = person.install("--user", "--dry-run")
    assert any("run without a login (loginctl enable-linger)" in line for line in said)


def test_a_person_without_a_session_of_systemd_is_refused(person: Site) -> None:
    del person.environ["XDG_RUNTIME_DIR"]
    status, said = person.run("install", *INVITE, "--user")
    assert (status, "XDG_RUNTIME_DIR is not set" in said[-1]) == (69, True)


def test_a_setting_takes_the_place_of_an_older_one_and_the_rest_stays() -> None:
    text = "# mine\nCIS490_SLOTS=1\n\nCIS490_SLOTS=2\nCIS490_NAME=x\n"
    assert with_setting(text, "CIS490_SLOTS", "3") == "# mine\nCIS490_SLOTS=3\n\nCIS490_NAME=x\n"
    assert with_setting("", "CIS490_SLOTS", "3") == "\nCIS490_SLOTS=3\n"
