from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.fleet.model.jobs import FAIL_KINDS, MODES, STATUSES

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED_TEST = re.compile(r"\b(tests/[\w/]+(?:\.\w+)?)(?:::(\w+))?")


def _pages(root: Path) -> list[Path]:
    return [
        *root.glob("*.md"),
        *(root / "docs").rglob("*.md"),
        *(root / "data").rglob("*.md"),
        *(root / "bench").glob("*.md"),
    ]


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _targets(page: Path) -> set[str]:
    return {_anchor(line.lstrip("#")) for line in page.read_text().splitlines() if line.startswith("#")}


def test_every_link_between_pages_leads_somewhere(root: Path) -> None:
    broken = []
    for page in _pages(root):
        for link in LINK.findall(page.read_text()):
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists() or (anchor and anchor not in _targets(target)):
                broken.append(f"{page.relative_to(root)}: {link}")
    assert broken == []


def test_every_page_of_the_docs_can_be_reached_from_the_index(root: Path) -> None:
    index = root / "docs/README.md"
    seen, todo = set(), [root / "README.md", index]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = (link.partition("#")[0] for link in LINK.findall(page.read_text()) if not re.match(r"[a-z]+:", link))
        todo += [(page.parent / name).resolve() for name in links if name and (page.parent / name).is_file()]
    assert sorted(str(page.relative_to(root)) for page in (root / "docs").rglob("*.md") if page not in seen) == []


def test_the_readme_stays_short(root: Path) -> None:
    assert len((root / "README.md").read_text().splitlines()) < 150


@pytest.mark.parametrize("word", [*STATUSES, *FAIL_KINDS])
def test_the_reference_of_states_names_every_status_and_failure_kind(root: Path, word: str) -> None:
    assert f"`{word}`" in (root / "docs/reference/states.md").read_text()


@pytest.mark.parametrize("mode", MODES)
def test_the_glossary_names_the_modes(root: Path, mode: str) -> None:
    assert f"`{mode}`" in (root / "docs/reference/glossary.md").read_text()


FAILURES = "docs/explanation/failures.md"


def test_every_test_that_the_news_and_the_page_of_failures_name_is_there(root: Path) -> None:
    pages = [root / "CHANGELOG.md", *sorted((root / "changelog.d").glob("*.md")), root / FAILURES]
    named = [(page.name, *found) for page in pages for found in NAMED_TEST.findall(page.read_text())]
    assert len([page for page, *_ in named if page != "failures.md"]) > 50
    absent = []
    for page, path, function in named:
        place = root / path
        if not place.exists() or (function and f"def {function}(" not in place.read_text()):
            absent.append(f"{page}: {path}::{function}" if function else f"{page}: {path}")
    assert absent == []


def test_every_failure_names_the_test_that_shows_it_or_says_that_none_does(root: Path) -> None:
    lines = (root / FAILURES).read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    failures = [row for row in rows if row[0] not in ("what happens", "---")]
    assert len(failures) > 100
    assert [row for row in rows if len(row) != 3] == []
    assert [row[0] for row in failures if not (NAMED_TEST.search(row[2]) or row[2].startswith("not shown"))] == []


def test_no_tracked_text_holds_a_path_of_one_machine(root: Path) -> None:
    pattern = re.compile(r"(^|[^a-z.])/(work|root|home/\w+)/", re.M)
    suffixes = {".py", ".md", ".toml", ".sh", ".service", ".sql", ".json", ".txt", ".example"}
    skipped = {".venv", ".git", ".demo", ".hypothesis", ".mypy_cache", ".ruff_cache", "build"}
    found = [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.suffix in suffixes
        and not skipped & set(path.relative_to(root).parts)
        and path.name != "test_docs.py"
        and pattern.search(path.read_text())
    ]
    assert found == []
