"""How programs say that memory ran out, and words that only look like it."""

from __future__ import annotations

import pytest

from training.fleet.worker.memory_words import says_gpu_memory, says_memory

GPU = [
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.76 GiB",
    "torch.cuda.OutOfMemoryError: Allocation on device",
    "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "RuntimeError: cusolver error: CUSOLVER_STATUS_ALLOC_FAILED",
    "RuntimeError: MPS backend out of memory (MPS allocated: 8.99 GB, other allocations: 100 MB)",
    "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 20.00 MiB",
    "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.",
    "[LightGBM] [Fatal] CL_MEM_OBJECT_ALLOCATION_FAILURE",
    "NCCL WARN Cuda failure 2 'out of memory'",
]
RAM = [
    "MemoryError",
    "Traceback:\n  x\nMemoryError: Unable to allocate internal buffer",
    "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB for an array with shape (1000000000,)",
    "numpy.core._exceptions.MemoryError: Unable to allocate array with shape (100000, 100000) and data type float64",
    "pyarrow.lib.ArrowMemoryError: malloc of size 4294967296 failed",
    "[rank0]: MemoryError",
    "E   MemoryError",
    'joblib.externals.loky.process_executor._RemoteTraceback: """\nMemoryError()',
    "java.lang.OutOfMemoryError: Java heap space",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "lightgbm.basic.LightGBMError: bad allocation",
    "OSError: [Errno 12] Nicht genügend Hauptspeicher verfügbar",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:115] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes",
    "RuntimeError: DefaultCPUAllocator: not enough memory: you tried to allocate 17179869184 bytes.",
    "OSError: [WinError 1455] Die Auslagerungsdatei ist zu klein",
    "OSError: [WinError 8] Not enough memory resources are available to process this command",
    "subprocess.CalledProcessError: Command 'prepare.exe' returned non-zero exit status 3221225495.",
    "the child ended with 0xC0000017",
    "RuntimeError: DataLoader worker (pid 164244) is killed by signal: Killed. ",
    "RuntimeError: DataLoader worker (pid(s) 12, 13) is killed by signal: Bus error. It is possible that",
    "The exit codes of the workers are {SIGKILL(-9)}",
    "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0",
    "fatal error: runtime: out of memory",
    "OpenBLAS error: Memory allocation still failed after 10 retries, giving up.",
]
NEITHER = [
    "ValueError: the column MemoryErrors is missing",
    "KeyError: 'MemoryError'",
    "ValueError: no column 'out of memory'",
    "ValueError: memory_usage must be a number",
    "AssertionError: memory of the last window is 12",
    "RuntimeError: CUDA error: device-side assert triggered",
    "OSError: [WinError 2] The system cannot find the file specified",
    "subprocess.CalledProcessError: Command 'prepare' returned non-zero exit status 1.",
    "RuntimeError: DataLoader worker (pid 5) exited unexpectedly",
    "OSError: [Errno 122] Disk quota exceeded",
]
LOST = [
    "concurrent.futures.process.BrokenProcessPool: A process in the process pool was terminated abruptly while the "
    "future was running or pending.",
    "subprocess.CalledProcessError: Command 'prepare' died with <Signals.SIGKILL: 9>.",
    "RuntimeError: DataLoader worker (pid 5) exited unexpectedly",
    "make: *** [train] Error: exit status 137",
]


@pytest.mark.parametrize("text", GPU)
def test_a_card_without_memory_is_known_by_its_words(text: str) -> None:
    assert says_gpu_memory(text)


@pytest.mark.parametrize("text", RAM)
def test_a_host_without_memory_is_known_by_its_words(text: str) -> None:
    assert says_memory(text, oom_killed=False)
    assert not says_gpu_memory(text)


@pytest.mark.parametrize("text", NEITHER)
def test_words_that_contain_memory_are_no_lack_of_it(text: str) -> None:
    assert not says_memory(text, oom_killed=False)
    assert not says_gpu_memory(text)


@pytest.mark.parametrize("text", LOST)
def test_a_lost_child_lacked_memory_only_where_the_system_killed_for_it(text: str) -> None:
    assert says_memory(text, oom_killed=True)
    assert not says_memory(text, oom_killed=False)
