"""The receiver's settings, its unit and their reference page agree."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from training.fleet.model.errors import ConfigurationError
from training.fleet.receiver import options
from training.fleet.receiver.server import connection_limit
from training.fleet.settings import PREFIX

TABLE = options.table({"STATE_DIRECTORY": "STATE"})


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.name)
def test_the_reference_lists_each_setting_with_its_default(root: Path, setting: options.Setting) -> None:
    text = (root / "docs/reference/settings.md").read_text()
    default = "none" if setting.default in ((), None) else f"`{setting.default}`"
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `{setting.name}` |")]
    assert [cell.strip() for cell in row.split("|")][3] == default


def test_the_example_environment_names_settings_that_exist(root: Path) -> None:
    lines = (root / "etc/trainer-receiver.env.example").read_text().splitlines()
    names = {line.lstrip("#").partition("=")[0] for line in lines if line.lstrip("#").startswith(PREFIX)}
    secrets = {"CIS490_OPERATOR_TOKEN", "CIS490_WORKER_TOKEN", "CIS490_READ_TOKEN", "CIS490_PROXY_TOKEN"}
    named = {name.removesuffix("_FILE") for name in names}
    assert named - secrets <= {setting.variable for setting in TABLE}
    assert secrets <= named


def test_the_unit_keeps_its_promises(root: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(root / "etc/systemd/cis490-trainer-receiver.service")
    service = unit["Service"]
    wanted = {
        "Type": "notify",
        "User": "cis490",
        "EnvironmentFile": "-/etc/cis490/trainer-receiver.env",
        "RestartPreventExitStatus": "78",
        "StateDirectory": "cis490",
        "ProtectSystem": "strict",
        "NoNewPrivileges": "yes",
    }
    assert {key: service[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:8445", ("127.0.0.1", 8445)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_an_address_is_read(text: str, found: tuple[str, int]) -> None:
    assert options.address(text) == found


@pytest.mark.parametrize(
    "text", ["", "8445", ":8445", "127.0.0.1", "127.0.0.1:", "::1:8445", "[::1]", "h:-1", "h:65536", "h:1x", "h:٣"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected HOST:PORT"):
        options.address(text)


def test_connections_stay_below_the_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 4096))
    assert [connection_limit(0), connection_limit(100), connection_limit(5000)] == [960, 100, 960]
    monkeypatch.setattr("resource.getrlimit", lambda _: (10, 10))
    assert connection_limit(0) == 16
