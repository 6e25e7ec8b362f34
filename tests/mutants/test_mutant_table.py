"""The table of mutants fits the code. The mutants themselves run in the long mode, by `python -m tests.mutants`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.mutants.table import Change, Mutant, faults, in_words, read
from tests.mutants.trial import run_tests, without_guard


def named_tests(path: Path) -> set[str]:
    return set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_every_mutant_changes_a_passage_that_stands_in_the_code_once() -> None:
    assert faults(read()) == []


CODE = """
class Host:
    def free(self):
        return (self.slots >
                self.held)

    def full(self):
        return not self.slots > self.held and self.slots > self.held


def free(self):
    return self.slots > self.held
"""


def test_a_table_that_no_longer_fits_is_told(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(CODE)
    mutants = [
        Mutant("fits", "", (Change("code.py", "Host.free", "self.slots > self.held", "True"),), ()),
        Mutant("gone", "", (Change("code.py", "Host.free", "self.slots < self.held", ""),), ()),
        Mutant("twice", "", (Change("code.py", "Host.full", "self.slots > self.held", ""),), ()),
        Mutant("moved", "", (Change("code.py", "Host.busy", "self.slots > self.held", ""),), ()),
        Mutant("anywhere", "", (Change("code.py", "", "class Host:", ""),), ()),
    ]
    rest = "times, expected once; correct its row in mutants.toml"
    assert faults(mutants, tmp_path) == [
        f"gone: Host.free of code.py holds 'self.slots < self.held' 0 {rest}",
        f"twice: Host.full of code.py holds 'self.slots > self.held' 2 {rest}",
        f"moved: Host.busy of code.py holds 'self.slots > self.held' 0 {rest}",
    ]


def test_every_test_that_a_mutant_names_exists(root: Path) -> None:
    named = {tuple(test.split("::")) for mutant in read() for test in mutant.tests}
    found = {file: named_tests(root / file) for file in {file for file, _ in named}}
    assert sorted((file, name) for file, name in named if name not in found[file]) == []


def test_every_mutant_has_its_own_name_and_says_what_it_takes_out() -> None:
    mutants = read()
    assert len({mutant.name for mutant in mutants}) == len(mutants)
    assert [mutant.name for mutant in mutants if not (mutant.guard.endswith(".") and mutant.tests)] == []


def test_the_page_has_every_mutant_with_a_test_that_found_it(root: Path) -> None:
    page = (root / "docs/explanation/reliability.md").read_text(encoding="utf-8").partition("\n## Mutants\n")[2]
    told = re.findall(r"^\| `([\w-]+)` \| (.+?) \| (.+?) \|$", page.partition("\n## ")[0], re.MULTILINE)
    mutants = read()
    assert [(name, guard) for name, guard, _ in told] == [(mutant.name, mutant.guard) for mutant in mutants]
    for mutant, (_, _, by) in zip(mutants, told, strict=True):
        assert by in {in_words(test) for test in mutant.tests}, mutant.name


def test_a_mutant_is_found_and_leaves_nothing_behind(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "limits.py").write_text("def most(a, b):\n    return max(a, b)\n")
    (copy / "test_code.py").write_text(
        "from limits import most\n\n\ndef test_most():\n    assert most(1, 2) == 2\n\n\ndef test_other():\n    pass\n"
    )
    (copy / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    mutant = Mutant("least", "", (Change("limits.py", "most", "max(", "min("),), ("test_code.py",))
    before = (copy / "limits.py").stat().st_mtime_ns
    assert not run_tests(copy, mutant.tests, keep_compiled=True).found
    with without_guard(copy, mutant):
        verdict = run_tests(copy, mutant.tests)
    assert (verdict.found, verdict.by, verdict.trouble) == (True, "test_code.py::test_most", "")
    assert (copy / "limits.py").stat().st_mtime_ns == before


def test_tests_that_cannot_run_have_found_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "test_code.py").write_text("def test_one(:\n")
    verdict = run_tests(copy, ("test_code.py",))
    assert not verdict.found
    assert "1 error" in verdict.trouble
