from __future__ import annotations

import pytest

from training.fleet.model.names import is_host_name, is_sha256


@pytest.mark.parametrize("name", ["pi", "0", "gpu-tower.lab", "a_b", "a" * 63])
def test_what_names_a_host(name: str) -> None:
    assert is_host_name(name)


@pytest.mark.parametrize("name", ["", "Pi", ".hidden", "-x", "_x", "a/b", "a b", "pi\n", "ä", "a" * 64])
def test_what_names_no_host(name: str) -> None:
    assert not is_host_name(name)


def test_a_digest_is_64_lower_case_hex_digits() -> None:
    assert is_sha256("0f" * 32)
    assert not any(map(is_sha256, ("0F" * 32, "0f" * 31, "0f" * 33, "0g" * 32, "0f" * 32 + "\n")))
