"""`get`, `card`, `open`, `predict` as processes on the standard library, from a real receiver and from hostile ones."""

from __future__ import annotations

import base64
import hashlib
import http.client
import http.server
import json
import os
import pty
import random
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from live_receiver import LiveReceiver, manifest

BUNDLE = random.Random(13).randbytes(2_500_000)
SHA = hashlib.sha256(BUNDLE).hexdigest()
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
CARD = """\
# gbt, oracle mode

> **Warning: leak.** Rows of the same incident train.

| measure | value |
|---|---|
| AUROC, mean over hosts | 0.9000 |
| host \\| two | \x1b[31mred |

- How many alarms a day to expect: that depends on how rare anomalies are where it runs.

![Curves](curves.svg)
"""
PARTS = {"curves.svg": SVG, "metrics.json": b'{"v": 1}', "model_card.md": CARD.encode()}
READ = "a-read-token-for-these-tests"


@dataclass(frozen=True)
class Home:
    """A machine with nothing but Python: where somebody types `cis490-jobs`."""

    folder: Path
    root: Path
    port: int

    def environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "CIS490_RECEIVER": f"http://127.0.0.1:{self.port}",
            "CIS490_READ_TOKEN": READ,
        }

    def run(
        self, *arguments: str, status: int = 0, prepare: Callable[[], None] | None = None, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.words(*arguments), cwd=self.folder, env=self.environ() | environ, capture_output=True, text=True,
            timeout=120, check=False, preexec_fn=prepare,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def words(self, *arguments: str) -> list[str]:
        return [sys.executable, "-I", "-S", str(self.root / "tools" / "cis490_jobs.py"), *arguments]

    def on_a_terminal(self, *arguments: str) -> tuple[list[str], int]:
        """Run a command on a terminal of 80 cells; return what it wrote and its status."""
        ours, theirs = pty.openpty()
        environ = self.environ() | {"COLUMNS": "80", "LINES": "24", "NO_COLOR": "1", "TERM": "xterm"}
        with subprocess.Popen(
            self.words(*arguments), cwd=self.folder, env=environ, stdin=theirs, stdout=theirs, stderr=theirs
        ) as process:
            os.close(theirs)
            written = b""
            try:
                while piece := os.read(ours, 65536):
                    written += piece
            except OSError:  # Linux says so when the other end is closed
                pass
            finally:
                os.close(ours)
        return written.decode().replace("\r\n", "\n").split("\n"), process.returncode

    def names(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.folder / folder).iterdir())


def completed(receiver: LiveReceiver, data: bytes, parts: dict[str, bytes], value: float) -> str:
    """Play a worker; return the job's id."""
    lease = receiver.claim()
    assert receiver.upload(lease, data).status == 201
    sha256 = hashlib.sha256(data).hexdigest()
    for name, part in parts.items():
        headers = {"X-Lease-Id": lease["lease_id"], "Repr-Digest": _digest_field(part)}
        assert receiver.call("PUT", f"/v1/model/{sha256}/file/{name}", part, headers).status == 201
    message = {"lease_id": lease["lease_id"], "artifact": sha256, "metrics": {"auprc_host_mean": value}}
    assert receiver.call("POST", f"/v1/job/{lease['job_id']}/complete", message).status == 200
    return str(lease["job_id"])


def _digest_field(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveReceiver, str, str]]:
    """A receiver that demands a token of readers, the id of a job with a card, and one of a job without."""
    tokens = {"operator": "an-operator-token-for-tests", "read": READ}
    text = manifest(3).replace("seed = 0\n", 'seed = 0\nname = "first"\n')
    with LiveReceiver(tmp_path_factory.mktemp("receiver"), text, tokens) as live:
        good = completed(live, BUNDLE, PARTS, 0.9)
        bare = completed(live, b"a bundle of a worker of the version before", {}, 0.1)
        yield live, good, bare


@pytest.fixture
def home(site: tuple[LiveReceiver, str, str], tmp_path: Path, root: Path) -> Home:
    return Home(tmp_path, root, site[0].port)


@pytest.fixture
def job(site: tuple[LiveReceiver, str, str]) -> str:
    return site[1]


def test_a_reader_takes_a_whole_result_home_and_every_file_is_what_was_trained(home: Home, job: str) -> None:
    done = home.run("get", job[:12])
    folder = f"gbt_oracle_{job[:12]}"
    assert {path.name: path.read_bytes() for path in (home.folder / folder).iterdir()} == {
        **PARTS,
        "bundle.tar.zst": BUNDLE,
    }
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[-1] == [f"{folder}/bundle.tar.zst", "model", str(len(BUNDLE)), SHA, "fetched"]
    assert [row[1] for row in rows] == ["figures", "metrics", "card", "model"]
    # Again: everything is there, is right, and is not fetched again.
    again = [line.split("\t") for line in home.run("get", job[:12]).stdout.splitlines()]
    assert [row[-1] for row in again] == ["there"] * 4


