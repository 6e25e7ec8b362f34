"""Which build of torch the installers install, keep and miss: Linux and Windows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from linux_host import CODE, LinuxHost, make_checkout

from training.fleet.install import linux, release, torch_windows, worker
from training.fleet.install.loss import capability_said, lost
from training.fleet.install.programs import Programs
from training.fleet.install.steps import StopError
from training.fleet.install.torch_build import (
    OWN,
    TorchBuild,
    TorchChoice,
    index_address,
    of_version,
    remembered,
)
from training.fleet.install.torch_windows import WindowsTorch

INVITE = ("--receiver", "https://pi.lab:8445", "--host", "gpu-tower", "--ca-sha256", "ab", "--code", CODE)
INDEX = "https://wheels.lab/simple"
WHOLE = {"models": ["gbt", "mlp", "cnn", "gru"], "cuda_usable": True}


class Host(LinuxHost):
    """A host whose releases say what they can do.

    Attributes:
        can: What the self-test says, by whether it is the release in use.
        has_cuda: Whether the torch that was installed has CUDA.
    """

    can: dict[bool, dict[str, Any]]
    has_cuda = True

    def _answer(self, words: list[str]) -> tuple[int, str]:
        if "--json" in words:
            return 0, json.dumps({"ok": True, "capability": self.can["current" in words[0]]})
        if any("torch.version.cuda" in word for word in words):
            return (0 if self.has_cuda else 1), ""
        return super()._answer(words)


class Site:
    """A host, a checkout on it, and the installer."""

    def __init__(self, host: Host, checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.host, self.checkout, self._capfd = host, checkout, capfd
        host.can = {True: WHOLE, False: WHOLE}

    def run(self, *words: str) -> tuple[int, list[str]]:
        self._capfd.readouterr()
        status = worker.run_installer(["install", *words], {"HOME": str(self.host.home)}, self.host)
        shown = self._capfd.readouterr()
        return status, (shown.out + shown.err).splitlines()

    def install(self, *words: str) -> list[list[str]]:
        """Return the commands of pip that were run."""
        ran = len(self.host.ran)
        status, said = self.run(*words)
        assert status == 0, said
        return [words[4:] for words in self.host.changes(ran) if "pip" in words]

    def newer(self) -> None:
        with (self.checkout / "training" / "fleet" / "one.py").open("a") as more:
            more.write("2\n")

    def current(self) -> Path:
        return (self.host.root / "opt/cis490/worker/current").readlink()


@pytest.fixture
def site(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Site:
    host = Host(tmp_path, monkeypatch)
    checkout = make_checkout(tmp_path / "checkout", root)
    monkeypatch.setattr(worker, "CHECKOUT", checkout)
    monkeypatch.setattr(linux.system, "is_administrator", lambda: True)
    return Site(host, checkout, capfd)


def lists(pip: list[list[str]]) -> list[str]:
    """Return the last word of each command of pip: a list of packages or a requirement."""
    return [Path(words[-1]).name for words in pip]


@pytest.mark.parametrize(
    ("words", "card", "found", "wanted"),
    [
        ((), False, False, []),
        ((), False, True, ["torch.txt", "torch==2.13.0+cpu"]),
        ((), True, False, ["torch-index.txt"]),
        (("--torch", "cpu"), True, False, ["torch.txt", "torch==2.13.0+cpu"]),
        (("--torch", "cuda"), False, False, ["torch-index.txt"]),
        (("--torch", "none"), True, True, []),
        (("--torch", "cuda", "--torch-index", INDEX), False, False, ["torch.txt", "torch==2.13.0"]),
        (("--without-trainer",), True, True, []),
    ],
)
def test_a_linux_host_gets_the_build_that_was_asked_for_or_suits_its_card(
    site: Site, words: tuple[str, ...], card: bool, found: bool, wanted: list[str]
) -> None:
    site.host.cards, site.host.finds_torch = (("card",) if card else ()), found
    pip = site.install(*INVITE, *words)
    assert lists(pip)[1:] == wanted
    assert all("--require-hashes" in one for one in pip if one[-1].endswith(".txt"))
    assert all((INDEX in one) == ("--torch-index" in words) for one in pip if one[-1].startswith("torch=="))


def test_an_upgrade_without_the_flag_repeats_what_was_chosen(site: Site) -> None:
    site.install(*INVITE, "--torch", "cpu", "--torch-index", INDEX)
    site.newer()
    pip = site.install()
    assert (lists(pip)[1:], INDEX in pip[-1]) == (["torch.txt", "torch==2.13.0+cpu"], True)
    site.newer()
    assert lists(site.install("--torch", "none")) == ["trainer.txt"]
    site.newer()
    site.host.finds_torch = True
    assert lists(site.install()) == ["trainer.txt"]


@pytest.mark.parametrize(
    ("version", "wanted"), [("2.13.0+cpu", "torch==2.13.0+cpu"), ("2.12.1+cu130", "torch-index.txt")]
)
def test_a_torch_that_was_installed_by_hand_is_not_taken_away_by_the_first_upgrade(
    site: Site, version: str, wanted: str
) -> None:
    site.install(*INVITE)
    (site.current() / "torch").unlink()  # as an installer before this one left it
    site.host.torch = version
    site.newer()
    assert lists(site.install())[-1] == wanted


def test_another_build_is_another_release(site: Site) -> None:
    site.install(*INVITE, "--torch", "none")
    old = site.current()
    assert lists(site.install("--torch", "cpu")) == ["trainer.txt", "torch.txt", "torch==2.13.0+cpu"]
    assert site.current() != old
    assert site.install("--torch", "cpu") == []


@pytest.mark.parametrize(
    ("now", "words", "named"),
    [
        ({"models": ["gbt", "mlp"], "cuda_usable": True}, (), "cnn, gru"),
        ({**WHOLE, "cuda_usable": False}, (), "CUDA"),
        ({"models": ["gbt"]}, ("--torch", "none"), "mlp"),
        ({"models": ["gbt", "mlp", "gru"]}, ("--torch", "cpu"), "cnn"),
        ({**WHOLE, "cuda_usable": False}, ("--torch", "cuda"), "CUDA"),
    ],
)
def test_an_upgrade_that_loses_something_keeps_the_older_version_running_and_names_it(
    site: Site, now: dict[str, Any], words: tuple[str, ...], named: str
) -> None:
    site.install(*INVITE, "--torch", "cuda")
    old = site.current()
    site.newer()
    site.host.can[False] = now
    status, said = site.run(*words)
    assert status == 1
    assert f"with the newer version this host would lose {named}; the older version stays and runs" in said[-1]
    assert (site.current(), site.host.service["ActiveState"]) == (old, "active")
    site.host.can[False] = WHOLE
    site.install(*words)
    assert site.current() != old


@pytest.mark.parametrize(
    ("now", "word"),
    [({"models": ["gbt", "mlp"], "cuda_usable": False}, "none"), ({**WHOLE, "cuda_usable": False}, "cpu")],
)
def test_what_the_person_gave_up_by_a_flag_is_not_lost(site: Site, now: dict[str, Any], word: str) -> None:
    site.install(*INVITE, "--torch", "cuda")
    old = site.current()
    site.host.can[False] = now
    site.install("--torch", word)
    assert site.current() != old


@pytest.mark.parametrize("words", [("--torch", "cpu"), ("--torch", "cuda", "--torch-index", INDEX)])
def test_a_build_that_pip_does_not_find_is_told_with_what_to_give(site: Site, words: tuple[str, ...]) -> None:
    site.host.fail = {"torch==2.13.0+cpu", "torch==2.13.0"}
    status, said = site.run(*INVITE, *words)
    assert (status, "give --torch-index URL, the address that torch's own install page names" in said[-1]) == (69, True)
    assert not site.host.root.joinpath("opt/cis490/worker/current").exists()


def test_an_index_that_has_no_cuda_is_found_out(site: Site) -> None:
    site.host.has_cuda = False
    status, said = site.run(*INVITE, "--torch", "cuda", "--torch-index", INDEX)
    assert (status, f"pip could not install torch for CUDA; found none at {INDEX}" in said[-1]) == (69, True)


def test_a_disk_without_room_for_cuda_is_told_before_anything_is_fetched(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = release.shutil.disk_usage(site.checkout)._replace(free=7_900_000_000)
    monkeypatch.setattr(release.shutil, "disk_usage", lambda _path: usage)
    status, said = site.run(*INVITE, "--torch", "cuda")
    assert (status, "needs 8 GB while it is installed, and the disk of" in said[-1]) == (69, True)
    assert not any(words[-1].endswith("torch-index.txt") for words in site.host.ran)


def test_torch_without_the_packages_that_use_it_is_refused(site: Site) -> None:
    status, said = site.run(*INVITE, "--without-trainer", "--torch", "cpu")
    assert (status, "without the trainer's packages; give --torch none as well" in said[-1]) == (2, True)


@pytest.mark.parametrize("address", ["me:secret@wheels.lab", "wheels.lab/simple", "https://wheels.lab/a b", "ssh://x"])
def test_an_index_with_a_password_or_none_at_all_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="found"):
        index_address(f"https://{address}" if "@" in address else address)


def test_a_record_that_cannot_be_read_counts_as_none() -> None:
    for text in ("", "gpu", "\0", "cudacuda x"):
        assert remembered(text) == TorchChoice()
    for choice in (TorchChoice(), TorchChoice("cuda", INDEX), TorchChoice(OWN)):
        assert remembered(choice.text()) == choice
    assert of_version("") == TorchChoice()


@pytest.mark.parametrize("said", ["", "no JSON", "[]", '{"capability": 1}', '{"ok": true}'])
def test_a_self_test_that_says_nothing_that_can_be_read_has_nothing_to_lose(said: str) -> None:
    assert capability_said(said) == {}
    assert lost({}, {}, "cuda", asked=False) == []


# ---- Windows, whose environment stays


class Pc(Programs):
    """Programs of a PC: pip and Python end as a test says."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.torch, self.fail = "", ""

    def run(
        self, words: Sequence[str], environ: Mapping[str, str] | None, folder: Path | None, given: str,
        out: int | None, errors: int | None,
    ) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        self.ran.append(list(words))
        failed = bool(self.fail) and any(self.fail in word for word in words)
        return subprocess.CompletedProcess(words, int(failed), self.torch.encode(), b"")


