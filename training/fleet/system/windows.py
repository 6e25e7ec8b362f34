"""Windows 10 and newer, through `ctypes` alone."""

from __future__ import annotations

import contextlib
import ctypes
import msvcrt
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from ctypes import wintypes
from pathlib import Path
from typing import IO, Final

assert sys.platform == "win32"

HIDDEN: Final = subprocess.CREATE_NO_WINDOW
STOP_LOOK_S: Final[float | None] = 1.0
PATIENCE_S: Final[tuple[float, ...]] = (0.1, 0.3, 1.0)
LONGEST_ROOT: Final[int | None] = 120
"""Leaves 140 of the 260 characters of a plain path to runs, checkpoints and the files in an artifact."""
_TRIES: Final = 10
_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.5
_ES_CONTINUOUS: Final = 0x80000000
_ES_SYSTEM_REQUIRED: Final = 0x00000001
_LONG: Final = "\\\\?\\"
_SE_FILE_OBJECT: Final = 1
_OWNER_INFORMATION: Final = 1
_DACL_INFORMATION: Final = 4
_PROTECTED: Final = 0x80000000
_SDDL_REVISION: Final = 1
_OWNER_ALONE: Final = "D:P(A;;FA;;;OW)(A;;FA;;;SY)(A;;FA;;;BA)"
_ACCESS_ALLOWED: Final = 0
_FILE_READ_DATA: Final = 1
_NAME_SURROGATE: Final = 0x20000000
_GENERIC_READ_OR_ALL: Final = 0x90000000
_EVERYBODY: Final = ("S-1-1-0", "S-1-5-11", "S-1-5-32-545", "S-1-5-32-546")
"""Everyone, authenticated users, users, guests."""


class _MemoryStatus(ctypes.Structure):
    _fields_ = (
        ("length", wintypes.DWORD),
        ("load", wintypes.DWORD),
        ("total_bytes", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 6),
    )


class _AceHeader(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_ubyte), ("flags", ctypes.c_ubyte), ("size", wintypes.WORD), ("mask", wintypes.DWORD))


class _AclHeader(ctypes.Structure):
    _fields_ = (
        ("revision", ctypes.c_ubyte),
        ("padding", ctypes.c_ubyte),
        ("size", wintypes.WORD),
        ("count", wintypes.WORD),
        ("padding2", wintypes.WORD),
    )


_kernel = ctypes.WinDLL("kernel32", use_last_error=True)
_security = ctypes.WinDLL("advapi32", use_last_error=True)


def lock(stream: IO[str]) -> None:
    """See `posix`. Source: Microsoft, C runtime, _locking."""
    stream.seek(0)
    msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)


def replace(source: Path, target: Path) -> None:
    """See `posix`."""
    pause_s = _FIRST_PAUSE_S
    for _ in range(_TRIES - 1):
        try:
            source.replace(target)
        except PermissionError:
            time.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
        else:
            return
    source.replace(target)


def unlink(path: Path) -> None:
    """See `posix`; a file's mark as read-only is taken off, and a link to a folder is no file here."""
    try:
        path.unlink()
    except PermissionError:
        if getattr(path.lstat(), "st_reparse_tag", 0):
            path.rmdir()
            return
        path.chmod(stat.S_IWRITE)
        path.unlink()


def is_link(path: Path) -> bool:
    """See `posix`; a junction is one. Source: Microsoft, Reparse Point Tags, name surrogates."""
    return bool(path.lstat().st_reparse_tag & _NAME_SURROGATE)


def is_plain_folder(entry: os.DirEntry[str]) -> bool:
    """See `posix`; a junction is a folder with a reparse tag, and what it leads to is somebody else's."""
    return entry.is_dir(follow_symlinks=False) and not entry.stat(follow_symlinks=False).st_reparse_tag


def long_path(path: Path) -> Path:
    """See `posix`. Source: Microsoft, Maximum Path Length Limitation."""
    text = str(path.absolute())
    if text.startswith(_LONG):
        return path
    return Path(f"{_LONG}UNC{text[1:]}" if text.startswith("\\\\") else _LONG + text)


def everybody_can_read(path: Path) -> bool:
    """See `posix`. Source: Microsoft, GetNamedSecurityInfoW; Well-known SIDs."""
    acl, descriptor = ctypes.POINTER(_AclHeader)(), wintypes.LPVOID()
    ask = _security.GetNamedSecurityInfoW
    failed = ask(
        str(path), _SE_FILE_OBJECT, _DACL_INFORMATION, None, None, ctypes.byref(acl), None, ctypes.byref(descriptor)
    )
    if failed:
        return False  # a file system without rights, such as FAT, has nobody to keep out
    try:
        return not acl or any(_lets_everybody_read(acl, number) for number in range(acl.contents.count))
    finally:
        _kernel.LocalFree(descriptor)


