"""Placement: verdicts, order, drift, declarations and the smallest change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.fleet.model.capability import GIB, Capability, Gpu
from training.fleet.model.jobs import DatasetRef, Policy, Requirement
from training.fleet.model.placement import Reason, declared, drift, effective, judge, rank, waits_for_cuda
from training.fleet.model.remedy import applied, remedy, smallest_change, smallest_change_among

A = "sha256:" + "a" * 64
B = "sha256:" + "b" * 64


def card(gib: float) -> Gpu:
    return Gpu("Card", "GPU-1", round(gib * GIB), round(gib * GIB), "550.1")


def host(name: str = "gpu-tower", ram_gib: float = 32, vram_gib: float | None = 12, **more: object) -> Capability:
    cuda = vram_gib is not None
    gpus = (card(vram_gib),) if vram_gib is not None else ()
    base = Capability(name, ram_bytes=round(ram_gib * GIB), gpus=gpus, cuda_present=cuda, cuda_usable=cuda)
    return replace(base, **more)  # type: ignore[arg-type]


TOWER = host()
PI = host("pi", ram_gib=8, vram_gib=None)
GAMED = replace(TOWER, gpus=tuple(replace(gpu, free_vram_bytes=3 * GIB) for gpu in TOWER.gpus))
ANY = Policy()


def reasons(requirement: Requirement, capability: Capability, policy: Policy | None = ANY) -> list[Reason]:
    return list(judge(requirement, capability, policy).reasons)


def test_a_job_without_constraints_runs_anywhere() -> None:
    assert judge(Requirement("gbt"), PI, ANY).eligible
    assert judge(Requirement("gbt"), TOWER, ANY).eligible


@pytest.mark.parametrize(
    ("requirement", "capability", "policy", "expected"),
    [
        (
            Requirement("gbt"),
            PI,
            None,
            Reason("policy", "a table [hosts.pi] or [hosts.default] in the manifest", "neither"),
        ),
        (Requirement("gbt"), PI, Policy(allow_jobs=("mlp",)), Reason("policy", "gbt allowed", "allow_jobs mlp")),
        (Requirement("gbt"), PI, Policy(allow_jobs=()), Reason("policy", "gbt allowed", "allow_jobs none")),
        (Requirement("gbt"), PI, Policy(deny_jobs=("g*",)), Reason("policy", "gbt not denied", "deny_jobs g*")),
        (
            Requirement("gbt", allowed_hosts=("gpu-*", "lab")),
            PI,
            ANY,
            Reason("allowed_hosts", "gpu-*, lab", "pi"),
        ),
        (Requirement("gbt", require_cuda=True), PI, ANY, Reason("require_cuda", "usable CUDA", "no CUDA")),
        (
            Requirement("gbt", require_cuda=True),
            replace(TOWER, cuda_usable=False),
            ANY,
            Reason("require_cuda", "usable CUDA", "CUDA present but not usable"),
        ),
        (
            Requirement("gbt", require_cuda=True),
            TOWER,
            Policy(cuda=False),
            Reason("require_cuda", "usable CUDA", "switched off by the manifest (cuda = false)"),
        ),
        (
            Requirement("gbt", require_cuda=True),
            GAMED,
            ANY,
            Reason("gpu_busy", "a card that nothing else uses", "card Card has 3 of 12 GiB free"),
        ),
        (
            Requirement("gbt", min_vram_gib=8),
            GAMED,
            ANY,
            Reason("gpu_busy", "8 GiB free on one card", "card Card has 3 of 12 GiB free"),
        ),
        (Requirement("gbt", min_vram_gib=16), TOWER, ANY, Reason("min_vram_gib", "16", "12")),
        (Requirement("gbt", min_vram_gib=1), PI, ANY, Reason("min_vram_gib", "1", "no CUDA")),
        (
            Requirement("gbt", min_vram_gib=10),
            TOWER,
            Policy(vram_gib=8),
            Reason("min_vram_gib", "10", "8 (declared; 12 detected)"),
        ),
        (Requirement("gbt", min_ram_gib=16), PI, ANY, Reason("min_ram_gib", "16", "8")),
        (
            Requirement("gbt", min_ram_gib=6.5),
            PI,
            Policy(ram_gib=4),
            Reason("min_ram_gib", "6.5", "4 (declared; 8 detected)"),
        ),
        (
            Requirement("gbt", require_cuda=True, over_vram_gib=12),
            TOWER,
            ANY,
            Reason("over_vram_gib", "more than 12, where the job ran out of GPU memory", "12"),
        ),
        (
            Requirement("gbt", over_ram_gib=8),
            PI,
            ANY,
            Reason("over_ram_gib", "more than 8, where the job ran out of memory", "8"),
        ),
        (Requirement("gbt", dataset=DatasetRef("lab")), PI, ANY, Reason("dataset", "lab", "not held")),
        (
            Requirement("gbt", dataset=DatasetRef("lab", A)),
            replace(PI, datasets={"lab": B}),
            ANY,
            Reason("dataset", "lab sha256:aaaaaaaaaaaa", "sha256:bbbbbbbbbbbb"),
        ),
        (
            Requirement("gbt", dataset=DatasetRef("lab", A)),
            replace(PI, datasets={"lab": ""}),
            ANY,
            Reason("dataset", "lab sha256:aaaaaaaaaaaa", "no digest reported"),
        ),
        (
            Requirement("gbt", contract=A),
            replace(PI, contract=B),
            ANY,
            Reason("contract", "sha256:aaaaaaaaaaaa", "sha256:bbbbbbbbbbbb"),
        ),
        (
            Requirement("gbt", contract=A),
            replace(PI, contract=A, models=("mlp",)),
            ANY,
            Reason("model", "gbt", "mlp"),
        ),
    ],
)
def test_each_constraint_is_refused_by_name_with_wanted_and_found(
    requirement: Requirement, capability: Capability, policy: Policy | None, expected: Reason
) -> None:
    assert reasons(requirement, capability, policy) == [expected]


@pytest.mark.parametrize(
    ("requirement", "capability", "policy"),
    [
        (Requirement("gbt"), PI, Policy(allow_jobs=("g?t",), deny_jobs=("mlp",))),
        (Requirement("gbt", allowed_hosts=("lab", "p*")), PI, ANY),
        (Requirement("gbt", require_cuda=True), TOWER, Policy(cuda=True)),
        (Requirement("gbt", require_cuda=True), replace(GAMED, gpus=(*GAMED.gpus, *TOWER.gpus)), ANY),
        (Requirement("gbt"), GAMED, ANY),
        (Requirement("gbt", prefer_cuda=True), GAMED, ANY),
        (Requirement("gbt", prefer_cuda=True, over_vram_gib=12), TOWER, ANY),
        (Requirement("gbt", min_vram_gib=12), host(vram_gib=11.6), ANY),
        (Requirement("gbt", min_ram_gib=16), host(ram_gib=15.5), ANY),
        (Requirement("gbt", min_ram_gib=8, min_vram_gib=12), host(ram_gib=8), Policy(vram_gib=99, ram_gib=99)),
        (Requirement("gbt", prefer_cuda=True), PI, ANY),
        (Requirement("gbt", over_vram_gib=8, over_ram_gib=16), TOWER, ANY),
        (Requirement("gbt", over_vram_gib=24), PI, ANY),
        (Requirement("gbt", dataset=DatasetRef("lab", A)), replace(PI, datasets={"lab": A}), ANY),
        (Requirement("gbt", dataset=DatasetRef("default")), replace(PI, datasets={"default": B}), ANY),
        (Requirement("gbt", contract=A), PI, ANY),
        (Requirement("gbt"), replace(PI, contract=A, models=("mlp",)), ANY),
        (Requirement("gbt", contract=A), replace(PI, contract=A, models=("mlp", "gbt")), ANY),
        (Requirement("gbt", contract=A), replace(PI, models=("mlp",)), ANY),
    ],
)
def test_what_satisfies_every_constraint_is_eligible(
    requirement: Requirement, capability: Capability, policy: Policy
) -> None:
    assert reasons(requirement, capability, policy) == []


def test_every_reason_is_given_not_only_the_first() -> None:
    wanted = Requirement(
        "gbt",
        require_cuda=True,
        min_vram_gib=16,
        min_ram_gib=64,
        allowed_hosts=("lab",),
        dataset=DatasetRef("lab"),
        contract=A,
        over_ram_gib=8,
    )
    found = reasons(wanted, replace(PI, contract=B), Policy(deny_jobs=("*",)))
    assert [reason.constraint for reason in found] == [
        "policy",
        "allowed_hosts",
        "require_cuda",
        "min_vram_gib",
        "min_ram_gib",
        "over_ram_gib",
        "dataset",
        "contract",
    ]


def test_a_declaration_lowers_what_was_detected_and_never_raises_it() -> None:
    assert effective(TOWER, Policy(vram_gib=8, ram_gib=16)).vram_gib == 8
    assert effective(TOWER, Policy(vram_gib=8, ram_gib=16)).ram_gib == 16
    assert effective(TOWER, Policy(cuda=True, vram_gib=24, ram_gib=64)) == TOWER
    assert effective(PI, Policy(cuda=True, vram_gib=24, ram_gib=64)) == PI
    off = effective(TOWER, Policy(cuda=False))
    assert (off.cuda_usable, off.vram_gib) == (False, 0)


@pytest.mark.parametrize(
    ("requirement", "capability", "expected"),
    [
        (Requirement("a", require_cuda=True), TOWER, 0),
        (Requirement("a", require_cuda=True, prefer_cuda=True), TOWER, 0),
        (Requirement("a", prefer_cuda=True), TOWER, 1),
        (Requirement("a"), TOWER, 2),
        (Requirement("a"), PI, 0),
        (Requirement("a", prefer_cuda=True), PI, 1),
    ],
)
def test_cuda_hosts_take_cuda_jobs_first_and_others_take_the_rest_first(
    requirement: Requirement, capability: Capability, expected: int
) -> None:
    assert rank(requirement, capability) == expected


@pytest.mark.parametrize(
    ("requirement", "capability", "live", "expected"),
    [
        (Requirement("a", prefer_cuda=True), PI, [(TOWER, ANY)], True),
        (Requirement("a", prefer_cuda=True), PI, [(PI, ANY), (TOWER, ANY)], True),
        (Requirement("a", prefer_cuda=True), PI, [(TOWER, Policy(deny_jobs=("a",)))], False),
        (Requirement("a", prefer_cuda=True), PI, [(TOWER, Policy(cuda=False))], False),
        (Requirement("a", prefer_cuda=True), PI, [(PI, ANY)], False),
        (Requirement("a", prefer_cuda=True), PI, [], False),
        (Requirement("a", prefer_cuda=True), TOWER, [(TOWER, ANY)], False),
        (Requirement("a"), PI, [(TOWER, ANY)], False),
    ],
)
def test_a_job_that_prefers_cuda_is_left_to_a_live_cuda_host_that_could_take_it(
    requirement: Requirement, capability: Capability, live: list[tuple[Capability, Policy]], expected: bool
) -> None:
    assert waits_for_cuda(requirement, capability, live) is expected


def test_drift_names_every_declaration_that_detection_does_not_bear_out() -> None:
    assert drift(replace(PI, contract=B), Policy(cuda=True, vram_gib=12, ram_gib=16.5), A) == [
        "cuda: declared true, found no usable CUDA",
        "vram_gib: declared 12, found 0",
        "ram_gib: declared 16.5, found 8",
        "trainer: the manifest was checked against sha256:aaaaaaaaaaaa, the host's own trainer declares "
        "sha256:bbbbbbbbbbbb; bring both to the same version",
    ]


def test_there_is_no_drift_where_detection_bears_the_declaration_out() -> None:
    assert drift(replace(TOWER, contract=A), Policy(cuda=True, vram_gib=12, ram_gib=32), A) == []
    assert drift(PI, Policy(cuda=False), A) == []
    assert drift(replace(PI, contract=A), ANY, None) == []


def test_a_host_that_never_called_offers_what_its_table_says() -> None:
    tower = declared("gpu-tower", Policy(cuda=True, vram_gib=12, ram_gib=32), {"lab": DatasetRef("lab", A)})
    assert (tower.hostname, tower.cuda_usable, tower.vram_gib, tower.ram_gib) == ("gpu-tower", True, 12, 32)
    assert tower.datasets == {"default": "", "lab": A}


def test_a_silent_declaration_means_enough_memory_and_no_cuda() -> None:
    silent = declared("pi", ANY)
    assert reasons(Requirement("a", min_ram_gib=10000, dataset=DatasetRef("default")), silent) == []
    assert reasons(Requirement("a", require_cuda=True), silent) == [Reason("require_cuda", "usable CUDA", "no CUDA")]
    card_of_unknown_size = declared("pi", Policy(cuda=True))
    assert reasons(Requirement("a", min_vram_gib=24), card_of_unknown_size) == []


@pytest.mark.parametrize(
    ("requirement", "capability", "policy", "expected"),
    [
        (Requirement("gbt"), PI, ANY, ""),
        (Requirement("gbt", min_vram_gib=16), TOWER, ANY, "runs on gpu-tower if min_vram_gib 16 becomes 12"),
        (
            Requirement("gbt", require_cuda=True, min_vram_gib=8),
            PI,
            ANY,
            "runs on pi if require_cuda true becomes false and min_vram_gib 8 becomes 0",
        ),
        (
            Requirement("gbt", require_cuda=True),
            GAMED,
            ANY,
            "no change of the manifest is enough for gpu-tower: wait for a card that nothing else uses on gpu-tower "
            "(card Card has 3 of 12 GiB free); nvidia-smi there lists what uses it",
        ),
        (Requirement("gbt", min_ram_gib=16), PI, ANY, "runs on pi if min_ram_gib 16 becomes 8"),
        (
            Requirement("gbt", min_ram_gib=7),
            PI,
            Policy(ram_gib=4),
            "runs on pi if hosts.pi ram_gib 4 becomes 7",
        ),
        (
            Requirement("gbt", min_vram_gib=16),
            TOWER,
            Policy(vram_gib=8),
            "runs on gpu-tower if hosts.gpu-tower vram_gib 8 becomes 12 and min_vram_gib 16 becomes 12",
        ),
        (
            Requirement("gbt", require_cuda=True, min_vram_gib=8),
            TOWER,
            Policy(cuda=False),
            "runs on gpu-tower if hosts.gpu-tower cuda false becomes true",
        ),
        (
            Requirement("gbt", allowed_hosts=("lab",)),
            PI,
            Policy(allow_jobs=("mlp",), deny_jobs=("g*", "x")),
            "runs on pi if hosts.pi deny_jobs loses g* and hosts.pi allow_jobs gains gbt and allowed_hosts gains pi",
        ),
        (Requirement("gbt"), PI, None, "runs on pi if the manifest gains a table [hosts.pi]"),
        (
            Requirement("gbt", min_ram_gib=16, dataset=DatasetRef("lab")),
            PI,
            None,
            "no change of the manifest is enough for pi: put the dataset lab on pi (found: not held)",
        ),
        (
            Requirement("gbt", require_cuda=True, over_vram_gib=12),
            TOWER,
            Policy(cuda=False),
            "no change of the manifest is enough for gpu-tower: the job needs a host with more than 12, where the "
            "job ran out of GPU memory; gpu-tower has 12 GiB",
        ),
    ],
)
def test_the_smallest_change_is_said_in_words(
    requirement: Requirement, capability: Capability, policy: Policy | None, expected: str
) -> None:
    assert smallest_change(requirement, capability, policy) == expected


def test_the_smallest_change_over_all_hosts_gives_up_least() -> None:
    wanted = Requirement("gbt", require_cuda=True, min_vram_gib=16)
    small = host("small", vram_gib=8)
    hosts: list[tuple[Capability, Policy | None]] = [(PI, ANY), (small, ANY), (TOWER, ANY)]
    assert smallest_change_among(wanted, hosts) == "runs on gpu-tower if min_vram_gib 16 becomes 12"
    assert smallest_change_among(wanted, [*hosts, (host("big", vram_gib=24), ANY)]) == ""
    assert smallest_change_among(wanted, []) == ""


NAMES = st.sampled_from(["gbt", "mlp", "cnn"])
GLOBS = st.lists(st.sampled_from(["*", "g*", "gbt", "mlp", "c?n"]), max_size=3).map(tuple)
SIZES = st.one_of(st.integers(0, 48), st.floats(0, 48).map(lambda size: round(size, 2)))
DIGESTS = st.sampled_from([None, A, B])
REQUIREMENTS = st.builds(
    Requirement,
    model=NAMES,
    require_cuda=st.booleans(),
    prefer_cuda=st.booleans(),
    min_vram_gib=SIZES,
    min_ram_gib=SIZES,
    allowed_hosts=st.lists(st.sampled_from(["pi", "gpu-*", "lab"]), max_size=2).map(tuple),
    dataset=st.none() | st.builds(DatasetRef, st.sampled_from(["lab", "default"]), DIGESTS),
    contract=DIGESTS,
    over_vram_gib=st.sampled_from([0, 0, 8, 12]),
    over_ram_gib=st.sampled_from([0, 0, 8, 32]),
)
CAPABILITIES = st.builds(
    host,
    st.sampled_from(["pi", "gpu-tower", "lab"]),
    st.floats(0.5, 64),
    st.none() | st.floats(1, 48),
    cuda_usable=st.booleans(),
    contract=DIGESTS,
    models=st.none() | st.lists(NAMES, max_size=3).map(tuple),
    datasets=st.dictionaries(st.sampled_from(["lab", "default"]), st.sampled_from([A, B])),
)
POLICIES = st.none() | st.builds(
    Policy,
    allow_jobs=GLOBS,
    deny_jobs=GLOBS,
    cuda=st.none() | st.booleans(),
    vram_gib=st.none() | SIZES,
    ram_gib=st.none() | SIZES,
)


@given(REQUIREMENTS, CAPABILITIES, POLICIES)
def test_the_smallest_change_makes_the_host_eligible_when_it_is_made(
    requirement: Requirement, capability: Capability, policy: Policy | None
) -> None:
    found = remedy(requirement, capability, policy)
    wanted, admitted = applied(requirement, policy, found.changes)
    left = judge(wanted, capability, admitted)
    assert left.eligible is not bool(found.actions)
    assert {reason.constraint for reason in left.reasons} <= {
        "dataset",
        "contract",
        "model",
        "over_vram_gib",
        "over_ram_gib",
    }


@given(REQUIREMENTS, CAPABILITIES, POLICIES)
def test_no_edit_in_a_remedy_can_be_left_out(
    requirement: Requirement, capability: Capability, policy: Policy | None
) -> None:
    found = remedy(requirement, capability, policy)
    if found.actions or policy is None:
        return
    for left_out in found.changes:
        kept = [change for change in found.changes if change != left_out]
        wanted, admitted = applied(requirement, policy, kept)
        assert not judge(wanted, capability, admitted).eligible


@given(REQUIREMENTS, CAPABILITIES, POLICIES)
def test_there_is_a_change_to_name_exactly_where_a_job_is_refused(
    requirement: Requirement, capability: Capability, policy: Policy | None
) -> None:
    eligible = judge(requirement, capability, policy).eligible
    assert eligible is (smallest_change(requirement, capability, policy) == "")
    assert eligible is (smallest_change_among(requirement, [(capability, policy)]) == "")


@given(REQUIREMENTS, CAPABILITIES, POLICIES.filter(lambda policy: policy is not None))
def test_judging_the_effective_capability_gives_the_same_answer(
    requirement: Requirement, capability: Capability, policy: Policy
) -> None:
    plain = Policy(allow_jobs=policy.allow_jobs, deny_jobs=policy.deny_jobs)
    assert (
        judge(requirement, capability, policy).eligible
        is judge(requirement, effective(capability, policy), plain).eligible
    )


@given(REQUIREMENTS, CAPABILITIES)
def test_every_requirement_has_a_rank_on_every_host(requirement: Requirement, capability: Capability) -> None:
    assert rank(requirement, capability) in ((0, 1, 2) if capability.cuda_usable else (0, 1))
