"""The manifest: what it gives, and every way it is refused."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from training.fleet.manifest import MAX_JOBS, Header, Manifest, load, parse
from training.fleet.manifest.text import read_document, read_quickly
from training.fleet.model.errors import ManifestError
from training.fleet.model.jobs import (
    MAX_MANIFEST_BYTES,
    DatasetRef,
    Headline,
    Limits,
    Policy,
    Requirement,
    Spec,
    Trainer,
)
from training.fleet.queue.change import in_force_of
from training.fleet.queue.in_force import Origin
from training.trainer import hyper

DECLARATION: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "properties": {
        "mode": {"enum": ["realistic", "oracle"]},
        "split_recipe": {"enum": ["random", "time", "hosts"]},
        "model": {"enum": ["gbt", "mlp"]},
    },
    "$defs": {
        "gbt": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "max_iter": {"type": "integer", "minimum": 1, "maximum": 10000, "default": 300},
                "learning_rate": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.1},
                "history": {"type": "boolean", "default": True},
                "kind": {"enum": ["a", "b"], "default": "a"},
            },
        },
        "mlp": {"type": "object", "properties": {"hidden": {"type": "integer"}}, "required": ["hidden"]},
        "free": {"type": "object", "additionalProperties": True},
    },
}
HEAD = "[manifest]\nschema = 1\n[hosts.default]\n"
JOB = '[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
A = "sha256:" + "a" * 64


def read(text: str, declaration: dict[str, Any] | None = DECLARATION) -> Manifest:
    return parse(text.encode(), declaration)


def faults(text: str | bytes, declaration: dict[str, Any] | None = DECLARATION) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        parse(text.encode() if isinstance(text, str) else text, declaration)
    assert "nothing of it was applied" in caught.value.message
    return [str(fault) for fault in caught.value.faults]


FULL = f"""
[manifest]
schema = 1
jobs = 2

[defaults]
split_recipe = "time"
seed = 7
max_attempts = 5

[hosts.GPU-Tower]
cuda = true
vram_gib = 12.0
ram_gib = 31.5
allow_jobs = ["g*", "mlp"]
deny_jobs = ["gru"]
slots = 2

[hosts.default]

[datasets.lab]
digest = "{A}"

[datasets.other]

[trainer]
revision = "1a2b3c"

[[jobs]]
model = "gbt"
mode = "oracle"
dataset = "lab"
hyper = {{ max_iter = 300, learning_rate = 0.1 }}
train_hosts = ["B", "a", "b"]
require_cuda = true
min_vram_gib = 8
min_ram_gib = 2.5
allowed_hosts = ["GPU-*"]
priority = -3
timeout_s = 60

