"""Where settings come from."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest

from training.fleet import settings
from training.fleet.model.errors import ConfigurationError
from training.fleet.settings import Setting

TABLE = (
    Setting("name", "a name", str, "nobody"),
    Setting("count", "a count", int, 3, ge=1, le=10),
    Setting("ratio", "a ratio", float, 0.5),
    Setting("loud", "whether", bool, False),
    Setting("place", "a place", Path, Path("/default")),
    Setting("dataset", "datasets", str, (), many=True),
    Setting("level", "a level", str, "info", choices=("info", "debug")),
)


def read(flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> settings.Settings:
    return settings.read(TABLE, flags or {}, environ or {})


def config(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "settings.toml"
    path.write_text(text)
    return {"config": str(path)}


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = config(tmp_path, 'name = "file"\ncount = 4\nratio = 2\n')
    found = read({**file, "name": "flag"}, {"CIS490_NAME": "variable", "CIS490_COUNT": "5"})
    assert [found["name"], found["count"], found["ratio"], found["loud"]] == ["flag", 5, 2.0, False]
    assert [found.source(name) for name in ("name", "count", "ratio", "loud")] == [
        "flag --name",
        "variable CIS490_COUNT",
        f"file {tmp_path / 'settings.toml'}",
        "default",
    ]


def test_the_file_can_be_named_by_a_variable(tmp_path: Path) -> None:
    file = config(tmp_path, 'name = "file"\n')
    assert read(environ={"CIS490_CONFIG": file["config"]})["name"] == "file"


def test_an_empty_variable_counts_as_unset() -> None:
    assert read(environ={"CIS490_NAME": ""})["name"] == "nobody"


@pytest.mark.parametrize(("word", "value"), [("1", True), ("YES", True), ("off", False), ("false", False)])
def test_truth_is_read_from_words(word: str, value: bool) -> None:
    assert read(environ={"CIS490_LOUD": word})["loud"] is value


def test_several_values_come_from_repeats_commas_and_lists(tmp_path: Path) -> None:
    assert read({"dataset": ["a=1", "b=2"]})["dataset"] == ("a=1", "b=2")
    assert read(environ={"CIS490_DATASET": "a=1, b=2"})["dataset"] == ("a=1", "b=2")
    assert read(config(tmp_path, 'dataset = ["a=1"]\n'))["dataset"] == ("a=1",)


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (8 * 2**30, "8589934592 bytes, 8 GiB"),
        (2**28, "268435456 bytes, 256 MiB"),
        (1000, "1000 bytes]"),
        (0, "0 bytes]"),
    ],
)
def test_the_help_names_a_size_in_units(size_bytes: int, shown: str) -> None:
    parser = argparse.ArgumentParser()
    settings.add_flags(parser, [Setting("most_bytes", "largest upload", int, size_bytes)])
    assert f"default {shown}" in " ".join(parser.format_help().split())


def test_flags_are_made_of_the_table() -> None:
    parser = argparse.ArgumentParser()
    settings.add_flags(parser, TABLE)
    flags = vars(parser.parse_args(["--name", "x", "--loud", "--dataset", "a", "--dataset", "b", "--count", "7"]))
    found = read(flags)
    assert (found["name"], found["loud"], found["dataset"], found["count"]) == ("x", True, ("a", "b"), 7)
    assert "CIS490_COUNT" in parser.format_help()


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        pytest.param("COUNT", "many", "a whole number", id="no number"),
        pytest.param("COUNT", "1.5", "a whole number", id="a fraction"),
        pytest.param("COUNT", "0", "at least 1", id="too small"),
        pytest.param("COUNT", "11", "at most 10", id="too large"),
        pytest.param("RATIO", "nan", "a number", id="NaN"),
        pytest.param("RATIO", "inf", "a number", id="infinity"),
        pytest.param("LOUD", "maybe", "true or false", id="no truth"),
        pytest.param("LEVEL", "shout", "one of info, debug", id="no choice"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(variable: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(environ={f"CIS490_{variable}": text})
    (fault,) = caught.value.faults
    assert fault.place == f"variable CIS490_{variable}"
    assert fault.expected == expected


@pytest.mark.parametrize(
    "line", ["count = true", "count = 1.0", 'count = "x"', "name = 3", "loud = 1", "dataset = [1]", "place = false"]
)
def test_a_wrong_type_in_the_file_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigurationError):
        read(config(tmp_path, line + "\n"))


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    file = config(tmp_path, "nam = 1\ncount = 99\n")
    with pytest.raises(ConfigurationError) as caught:
        read(file, {"CIS490_LOUD": "perhaps"})
    assert len(caught.value.faults) == 3
    assert any("did you mean name?" in fault.remedy for fault in caught.value.faults)


@pytest.mark.parametrize(
    "data", [b"name = ", b"\xff\xfe", b"x = " + b"[" * 5000 + b"]" * 5000], ids=["half a line", "no UTF-8", "deep"]
)
def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.toml").write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"x\.toml"):
        read({"config": str(tmp_path / "x.toml")})


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read({"config": str(tmp_path / "none.toml")})


def test_the_effective_values_are_shown_with_their_source() -> None:
    lines = read({"name": "x"}).lines()
    assert lines[0] == "name = 'x'  (flag --name)"
    assert "dataset = none  (default)" in lines
    assert len(lines) == len(TABLE) == len(read())
    assert set(read()) == {setting.name for setting in TABLE}


# ---- secrets


def private(folder: Path, data: bytes, mode: int = 0o600, name: str = "secret") -> Path:
    path = folder / name
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_a_secret_comes_from_its_variable() -> None:
    assert settings.secret("CIS490_X", {"CIS490_X": "token"}) == "token"


def test_an_unset_secret_is_none() -> None:
    assert settings.secret("CIS490_X", {"CIS490_X": ""}) is None


@pytest.mark.parametrize("data", [b"token", b"token\n", b"token\r\n"])
def test_a_secret_comes_from_a_private_file_without_its_newline(tmp_path: Path, data: bytes) -> None:
    assert settings.secret("CIS490_X", {"CIS490_X_FILE": str(private(tmp_path, data))}) == "token"


def test_a_file_for_the_group_is_private_enough(tmp_path: Path) -> None:
    assert settings.secret("CIS490_X", {"CIS490_X_FILE": str(private(tmp_path, b"t", 0o640))}) == "t"


@pytest.mark.parametrize("mode", [0o644, 0o602, 0o666])
def test_a_file_that_everybody_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path, b"token", mode)
    with pytest.raises(ConfigurationError, match="chmod o="):
        settings.secret("CIS490_X", {"CIS490_X_FILE": str(path)})


def test_a_secret_comes_from_the_service_managers_credentials(tmp_path: Path) -> None:
    private(tmp_path, b"token\n", 0o400, "cis490_x")
    assert settings.secret("CIS490_X", {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "token"
    assert settings.secret("CIS490_Y", {"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None


def test_variable_and_file_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="both set"):
        settings.secret("CIS490_X", {"CIS490_X": "a", "CIS490_X_FILE": str(private(tmp_path, b"b"))})


@pytest.mark.parametrize("data", [b"", b"\n", b"two words", b"two\nlines\n", b"t\xc3\xb6ken", b"x" * 5000, b"nul\0"])
def test_a_secret_that_no_header_could_carry_is_refused_without_telling_it(tmp_path: Path, data: bytes) -> None:
    path = private(tmp_path, data)
    with pytest.raises(ConfigurationError, match="no usable secret") as caught:
        settings.secret("CIS490_X", {"CIS490_X_FILE": str(path)})
    assert "words" not in caught.value.message


def test_a_secret_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        settings.secret("CIS490_X", {"CIS490_X_FILE": str(tmp_path / "none")})


# ---- folders


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"STATE_DIRECTORY": "/var/lib/cis490"}, "/var/lib/cis490"),
        ({"STATE_DIRECTORY": "/a:/b"}, "/a"),
        ({"XDG_STATE_HOME": "/s"}, "/s/cis490"),
        ({"HOME": "/users/x"}, "/users/x/.local/state/cis490"),
    ],
)
def test_state_lies_where_the_host_wants_it(environ: dict[str, str], folder: str) -> None:
    assert settings.state_folder(environ) == Path(folder)


def test_without_any_variable_state_lies_in_the_users_home() -> None:
    assert settings.state_folder({}) == Path(os.path.expanduser("~")) / ".local" / "state" / "cis490"  # noqa: PTH111
