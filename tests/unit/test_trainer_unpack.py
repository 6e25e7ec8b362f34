"""Claims about the unpacking program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from evil_archives import EVIL, WHOLE, bombs, member, tar

from training.fleet import bundle
from training.trainer import unpack

PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
MEASURED = """\
import json, resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "training.trainer.unpack", *sys.argv[1:]], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stderr, used.ru_maxrss, used.ru_utime + used.ru_stime]))
"""


def packed(folder: Path) -> tuple[Path, bundle.Packed]:
    (folder / "art" / "figures").mkdir(parents=True)
    (folder / "art" / "model.json").write_text("{}")
    (folder / "art" / "figures" / "roc.svg").write_text("<svg/>")
    return folder / "b.tar.zst", bundle.pack(folder / "art", folder / "b.tar.zst")


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]


def test_a_bundle_is_unpacked_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, made = packed(tmp_path)
    assert unpack.main([str(path), str(tmp_path / "new"), "--sha256", made.sha256]) == 0
    found = {str(item.relative_to(tmp_path / "new")) for item in (tmp_path / "new").rglob("*")}
    assert found == {"model.json", "figures", "figures/roc.svg"}
    said = capsys.readouterr().out
    assert "2 files, 8 bytes" in said
    assert f"artifact id     {made.sha256}\ncontent digest  {made.content_digest}\n" in said
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("name", ["parent", "link, then through it", "byte behind the frame"])
def test_an_evil_bundle_leaves_nothing(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, refusal = EVIL[name]
    (tmp_path / "b.tar.zst").write_bytes(data)
    assert unpack.main([str(tmp_path / "b.tar.zst"), str(tmp_path / "new")]) == 78
    assert refusal in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar.zst"]


def test_a_good_file_before_an_evil_one_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "b.tar.zst").write_bytes(tar(member("a"), member("../out")))
    assert unpack.main([str(tmp_path / "b.tar.zst"), str(tmp_path / "new")]) == 78
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar.zst"]


@pytest.mark.parametrize("place", ["{}/bundle.tar.zst", "{}.tar.zst"])
def test_a_bundle_under_a_name_that_is_not_its_digest_is_refused(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / place.format("0" * 64)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(WHOLE)
    assert unpack.main([str(path), str(tmp_path / "new")]) == 78
    assert f"expected {'0' * 64}; it is another one, or damaged" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert left_over(tmp_path) == []


def test_a_stored_bundle_under_its_digest_is_unpacked(tmp_path: Path) -> None:
    path, made = packed(tmp_path)
    stored = tmp_path / made.sha256 / "bundle.tar.zst"
    stored.parent.mkdir()
    path.rename(stored)
    assert unpack.main([str(stored), str(tmp_path / "new")]) == 0
    assert unpack.main([str(stored), str(tmp_path / "other"), "--sha256", "0" * 64]) == 78


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = packed(tmp_path)
    (tmp_path / "new").symlink_to(tmp_path / "nowhere")
    assert unpack.main([str(path), str(tmp_path / "new")]) == 75
    assert "exists; name a folder that does not" in capsys.readouterr().err


def test_what_is_missing_here_is_the_hosts_trouble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert unpack.main([str(tmp_path / "none"), str(tmp_path / "new")]) == 75
    assert "does not exist; give a bundle.tar.zst" in capsys.readouterr().err
    assert unpack.main([str(tmp_path / "none"), str(tmp_path / "no" / "new")]) == 75
    assert "check the paths" in capsys.readouterr().err


def test_a_reader_without_zstd_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = packed(tmp_path)
    for name in ("backports", "compression"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert unpack.main([str(path), str(tmp_path / "new")]) == 75
    assert "needs backports.zstd; in the checkout, run: " in capsys.readouterr().err
    assert left_over(tmp_path) == []


def test_a_reader_that_is_ended_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = packed(tmp_path)
    killed = subprocess.CompletedProcess([], -9, b"", b"")
    monkeypatch.setattr(unpack.subprocess, "run", lambda *_, **__: killed)
    assert unpack.main([str(path), str(tmp_path / "new")]) == 78
    assert "took more memory or time than any bundle needs" in capsys.readouterr().err
    assert left_over(tmp_path) == []
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limits")
def test_the_reader_is_held_to_little_memory_and_time() -> None:
    code = "from training.trainer import unpack; unpack.CPU_S = 1; unpack._limit(0)\n"
    greedy = subprocess.run(
        [sys.executable, "-c", code + "bytearray(64 << 20)"], check=False, capture_output=True, env=PLAIN
    )
    assert b"MemoryError" in greedy.stderr
    endless = subprocess.run(
        [sys.executable, "-c", code + "while True: pass"], check=False, capture_output=True, env=PLAIN
    )
    assert endless.returncode == -signal.SIGXCPU


@pytest.mark.skipif(sys.platform != "linux", reason="measures as Linux does")
def test_a_bomb_is_refused_within_64_mib_and_5_s_of_cpu_time(tmp_path: Path, root: Path) -> None:
    found = {}
    for name, path, refusal in bombs(tmp_path):
        # A small process in between: what is measured of a child begins with the size of the one that started it.
        command = [sys.executable, "-c", MEASURED, str(path), str(tmp_path / "new")]
        done = subprocess.run(command, capture_output=True, check=True, env=PLAIN, cwd=root)
        status, said, peak_kib, cpu_s = json.loads(done.stdout)
        found[name] = (status, refusal in said, peak_kib < 64 * 1024, cpu_s < 5)
        path.unlink()
    names = ("zstd", "gzip", "extended header", "sparse", "members", "window")
    assert found == dict.fromkeys(names, (78, True, True, True))
    assert list(tmp_path.iterdir()) == []
