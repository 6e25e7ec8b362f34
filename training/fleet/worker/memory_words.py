"""The words by which programs say that memory ran out.

Owns what is recognised: the messages of CUDA and its libraries, of numpy, torch, Arrow and C++, of Linux and Windows,
and of pools whose child the system killed. Guarantees that words which merely contain "memory", such as the name of a
column, are not taken for that.
"""

from __future__ import annotations

import re
from typing import Final

_GPU: Final = re.compile(
    r"(CUDA|HIP|XPU|MPS backend) out of memory|(CUDA|HIP) error: out of memory|Cuda failure.{0,40}out of memory"
    r"|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|hipErrorOutOfMemory|CL_MEM_OBJECT_ALLOCATION_FAILURE"
    r"|(CU|HIP|ROC)(BLAS|DNN|FFT|SPARSE|SOLVER)_STATUS_ALLOC_FAILED|torch\.(cuda\.)?OutOfMemoryError"
    r"|RESOURCE_EXHAUSTED: (Out of memory|Failed to allocate)",
    re.IGNORECASE,
)
_RAM: Final = re.compile(
    # An exception by its own line, which may follow the mark of a rank or of a test; or its form in another message.
    r"^[ \t]*(\[[^\]\n]{1,40}\]:?|E )?[ \t]*[\w.]*MemoryError(:|[ \t]*$)|\bMemoryError\("
    r"|std::bad_alloc|\bbad allocation\b|Cannot allocate memory|\[Errno 12\]"
    r"|Unable to allocate (array with shape|[\d.]+ ?\w*(iB|bytes))"
    r"|DefaultCPUAllocator: (not enough|can't allocate) memory"
    r"|alloc of size \d+ failed|OpenBLAS error: Memory allocation|Detected \d+ oom[-_]kill event"
    r"|(?<!['\"])\bout of (shared )?memory\b(?!['\"])",
    re.IGNORECASE | re.MULTILINE,
)
_WINDOWS: Final = re.compile(
    # Texts of Windows are translated, its numbers are not.
    r"\[WinError (8|14|1455)\]|0xC0000017|0xC000012D|\b3221225495\b|\b3221225773\b|-1073741801\b|-1073741523\b",
    re.IGNORECASE,
)
_KILLED_CHILD: Final = re.compile(
    # What torch and joblib print when the kernel took one of their processes: nothing else sends them this signal.
    r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) is killed by signal: (Killed|Bus error)"
    r"|exit codes of the workers are \{[^}\n]*SIGKILL",
)
_LOST_CHILD: Final = re.compile(
    r"SIGKILL|signal:? (9\b|Killed)|exit(ed with)? (code|status) (-9|137)\b|non-zero exit status (-9|137)\b"
    r"|terminated abruptly|exited unexpectedly|unexpectedly terminated",
    re.IGNORECASE,
)


def says_gpu_memory(text: str) -> bool:
    """Return True if a trainer's output says that the memory of a card ran out."""
    return _GPU.search(text) is not None


def says_memory(text: str, *, oom_killed: bool) -> bool:
    """Return True if a trainer's output says that the host's memory ran out.

    Args:
        text: The output.
        oom_killed: The system killed some process for want of memory meanwhile, so a lost child is explained.
    """
    if _RAM.search(text) or _WINDOWS.search(text) or _KILLED_CHILD.search(text):
        return True
    return oom_killed and _LOST_CHILD.search(text) is not None