@pytest.mark.parametrize("wanted", ["best", SHA[:10], SHA, "first", "job"])
def test_a_result_is_found_by_job_artifact_name_and_as_the_best(home: Home, job: str, wanted: str) -> None:
    found = json.loads(home.run("get", job if wanted == "job" else wanted, "-o", "here", "--json").stdout)
    assert (found["id"], found["artifact"], found["unpacked"]) == (job, SHA, None)
    assert home.names("here") == ["bundle.tar.zst", *sorted(PARTS)]


def test_what_the_words_do_not_name_is_refused_with_what_to_do(
    home: Home, site: tuple[LiveReceiver, str, str], job: str
) -> None:
    assert "found no job of the name nothing; `cis490-jobs list --all`" in home.run("get", "nothing", status=1).stderr
    assert "found no job and no artifact that begins with 0000dead" in home.run("get", "0000dead", status=1).stderr
    assert "found --model with" in home.run("get", job, "--model", "gbt", status=1).stderr
    pending = json.loads(home.run("list", "--status", "pending", "--json").stdout)["jobs"][0]["id"]
    assert f"is pending and has no result; `cis490-jobs why {pending[:12]}`" in (
        home.run("get", pending, status=1).stderr
    )
    assert "found no card beside the bundle" in home.run("card", site[2], status=1).stderr
    assert "found 'x', expected some of card, figures" in home.run("get", job, "--only", "x", status=2).stderr
    assert home.names(".") == []


def test_only_some_kinds_are_fetched_where_they_are_named(home: Home, job: str) -> None:
    home.run("get", job, "-o", "a/b", "--only", "card,metrics")
    assert home.names("a/b") == ["metrics.json", "model_card.md"]


def test_without_the_read_token_nothing_is_shown_or_written(home: Home, job: str) -> None:
    assert "token" in home.run("get", job, status=77, CIS490_READ_TOKEN="").stderr
    assert home.names(".") == []


def test_another_file_of_that_name_is_replaced_only_with_force(home: Home, job: str) -> None:
    (home.folder / "d").mkdir()
    (home.folder / "d" / "bundle.tar.zst").write_bytes(b"of somebody else")
    assert "is another file; move it away" in home.run("get", job, "-o", "d", status=78).stderr
    assert (home.folder / "d" / "bundle.tar.zst").read_bytes() == b"of somebody else"
    home.run("get", job, "-o", "d", "--force")
    assert (home.folder / "d" / "bundle.tar.zst").read_bytes() == BUNDLE


def test_a_terminal_shows_the_files_and_the_next_commands_at_80_cells(home: Home, job: str) -> None:
    lines, status = home.on_a_terminal("get", job, "-o", "new")
    text = "\n".join(lines)
    assert status == 0
    assert f"{job[:12]}  gbt oracle hosts seed 0, verified, in new:" in text
    assert "bundle.tar.zst  2.4 MiB of 2.4 MiB, 100 %" in text
    assert re.search(rf"look   .*cis490_jobs\.py card {job[:12]}", text)
    assert "score  python -m training.trainer.predict --bundle new/bundle.tar.zst --data FILE" in text


# ---- card and open


def test_a_card_reads_well_on_a_terminal_and_steers_nothing(home: Home, job: str) -> None:
    lines, status = home.on_a_terminal("card", job[:8])
    assert (status, max(map(len, lines)) <= 80) == (0, True)
    assert lines[:4] == [
        "gbt, oracle mode",
        "================",
        "",
        "| Warning: leak. Rows of the same incident train.",
    ]
    assert "AUROC, mean over hosts  0.9000" in lines
    assert "host | two              \\x1b[31mred" in lines
    assert lines[lines.index("") :][-4:-1] == ["  it runs.", "", "Curves (curves.svg)"]
    assert "\x1b" not in "".join(lines)


def test_a_card_in_a_pipe_is_its_markdown_with_control_characters_visible(home: Home, job: str) -> None:
    assert home.run("card", job).stdout == CARD.replace("\x1b", "\\x1b")
    found = json.loads(home.run("card", "best", "--json").stdout)
    assert (found["name"], found["text"]) == ("model_card.md", CARD)