[[jobs]]
model = "mlp"
mode = "realistic"
seed = 0
[jobs.hyper]
hidden = 64
"""


def test_every_key_arrives_where_it_belongs() -> None:
    manifest = read(FULL)
    assert manifest.header == Header(
        digest="dbc120727e62ad40d292dd2fc489c8954bb536c4a75428d6c4150fd421b0b749",
        hosts={
            "gpu-tower": Policy(("g*", "mlp"), ("gru",), 2, True, 12, 31.5),
            "default": Policy(),
        },
        trainer=Trainer(contract=hyper.contract_digest(DECLARATION)),
        datasets={"lab": DatasetRef("lab", A), "other": DatasetRef("other")},
        warnings=("hosts.GPU-Tower.deny_jobs: the trainer declares no model gru; known: free, gbt, mlp",),
        contract=hyper.contract_digest(DECLARATION),
        count=2,
    )
    first, second = manifest.jobs
    assert first.spec == Spec(
        "gbt",
        "oracle",
        {"max_iter": 300, "learning_rate": 0.1},
        "time",
        ("a", "b"),
        7,
        DatasetRef("lab", A),
        "1a2b3c",
    )
    assert first.requirement == Requirement(
        "gbt",
        require_cuda=True,
        min_vram_gib=8,
        min_ram_gib=2.5,
        allowed_hosts=("gpu-*",),
        dataset=DatasetRef("lab", A),
        contract=manifest.header.contract,
    )
    assert first.limits == Limits(priority=-3, timeout_s=60, max_attempts=5)
    assert (first.position, first.line) == (1, 29)
    assert second.spec == Spec("mlp", "realistic", {"hidden": 64}, "time", seed=0, revision="1a2b3c")
    assert second.requirement == Requirement("mlp", contract=manifest.header.contract)
    assert (second.position, second.line) == (2, 42)


def test_a_host_without_a_table_gets_the_default_one_or_none() -> None:
    manifest = read(FULL)
    assert in_force_of(manifest.header, "", "", Origin()).policy("gpu-tower") == manifest.header.hosts["gpu-tower"]
    assert in_force_of(manifest.header, "", "", Origin()).policy("stranger") == Policy()
    strict = read("[manifest]\nschema = 1\n[hosts.pi]\n").header
    assert in_force_of(strict, "", "", Origin()).policy("stranger") is None


def test_ids_are_those_of_the_specification() -> None:
    for entry in read(FULL).jobs:
        assert entry.spec.job_id() == entry.id
        assert json.loads(entry.document) == entry.spec.document()


def test_equal_constraints_are_one_object() -> None:
    one, two = read(HEAD + JOB + JOB + "seed = 1\n").jobs
    assert one.requirement is two.requirement
    assert one.limits is two.limits


def test_a_dataset_without_a_digest_joins_the_identity_by_name_alone() -> None:
    entry = read(HEAD + "[datasets.lab]\n" + JOB + 'dataset = "lab"\n').jobs[0]
    assert json.loads(entry.document)["dataset"] == {"name": "lab"}


def test_a_trainer_that_needs_data_makes_jobs_ask_for_the_default_dataset_outside_their_identity() -> None:
    entry = read(HEAD + JOB, DECLARATION | {"x-dataset": "required"}).jobs[0]
    assert entry.requirement.dataset == DatasetRef("default")
    assert "dataset" not in json.loads(entry.document)
    assert entry.id == read(HEAD + JOB).jobs[0].id


def test_another_trainers_contract_is_not_asked_of_hosts() -> None:
    manifest = read(HEAD + '[trainer]\ncommand = ["{python}", "mine.py"]\n' + JOB)
    assert manifest.header.trainer == Trainer(("{python}", "mine.py"), hyper.contract_digest(DECLARATION))
    assert manifest.jobs[0].requirement.contract is None


def test_without_a_declaration_any_model_and_hyper_parameter_passes() -> None:
    entry = read(HEAD + '[[jobs]]\nmodel = "x"\nmode = "oracle"\nhyper = { a = [1, { b = 2 }] }\n', None).jobs[0]
    assert entry.spec.hyper == {"a": [1, {"b": 2}]}


def test_a_manifest_without_jobs_is_allowed_and_warned_about() -> None:
    manifest = read("[manifest]\nschema = 1\n")
    assert manifest.jobs == ()
    assert manifest.header.warnings == (
        "the manifest admits no host; add [hosts.default] or a table per host",
        "the manifest names no job",
    )


def test_windows_line_ends_change_nothing_but_the_digest() -> None:
    plain, windows = read(FULL), read(FULL.replace("\n", "\r\n"))
    assert plain.jobs == windows.jobs
    assert plain.header.digest != windows.header.digest


def test_identical_twins_count_once_with_a_warning_that_names_both() -> None:
    manifest = read(HEAD + JOB + JOB + "hyper = {}\n")
    assert len(manifest.jobs) == manifest.header.count == 1
    assert manifest.header.warnings == ("jobs[1] (line 4) and jobs[2] (line 7) are the same job; it counts once",)


def test_twins_with_unlike_constraints_are_a_fault_that_names_both() -> None:
    assert faults(HEAD + JOB + JOB + "priority = 1\nmin_ram_gib = 4\n") == [
        "jobs[1] (line 4) and jobs[2] (line 7): found the same job twice with another min_ram_gib, priority, expected "
        "one table per job, or another seed or hyper-parameter; remove one of them"
    ]


def test_a_file_cut_after_a_job_is_refused_by_its_count() -> None:
    text = "[manifest]\nschema = 1\njobs = 3\n[hosts.default]\n" + JOB + JOB + "seed = 1\n"
    assert faults(text) == [
        "manifest.jobs (line 3): found jobs = 3, expected 2, the jobs that stand in the file; "
        "the file may be half written"
    ]


def test_every_cut_of_a_counted_manifest_is_refused_or_loses_no_job() -> None:
    data = FULL.rstrip().encode()
    whole = [entry.requirement for entry in parse(data, DECLARATION).jobs]
    passed = 0
    for size in range(FULL.index("jobs = 2") + 8, len(data)):
        try:
            manifest = parse(data[:size], DECLARATION)
        except ManifestError:
            continue
        assert [entry.requirement for entry in manifest.jobs] == whole
        passed += 1
    # "hidden = 6" instead of 64, the only cut that a count cannot see.
    assert passed == 1


@settings(max_examples=300)
@given(st.integers(0, len(FULL.encode()) - 1), st.integers(0, 255))
def test_a_changed_byte_gives_a_manifest_or_a_clear_refusal(at: int, byte: int) -> None:
    data = bytearray(FULL.encode())
    data[at] = byte
    try:
        manifest = parse(bytes(data), DECLARATION)
    except ManifestError as error:
        assert error.faults
        assert all(str(fault).isprintable() for fault in error.faults)
    else:
        assert all(entry.spec.job_id() == entry.id for entry in manifest.jobs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "manifest: found nothing, expected a table [manifest] with schema = 1"),
        ("[manifest]\n", "manifest.schema (line 1): found nothing, expected 1, the only form of the file there is"),
        (
            "[manifest]\nschema = 2\n",
            "manifest.schema (line 2): found 2, expected 1, the only form of the file there is",
        ),
        (
            "[manifest]\nschema = true\n",
            "manifest.schema (line 2): found true, expected 1, the only form of the file there is",
        ),
        ("manifest = 3\n", "manifest (line 1): found 3, expected a table [manifest]"),
        (HEAD + "jobs = 3\n", "hosts.default.jobs (line 4): found the key 'jobs', expected a key of [hosts.default]"),
        ("jobs = 3\n" + HEAD, "jobs: found 3, expected tables [[jobs]]; write [[jobs]] with two brackets"),
        ("[jobs]\n" + HEAD, "jobs: found an empty table, expected tables [[jobs]]"),
        ("jobs = [3]\n" + HEAD, "jobs[1]: found 3, expected a table [[jobs]]"),
        (HEAD + "[job]\n", "job (line 4): found the key 'job', expected a table of a manifest; did you mean jobs?"),
        (HEAD + "[manifest.x]\n", "manifest.x (line 4): found the key 'x', expected a key of [manifest]"),
        ('"\\u001b[31m" = 1\n' + HEAD, "'\\x1b[31m': found the key '\\x1b[31m', expected a table of a manifest"),
        (
            HEAD + '[defaults]\nmodel = "gbt"\n',
            "defaults.model (line 5): found the key 'model', expected a key of [defaults]; it belongs to one job",
        ),
        (
            HEAD + "[defaults]\nsead = 4\n",
            "defaults.sead (line 5): found the key 'sead', expected a key of [defaults]; did you mean seed?",
        ),
        (HEAD + "[defaults]\nseed = 1.5\n", "defaults.seed (line 5): found 1.5, expected a whole number from 0 to"),
        (HEAD + 'defaults = "x"\n', "hosts.default.defaults (line 4): found the key 'defaults'"),
        (
            HEAD + '[defaults]\nsplit_recipe = "hots"\n',
            "defaults.split_recipe (line 5): found 'hots', expected one of hosts, random, time; did you mean hosts?",
        ),
        (
            HEAD + '[defaults]\ndataset = "lab"\n',
            "defaults.dataset (line 5): found 'lab', expected a name that the manifest declares; add a table",
        ),
        ("hosts = 3\n" + HEAD[:22], "hosts (line 1): found 3, expected tables [hosts.NAME]"),
        (HEAD + "[hosts]\npi = 3\n", "hosts.pi: found 3, expected a table [hosts.pi]"),
        (HEAD + '[hosts."a b"]\n', "hosts (line 4): found the name 'a b', expected a host name: letters"),
        (
            HEAD + "[hosts.gpu.lab.example]\nslots = 2\n",
            "hosts.gpu.lab.example (line 4): found [hosts.gpu.lab.example], whose dots are tables in tables, expected "
            '[hosts."gpu.lab.example"]',
        ),
        (HEAD + '[datasets.lab.v2]\ndigest = "x"\n', "datasets.lab.v2 (line 4): found [datasets.lab.v2]"),
        (HEAD + "[hosts.gpu]\nslots = 2\n[hosts.gpu.lab]\n", "hosts.gpu.lab (line 6): found [hosts.gpu.lab]"),
        (HEAD + "[hosts]\nx.y.slots = 2\n", "hosts.x.y: found [hosts.x.y]"),
        (HEAD + "[hosts.Default]\n", "hosts.Default (line 4): found a second table for this host, expected one table"),
        (HEAD + "slot = 1\n", "hosts.default.slot (line 4): found the key 'slot', expected a key of [hosts.default]"),
        (HEAD + "slots = 0\n", "hosts.default.slots (line 4): found 0, expected a whole number from 1 to 64"),
        (HEAD + "slots = 65\n", "hosts.default.slots (line 4): found 65, expected a whole number from 1 to 64"),
        (HEAD + "cuda = 1\n", "hosts.default.cuda (line 4): found 1, expected true or false"),
        (
            HEAD + "ram_gib = nan\n",
            "hosts.default.ram_gib (line 4): found nan, expected a number of GiB from 0 to 10000",
        ),
        (HEAD + "vram_gib = inf\n", "hosts.default.vram_gib (line 4): found inf, expected a number of GiB"),
        (
            HEAD + 'allow_jobs = "gbt"\n',
            "hosts.default.allow_jobs (line 4): found 'gbt', expected a list of model names",
        ),
        (HEAD + 'deny_jobs = ["a b"]\n', "hosts.default.deny_jobs (line 4): found ['a b'], expected a list of model"),
        (HEAD + "deny_jobs = [1]\n", "hosts.default.deny_jobs (line 4): found [1], expected a list of model names"),
        (HEAD + '[datasets."a/b"]\n', "datasets (line 4): found the name 'a/b', expected a name of a dataset"),
        (HEAD + "[datasets.default]\n", "datasets.default: found 'default', expected another name"),
        (
            HEAD + '[datasets.lab]\ndigest = "x"\n',
            "datasets.lab.digest (line 5): found 'x', expected \"sha256:\" and 64",
        ),
        (HEAD + "[datasets.lab]\npath = 1\n", "datasets.lab.path (line 5): found the key 'path', expected a key of"),
        (HEAD + "[trainer]\ncommand = []\n", "trainer.command (line 5): found [], expected a list of words, not empty"),
        (HEAD + '[trainer]\ncommand = "x"\n', "trainer.command (line 5): found 'x', expected a list of words"),
        (
            HEAD + '[trainer]\nschema = ""\n',
            "trainer.schema (line 5): found '', expected the path of a JSON Schema file",
        ),
        (HEAD + '[trainer]\nrevision = "a b"\n', "trainer.revision (line 5): found 'a b', expected the trainer's"),
    ],
)
def test_a_wrong_table_is_refused_with_place_found_and_expected(text: str, expected: str) -> None:
    assert faults(text)[0].startswith(expected)
    assert len(faults(text)) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "hyper_x = 1",
            "jobs[1].hyper_x (line 7): found the key 'hyper_x', expected a key of a job; did you mean hyper?",
        ),
        ("seed = true", "jobs[1].seed (line 7): found true, expected a whole number from 0 to 4294967295"),
        ("seed = -1", "jobs[1].seed (line 7): found -1, expected a whole number"),
        ("seed = 4294967296", "jobs[1].seed (line 7): found 4294967296, expected a whole number"),
        ("seed = 1.0", "jobs[1].seed (line 7): found 1.0, expected a whole number"),
        (
            "priority = 1000001",
            "jobs[1].priority (line 7): found 1000001, expected a whole number from -1000000 to 1000000",
        ),
        ("priority = -1000001", "jobs[1].priority (line 7): found -1000001, expected"),
        ("timeout_s = 0", "jobs[1].timeout_s (line 7): found 0, expected a whole number of seconds from 1 to 2592000"),
        ("timeout_s = 2592001", "jobs[1].timeout_s (line 7): found 2592001, expected"),
        ("max_attempts = 0", "jobs[1].max_attempts (line 7): found 0, expected a whole number from 1 to 100"),
        ("max_attempts = 101", "jobs[1].max_attempts (line 7): found 101, expected"),
        ("min_ram_gib = -1", "jobs[1].min_ram_gib (line 7): found -1, expected a number of GiB from 0 to 10000"),
        ("min_vram_gib = 10000.1", "jobs[1].min_vram_gib (line 7): found 10000.1, expected a number of GiB"),
        ("min_vram_gib = true", "jobs[1].min_vram_gib (line 7): found true, expected a number of GiB"),
        ("require_cuda = 'yes'", "jobs[1].require_cuda (line 7): found 'yes', expected true or false"),
        ("train_hosts = []", "jobs[1].train_hosts (line 7): found [], expected a list of host names or globs of the"),
        ("train_hosts = ['']", "jobs[1].train_hosts (line 7): found [''], expected a list of host names"),
        ('train_hosts = ["\\u0000"]', "jobs[1].train_hosts (line 7): found ['\\x00'], expected a list of host names"),
        ("train_hosts = '*'", "jobs[1].train_hosts (line 7): found '*', expected a list of host names"),
        ("allowed_hosts = ['a/b']", "jobs[1].allowed_hosts (line 7): found ['a/b'], expected a list of host names"),
        ("split_recipe = 'host'", "jobs[1].split_recipe (line 7): found 'host', expected one of hosts, random, time"),
        ("split_recipe = '../x'", "jobs[1].split_recipe (line 7): found '../x', expected the name of a split"),
        ("dataset = 'lap'", "jobs[1].dataset (line 7): found 'lap', expected one of lab; did you mean lab?"),
        ("dataset = 3", "jobs[1].dataset (line 7): found 3, expected the name of a dataset"),
        ("hyper = 3", "jobs[1].hyper (line 7): found 3, expected a table of hyper-parameters"),
        (
            "hyper = { max_itre = 3 }",
            "jobs[1].hyper.max_itre (line 7): found the key 'max_itre', expected a hyper-parameter of gbt; "
            "did you mean max_iter?",
        ),
        (
            "[jobs.hyper]\nlearning_rate = 0.1\nmax_iter = 0",
            "jobs[1].hyper.max_iter (line 9): found 0, expected a whole number from 1 to 10000",
        ),
        (
            "hyper = { max_iter = 300.0 }",
            "jobs[1].hyper.max_iter (line 7): found 300.0, expected a whole number from 1",
        ),
        ("hyper = { max_iter = true }", "jobs[1].hyper.max_iter (line 7): found true, expected a whole number from 1"),
        (
            "hyper = { learning_rate = 0 }",
            "jobs[1].hyper.learning_rate (line 7): found 0, expected a number above 0 to 1",
        ),
        (
            "hyper = { learning_rate = 1.5 }",
            "jobs[1].hyper.learning_rate (line 7): found 1.5, expected a number above 0",
        ),
        ("hyper = { learning_rate = nan }", "jobs[1].hyper.learning_rate (line 7): found nan, expected a number above"),
        ("hyper = { history = 1 }", "jobs[1].hyper.history (line 7): found 1, expected true or false"),
        ("hyper = { kind = 'c' }", "jobs[1].hyper.kind (line 7): found 'c', expected one of 'a', 'b'"),
        (
            "hyper = { kind = 1979-05-27 }",
            "jobs[1].hyper.kind (line 7): found datetime.date(1979, 5, 27), expected one of",
        ),
    ],
)
def test_a_wrong_key_of_a_job_is_refused_with_place_found_and_expected(line: str, expected: str) -> None:
    found = faults("[manifest]\nschema=1\n[hosts.default]\n" + JOB + line + "\n[datasets.lab]\n")
    assert found[0].startswith(expected)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("hyper_table", "expected"),
    [
        ("{ a = nan }", "jobs[1].hyper.a (line 7): found nan, expected a value that JSON knows (found nan; expected a"),
        ("{ a = inf }", "jobs[1].hyper.a (line 7): found inf, expected a value that JSON knows"),
        (
            "{ a = 1979-05-27 }",
            "jobs[1].hyper.a (line 7): found datetime.date(1979, 5, 27), expected a value that JSON",
        ),
        (
            "{ a = 9007199254740992 }",
            "jobs[1].hyper.a (line 7): found 9007199254740992, expected a value that JSON knows",
        ),
        ("{ a = 0x" + "f" * 5000 + " }", "jobs[1].hyper.a (line 7): found a number of thousands of digits, expected"),
        (
            "{ a = " + "[" * 9 + "]" * 9 + " }",
            "jobs[1].hyper.a (line 7): found [[[...]]], expected a value that JSON knows",
        ),
        ('{ "caf\\u00e9" = 1, "cafe\\u0301" = 2 }', "jobs[1].hyper (line 7): found a table with the keys"),
        ("{ a = '" + "x" * 66000 + "' }", "jobs[1].hyper (line 7): found 66112 bytes, expected at most 65536 bytes"),
    ],
)
def test_what_has_no_place_in_an_identity_is_refused(hyper_table: str, expected: str) -> None:
    job = '[[jobs]]\nmodel = "free"\nmode = "realistic"\n'
    found = faults(f"{HEAD}{job}hyper = {hyper_table}\n")
    assert found[0].startswith(expected)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("", ["jobs[1].model (line 4): found nothing", "jobs[1].mode (line 4): found nothing"]),
        ('model = "gbt"\n', ['jobs[1].mode (line 4): found nothing, expected "realistic" or "oracle"; every job']),
        (
            'model = "gbd"\nmode = "oracle"\n',
            ["jobs[1].model (line 5): found 'gbd', expected a model the trainer declares"],
        ),
        ('model = "g/t"\nmode = "oracle"\n', ["jobs[1].model (line 5): found 'g/t', expected the name of a model"]),
        ('model = "gbt"\nmode = "both"\n', ['jobs[1].mode (line 6): found \'both\', expected "realistic" or "oracle"']),
        (
            'model = "mlp"\nmode = "oracle"\n',
            ["jobs[1].hyper.hidden (line 4): found nothing, expected a whole number; mlp"],
        ),
    ],
)
def test_an_incomplete_job_is_refused(job: str, expected: list[str]) -> None:
    found = faults(HEAD + "[[jobs]]\n" + job)
    assert len(found) == len(expected)
    assert all(one.startswith(other) for one, other in zip(found, expected, strict=True))


def test_a_mode_the_trainer_does_not_declare_is_refused() -> None:
    only = DECLARATION | {"properties": {"mode": {"enum": ["oracle"]}}}
    assert faults(HEAD + JOB, only) == ["jobs[1].mode (line 6): found 'realistic', expected one of oracle"]


def test_a_faulty_default_is_one_fault_not_one_per_job() -> None:
    job = '[[jobs]]\nmodel = "gbt"\n'
    assert faults(HEAD + '[defaults]\nmode = "both"\n' + job + job) == [
        'defaults.mode (line 5): found \'both\', expected "realistic" or "oracle"'
    ]


def test_jobs_that_use_a_faulty_default_dataset_do_not_hide_the_fault() -> None:
    """A key error before; found by flipping bits of the example."""
    assert faults(HEAD + '[defaults]\ndataset = "lib"\n[datasets.lab]\n' + JOB + JOB + "seed = 1\n") == [
        "defaults.dataset (line 5): found 'lib', expected one of lab; did you mean lab?"
    ]


def test_all_faults_come_at_once() -> None:
    text = HEAD + "slots = 0\n" + JOB + "seed = -1\nhyper = { x = 1, max_iter = 0 }\n" + '[[jobs]]\nmodel = "gbt"\n'
    assert [fault.partition(":")[0] for fault in faults(text)] == [
        "hosts.default.slots (line 4)",
        "jobs[1].seed (line 8)",
        "jobs[1].hyper.x (line 9)",
        "jobs[1].hyper.max_iter (line 9)",
        "jobs[2].mode (line 10)",
    ]


def test_beyond_a_thousand_faults_the_rest_is_left_out() -> None:
    with pytest.raises(ManifestError, match="the manifest has 1000 or more faults") as caught:
        read(HEAD + "[[jobs]]\n" * 3000)
    assert len(caught.value.faults) == 1000


def test_a_table_with_thousands_of_faults_lists_a_thousand() -> None:
    assert len(faults(HEAD + "".join(f"x{number} = 1\n" for number in range(1500)))) == 1000


def test_beyond_a_thousand_warnings_the_rest_is_counted() -> None:
    manifest = read(HEAD + JOB * 1500)
    assert len(manifest.header.warnings) == 1001
    assert manifest.header.warnings[-1] == "and 499 more warnings"


def test_a_host_name_without_a_table_is_a_warning_where_strangers_are_admitted() -> None:
    manifest = read(
        HEAD
        + "[hosts.pi]\n"
        + JOB
        + "allowed_hosts = ['PI', 'pa', 'gpu-*']\n"
        + JOB
        + "seed = 1\nallowed_hosts = ['pa']\n"
    )
    assert manifest.header.warnings == (
        "jobs[1].allowed_hosts (line 8): the host pa has no table of its own, [hosts.default] holds for it; "
        "did you mean pi?",
    )


def test_a_host_name_without_a_table_is_a_fault_where_strangers_are_refused() -> None:
    assert faults("[manifest]\nschema=1\n[hosts.pi]\n" + JOB + "allowed_hosts = ['pj', 'gpu-*']\n") == [
        "jobs[1].allowed_hosts (line 7): found 'pj', expected a host that the manifest admits; did you mean pi?"
    ]
    assert faults("[manifest]\nschema=1\n" + JOB + "allowed_hosts = ['pj']\n")[0].endswith("add a table [hosts.NAME]")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xff\xfe[\x00", "line 1: found the byte 0xff at offset 0, expected UTF-8 text; save the file as UTF-8"),
        (b"[manifest]\nx = '\xe9'", "line 2: found the byte 0xe9 at offset 16, expected UTF-8 text"),
        (b"\xef\xbb\xbf[manifest]", "line 1: found a byte-order mark, expected UTF-8 without one"),
        (b"[manifest]\nschema = \n", "line 2, column 10: found 'schema =', expected valid TOML (invalid value)"),
        (b"[manifest]\nx = '", 'the end of the file (line 2): found "x = \'", expected valid TOML (expected "\'")'),
        (b"a = 1\na = 2\n", "line 2, column 6: found 'a = 2', expected valid TOML (cannot overwrite a value)"),
        (b"x = \x1b[31m", "line 1, column 5: found 'x = \\x1b[31m', expected valid TOML"),
        (b"a = " + b"[" * 100000, "the file: found tables or lists nested too deep, expected at most 8 levels"),
        (b"a = " + b"9" * 5000, "the file: found Exceeds the limit (4300 digits)"),
        (b"#" * (MAX_MANIFEST_BYTES + 1), "the file: found 33554433 bytes, expected at most 33554432 bytes"),
        (b"[[jobs]]\n" * (MAX_JOBS + 1), "jobs: found 200001 jobs, expected at most 200000"),
        (b"jobs = [" + b"{}," * (MAX_JOBS + 1) + b"]\n[manifest]\nschema = 1\n", "jobs: found 200001 jobs"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bytes_that_are_no_manifest_are_refused(data: bytes, expected: str) -> None:
    found = faults(data)
    assert found[0].startswith(expected)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        ({}, 'no "$defs"'),
        ({"$defs": {"gbt": 3}}, "$defs.gbt is 3"),
        ({"$defs": {"gbt": {"properties": 3}}}, "$defs.gbt is a table"),
        ({"$defs": {"gbt": {"properties": {"x": 3}}}}, "$defs.gbt.properties.x is 3"),
        ({"$defs": {"gbt": {"properties": {"x": {"minimum": "1"}}}}}, "$defs.gbt.properties.x.minimum is '1'"),
        ({"$defs": {"gbt": {"properties": {"x": {"enum": 3}}}}}, "$defs.gbt.properties.x.enum is 3"),
        ({"$defs": {"gbt": {"required": 3}}}, "$defs.gbt.required is 3"),
        ({"$defs": {"gbt": {}}, "properties": {"mode": {"enum": 3}}}, "properties.mode.enum is 3"),
        ({"$defs": {"gbt": {}}, "x": float("nan")}, "NaN or an infinity"),
        ({"$defs": {"gbt": {}}, "headline_metric": "f1"}, "headline_metric is 'f1'"),
        ({"$defs": {"gbt": {}}, "headline_metric": {"direction": "lower"}}, "headline_metric is a table"),
        ({"$defs": {"gbt": {}}, "headline_metric": {"name": "", "direction": "lower"}}, "headline_metric is a table"),
        ({"$defs": {"gbt": {}}, "headline_metric": {"name": "a\nb", "direction": "lower"}}, "headline_metric is a"),
        ({"$defs": {"gbt": {}}, "headline_metric": {"name": "f1"}}, "headline_metric.direction is None"),
        ({"$defs": {"gbt": {}}, "headline_metric": {"name": "f1", "direction": "up"}}, "headline_metric.direction is"),
    ],
)
def test_a_declaration_of_another_form_is_a_fault_of_the_trainer(declaration: dict[str, Any], expected: str) -> None:
    found = faults(HEAD + '[trainer]\nschema = "x.json"\n' + JOB + "seed = -1\n", declaration)
    assert found[0].startswith("trainer (line 4): found the declaration")
    assert expected in found[0]
    assert found[1].startswith("jobs[1].seed")


@pytest.mark.parametrize("odd", [{"properties": 3}, {"properties": {"mode": 3}}, {"properties": {"mode": {}}}])
def test_a_declaration_that_is_silent_about_modes_allows_both(odd: dict[str, Any]) -> None:
    assert len(read(HEAD + JOB, {"$defs": {"gbt": {}}} | odd).jobs) == 1


@pytest.mark.parametrize("direction", ["higher", "lower"])
def test_a_declaration_may_name_the_metric_that_results_are_compared_by(direction: str) -> None:
    plain = {"$defs": {"gbt": {}}}
    named = read(HEAD + JOB, plain | {"headline_metric": {"name": "f1", "direction": direction}}).header
    silent = read(HEAD + JOB, plain).header
    assert (named.headline, silent.headline) == (Headline("f1", direction), None)  # type: ignore[arg-type]
    # How results are shown says nothing of what is trained: hosts of either version stay eligible.
    assert named.contract == silent.contract


def test_a_declaration_with_several_types_takes_any_of_them() -> None:
    several = {"$defs": {"gbt": {"properties": {"x": {"type": ["integer", "string", 3]}, "y": {}}}}}
    assert len(read(HEAD + JOB + "hyper = { x = 'a', y = [1] }", several).jobs) == 1
    assert faults(HEAD + JOB + "hyper = { x = 1.5 }", several)[0].endswith("found 1.5, expected a whole number or text")


VALUES = st.sampled_from(
    ["1", "-0", "1.5", "0.10", "01", "1e3", "true", '"a"', '"a#b"', "'x' # c", "{ a = 1, b = 2.5 }", "{ a = 1, }",
     "{ a = 1, a = 2 }", "{}",
      "{ }", "[1, 2]", "[", "[[jobs]]", "1979-05-27", '"""', "'''", "{ a.b = 1, a.c = 2 }", "nan"]
)  # fmt: skip
LINES = st.one_of(
    st.tuples(st.sampled_from(["a", "b", "hyper", "hyper.x", '"a"', "a b"]), st.sampled_from(["=", " = "]), VALUES).map(
        "".join
    ),
    st.sampled_from(
        ["[[jobs]]", "[[jobs]]", "[[jobs]] # c", "[[ jobs ]]", '[["jobs"]]', "[jobs.hyper]", "[hosts.x]", "", "# c",
         "\t", "]", "x", "[[jobs.x]]", "[[jobs]] # \x07", "\x0c"]
    ),
)  # fmt: skip


