"""Results at home: Markdown on a terminal and in a page, the cache of bounded size, and names that mean a result."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_cli_finding import NARROW, PIPE, Scripted, completed, job, ran
from training.fleet.cli import commands, markdown, program
from training.fleet.cli.model_cache import ModelCache
from training.fleet.cli.remote import Remote
from training.fleet.cli.text import Terminal, cells
from training.fleet.cli.wanted import wanted
from training.fleet.model.errors import ConfigurationError, FleetError
from training.fleet.single_file import JOBS, build
from training.fleet.wire.people import JobDetail, JobPage, JobView, PartView

# ---- Markdown


def shown(text: str, width: int = 40) -> list[str]:
    return markdown.lines(markdown.blocks(text), Terminal(width, 24))


def test_marks_within_a_line_go_and_what_they_say_stays() -> None:
    text = r"**bold** `code` [text](there) ![Curves](c.svg) \*star\* a_b *x*"
    assert shown(text, 80) == ["bold code text (there) Curves (c.svg) *star* a_b *x*"]


def test_lines_of_a_paragraph_are_one_text_and_lists_stay_together() -> None:
    text = "One.\nTwo.\n\n- a\n- b that is longer than the line of forty cells\n\nEnd."
    assert shown(text) == [
        "One. Two.", "", "- a", "- b that is longer than the line of", "  forty cells", "", "End.",
    ]  # fmt: skip


def test_a_table_without_a_header_lists_its_names_and_columns_of_one_name_stay() -> None:
    assert shown("|  |  |\n|---|---|\n| model | trees |\n| seed | 490 |") == ["model  trees", "seed   490"]
    assert shown("| a | a |\n|---|---|\n| 1 | 2 |") == ["a  a", "1  2"]


def test_rows_of_other_lengths_than_the_header_break_nothing() -> None:
    assert shown("| a | b |\n|---|---|\n| 1 |\n| 1 | 2 | 3 |") == ["a  b", "1", "1  2"]
    assert (shown("|"), shown("|---|")) == ([], ["---"])


def test_code_stays_line_by_line_also_where_its_end_is_missing() -> None:
    assert shown("```\na  b\n# c\n```\nd") == ["    a  b", "    # c", "", "d"]
    assert shown("```\na") == ["    a"]
    assert shown("```") == []


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[31mred",
        "# \x1b]0;title\x07",
        "| \x9b2J |",
        "- \u202eabc",
        "> \x00",
        "```\n\x1b[2J",
        "a\x0bb\x85c",
        "\r\rx",
    ],
)
def test_no_text_of_a_host_steers_the_terminal_or_the_page(text: str) -> None:
    for line in [*shown(text), *markdown.page(markdown.blocks(text)).split("\n")]:
        assert line.isprintable()


@pytest.mark.parametrize("text", ["[" * 300_000, "`a" * 150_000, "**" + "a*" * 150_000, "|" * 100_000, "\\" * 300_000])
def test_no_text_takes_longer_than_its_length_allows(text: str) -> None:
    before = time.process_time()
    markdown.blocks(text)
    assert time.process_time() - before < 10


def test_markup_of_a_host_is_text_in_the_page() -> None:
    text = "# <script>a</script>\n\n- <img src=x onerror=y>\n\n| <b> |\n|---|\n| \" & ' |\n\n```\n</pre><script>\n```"
    page = markdown.page(markdown.blocks(text))
    assert page == (
        "<h1>&lt;script&gt;a&lt;/script&gt;</h1>\n<ul>\n<li>&lt;img src=x onerror=y&gt;</li>\n</ul>\n"
        "<table><tr><th>&lt;b&gt;</th></tr><tr><td>&quot; &amp; &#x27;</td></tr></table>\n"
        "<pre>&lt;/pre&gt;&lt;script&gt;</pre>"
    )


def test_every_line_of_a_wide_card_fits_the_terminal() -> None:
    text = "# " + "word " * 40 + "\n\n" + "| " + " | ".join(f"column {n}" for n in range(12)) + " |\n|" + "---|" * 12
    text += "\n| " + " | ".join("0.1234" for _ in range(12)) + " |\n\n> " + "quote " * 30
    assert max(map(cells, shown(text, 60))) <= 60


# ---- the cache


def entry(cache: ModelCache, number: int, size: int, used_at: float) -> Path:
    folder = cache.entry(f"{number:064x}")
    (folder / "bundle.tar.zst").write_bytes(bytes(size))
    os.utime(folder, (used_at, used_at))
    return folder


def test_what_was_not_used_for_longest_goes_first_and_the_entry_in_use_stays(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "results", 250)
    old, new = entry(cache, 1, 100, 1000), entry(cache, 2, 100, 2000)
    (cache.root / "somebody's").mkdir()
    used = entry(cache, 3, 100, 500)
    cache.shrink(used)
    assert (old.exists(), new.exists(), used.exists(), (cache.root / "somebody's").exists()) == (
        False,
        True,
        True,
        True,
    )
    huge = entry(cache, 4, 1000, 3000)
    cache.shrink(huge)
    assert (new.exists(), used.exists(), huge.exists()) == (False, False, True)


def test_the_cache_lies_where_the_user_keeps_such_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ModelCache.of_user({"XDG_CACHE_HOME": str(tmp_path)}).root == tmp_path / "cis490/results"
    monkeypatch.setenv("HOME", str(tmp_path))
    # A relative path there counts for nothing. Source: XDG Base Directory Specification.
    assert ModelCache.of_user({"XDG_CACHE_HOME": "here"}).root == tmp_path / ".cache/cis490/results"

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigurationError, match="set XDG_CACHE_HOME"):
        ModelCache.of_user({})


def test_a_cache_that_cannot_be_made_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="set XDG_CACHE_HOME to a folder of yours"):
        ModelCache(tmp_path / "file").entry("a" * 64)


# ---- which result is meant


def detail(view: JobView) -> JobDetail:
    return JobDetail(view, {}, {}, [], [], "", parts=[PartView("x.md", 1, "b" * 64, "text/markdown")])


def asked(words: str, jobs: list[JobView]) -> str:
    """Return the address that was asked last, by a receiver with some jobs."""
    answers: dict[str, Any] = {f"/v1/job/{view.id}": detail(view) for view in jobs}

    def listed(query: dict[str, str]) -> JobPage:
        chosen = [view for view in jobs if view.id.startswith(query.get("id_prefix", ""))]
        return JobPage([view for view in chosen if query.get("status") in (None, view.status)])

    options, receiver = program.parser().parse_args(words.split()), Scripted({"/v1/jobs": listed, **answers})
    console = commands.Console(io.StringIO(), io.StringIO(), PIPE, options.json)
    wanted(commands.Call(Remote(receiver, "http://127.0.0.1:8445"), console, options))
    return receiver.asked[-1][0]


def test_an_artifact_of_two_jobs_means_the_first_and_one_of_two_artifacts_is_refused() -> None:
    same = [completed(1, 0.4), dataclasses.replace(completed(2, 0.5), artifact="1" * 64), completed(3, 0.6)]
    assert asked("get 11111", same) == f"/v1/job/{job(1).id}"
    apart = [dataclasses.replace(completed(n, 0.4), artifact="abcd" + str(n) * 60) for n in (1, 2)]
    with pytest.raises(FleetError, match="abcd fits several artifacts: abcd111111111111, abcd222222222222; give more"):
        asked("get abcd", apart)
    assert asked("get ABCD2", apart) == f"/v1/job/{job(2).id}"


def test_a_job_goes_before_an_artifact_of_the_same_digits() -> None:
    jobs = [completed(1, 0.4), dataclasses.replace(completed(2, 0.5), artifact=job(1).id)]
    assert asked(f"get {job(1).id}", jobs) == f"/v1/job/{job(1).id}"


@pytest.mark.parametrize("status", ["pending", "claimed", "failed", "cancelled"])
def test_a_job_without_a_result_says_what_to_do_about_it(status: str) -> None:
    view = job(1, status=status)
    told = {"pending": "why", "claimed": "status --watch", "failed": "show", "cancelled": "requeue"}[status]
    with pytest.raises(FleetError, match=f"is {status} and has no result; `cis490-jobs {told}"):
        ran(f"card {view.id}", {f"/v1/job/{view.id}": detail(view)})


def test_the_best_job_and_its_lists_name_the_lines_that_fetch_it() -> None:
    lines, *_ = ran("best", {"/v1/jobs": JobPage([completed(3, 0.7)])}, NARROW)
    assert lines[-2:] == ["get it    cis490-jobs get 300000000000", "look      cis490-jobs card 300000000000"]
    shown_lines, *_ = ran("show 3000", {"/v1/jobs": JobPage([completed(3, 0.7)]), f"/v1/job/{job(3).id}": detail(
        completed(3, 0.7))}, NARROW)  # fmt: skip
    assert "get it    cis490-jobs get 300000000000" in shown_lines


def test_the_command_as_one_file_holds_all_that_it_needs(root: Path, tmp_path: Path) -> None:
    """Nothing else runs every import of it; a module that is missing there ends it with a traceback."""
    file = tmp_path / JOBS.name
    file.write_bytes(build(root, JOBS))
    words = [sys.executable, "-I", "-S", str(file), "get", "--help"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: cis490-jobs get [-o DIR]")