def test_open_makes_a_page_on_which_nothing_of_a_host_can_run(home: Home, job: str) -> None:
    lines = home.run("open", job, DISPLAY="", WAYLAND_DISPLAY="").stdout.splitlines()
    assert lines[0] == "there is no desktop here; look at:"
    page = Path(lines[1])
    assert page == home.folder / ".cache/cis490/results" / SHA / "result.html"
    text = page.read_text()
    assert "<script" not in text
    assert "default-src 'none'; img-src data:" in text
    assert "data:image/svg+xml;base64," in text
    assert "<td>\\x1b[31mred</td>" in text
    assert sorted(Path(line).name for line in lines[2:]) == sorted(PARTS)


def test_open_asks_the_desktop_and_shows_it_no_secret(home: Home, job: str) -> None:
    tools = home.folder / "bin"
    tools.mkdir()
    said = home.folder / "said"
    (tools / "xdg-open").write_text(f'#!/bin/sh\nenv > {said}\necho "$1" >> {said}\n')
    (tools / "xdg-open").chmod(0o755)
    environ = {"DISPLAY": ":99", "PATH": f"{tools}:{os.environ['PATH']}"}
    lines = home.run("open", job, "-o", "shown", **environ).stdout.splitlines()
    assert lines[:2] == ["opened:", "shown/result.html"]
    assert said.read_text().splitlines()[-1] == str(home.folder / "shown/result.html")
    assert "CIS490" not in said.read_text()


# ---- what networks, disks and hosts do


