from __future__ import annotations

import pytest

from training.fleet.worker.process.local import TrainerEnding
from training.fleet.worker.verdict import Evidence, Failure, judge

DONE = TrainerEnding(0, duration_s=5.0)
RELEASED = Failure("preempted", "the worker was stopped")


def failed(status: int, **seen: object) -> Failure:
    found = judge(Evidence(TrainerEnding(status, duration_s=5.0), **seen))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_status_0_with_an_artifact_is_a_success() -> None:
    assert judge(Evidence(DONE, has_artifact=True)) is None


def test_status_0_without_an_artifact_says_how_long_it_took_and_what_it_said() -> None:
    found = judge(Evidence(DONE, log_tail="all fine\n"))
    assert found == Failure(
        "no_artifact",
        "the trainer ended with status 0 after 5.00 s and left nothing in artifact/; it said: all fine",
    )


def test_a_success_in_no_time_without_an_artifact_is_doubted() -> None:
    found = judge(Evidence(TrainerEnding(0, duration_s=0.02)))
    assert found is not None
    assert found.error.endswith("left nothing in artifact/, in under a second: is this a trainer at all")


def test_a_trainer_stopped_by_the_worker_ends_with_the_reason_of_the_stop() -> None:
    assert judge(Evidence(TrainerEnding(-15, asked="T"), stopped=RELEASED)) == RELEASED


def test_a_trainer_that_ended_before_the_stop_reached_it_is_judged_by_what_it_did() -> None:
    assert judge(Evidence(DONE, stopped=RELEASED, has_artifact=True)) is None


def test_a_trainer_stopped_by_the_death_of_its_worker_is_lost() -> None:
    found = judge(Evidence(TrainerEnding(-15, asked="L")))
    assert found is not None
    assert found.kind == "lost"


def test_a_trainer_that_was_never_told_to_go_is_given_back() -> None:
    found = judge(Evidence(TrainerEnding(asked="N")))
    assert found == Failure("preempted", "the worker was restarted before the trainer ran")


def test_a_trainer_that_was_stopped_and_whose_end_nobody_saw_ends_with_the_reason_of_the_stop() -> None:
    assert judge(Evidence(TrainerEnding(asked="K", error="the shim was killed"), stopped=RELEASED)) == RELEASED


def test_an_end_that_nobody_saw_is_lost() -> None:
    found = judge(Evidence(TrainerEnding()))
    assert found == Failure("lost", "the trainer is gone and nobody saw how it ended")


@pytest.mark.parametrize(
    ("unstartable", "kind"),
    [(True, "trainer_error"), (False, "host_fault")],
)
def test_a_trainer_that_never_ran_says_why(unstartable: bool, kind: str) -> None:
    found = judge(Evidence(TrainerEnding(error="x: Permission denied", unstartable=unstartable)))
    assert found is not None
    assert (found.kind, found.error) == (kind, "x: Permission denied")