class Windows:
    """The torch of an installation on Windows."""

    def __init__(self, project: Path, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.checkout, self.root, self.pc = make_checkout(root / "checkout", project), root, Pc()
        self.cards: tuple[str, ...] = ()
        patch.setattr(torch_windows.cards, "find", lambda _problems: self.cards)
        (root / "python.exe").touch()
        self.torch = WindowsTorch(root, root / "python.exe", self.pc)

    def want(self, given: TorchChoice | None) -> list[list[str]]:
        self.pc.ran.clear()
        self.torch.want(self.checkout, self.torch.wanted("trainer", given))
        return [words for words in self.pc.ran if "pip" in words]


@pytest.fixture
def windows(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Windows:
    return Windows(root, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("given", "card", "wanted"),
    [
        (None, False, ["torch-index.txt"]),
        (None, True, ["torch-index.txt"]),
        (TorchChoice("auto", INDEX), True, ["torch.txt", "torch==2.13.0"]),
        (TorchChoice("cuda", INDEX), False, ["torch.txt", "torch==2.13.0"]),
        (TorchChoice("cuda"), False, ["torch.txt", "torch==2.13.0"]),
        (TorchChoice("none"), True, []),
    ],
)
def test_a_pc_gets_the_build_that_was_asked_for_or_can_be_had(
    windows: Windows, given: TorchChoice | None, card: bool, wanted: list[str]
) -> None:
    windows.cards = ("card",) if card else ()
    assert lists(windows.want(given)) == wanted


def test_a_pc_with_a_card_and_no_index_is_told_how_to_get_cuda(
    windows: Windows, capfd: pytest.CaptureFixture[str]
) -> None:
    windows.cards = ("card",)
    windows.want(None)
    assert "for CUDA run this again with --torch cuda --torch-index URL" in capfd.readouterr().out


def test_a_pc_whose_pip_has_no_cuda_build_is_told_so(windows: Windows) -> None:
    windows.pc.fail = "torch.version.cuda"
    with pytest.raises(StopError, match="pip could not install torch for CUDA"):
        windows.want(TorchChoice("cuda"))


def test_a_build_of_another_kind_makes_way_and_the_same_one_stays(windows: Windows) -> None:
    windows.want(TorchChoice("cpu"))
    assert not any("uninstall" in words for words in windows.want(None))
    assert "uninstall" in windows.want(TorchChoice("cuda", INDEX))[0]
    assert lists(windows.want(None)) == ["torch.txt", "torch==2.13.0"]
    assert lists(windows.want(TorchChoice("none"))) == ["torch"]


def test_a_torch_that_a_person_put_into_the_environment_stays(windows: Windows) -> None:
    windows.pc.torch = "2.13.0+cu130"
    assert windows.want(None) == []


def test_a_pc_that_nobody_asked_torch_for_goes_without_where_pip_has_none(
    windows: Windows, capfd: pytest.CaptureFixture[str]
) -> None:
    windows.pc.fail = "torch-index.txt"
    windows.want(None)
    assert TorchBuild.left_out() in capfd.readouterr().out
    with pytest.raises(StopError, match="pip could not install torch for CPU"):
        windows.want(TorchChoice("cpu"))