def _lets_everybody_read(acl: ctypes._Pointer[_AclHeader], number: int) -> bool:
    rule = ctypes.POINTER(_AceHeader)()
    if not _security.GetAce(acl, number, ctypes.byref(rule)) or rule.contents.kind != _ACCESS_ALLOWED:
        return False
    if not rule.contents.mask & (_FILE_READ_DATA | _GENERIC_READ_OR_ALL):
        return False
    return _sid(wintypes.LPVOID(ctypes.addressof(rule.contents) + ctypes.sizeof(_AceHeader))) in _EVERYBODY


def _sid(who: wintypes.LPVOID) -> str:
    """Return the number of an account or group as text, empty when it has none."""
    text = wintypes.LPWSTR()
    if not _security.ConvertSidToStringSidW(who, ctypes.byref(text)):
        return ""
    try:
        return text.value or ""
    finally:
        _kernel.LocalFree(text)


def owner(path: Path) -> str:
    """See `posix`; the account's number, because names are translated. Source: Microsoft, GetNamedSecurityInfoW."""
    who, descriptor = wintypes.LPVOID(), wintypes.LPVOID()
    ask = _security.GetNamedSecurityInfoW
    if ask(
        str(path), _SE_FILE_OBJECT, _OWNER_INFORMATION, ctypes.byref(who), None, None, None, ctypes.byref(descriptor)
    ):
        return ""
    try:
        return _sid(who)
    finally:
        _kernel.LocalFree(descriptor)


def is_administrator() -> bool:
    """See `posix`. Source: Microsoft, IsUserAnAdmin."""
    return bool(ctypes.WinDLL("shell32").IsUserAnAdmin())


def user() -> str:
    """See `posix`."""
    return os.environ.get("USERNAME", "this user")


def other_owner(_path: Path, *, or_root: bool = False) -> str:  # noqa: ARG001 - the names are those of `posix`
    """Return nothing: what the installer makes belongs to administrators, not to the worker's account."""
    return ""


def others_can_write(_path: Path) -> bool:
    """Return False: the installer sets the rights of the folders, and a user's own profile is closed to others."""
    return False


def everybody_can_write(_path: Path) -> bool:
    """See `others_can_write`."""
    return False


def everybody_can_rename_in(_path: Path) -> bool:
    """See `others_can_write`."""
    return False


def private(path: Path) -> None:
    """See `posix`; the system and the administrators keep their rights.

    Source: Microsoft, Security Descriptor Definition Language; SetFileSecurityW.
    """
    descriptor = wintypes.LPVOID()
    made = _security.ConvertStringSecurityDescriptorToSecurityDescriptorW(
        _OWNER_ALONE, _SDDL_REVISION, ctypes.byref(descriptor), None
    )
    if not made:
        raise ctypes.WinError(ctypes.get_last_error())
    try:
        if not _security.SetFileSecurityW(str(path), _DACL_INFORMATION | _PROTECTED, descriptor):
            raise ctypes.WinError(ctypes.get_last_error())
    finally:
        _kernel.LocalFree(descriptor)


def private_command(path: Path) -> str:
    """See `posix`; the system keeps its rights. Source: Microsoft, icacls."""
    user = os.environ.get("USERNAME", "YOU")
    return f'icacls "{path}" /inheritance:r /grant:r "{user}:F" "*S-1-5-18:F"'


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return where a program keeps its state: the folder it was given, that of services, or the user's.

    Source: Microsoft, KNOWNFOLDERID, FOLDERID_LocalAppData and FOLDERID_ProgramData.
    """
    given = environ.get("STATE_DIRECTORY", "")
    if given:
        return Path(given)
    user = Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if user.is_relative_to(environ.get("SYSTEMROOT") or "C:\\Windows"):  # services have their profiles there
        return Path(environ.get("PROGRAMDATA") or "C:\\ProgramData", "cis490")
    return user / "cis490"


def cores() -> int:
    """See `posix`."""
    return os.cpu_count() or 1


def ram_bytes() -> int:
    """See `posix`. Source: Microsoft, GlobalMemoryStatusEx."""
    found = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    return int(found.total_bytes) if _kernel.GlobalMemoryStatusEx(ctypes.byref(found)) else 0


def gpu_tool() -> str | None:
    """See `posix`; older drivers leave it in a folder of their own that is not in the path."""
    programs = os.environ.get("PROGRAMFILES", "C:\\Program Files")
    system = os.environ.get("SYSTEMROOT", "C:\\Windows")
    places = (Path(system, "System32"), Path(programs, "NVIDIA Corporation", "NVSMI"))
    found = (str(place / "nvidia-smi.exe") for place in places if (place / "nvidia-smi.exe").is_file())
    return shutil.which("nvidia-smi") or next(found, None)


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """See `posix`. The wish ends with its thread.

    Source: Microsoft, SetThreadExecutionState.
    """
    _kernel.SetThreadExecutionState(wintypes.DWORD(_ES_CONTINUOUS | _ES_SYSTEM_REQUIRED))
    try:
        yield
    finally:
        _kernel.SetThreadExecutionState(wintypes.DWORD(_ES_CONTINUOUS))
