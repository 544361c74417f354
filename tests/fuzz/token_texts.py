"""Token files and key sets: any text is tokens or keys, or refused without quoting what could be a secret."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final

from mcp_server.identity import Scope
from mcp_server.jwks import MOST_KEYS, NoKeysError, keys_in
from mcp_server.tokens import BadLineError, Keyring, Token, parse, token_of, without_secrets
from tests.fuzz.choices import Choices

NAME_CHARACTERS: Final = "abcXYZ019._@-"
MOST_TOKENS: Final = 5


def any_token_file(data: bytes) -> None:
    """Any text as a token file."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return  # refused before it is looked at: `token_file`
    try:
        keyring = parse(text)
    except BadLineError as error:
        said = str(error)
        assert said.isprintable()
        assert len(said) < 300
        assert without_secrets(said) == said, "a refusal quotes what could be a secret"
        return
    check_keyring(keyring)


def written_token_file(data: bytes) -> None:
    """A file of tokens, with comments between them, comes back as the tokens it was written from."""
    choices = Choices(data)
    tokens: dict[str, tuple[str, Token]] = {}
    lines = ["# made by a model"]
    for number in range(choices.between(1, MOST_TOKENS)):
        secret = f"xidwatch_{number:x}{choices.raw(21).hex():0<42}"
        expires = choices.one_of((None, float(choices.number(4_102_444_800))))
        name = f"{number}{choices.word(NAME_CHARACTERS, 60, least=0)}"
        token = token_of(secret, name, choices.one_of(tuple(Scope)), expires)
        tokens[name] = (secret, token)
        blank = choices.one_of(("  ", " ", "\t", "   "))
        lines.append(token.line().replace("  ", blank) + choices.one_of(("", "  # why", " ")))
    keyring = parse("\n".join(lines) + "\n")
    assert keyring.tokens == tuple(token for _, token in tokens.values())
    for secret, token in tokens.values():
        assert keyring.find(secret) == token
    assert keyring.find(f"xidwatch_{'-' * 43}") is None
    check_keyring(keyring)


def check_keyring(keyring: Keyring) -> None:
    """What can be read can be written, shown and read again."""
    assert keyring.tokens
    again = parse("".join(f"{token.line()}\n" for token in keyring.tokens))
    for token, back in zip(keyring.tokens, again.tokens, strict=True):
        assert (token.name, token.scope, token.digest) == (back.name, back.scope, back.digest)
        if token.expires is None or back.expires is None:
            assert token.expires == back.expires
        else:
            assert int(token.expires // 1) == back.expires
            datetime.fromtimestamp(token.expires, UTC)


def any_key_set(data: bytes) -> None:
    """Any JSON as the key set of an issuer."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return  # refused before it is looked at: `jwks`
    try:
        keys = keys_in(found)
    except NoKeysError as error:
        assert str(error).isprintable()
        return
    assert len(keys) <= MOST_KEYS
    for key in keys:
        assert key.key_type != "oct", "a key for HMAC would make everybody an issuer"
