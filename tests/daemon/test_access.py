"""Values of the settings that say who may come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import access
from daemon.access import Rate
from probes.errors import UserError


@pytest.mark.parametrize(
    ("text", "found"),
    [("50/s", Rate(50, 1)), ("600/m", Rate(600, 60)), ("1000/h", Rate(1000, 3600)), ("off", None)],
)
def test_a_rate_is_an_amount_and_a_unit(text: str, found: Rate | None) -> None:
    assert access.rate(text) == found
    assert found is None or str(found) == text


def test_a_quiet_client_may_spend_ten_seconds_worth_and_never_less_than_ten() -> None:
    assert Rate(50, 1).burst == 500
    assert Rate(6, 60).burst == 10


def test_lists_are_separated_by_commas_and_none_is_an_empty_one() -> None:
    assert access.host_names("GPU-17.Example., gpu-17") == {"gpu-17.example", "gpu-17"}
    assert access.origins("https://dash.example,http://localhost:3000") == {
        "https://dash.example",
        "http://localhost:3000",
    }
    assert access.users("alice,1000,@gpu-admins,alice") == ("alice", "1000", "@gpu-admins")
    for parse in (access.host_names, access.origins, access.users):
        assert not parse("none")
    assert access.optional_path("none") is None
    assert access.optional_path("/etc/tokens") == Path("/etc/tokens")
    assert access.optional_url("none") is access.optional_word("none") is None


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (access.rate, "50"),
        (access.rate, "0/s"),
        (access.rate, "-1/s"),
        (access.rate, "50/d"),
        (access.rate, "none"),
        (access.host_names, "https://gpu-17"),
        (access.host_names, "gpu-17:8080"),
        (access.host_names, "a,,b"),
        (access.host_names, "*"),
        (access.origins, "dash.example"),
        (access.origins, "https://dash.example/"),
        (access.origins, "https://dash.example:port"),
        (access.origins, "null"),
        (access.origins, "*"),
        (access.users, "alice bob"),
        (access.users, ""),
        (access.users, "@"),
        (access.optional_url, "login.example"),
        (access.optional_url, "ftp://login.example"),
        (access.optional_url, "https://[::1"),
        (access.optional_url, "https://login.example:port"),
        (access.origins, "https://[::1"),
        (access.optional_url, "https://user:pass@login.example"),
        (access.optional_word, "two words"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_text(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert repr(text.split(",", maxsplit=1)[0] if text != "a,,b" else "") in caught.value.message
