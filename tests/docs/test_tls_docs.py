"""The guides to TLS, Caddy's example and the page on security say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.fleet.api.front import MARKS
from training.fleet.auth import TOKENS
from training.fleet.cli.program import parser
from training.fleet.receiver import PROXY_TOKEN, init, options
from training.fleet.worker.options import TABLE

PAGES = ("docs/guides/mutual-tls.md", "docs/guides/behind-caddy.md", "SECURITY.md", "etc/trainer-receiver.env.example")
SECRETS = {*TOKENS.values(), PROXY_TOKEN}
KNOWN = (
    {setting.variable for setting in (*options.table({}), *TABLE)}
    | SECRETS
    | {f"{name}_FILE" for name in SECRETS}
    | {"CIS490_RECEIVER", "CIS490_CA_FILE"}
)


@pytest.mark.parametrize("page", PAGES)
def test_every_variable_of_the_page_is_one_that_a_program_reads(root: Path, page: str) -> None:
    named = set(re.findall(r"CIS490_[A-Z_]+[A-Z]", (root / page).read_text()))
    assert sorted(named - KNOWN) == []


def test_caddy_sends_the_headers_that_the_receiver_knows_and_the_reference_names(root: Path) -> None:
    text = (root / "etc/Caddyfile.example").read_text()
    sent = [name.lower().encode() for name in re.findall(r"^\s*header_up (X\S+)", text, re.MULTILINE)]
    assert sorted(sent) == sorted(MARKS)
    reference = (root / "docs/reference/http-api.md").read_text().lower()
    assert [name for name in MARKS if f"| `{name.decode()}` |" not in reference] == []


def test_every_command_of_the_guides_is_one_the_programs_take(root: Path) -> None:
    for page in PAGES[:2]:
        for words in re.findall(r"^cis490-trainer-receiver init ([^>`\n]+)", (root / page).read_text(), re.MULTILINE):
            init._parser().parse_args(words.split())
        for words in re.findall(r"^cis490-jobs ([^>`\n]+)", (root / page).read_text(), re.MULTILINE):
            parser().parse_args(words.split())


def test_the_reference_lists_each_file_that_init_makes(root: Path) -> None:
    text = (root / "docs/reference/settings.md").read_text()
    for name in (*init.AUTHORITY, *init.SERVER, *init.TOKENS):
        assert f"`{name}`" in text
    for option in ("--host-names", "--folder", "--renew"):
        assert option in text


@pytest.mark.parametrize("unit", ["cis490-trainer-receiver", "cis490-training-worker"])
def test_a_unit_starts_once_the_clock_is_set(root: Path, unit: str) -> None:
    text = (root / f"etc/systemd/{unit}.service").read_text()
    assert re.search(r"^After=.*\btime-sync\.target\b", text, re.MULTILINE)
    assert re.search(r"^Wants=.*\btime-sync\.target\b", text, re.MULTILINE)