CASES = {
    "78 wins over all else": (78, {"result": {"kind": "oom_ram"}}, "spec_rejected"),
    "75 is the host's fault": (75, {}, "host_fault"),
    "75 with memory named": (75, {"result": {"kind": "oom_ram", "error": "x"}}, "oom_ram"),
    "75 with memory in the log": (75, {"log_tail": "MemoryError\n"}, "oom_ram"),
    "a kind the trainer names": (1, {"result": {"kind": "disk_full"}}, "disk_full"),
    "a kind it may not name": (1, {"result": {"kind": "preempted"}}, "trainer_error"),
    "a kind that is none": (1, {"result": {"kind": ["x"]}}, "trainer_error"),
    "cuda memory in the log": (1, {"log_tail": "RuntimeError: CUDA out of memory.\n"}, "oom_gpu"),
    "cuda memory that the driver lacks": (1, {"log_tail": "AcceleratorError: CUDA error: out of memory\n"}, "oom_gpu"),
    "cuda memory that a library lacks": (1, {"log_tail": "CUDNN_STATUS_ALLOC_FAILED\n"}, "oom_gpu"),
    "cuda memory by code": (1, {"log_tail": "CUDA_ERROR_OUT_OF_MEMORY\n"}, "oom_gpu"),
    "numpy's memory text": (1, {"log_tail": "Unable to allocate 7.5 GiB for an array\n"}, "oom_ram"),
    "c++ memory": (-6, {"log_tail": "terminate called: std::bad_alloc\n"}, "oom_ram"),
    "killed by the system": (-9, {"oom_killed": True}, "oom_ram"),
    "killed by the system in a shell": (137, {"oom_killed": True}, "oom_ram"),
    "no memory left on windows": (0xC0000017, {}, "oom_ram"),
    "no memory to be promised on windows": (0xC000012D, {}, "oom_ram"),
    "killed by somebody": (-9, {"oom_killed": False}, "trainer_error"),
    "another's kill is no evidence for status 1": (1, {"oom_killed": True}, "trainer_error"),
    "disk": (1, {"log_tail": "OSError: [Errno 28] No space left on device\n"}, "disk_full"),
    "no room left, whatever it says": (1, {"log_tail": "boom\n", "disk_full": True}, "disk_full"),
    "anything else": (1, {"log_tail": "boom\n"}, "trainer_error"),
}


@pytest.mark.parametrize(("status", "seen", "kind"), CASES.values(), ids=CASES.keys())
def test_the_kind_of_a_failure(status: int, seen: dict[str, object], kind: str) -> None:
    assert failed(status, **seen).kind == kind


ERRORS = {
    "the result's own": (
        1,
        {"result": {"error": " column x is \x1b[1mempty "}, "log_tail": "noise\n"},
        "column x is empty",
    ),
    "an empty one is passed over": (1, {"result": {"error": " "}, "log_tail": "boom\n"}, "boom"),
    "one that is no text is passed over": (1, {"result": {"error": 5}, "log_tail": "boom\n"}, "boom"),
    "the exception below a traceback": (
        1,
        {"log_tail": 'Traceback:\n  File "x.py"\nKeyError: 7\n\n'},
        "KeyError: 7",
    ),
    "an exception of several lines": (
        1,
        {"log_tail": "a.b.ShapeError: shapes differ\n  (3,)\n  (4,)\n"},
        "a.b.ShapeError: shapes differ\n  (3,)\n  (4,)",
    ),
    "the last line else": (1, {"log_tail": "one\ntwo\n"}, "two"),
    "nothing printed": (3, {}, "the trainer ended with status 3 and printed nothing"),
    "a signal": (-11, {"log_tail": "epoch 3\n"}, "the trainer was killed by signal 11 (SIGSEGV); it said: epoch 3"),
    "an end by Windows": (
        0xC0000005,
        {"log_tail": "epoch 3\n"},
        "the trainer ended with status 0xC0000005 (access violation); it said: epoch 3",
    ),
    "an unknown end by Windows": (
        0xC0000999,
        {},
        "the trainer ended with status 0xC0000999 (ended by Windows) and printed nothing",
    ),
    "a status of 32 bits of its own": (
        0xFFFFFFFF,
        {},
        "the trainer ended with status 4294967295 and printed nothing",
    ),
    "an unknown signal": (-63, {}, "the trainer was killed by signal 63 (unknown) and printed nothing"),
    "memory": (
        -9,
        {"oom_killed": True},
        "the trainer was killed by signal 9 (SIGKILL) because the system ran out of memory and printed nothing",
    ),
}


@pytest.mark.parametrize(("status", "seen", "error"), ERRORS.values(), ids=ERRORS.keys())
def test_the_error_is_the_trainers_own(status: int, seen: dict[str, object], error: str) -> None:
    assert failed(status, **seen).error == error


def test_an_endless_error_is_cut() -> None:
    assert len(failed(1, result={"error": "x" * 100_000}).error) == 4000
