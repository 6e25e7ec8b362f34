"""From tables to jobs: every check of a manifest, and the identity of each job.

Owns the rules that span keys and tables. Guarantees that a fault in one job hides none in another, and that an id is
the one `Spec.job_id` gives; the pieces of the canonical text that repeat are made once.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from training.fleet.manifest import expand, keys
from training.fleet.manifest.declaration import Declaration, compiled
from training.fleet.manifest.entries import DEFAULT_HOST, Header, JobEntry, Manifest
from training.fleet.manifest.findings import Findings, nearest, short
from training.fleet.manifest.keys import WrongValueError
from training.fleet.manifest.places import at, place_of, plain, values_of
from training.fleet.manifest.text import MAX_JOBS, Document, read_document, read_quickly
from training.fleet.manifest.twins import twin
from training.fleet.model.errors import InvalidMessageError, ManifestError, TrainerError
from training.fleet.model.jobs import (
    DEFAULT_DATASET,
    MAX_SPEC_BYTES,
    DatasetRef,
    Limits,
    Policy,
    Requirement,
    Trainer,
    canonical,
    normalise,
)
from training.fleet.model.names import is_host_name
from training.fleet.model.variables import refused

__all__ = ["MAX_JOBS", "parse"]

_TABLES: Final = ("manifest", "defaults", "hosts", "datasets", "trainer", "jobs")
_GLOB_SIGNS: Final = frozenset("*?[")
MAX_NOTES: Final = 100
"""Tables that stand for several jobs and are told of."""


def parse(data: bytes, declaration: dict[str, Any] | None) -> Manifest:
    """Read a manifest from its bytes.

    Args:
        data: The whole file.
        declaration: What the trainer declares (`declaration_of`), None to leave models and hyper-parameters unchecked.

    Returns:
        Header and jobs, in the order of the file, twins once.

    Raises:
        ManifestError: With every fault, at most 1,000 of them listed.
    """
    return read_and_check(data, lambda document: checked(data, document, declaration))


def read_and_check(data: bytes, check: Callable[[Document], Manifest]) -> Manifest:
    """Read a manifest by the quicker of two readers, and by the other one where that finds a fault.

    Args:
        data: The whole file.
        check: Makes a manifest of its tables, or raises; called once or twice.

    Raises:
        ManifestError: With every fault.
    """
    quick = read_quickly(data)
    if quick is not None:
        with contextlib.suppress(ManifestError):
            return check(quick)
    return check(read_document(data))


def checked(
    data: bytes, document: Document, declaration: dict[str, Any] | None, trouble: str | None = None
) -> Manifest:
    """Check a manifest's tables.

    Args:
        data: The whole file, for its digest.
        document: Its tables.
        declaration: What the trainer declares, or None.
        trouble: Why there is no declaration although the trainer was asked for one.

    Raises:
        ManifestError: With every fault.
    """
    findings = Findings()
    declared = _declared(document, declaration, trouble, findings)
    reader = Tables(document, findings, declared)
    jobs = tuple(_jobs(document, reader, findings))
    findings.check()
    if not jobs:
        findings.warn("the manifest names no job")
    header = Header(
        digest=hashlib.sha256(data).hexdigest(),
        hosts=reader.hosts,
        trainer=reader.trainer,
        datasets=reader.datasets,
        warnings=findings.warnings,
        contract=declared.contract if declared else None,
        count=len(jobs),
        notes=tuple(reader.notes),
        headline=declared.headline if declared else None,
    )
    return Manifest(header, jobs)


def trainer_of(document: Document) -> tuple[tuple[str, ...], str | None] | None:
    """Return command and schema file of the trainer, None when that table has a fault."""
    findings = Findings()
    table = document.tables.get("trainer", {})
    values = values_of(table, keys.TRAINER, "trainer", document, findings)
    return None if findings.faults else (values["command"], values["schema"])


def _declared(
    document: Document, declaration: dict[str, Any] | None, trouble: str | None, findings: Findings
) -> Declaration | None:
    found, expected, remedy = trouble, "a declaration", "correct the trainer or give trainer.schema"
    if declaration is not None:
        try:
            return compiled(declaration)
        except TrainerError as error:
            found, expected, remedy = error.message, "a JSON Schema of models and hyper-parameters", ""
    if found is not None:
        findings.fault(f"trainer{at(document.table_line('trainer'))}", found, expected, remedy)
    return None


class Tables:
    """Everything a manifest says besides its jobs, and how a job is read against it."""

    def __init__(self, document: Document, findings: Findings, declared: Declaration | None) -> None:
        self._document, self._findings, self._declared = document, findings, declared
        self.notes: list[str] = []
        self._refusals = 0
        # The grid of the table that is read now, and the faults told of it; without a grid each fault is told.
        self._grid: Mapping[str, Any] = {}
        self._told: set[tuple[str | None, str]] | None = None
        tables = document.tables
        for name in tables:
            if name not in _TABLES:
                place = f"{name if name.isidentifier() else short(name)}{at(document.table_line(name))}"
                findings.fault(place, f"the key {short(name)}", "a table of a manifest", nearest(name, _TABLES))
        self.expected_jobs: int | None = self._manifest(tables)
        self.datasets = self._datasets(tables.get("datasets", {}))
        self.hosts = self._hosts(tables.get("hosts", {}))
        trainer = values_of(tables.get("trainer", {}), keys.TRAINER, "trainer", document, findings)
        contract = declared.contract if declared else None
        self.trainer = Trainer(trainer["command"], contract, self._variables(trainer["env"]))
        self._own_contract = contract if trainer["command"] == Trainer().command else None
        self._revision: str | None = trainer["revision"]
        defaults = values_of(tables.get("defaults", {}), keys.DEFAULTS, "defaults", document, findings)
        self._defaults = {name: key.default for name, key in keys.JOB.items()} | defaults
        self._check_defaults(defaults)
        self._seeds_by_default = defaults["seeds"] is not None
        self._hyper: dict[tuple[str, str | None], str] = {}
        self._texts: dict[Any, str] = {}
        self._requirements: dict[Any, Requirement] = {}
        self._limits: dict[Any, Limits] = {}
        self._known_hosts: set[str] = set()

    def jobs(self, position: int, table: Any) -> list[JobEntry]:
        """Read the jobs that one table stands for: one, unless it has lists of seeds or a grid.

        Args:
            position: Its number, the first is 1.
            table: Its table.

        Returns:
            The entries without a fault; the faults are in the findings.
        """
        if not isinstance(table, dict):
            self._fault(position, None, short(table), "a table [[jobs]]")
            return []
        before = self._refusals
        values = self._values(position, table)
        if self._seeds_by_default or not expand.KEYS.isdisjoint(table):
            return self._expanded(position, table, values, before)
        hyper = self._checked_hyper(position, values)
        self._references(position, table, values)
        return self._entries(position, values, hyper, before)

    def _entries(self, position: int, values: dict[str, Any], hyper: str | None, before: int) -> list[JobEntry]:
        """Return a job, none when more than `before` faults were found."""
        if self._refusals != before or hyper is None:
            return []
        entry = self._entry(position, values, hyper)
        return [] if entry is None else [entry]

    def _expanded(self, position: int, table: Mapping[str, Any], values: dict[str, Any], before: int) -> list[JobEntry]:
        """Read the jobs of a table with lists. A wrong value is told once, however many jobs would have it."""
        misuse = list(expand.misuse(table, values))
        for key, found, expected, remedy in misuse:
            self._fault(position, key, found, expected, remedy)
        self._references(position, table, values)
        # Lists that are too long must not be gone through, and wrong ones cannot be.
        if misuse or any(values[key] is None for key in (expand.KEYS | {"hyper"}) & table.keys()):
            return []
        self._grid, self._told = values["grid"] or {}, set()
        entries = []
        for one in expand.expanded(table, values):
            entries += self._entries(position, one, self._checked_hyper(position, one), before)
        self._grid, self._told = {}, None
        self._note(position, len(entries))
        return entries

    def _note(self, position: int, count: int) -> None:
        if count > 1 and len(self.notes) < MAX_NOTES:
            self.notes.append(f"{count} jobs from {self._place(position, None)}")

    def _values(self, position: int, table: Mapping[str, Any]) -> dict[str, Any]:
        values = self._defaults.copy()
        for name, value in table.items():
            key = keys.JOB.get(name)
            if key is None:
                self._fault(position, name, f"the key {short(name)}", "a key of a job", nearest(name, keys.JOB))
                continue
            try:
                values[name] = key.read(value)
            except WrongValueError:
                values[name] = None
                self._fault(position, name, short(value), key.expected)
        for name in ("model", "mode"):
            if values[name] is None and name not in table and name not in self._document.tables.get("defaults", ()):
                self._fault(position, name, "nothing", keys.JOB[name].expected, "every job needs it")
        return values

    def _checked_hyper(self, position: int, values: Mapping[str, Any]) -> str | None:
        """Return a job's hyper-parameters as canonical text, None when they have a fault."""
        model, hyper = values["model"], values["hyper"]
        if model is None or hyper is None:
            return None
        key = (model, _as_text(hyper))
        known = self._hyper.get(key)
        if known is None and self._fits(position, model, hyper):
            try:
                normal = normalise(hyper, 1)
            except InvalidMessageError as error:
                self._not_json(position, hyper, error)
                return None
            known = self._hyper[key] = canonical(normal).decode()
        return known

    def _fits(self, position: int, model: str, hyper: Mapping[str, Any]) -> bool:
        before = self._refusals
        if self._declared is not None and model not in self._declared.models:
            models = self._declared.models
            self._fault(position, "model", short(model), "a model the trainer declares", nearest(model, models))
        elif self._declared is not None:
            for key, found, expected, remedy in self._declared.troubles(model, hyper):
                self._fault(position, self._hyper_key(key), found, expected, remedy)
        return self._refusals == before

    def _hyper_key(self, key: str) -> str:
        return f"grid.{key}" if key in self._grid else f"hyper.{key}"

    def _not_json(self, position: int, hyper: Mapping[str, Any], whole: InvalidMessageError) -> None:
        """Find the hyper-parameters that have no place in an identity."""
        before = self._refusals
        for key, value in hyper.items():
            try:
                normalise({key: value}, 1)
            except InvalidMessageError as error:
                expected = f"a value that JSON knows ({error.message})"
                self._fault(position, self._hyper_key(key), short(value), expected)
        if self._refusals == before:
            self._fault(position, "hyper", short(hyper), f"different keys ({whole.message})")

    def _references(self, position: int, table: Mapping[str, Any], values: dict[str, Any]) -> None:
        """Check what a job names elsewhere; defaults were checked once, at their own place."""
        declared = self._declared
        if "mode" in table and declared is not None:
            self._one_of(position, "mode", values["mode"], declared.modes)
        if "split_recipe" in table and declared is not None:
            self._one_of(position, "split_recipe", values["split_recipe"], declared.splits)
        if "dataset" in table:
            self._one_of(position, "dataset", values["dataset"], self.datasets, "add a table [datasets.NAME]")
        if "allowed_hosts" in table and values["allowed_hosts"]:
            self._check_hosts(position, values["allowed_hosts"])

    def _check_defaults(self, defaults: Mapping[str, Any]) -> None:
        set_here = {name: None for name in self._document.tables.get("defaults", {}) if name in defaults}
        if isinstance(self._document.tables.get("defaults"), dict):
            self._known_hosts = set()
            self._references(0, set_here, dict(defaults))

    def _one_of(self, position: int, key: str, value: str | None, valid: Any, remedy: str = "") -> None:
        if value is None or valid is None or value in valid:
            return
        known = ", ".join(sorted(valid)[:20]) or f"a name that the manifest declares; {remedy}"
        near = nearest(value, valid)
        # All names stand in what was expected, so only the nearest one is worth saying again.
        remedy = near if near.startswith("did you mean") else ""
        self._fault(position, key, short(value), f"one of {known}" if valid else known, remedy)

    def _check_hosts(self, position: int, globs: tuple[str, ...]) -> None:
        for glob in globs:
            if glob in self.hosts or glob in self._known_hosts or not _GLOB_SIGNS.isdisjoint(glob):
                continue
            if DEFAULT_HOST not in self.hosts:
                remedy = nearest(glob, self.hosts) or "add a table [hosts.NAME]"
                self._fault(position, "allowed_hosts", short(glob), "a host that the manifest admits", remedy)
                continue
            self._known_hosts.add(glob)
            place = self._place(position, "allowed_hosts")
            near = nearest(glob, self.hosts.keys() - {DEFAULT_HOST})
            told = f"; {near}" if near.startswith("did you mean") else ""
            self._findings.warn(f"{place}: the host {glob} has no table of its own, [hosts.default] holds for it{told}")

    def _entry(self, position: int, values: dict[str, Any], hyper: str) -> JobEntry | None:
        dataset = self.datasets.get(values["dataset"])
        if dataset is None and values["dataset"] is not None:
            # The defaults name a dataset that is not declared, which is a fault at its own place.
            return None
        document = self._document_text(values, dataset, hyper)
        data = document.encode()
        if len(data) > MAX_SPEC_BYTES:
            expected = f"at most {MAX_SPEC_BYTES} bytes of hyper-parameters and hosts"
            self._fault(position, "hyper", f"{len(data)} bytes", expected)
            return None
        return JobEntry(
            hashlib.sha256(data).hexdigest(),
            values["model"],
            values["mode"],
            document,
            self._requirement(values, dataset),
            self._job_limits(values),
            position,
            self._document.lines[position - 1] if self._document.lines else None,
            values["name"],
            values["tags"],
        )

    def _document_text(self, values: dict[str, Any], dataset: DatasetRef | None, hyper: str) -> str:
        """Return the canonical JSON of the identity, put together in the order RFC 8785 sorts its keys."""
        named = "" if dataset is None else f'"dataset":{self._text(dataset)},'
        revision = "" if self._revision is None else f'"revision":{self._text(self._revision)},'
        return (
            f'{{{named}"hyper":{hyper},"mode":{self._text(values["mode"])},"model":{self._text(values["model"])},'
            f'{revision}"seed":{values["seed"]},"split_recipe":{self._text(values["split_recipe"])},'
            f'"train_hosts":{self._text(values["train_hosts"])},"v":1}}'
        )

    def _text(self, value: str | tuple[str, ...] | DatasetRef) -> str:
        text = self._texts.get(value)
        if text is None:
            plain: Any = value
            if isinstance(value, DatasetRef):
                plain = {"name": value.name} | ({} if value.digest is None else {"digest": value.digest})
            text = self._texts[value] = canonical(normalise(plain)).decode()
        return text

    def _requirement(self, values: dict[str, Any], dataset: DatasetRef | None) -> Requirement:
        if dataset is None and self._declared is not None and self._declared.needs_dataset:
            dataset = DatasetRef(DEFAULT_DATASET)
        fields = (
            values["model"],
            values["require_cuda"],
            values["prefer_cuda"],
            values["min_vram_gib"],
            values["min_ram_gib"],
            values["allowed_hosts"],
            dataset,
            self._own_contract,
        )
        found = self._requirements.get(fields)
        if found is None:
            found = self._requirements[fields] = Requirement(*fields)
        return found

    def _job_limits(self, values: dict[str, Any]) -> Limits:
        fields = (values["priority"], values["timeout_s"], values["max_attempts"])
        found = self._limits.get(fields)
        if found is None:
            found = self._limits[fields] = Limits(*fields)
        return found

    def _manifest(self, tables: Mapping[str, Any]) -> int | None:
        if "manifest" not in tables:
            self._findings.fault("manifest", "nothing", "a table [manifest] with schema = 1")
            return None
        values = values_of(tables["manifest"], keys.MANIFEST, "manifest", self._document, self._findings)
        if isinstance(tables["manifest"], dict) and "schema" not in tables["manifest"]:
            place = f"manifest.schema{at(self._document.table_line('manifest'))}"
            self._findings.fault(place, "nothing", keys.MANIFEST["schema"].expected)
        expected: int | None = values["jobs"]
        return expected

    def _datasets(self, tables: Any) -> dict[str, DatasetRef]:
        datasets = {}
        for name, table in self._named("datasets", tables, keys.NAME.fullmatch, "a name of a dataset"):
            values = values_of(table, keys.DATASET, f"datasets.{name}", self._document, self._findings)
            datasets[name] = DatasetRef(name, values["digest"])
            if name == DEFAULT_DATASET:
                expected = "another name; this one is every host's own default dataset"
                self._findings.fault(f"datasets.{name}", short(name), expected, "leave `dataset` out of the job")
        return datasets

    def _variables(self, env: Mapping[str, str] | None) -> Mapping[str, str]:
        for name in env or {}:
            if why := refused(name, of_manifest=True):
                place = f"trainer.env{at(self._document.table_line('trainer', 'env'))}"
                self._findings.fault(place, f"{short(name)}, which {why}", "another variable")
        return env or {}

    def _hosts(self, tables: Any) -> dict[str, Policy]:
        hosts: dict[str, Policy] = {}
        for name, table in self._named("hosts", tables, lambda text: is_host_name(text.lower()), "a host name"):
            values = values_of(table, keys.HOST_TABLE, f"hosts.{name}", self._document, self._findings)
            if name.lower() in hosts:
                place = f"hosts.{name}{at(self._document.table_line(f'hosts.{name}'))}"
                self._findings.fault(place, "a second table for this host", "one table per host, in lower case")
            hosts[name.lower()] = Policy(**values)
            self._check_policy(name, values)
        if not hosts:
            self._findings.warn("the manifest admits no host; add [hosts.default] or a table per host")
        return hosts

    def _check_policy(self, name: str, values: Mapping[str, Any]) -> None:
        models = self._declared.models if self._declared is not None else None
        for key in ("allow_jobs", "deny_jobs"):
            for glob in values[key] or ():
                if models is not None and glob not in models and _GLOB_SIGNS.isdisjoint(glob):
                    remedy = nearest(glob, models)
                    self._findings.warn(f"hosts.{name}.{key}: the trainer declares no model {glob}; {remedy}")

    def _named(self, section: str, tables: Any, fits: Any, expected: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(tables, dict):
            place = f"{section}{at(self._document.table_line(section))}"
            self._findings.fault(place, short(tables), f"tables [{section}.NAME]")
            return
        for name, table in tables.items():
            if self._has_dots(section, name, table):
                continue
            if fits(name):
                yield name, table
            else:
                place = f"{section}{at(self._document.table_line(f'{section}.{name}'))}"
                self._findings.fault(place, f"the name {short(name)}", f"{expected}: letters, digits, dot, dash")

    def _has_dots(self, section: str, name: str, table: Any) -> bool:
        """Return True if a name with dots was written without quotes; the fault says so."""
        paths = [path for path in _dotted(name, table, keys.TABLES[f"{section}.NAME"]) if path != name]
        for path in paths:
            place = f"{section}.{path}{at(self._document.table_line(f'{section}.{path}'))}"
            found = f"[{section}.{path}], whose dots are tables in tables"
            self._findings.fault(place, found, f'[{section}."{path}"]', "put the name in quotes")
        return bool(paths)

    def _fault(self, position: int, key: str | None, found: str, expected: str, remedy: str = "") -> None:
        self._refusals += 1
        if self._told is not None:
            if (key, found) in self._told:
                return
            self._told.add((key, found))
        self._findings.fault(self._place(position, key), found, expected, remedy)

    def _place(self, position: int, key: str | None) -> str:
        if position == 0:
            return place_of("defaults", key, self._document)
        shown = f".{plain(key)}" if key else ""
        return f"jobs[{position}]{shown}{at(self._document.line(position, key or ''))}"


def _dotted(name: str, table: Any, known: Mapping[str, object]) -> Iterator[str]:
    """Yield the names of tables that were meant by a name with dots and no quotes."""
    inner = {key: value for key, value in table.items() if key not in known} if isinstance(table, dict) else {}
    if not inner or not all(isinstance(value, dict) for value in inner.values()):
        yield name
        return
    for key, value in inner.items():
        yield from _dotted(f"{name}.{key}", value, known)


def _as_text(hyper: Mapping[str, Any]) -> str | None:
    """Return hyper-parameters as a text that tells 1 from 1.0 and true, None when they hold a number too long for it.

    Most jobs share theirs with others, so that each text is checked once. Nothing with such a number is ever valid.
    """
    try:
        return repr(hyper)
    except ValueError:
        return None


def _jobs(document: Document, reader: Tables, findings: Findings) -> Iterator[JobEntry]:
    """Yield the jobs, twins once, and check their number."""
    tables = document.jobs
    if not isinstance(tables, list):
        findings.fault("jobs", short(tables), "tables [[jobs]]", "write [[jobs]] with two brackets")
        return
    if reader.expected_jobs is not None and reader.expected_jobs != len(tables):
        place = place_of("manifest", "jobs", document)
        findings.fault(
            place,
            f"jobs = {reader.expected_jobs}",
            f"{len(tables)}, the jobs that stand in the file",
            "the file may be half written",
        )
    if len(tables) > MAX_JOBS:
        findings.fault("jobs", f"{len(tables)} jobs", f"at most {MAX_JOBS}", "split the work over several receivers")
        return
    seen: dict[str, JobEntry] = {}
    for position, table in enumerate(tables, 1):
        if findings.full:
            return
        for entry in reader.jobs(position, table):
            if seen.setdefault(entry.id, entry) is entry:
                yield entry
            else:
                twin(findings, seen[entry.id], entry)
        if len(seen) > MAX_JOBS:
            found = f"more than {MAX_JOBS} jobs from the first {position} tables"
            findings.fault("jobs", found, f"at most {MAX_JOBS}", "split the work over several receivers")
            return
