"""Claims about taking files out of a bundle that nobody trusts."""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest
from evil_archives import END, EVIL, WHOLE, compressed, header, member, patched, tar, zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.fleet import bundle
from training.fleet.model.errors import TrainerError as NotPacked
from training.trainer.faults import SpecError
from training.trainer.stored import archive
from training.trainer.stored.archive import Limits, extract


class Cage:
    """A folder beside something precious."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.folder = top / "in" / "folder"
        self.folder.mkdir(parents=True)
        (top / "out").write_text("precious")

    def escaped(self) -> list[str]:
        """Everything outside the folder that should not be there."""
        kept = {self.top / "in", self.folder, self.top / "out"}
        inside = set(self.folder.rglob("*"))
        odd = [str(path) for path in self.top.rglob("*") if path not in kept and path not in inside]
        if (self.top / "out").read_text() != "precious":
            odd.append("out was changed")
        return odd

    def files(self) -> dict[str, bytes]:
        found = {}
        for path in self.folder.rglob("*"):
            assert not path.is_symlink()
            assert path.is_dir() or path.is_file()
            assert path.stat().st_mode & 0o7000 == 0
            if path.is_file():
                found[path.relative_to(self.folder).as_posix()] = path.read_bytes()
        return found


@pytest.mark.parametrize(("data", "refusal"), EVIL.values(), ids=EVIL)
def test_an_evil_archive_is_refused_and_leaves_its_folder_nowhere(tmp_path: Path, data: bytes, refusal: str) -> None:
    cage = Cage(tmp_path)
    with pytest.raises(SpecError) as caught:
        extract(io.BytesIO(data), cage.folder, "bundle.tar.zst")
    assert refusal in str(caught.value)
    assert str(caught.value).isprintable()
    assert cage.escaped() == []


def test_a_bundle_of_the_fleet_comes_out_as_it_went_in(tmp_path: Path) -> None:
    cage = Cage(tmp_path)
    source = tmp_path / "in" / "art"
    names = ["model.json", ".hidden", "a b/c+d=e@f,~g", "/".join("d" * 16) + "/" + "f" * 90, "empty", "x" * 100]
    for number, name in enumerate(names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(bytes(300_000 * number))
    (source / "empty").write_bytes(b"")
    packed = bundle.pack(source, tmp_path / "in" / "b.tar.zst")
    with (tmp_path / "in" / "b.tar.zst").open("rb") as stream:
        found = extract(stream, cage.folder, "b.tar.zst")
    assert (found.sha256, found.content_digest, found.files) == (packed.sha256, packed.content_digest, 6)
    assert cage.files() == {name: (source / name).read_bytes() for name in names}


def test_a_bundle_from_a_host_without_zstd_comes_out_as_well(tmp_path: Path) -> None:
    cage = Cage(tmp_path)
    content = bytes(range(256)) * 2000
    plain_tar = member("a", content) + END
    frame = bundle._RawFrame(len(plain_tar))
    extract(io.BytesIO(frame.compress(bytearray(plain_tar))), cage.folder, "b.tar.zst")
    assert cage.files() == {"a": content}


def test_what_is_not_wanted_is_checked_and_stays_in(tmp_path: Path) -> None:
    cage = Cage(tmp_path)
    extract(io.BytesIO(tar(member("a"), member("b/c"))), cage.folder, "b", wanted=lambda name: name == "a")
    assert cage.files() == {"a": b"x"}
    with pytest.raises(SpecError, match="not a plain file name"):
        extract(io.BytesIO(tar(member("../out"))), cage.folder, "b", wanted=lambda name: False)


def test_limits_are_those_of_the_caller(tmp_path: Path) -> None:
    two = tar(member("a", bytes(2 << 20)), member("b"))
    for limits, refusal in (
        (Limits(members=1), "more than 1 files"),
        (Limits(file_bytes=1 << 20), "'a' is larger than 1 MiB"),
        (Limits(total_bytes=1 << 20), "unfolds to more than 1 MiB"),
    ):
        with pytest.raises(SpecError, match=refusal):
            extract(io.BytesIO(two), Path(tempfile.mkdtemp(dir=tmp_path)), "b", limits)


def test_a_link_that_somebody_puts_into_the_folder_is_not_followed(tmp_path: Path) -> None:
    cage = Cage(tmp_path)
    (cage.folder / "a").symlink_to(tmp_path, target_is_directory=True)
    (cage.folder / "b").symlink_to(tmp_path / "out")
    for name in ("a/out2", "b"):
        with pytest.raises(OSError):
            extract(io.BytesIO(tar(member(name))), cage.folder, "b")
    assert (tmp_path / "out").read_text() == "precious"
    assert not (tmp_path / "out2").exists()


@settings(max_examples=300)
@given(
    st.text(st.sampled_from("aZ0_.+=@,~ -:\\\n\0é*?"), min_size=1, max_size=6)
    | st.sampled_from(["CON", "con.txt", "com1", "lpt9 .x", "COM", "aux .", "nul", "console"])
)
def test_reader_and_writer_agree_on_every_name(part: str) -> None:
    written = read = True
    try:
        bundle._check_name(part, part)
    except NotPacked:
        written = False
    try:
        archive._Names(Limits()).add(part)
    except SpecError:
        read = False
    assert written == read


def test_reader_and_writer_agree_on_their_limits() -> None:
    limits = Limits()
    assert (limits.members, limits.depth, limits.total_bytes) == (10_000, 16, 8 * 2**30 - 1)
    assert (bundle.MAX_FILES, bundle.MAX_DEPTH, bundle.MAX_TAR_BYTES) == (10_000, 16, 8 * 2**30 - 1)


# ---- fuzz -----------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    ["a", "b", "A", "d/a", "d/b", "D/c", "d", "d/e/f", "x" * 100, "../out", "/tmp/out", "a/../../out", "nul", "c:x",
     "..\\out", "a\nb", "a.", " a", "in", "in/out", "", ".", "..", "./a", "d//a"]
) | st.text(st.sampled_from("ab/.\\: \n"), max_size=8)  # fmt: skip
KINDS = st.sampled_from([b"0"] * 12 + [b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S"])
MEMBERS = st.builds(
    lambda name, kind, link, mode, content, claimed: (
        header(name, len(content) if claimed is None else claimed, kind, mode, link)
        + content
        + bytes(-len(content) % 512)
    ),
    NAMES,
    KINDS,
    st.sampled_from(["", "", "", "/tmp", "../../out", "a"]),
    st.sampled_from([0o644, 0o644, 0o600, 0o4755]),
    st.binary(max_size=40),
    st.sampled_from([None] * 8 + [0, 1, 513, 2**30]),
)
GOOD = st.builds(member, st.sampled_from(["a", "b", "d/a", "d/e/f"]), st.binary())
EDITS = st.lists(st.tuples(st.integers(0, 4095), st.binary(min_size=1, max_size=12), st.booleans()), max_size=1)
ARCHIVES = st.tuples(
    st.lists(GOOD, max_size=3),
    st.lists(MEMBERS, max_size=2),
    EDITS,
    st.sampled_from([END] * 6 + [b"", bytes(512), bytes(10240), END + member("../out")]),
    st.sampled_from([b""] * 6 + [b"x", WHOLE]),
    st.integers(0, 30),
)


Made = tuple[list[bytes], list[bytes], list[tuple[int, bytes, bool]], bytes, bytes, int]


class Tally:
    def __init__(self) -> None:
        self.accepted = self.refused = 0


def try_one(made: Made, cage: Cage) -> bool:
    """Extract a made archive; say whether it was accepted, and fail when anything came out wrongly."""
    good, odd, edits, end, behind, cut = made
    data = b"".join([*good, *odd])
    for at, text, sealed in edits:
        if at + len(text) < len(data):
            block = at - at % 512
            changed = data[:at] + text + data[at + len(text) :]
            data = changed[:block] + patched(changed[block:], 0, b"") if sealed else changed
    bundled = compressed([data, end]) + behind
    bundled = bundled[: len(bundled) - (cut - 26 if cut > 26 else 0)]
    accepted = False
    with contextlib.suppress(SpecError):
        extract(io.BytesIO(bundled), cage.folder, "b")
        accepted = True
    assert cage.escaped() == []
    files = cage.files()
    if accepted:
        with tarfile.open(fileobj=io.BytesIO(zstd.decompress(bundled))) as other:
            assert files == {info.name: other.extractfile(info).read() for info in other}  # type: ignore[union-attr]
    if any(cage.folder.iterdir()):
        shutil.rmtree(cage.folder)
        cage.folder.mkdir()
    return accepted


def fuzz(examples: int, folder: Path) -> Tally:
    tally, cage = Tally(), Cage(folder)

    @settings(max_examples=examples, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(ARCHIVES)
    def attempt(made: Made) -> None:
        if try_one(made, cage):
            tally.accepted += 1
        else:
            tally.refused += 1

    attempt()
    return tally


def test_a_thousand_made_archives_are_refused_or_come_out_as_another_reader_says(tmp_path: Path) -> None:
    tally = fuzz(1000, tmp_path)
    assert tally.accepted > 50
    assert tally.refused > 500


@pytest.mark.slow
def test_twenty_thousand_made_archives_are_refused_or_come_out_as_another_reader_says(tmp_path: Path) -> None:
    tally = fuzz(20_000, tmp_path)
    assert tally.accepted > 600
    assert tally.refused > 10_000


def test_every_cut_of_a_bundle_is_refused(tmp_path: Path) -> None:
    for size in range(len(WHOLE)):
        with pytest.raises(SpecError):
            extract(io.BytesIO(WHOLE[:size]), Path(tempfile.mkdtemp(dir=tmp_path)), "b")


def test_without_dir_fd_names_are_held_back_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    cage = Cage(tmp_path)
    monkeypatch.setattr(archive, "_CAN_OPEN_BELOW", False)
    for data in (tar(member("d/e/f", b"1"), member("d/g", b"2")), tar(member("d/g"))):
        with contextlib.suppress(FileExistsError):
            extract(io.BytesIO(data), cage.folder, "b")
    for data, _ in EVIL.values():
        with contextlib.suppress(FileExistsError), pytest.raises(SpecError):
            extract(io.BytesIO(data), Path(tempfile.mkdtemp(dir=cage.folder)), "b")
    assert cage.escaped() == []
    assert (cage.folder / "d" / "g").read_bytes() == b"2"
