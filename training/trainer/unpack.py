"""The unpacking program: `unpack.py BUNDLE FOLDER`, for a bundle that came from somewhere else.

The folder appears whole or not at all. A process of its own, held by the system to little memory and time, reads the
bundle; this one looks at how that ends. Windows has no such limits, there the reader's own hold alone.

Exit status 0: done. 75: something is missing on this host. 78: the bundle is wrong. 2: wrong usage.
"""

import sys
from pathlib import Path

if not __package__:
    # Started as a file: the project root stands for this folder, whose module names must not become top-level ones.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import training.trainer  # noqa: F401 - ends a Python that is too old, before it reads what is new to it

# isort: split
import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Any, Final

from training.trainer.faults import HostError, SpecError, TrainerError
from training.trainer.files import sync
from training.trainer.stored.archive import Limits, extract

MEMORY_BYTES: Final = 40 << 20
"""What the reader may take beyond what it has once Python is loaded: the largest window of zstd, thrice."""
CPU_S: Final = 4
"""CPU time of the reader for any bundle."""
BYTES_PER_CPU_S: Final = 10 << 20
"""Bytes of the bundle that earn one second more; an honest bundle is read ten times as fast on a Raspberry Pi."""
READER: Final = "--read-standard-input"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == [READER] and len(given) == 2:
        return _read(given[1])
    options = _parser().parse_args(given)
    try:
        found = unpack(options.bundle, options.folder, options.sha256)
    except TrainerError as fault:
        return _refused(str(fault), fault.exit_status)
    except OSError as fault:
        return _refused(f"{fault}; check the paths and the free space", HostError.exit_status)
    sys.stdout.write(f"{options.folder}: {found['files']} files, {found['size_bytes']} bytes\n")
    sys.stdout.write(f"artifact id     {found['sha256']}\ncontent digest  {found['content_digest']}\n")
    return 0


def unpack(bundle: Path, folder: Path, sha256: str | None = None) -> dict[str, Any]:
    """Write a bundle's files to a new folder, durably.

    Args:
        bundle: A `bundle.tar.zst`.
        folder: A folder that does not exist yet; the one above must.
        sha256: Artifact id that the bundle must have; None takes the one in the bundle's path, if there is one.

    Returns:
        The fields of `archive.Extracted`.

    Raises:
        SpecError: The bundle is damaged, breaks a limit, or is another one than its name says.
        HostError: It cannot be read, or the folder cannot be made here.
    """
    if os.path.lexists(folder):
        raise HostError(f"{folder} is there already; name a folder that does not exist")
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        found = _through_reader(bundle, part)
        _demand_digest(found["sha256"], sha256 or _named(bundle))
        for path in (*sorted(part.rglob("*"), reverse=True), part):
            sync(path)
        part.chmod(0o755)
        part.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return found


def _named(bundle: Path) -> str | None:
    """Return the artifact id in a bundle's path, as the store and downloads write it."""
    names = (bundle.absolute().parent.name, bundle.name.partition(".")[0])
    return next((name for name in names if _DIGEST.fullmatch(name)), None)


def _demand_digest(found: str, wanted: str | None) -> None:
    if wanted is not None and found != wanted:
        raise SpecError(f"the bundle's digest is {found}, expected {wanted}; it is another one, or damaged")


def _through_reader(bundle: Path, part: Path) -> dict[str, Any]:
    try:
        stream = bundle.open("rb")
    except FileNotFoundError as fault:
        raise HostError(f"{bundle} does not exist; give a bundle.tar.zst") from fault
    with stream:
        command = [sys.executable, str(Path(__file__).resolve()), READER, bundle.name]
        # Nothing in the command is the bundle's: it names this file, and the bundle as the caller wrote it.
        done = subprocess.run(command, stdin=stream, cwd=part, capture_output=True, check=False)  # noqa: S603
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode == HostError.exit_status:
        raise HostError(said)
    if done.returncode == SpecError.exit_status:
        raise SpecError(said)
    raise SpecError(
        f"reading {bundle.name} took more memory or time than any bundle needs (it ended {done.returncode})"
    )


def _read(name: str) -> int:
    """Be the reader: the bundle comes in, its files go to the working folder."""
    stream: IO[bytes] = sys.stdin.buffer
    try:
        _limit(os.fstat(stream.fileno()).st_size)
        found = extract(stream, Path(), name, Limits())
    except TrainerError as fault:
        sys.stderr.write(f"{fault}\n")
        return fault.exit_status
    except MemoryError:
        sys.stderr.write(f"reading {name} takes more memory than any bundle needs\n")
        return SpecError.exit_status
    except OSError as fault:
        sys.stderr.write(f"{fault}; check the free space\n")
        return HostError.exit_status
    fields = ("files", "size_bytes", "sha256", "content_digest")
    sys.stdout.write(json.dumps({field: getattr(found, field) for field in fields}))
    return 0


def _limit(size_bytes: int) -> None:
    """Have the system end this process when it takes more than a bundle of that size needs."""
    if sys.platform == "win32":
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else None
    if pages is not None:
        memory = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    cpu_s = CPU_S + size_bytes // BYTES_PER_CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _refused(message: str, status: int) -> int:
    sys.stderr.write(f"unpack: {message}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="training.trainer.unpack", description="Unpack a bundle without trusting it.")
    parser.add_argument("bundle", type=Path, help="a bundle.tar.zst")
    parser.add_argument("folder", type=Path, help="folder to make; it must not exist")
    parser.add_argument("--sha256", help="artifact id that the bundle must have")
    return parser


if __name__ == "__main__":
    sys.exit(main())