def test_a_network_that_cuts_delays_a_result_and_changes_nothing(
    site: tuple[LiveReceiver, str, str], tmp_path: Path, root: Path, job: str
) -> None:
    options = {"upstream": site[0].port, "ports": 1, "rate": 0.6, "hold_s": 0.1, "holds": 0.05, "seed": 5}
    words = [sys.executable, str(root / "tests/helpers/fault_proxy.py"), json.dumps(options)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        (port,) = json.loads(proxy.stdout.readline())
        behind = Home(tmp_path, root, port)
        # A short question has three seconds; what is left of a file that is cut is fetched by the next run.
        runs = [
            subprocess.run(behind.words("get", job, "-o", "r"), cwd=tmp_path, env=behind.environ(), check=False)
            for _ in range(6)
        ]
        proxy.communicate()
    assert 0 in [run.returncode for run in runs]
    assert {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()} == {**PARTS, "bundle.tar.zst": BUNDLE}


def test_a_receiver_that_goes_away_leaves_what_has_come_for_the_next_run(home: Home, job: str, root: Path) -> None:
    with hostile(home, cut_bytes=1_000_000) as server:
        away = Home(home.folder, root, server.port)
        said = away.run("get", job, "-o", "r", "--only", "model", status=69).stderr
        assert "what has come is kept, and the same command goes on from there" in said
        part = home.folder / "r" / f".bundle.tar.zst.{SHA[:12]}.part"
        assert part.stat().st_size == 1_000_000
        server.cut_bytes = None
        away.run("get", job, "-o", "r", "--only", "model")
        assert server.ranges[-1] == "bytes=1000000-"
    assert home.names("r") == ["bundle.tar.zst"]


def test_a_full_disk_is_said_and_leaves_no_file_under_the_name(home: Home, job: str) -> None:
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    said = home.run("get", job, "-o", "r", "--only", "model", status=78, prepare=small).stderr
    assert "cannot write r/.bundle.tar.zst" in said
    assert not (home.folder / "r/bundle.tar.zst").exists()
    home.run("get", job, "-o", "r", "--only", "model")
    assert (home.folder / "r/bundle.tar.zst").read_bytes() == BUNDLE


def test_a_lost_artifact_says_so_with_the_way_out(tmp_path: Path, root: Path) -> None:
    (tmp_path / "receiver").mkdir()
    with LiveReceiver(tmp_path / "receiver", manifest(1)) as live:
        lost = completed(live, b"x" * 1000, {}, 0.5)
        (bundle,) = live.folder.rglob("bundle.tar.zst")
        bundle.unlink()
        machine = Home(tmp_path, root, live.port)
        said = machine.run("get", lost, status=1, CIS490_READ_TOKEN="").stderr
        assert "the artifact is lost" in said
        assert "copy it back from a backup and run fsck" in said
    assert machine.names(".") == ["receiver"]


class Hostile:
    """A receiver of somebody else's making: it passes questions on and changes the answers.

    Attributes:
        change: What it makes of a job's document.
        cut_bytes: How much of a bundle it sends before it hangs up for good, None for all.
        flip: Whether it changes a byte of every file.
        ranges: What was asked for.
    """

    def __init__(self, upstream: Home) -> None:
        self.change: Callable[[dict[str, Any]], None] = lambda _: None
        self.cut_bytes: int | None = None
        self.flip = False
        self.ranges: list[str] = []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner.answer(self, upstream)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    def answer(self, handler: http.server.BaseHTTPRequestHandler, upstream: Home) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", upstream.port)
        connection.request("GET", handler.path, headers=dict(handler.headers.items()))
        answer = connection.getresponse()
        data, is_file = answer.read(), "/v1/model/" in handler.path
        connection.close()
        self.ranges.append(handler.headers.get("Range") or "")
        if handler.path.startswith("/v1/job/"):
            document = json.loads(data)
            self.change(document)
            data = json.dumps(document).encode()
        if is_file and self.flip:
            data = bytes([data[0] ^ 1]) + data[1:]
        handler.send_response(answer.status)
        for name in ("Content-Range", "ETag"):
            if answer.getheader(name):
                handler.send_header(name, answer.getheader(name, ""))
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if is_file and self.cut_bytes is not None:
            handler.wfile.write(data[: self.cut_bytes if not self.ranges[-1] else 0])
            handler.close_connection = True
        else:
            handler.wfile.write(data)


@contextmanager
def hostile(home: Home, **settings: Any) -> Iterator[Hostile]:
    made = Hostile(home)
    for name, value in settings.items():
        setattr(made, name, value)
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()


def part(name: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["parts"][0]["name"] = name

    return change


@pytest.mark.parametrize(
    "name",
    ["../../evil.md", "CON.svg", "com1.md", "a:b.svg", "C:x.md", "a\\b.md", "a\x1b[2J.md", "x.svg.", "nul .md",
     "/etc/x.md", "", "bundle.tar.zst", ".hidden.md", "model_card.md\n", "MODEL_CARD.md"],
)  # fmt: skip
def test_a_name_that_means_something_else_anywhere_is_refused(home: Home, job: str, root: Path, name: str) -> None:
    with hostile(home, change=part(name)) as server:
        other = Home(home.folder, root, server.port)
        said = other.run("get", job, "-o", "r", status=1).stderr
    assert "which are one on Windows" in said or "expected a plain name that ends in" in said
    assert "\x1b" not in said
    assert home.names(".") == []


def test_the_model_can_be_had_without_the_files_of_odd_names(home: Home, job: str, root: Path) -> None:
    with hostile(home, change=part("CON.md")) as server:
        Home(home.folder, root, server.port).run("get", job, "-o", "r", "--only", "model")
    assert home.names("r") == ["bundle.tar.zst"]


def test_a_digest_that_is_none_never_stands_in_a_path(home: Home, job: str, root: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["job"]["artifact"] = "../../x\x1b[2J"

    with hostile(home, change=change) as server:
        said = Home(home.folder, root, server.port).run("get", job, status=1).stderr
    assert "the receiver sent the digest '../../x\\x1b[2J'; expected 64 lower-case hex digits" in said


def test_a_model_of_an_odd_name_gets_a_folder_of_a_plain_one(home: Home, job: str, root: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["job"]["model"] = "../aux"

    with hostile(home, change=change) as server:
        Home(home.folder, root, server.port).run("get", job, "--only", "metrics")
    assert home.names(".") == [f"job_{job[:12]}"]


@pytest.mark.parametrize("command", [["get"], ["get", "--only", "card"], ["card"]])
def test_bytes_that_hash_to_something_else_are_never_shown_or_kept(
    home: Home, job: str, root: Path, command: list[str]
) -> None:
    with hostile(home, flip=True) as server:
        done = Home(home.folder, root, server.port).run(*command, job, status=1)
    assert "found bytes that hash to" in done.stderr
    assert done.stdout == ""
    assert home.names(".") == []


# ---- predict


def test_predict_fetches_once_and_ends_as_the_trainer_does(home: Home, job: str) -> None:
    (home.folder / "day.csv").write_text("a,b\n")
    cached = home.folder / ".cache/cis490/results" / SHA / "bundle.tar.zst"
    said = home.run("predict", job, "--data", "day.csv", status=78).stderr
    assert said.startswith("predict: bundle.tar.zst is not a whole bundle.tar.zst")
    assert cached.read_bytes() == BUNDLE
    cached.write_bytes(b"changed by somebody")
    home.run("predict", job, "--data", "day.csv", status=78)
    assert cached.read_bytes() == BUNDLE
    assert cached.parent.stat().st_mode & 0o777 == 0o700


def test_a_bundle_that_cannot_be_unpacked_stays_as_it_is_and_the_reason_is_said(home: Home, job: str) -> None:
    said = home.run("get", job, "-o", "r", "--only", "model", "--unpack", status=1).stderr
    assert said.startswith("unpack: ")
    assert "r/bundle.tar.zst is there and was not unpacked, for the reason above" in said
    assert home.names("r") == ["bundle.tar.zst"]
