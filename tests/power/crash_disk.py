"""A disk that forgets: what a power cut may leave of what a program did.

The model is weaker than ext4 and xfs, so what those may leave is among what it leaves:

- What a sync of a file returned for is there. Each write after it is there, missing, or torn: any of its sectors of 512
  bytes, whatever came before or after it. The same holds for a change of length.
- What a sync of a folder returned for is there. Each name that was added, removed or renamed after it is there or not,
  whatever came before or after. A rename within one folder is one change; between two folders it is two.
- The sync of a file says nothing of its name.

Source: Pillai et al., All File Systems Are Not Created Equal, OSDI'14, sections 2 and 3.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crash_trace import Step

SECTOR = 512
WHOLE = -1
Choice = dict[int, int]
"""Which changes are there: their number, with a seed for the sectors that are, or WHOLE."""


@dataclass
class _File:
    number: int
    kept: bytes = b""
    """What the disk is sure to have."""
    live: bytearray = field(default_factory=bytearray)
    """What the program sees."""
    loose: list[tuple[int, Step]] = field(default_factory=list)
    """Changes the disk may lack, oldest first."""
    made: dict[tuple[tuple[int, int], ...], bytes] = field(default_factory=dict)


@dataclass
class _Folder:
    number: int
    kept: dict[str, _File | _Folder] = field(default_factory=dict)
    live: dict[str, _File | _Folder] = field(default_factory=dict)
    loose: list[tuple[int, str, str, _File | _Folder | None]] = field(default_factory=list)
    """Change, name that goes, name that comes, and what it stands for."""


@dataclass(frozen=True)
class Image:
    """What lies on a disk after a power cut.

    Attributes:
        files: Bytes by path.
        folders: Paths of the folders.
    """

    files: dict[str, bytes]
    folders: tuple[str, ...]

    def part(self, *tops: str) -> Image:
        """Return what of it lies below some of its topmost folders."""
        files = {path: data for path, data in self.files.items() if path.split("/", 1)[0] in tops}
        return Image(files, tuple(path for path in self.folders if path.split("/", 1)[0] in tops))

    def key(self) -> int:
        """Return a number that differs for images that differ."""
        return hash((frozenset(self.files.items()), self.folders))


class Disk:
    """A disk to which steps are done one by one."""

    def __init__(self, before: Path | None = None) -> None:
        self._numbers = iter(range(10**9))
        self.root = _Folder(-1)
        self._begun: dict[int, tuple[_File | _Folder, int]] = {}
        if before is not None:
            self._take(before, self.root)

    def _take(self, source: Path, folder: _Folder) -> None:
        """Take over what lies in a real folder, as synced long ago."""
        for path in sorted(source.iterdir()):
            if path.is_dir():
                entry: _File | _Folder = _Folder(next(self._numbers))
                assert isinstance(entry, _Folder)
                self._take(path, entry)
            else:
                entry = _File(next(self._numbers), path.read_bytes(), bytearray(path.read_bytes()))
            folder.kept[path.name] = folder.live[path.name] = entry

    def _find(self, path: str) -> _File | _Folder | None:
        entry: _File | _Folder | None = self.root
        for name in [] if path == "." else path.split("/"):
            entry = entry.live.get(name) if isinstance(entry, _Folder) else None
        return entry

    def _parent(self, path: str) -> tuple[_Folder, str]:
        above, _, name = path.rpartition("/")
        folder = self._find(above or ".")
        assert isinstance(folder, _Folder), path
        return folder, name

    def do(self, step: Step) -> None:
        """Do a step."""
        getattr(self, f"_{step.kind.replace('-', '_')}")(step)

    def _answer(self, step: Step) -> None:
        pass

    def _name(self, folder: _Folder, gone: str, come: str, entry: _File | _Folder | None) -> None:
        folder.loose.append((next(self._numbers), gone, come, entry))
        _rename(folder.live, gone, come, entry)

    def _make(self, step: Step) -> None:
        folder, name = self._parent(step.path)
        if name not in folder.live:
            self._name(folder, "", name, _File(next(self._numbers)))

    def _folder(self, step: Step) -> None:
        folder, name = self._parent(step.path)
        self._name(folder, "", name, _Folder(next(self._numbers)))

    def _remove(self, step: Step) -> None:
        folder, name = self._parent(step.path)
        self._name(folder, name, "", None)

    def _link(self, step: Step) -> None:
        folder, name = self._parent(step.other)
        self._name(folder, "", name, self._find(step.path))

    def _rename(self, step: Step) -> None:
        (old, gone), (new, come) = self._parent(step.path), self._parent(step.other)
        entry = old.live[gone]
        if old is new:
            self._name(old, gone, come, entry)
        else:
            self._name(new, "", come, entry)
            self._name(old, gone, "", None)

    def _write(self, step: Step) -> None:
        file = self._find(step.path)
        assert isinstance(file, _File), step.path
        if step.start < 0:
            step = Step("write", step.path, start=len(file.live), data=step.data)
        file.loose.append((next(self._numbers), step))
        file.made.clear()
        _apply(file.live, step, WHOLE)

    def _cut(self, step: Step) -> None:
        file = self._find(step.path)
        assert isinstance(file, _File), step.path
        if len(file.live) != step.start:
            file.loose.append((next(self._numbers), step))
            file.made.clear()
            _apply(file.live, step, WHOLE)

    def _grow(self, step: Step) -> None:
        file = self._find(step.path)
        assert isinstance(file, _File), step.path
        if len(file.live) < step.start:
            self._cut(step)

    def _begin_sync(self, step: Step) -> None:
        entry = self._find(step.path)
        assert entry is not None, step.path
        self._begun[step.sync] = (entry, len(entry.loose))

    def _end_sync(self, step: Step) -> None:
        entry, count = self._begun.pop(step.sync)
        for other, (begun, more) in list(self._begun.items()):
            if begun is entry:  # two threads that sync one file
                self._begun[other] = (begun, max(0, more - count))
        if isinstance(entry, _File):
            kept = bytearray(entry.kept)
            for _, change in entry.loose[:count]:
                _apply(kept, change, WHOLE)
            entry.kept = bytes(kept)
            entry.made.clear()
        else:
            for _, gone, come, what in entry.loose[:count]:
                _rename(entry.kept, gone, come, what)
        del entry.loose[:count]

    # ---- what a kill may have hidden

    def unseen(self, folder: Path) -> list[Step]:
        """Return the writes that the steps lack of what lies in a real folder: those of calls that a kill cut off.

        Raises:
            AssertionError: The names differ, so the steps are not what happened there.
        """
        everything = self.image({number: WHOLE for number, _ in self.loose()})
        seen = {*everything.files, *everything.folders}
        real = {str(path.relative_to(folder)) for path in folder.rglob("*")}
        assert seen == real, f"only in the steps: {sorted(seen - real)}; only in the folder: {sorted(real - seen)}"
        files = everything.files.items()
        return [step for path, data in files for step in _unseen(path, data, (folder / path).read_bytes())]

    # ---- what a cut may leave

    def loose(self) -> list[tuple[int, int]]:
        """Return the changes that a cut may take, oldest first, each with its number of sectors; 0 for names."""
        found: dict[int, int] = {}
        seen: set[int] = set()
        waiting: list[_File | _Folder] = [self.root]
        while waiting:
            entry = waiting.pop()
            if entry.number in seen:
                continue
            seen.add(entry.number)
            if isinstance(entry, _File):
                found.update((number, _sectors(step)) for number, step in entry.loose)
            else:
                found.update((number, 0) for number, *_ in entry.loose)
                waiting += entry.kept.values()
                waiting += [what for *_, what in entry.loose if what is not None]
        return sorted(found.items())

    def image(self, choice: Choice) -> Image:
        """Return what lies on the disk when of the loose changes those chosen are there."""
        files: dict[str, bytes] = {}
        folders: list[str] = []
        waiting: list[tuple[str, _Folder]] = [("", self.root)]
        while waiting:
            above, folder = waiting.pop()
            names = dict(folder.kept)
            for number, gone, come, what in folder.loose:
                if number in choice:
                    _rename(names, gone, come, what)
            for name, entry in names.items():
                if isinstance(entry, _Folder):
                    folders.append(f"{above}{name}")
                    waiting.append((f"{above}{name}/", entry))
                else:
                    files[f"{above}{name}"] = _content(entry, choice)
        return Image(files, tuple(sorted(folders)))


def _unseen(path: str, seen: bytes, real: bytes) -> list[Step]:
    if seen == real:
        return []
    starts = range(0, len(real), SECTOR)
    writes = [Step("write", path, start=at, data=real[at : at + SECTOR]) for at in starts]
    differing = [step for step in writes if seen[step.start : step.start + len(step.data)] != step.data]
    return [*differing, Step("cut", path, start=len(real))]


def _sectors(step: Step) -> int:
    return (step.start % SECTOR + len(step.data) + SECTOR - 1) // SECTOR if step.kind == "write" else 1


def _rename(names: dict[str, _File | _Folder], gone: str, come: str, what: _File | _Folder | None) -> None:
    if gone:
        names.pop(gone, None)
    if come and what is not None:
        names[come] = what


def _content(file: _File, choice: Choice) -> bytes:
    chosen = tuple((number, choice[number]) for number, _ in file.loose if number in choice)
    if not chosen:
        return file.kept
    if chosen not in file.made:
        content, seeds = bytearray(file.kept), dict(chosen)
        for number, step in file.loose:
            if number in seeds:
                _apply(content, step, seeds[number])
        file.made[chosen] = bytes(content)
    return file.made[chosen]


def _apply(content: bytearray, step: Step, seed: int) -> None:
    if step.kind != "write":
        missing = step.start - len(content)
        if missing > 0:
            content.extend(bytes(missing))
        else:
            del content[step.start :]
        return
    for start, data in [(step.start, step.data)] if seed == WHOLE else _torn(step, seed):
        if start > len(content):
            content.extend(bytes(start - len(content)))
        content[start : start + len(data)] = data


def _torn(step: Step, seed: int) -> Iterator[tuple[int, bytes]]:
    """Yield some of the sectors of a write."""
    chance = random.Random(seed)
    share = chance.choice((0.1, 0.5, 0.9))
    first, end = step.start, step.start + len(step.data)
    while first < end:
        after = min(end, (first // SECTOR + 1) * SECTOR)
        if chance.random() < share:
            yield first, step.data[first - step.start : after - step.start]
        first = after


def choice(loose: Sequence[tuple[int, int]], seed: int, round_: int) -> Choice:
    """Return a way in which loose changes can be there or not: in the first two rounds none and all, then others."""
    if round_ < 2 or not loose:
        return dict.fromkeys((number for number, _ in loose), WHOLE) if round_ else {}
    chance = random.Random(seed * 1_000_003 + round_)
    everything = dict.fromkeys((number for number, _ in loose), WHOLE)
    number, sectors = chance.choice(loose[-8:])
    kind = round_ % 4
    if kind == 0:
        return {number: WHOLE}
    if kind == 1:
        return {other: WHOLE for other in everything if other != number}
    if kind == 2 and sectors > 1:
        return {**everything, number: chance.randrange(10**6)}
    share = chance.choice((0.15, 0.5, 0.85))
    return {
        number: chance.randrange(10**6) if sectors > 1 and chance.random() < 0.4 else WHOLE
        for number, sectors in loose
        if chance.random() < share
    }