@settings(max_examples=500)
@example(["[[jobs]]", "a={ a = 1, }"])
@given(st.lists(LINES, max_size=9))
def test_the_quick_way_reads_what_tomllib_reads(lines: list[str]) -> None:
    text = "\n".join(lines)
    try:
        expected = tomllib.loads(text)
    except ValueError:
        with pytest.raises(ManifestError):
            read_document(text.encode())
        return
    jobs = expected.pop("jobs", [])
    for document in filter(None, (read_document(text.encode()), read_quickly(text.encode()))):
        found, wanted = ((document.tables, document.jobs), (expected, jobs))
        # Tables may stand in another order.
        assert sorted(repr(found)) == sorted(repr(wanted))
        if document.lines:
            assert [bool(re.match(r"\[\[ ?jobs", lines[line - 1])) for line in document.lines] == [True] * len(jobs)


def test_a_job_may_be_written_in_any_way_toml_allows(tmp_path: Path) -> None:
    plain = read(HEAD + JOB + "hyper = { max_iter = 3 }\n").jobs[0]
    for text in (
        HEAD + JOB + "hyper.max_iter = 3\n",
        HEAD + JOB + "[jobs.hyper]\nmax_iter = 3\n",
        HEAD + '[["jobs"]]\nmodel = """gbt"""\nmode = "realistic"\nhyper = { max_iter = 0x3 }\n',
        'jobs = [{ model = "gbt", mode = "realistic", hyper = { max_iter = 3 } }]\n' + HEAD,
    ):
        assert read(text).jobs[0].id == plain.id


def test_the_real_declaration_accepts_the_projects_own_models(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    path.write_text(HEAD + JOB + "hyper = { max_iter = 300, learning_rate = 0.1 }\n")
    manifest = load(path)
    assert manifest.header.contract == hyper.contract_digest(hyper.describe())
    assert manifest.header.headline == Headline("auprc_host_mean", "higher")
    assert manifest.jobs[0].requirement.contract == manifest.header.contract
