"""Tokens, and what a line of their file may say."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.identity import Scope
from mcp_server.tokens import (
    MOST_TOKENS,
    BadLineError,
    Keyring,
    expiry,
    is_secret,
    new_secret,
    parse,
    token_of,
)

HASH = f"sha256:{'0a' * 32}"
OTHER = f"sha256:{'0b' * 32}"


def test_a_line_says_name_scope_hash_and_end() -> None:
    text = f"# who\n\ngrafana read {HASH}\n  on-call\toperate {OTHER} expires=2027-06-30 # until then\n"
    first, second = parse(text).tokens
    assert (first.name, first.scope, first.digest, first.expires) == ("grafana", Scope.READ, "0a" * 32, None)
    assert (second.name, second.scope) == ("on-call", Scope.OPERATE)
    assert second.expires == datetime(2027, 7, 1, tzinfo=UTC).timestamp()  # the end of that day


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the last line has no end"),
        ("\n", "it holds no token"),
        ("# nothing but words\n", "it holds no token"),
        (f"a read {HASH}", "the last line has no end: the file may be half-written"),
        (f"a read {HASH}\na read {OTHER}\n", "line 2: the name a is in line 1 already"),
        (f"a read {HASH}\nb read {HASH}\n", "line 2: it has the same secret as a"),
        (f"a write {HASH}\n", "line 1: the scope is none of read, operate"),
        ("a read sha256:0a0a\n", "line 1: the third word is not sha256: and 64 hexadecimal digits"),
        (f"a read {HASH.upper()}\n", "line 1: the third word is not"),
        (f"a {HASH}\n", "line 1: it is not NAME SCOPE sha256:HASH"),
        (f"a read {HASH} expires=2027-06-30 more\n", "line 1: it is not NAME SCOPE sha256:HASH"),
        (f"a read {HASH} expires=2027-06-3\n", "line 1: the end is not expires="),
        (f"a read {HASH} expires=2027-06-30T12:00:00\n", "line 1: the end is not expires="),
        (f"a read {HASH} until=2027-06-30\n", "line 1: the end is not expires="),
        (f"a read {HASH} expires=9999-12-31T23:59:59-23:59\n", "line 1: the end is not expires="),
        (f"a read {HASH} expires=0001-01-01T00:00:00+23:59\n", "line 1: the end is not expires="),
        (f"-a read {HASH}\n", "line 1: a name is 1 to 64 letters"),
        (f"{'a' * 65} read {HASH}\n", "line 1: a name is 1 to 64 letters"),
    ],
)
def test_a_line_that_is_wrong_is_told_by_number_and_reason(text: str, why: str) -> None:
    with pytest.raises(BadLineError) as caught:
        parse(text)
    assert str(caught.value).startswith(why)


def test_a_secret_in_place_of_its_hash_is_not_repeated_in_the_error() -> None:
    secret = new_secret()
    with pytest.raises(BadLineError) as caught:
        parse(f"a read {secret}\n")
    assert secret not in str(caught.value)


def test_there_is_a_bound_on_their_number() -> None:
    lines = [f"t{number} read sha256:{number:064x}\n" for number in range(MOST_TOKENS + 1)]
    assert len(parse("".join(lines[1:])).tokens) == MOST_TOKENS
    with pytest.raises(BadLineError, match="more than 1000 tokens"):
        parse("".join(lines))


def test_a_secret_is_found_by_its_hash_and_no_other_is() -> None:
    secrets = [new_secret() for _ in range(3)]
    ring = Keyring(token_of(secret, f"t{number}", Scope.READ) for number, secret in enumerate(secrets))
    for number, secret in enumerate(secrets):
        found = ring.find(secret)
        assert found is not None
        assert found.name == f"t{number}"
        assert found.digest == hashlib.sha256(secret.encode()).hexdigest()
    assert ring.find(new_secret()) is None
    assert ring.find("") is None
    assert ring.find(secrets[0][:-1]) is None


def test_every_token_is_compared_whichever_is_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = [new_secret() for _ in range(5)]
    ring = Keyring(token_of(secret, f"t{number}", Scope.READ) for number, secret in enumerate(secrets))
    compared: list[str] = []

    def compare(one: str, other: str) -> bool:
        compared.append(one)
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    for secret in (*secrets, new_secret()):
        compared.clear()
        ring.find(secret)
        assert compared == [token.digest for token in ring.tokens]


def test_a_line_that_is_made_is_read_as_it_was_meant() -> None:
    for end in (None, 1_800_000_000.0):
        token = token_of(new_secret(), "on-call", Scope.OPERATE, end)
        assert parse(f"{token.line()}\n").tokens == (token,)


def test_secrets_differ_and_are_told_from_words_that_somebody_chose() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
    assert is_secret(new_secret())
    for word in ("hunter2", "", "xidwatch_short", "eyJhbGciOi.J9.x", new_secret() + "x"):
        assert not is_secret(word)


def test_an_end_has_a_time_zone() -> None:
    assert expiry("2027-06-30T12:00:00Z") == expiry("2027-06-30T14:00:00+02:00")
    with pytest.raises(ValueError, match="time zone"):
        expiry("2027-06-30T12:00:00")


@given(st.text())
def test_whatever_a_file_holds_it_is_read_or_refused(text: str) -> None:
    try:
        assert parse(text).tokens
    except BadLineError as error:
        assert str(error)
