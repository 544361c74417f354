"""Settings: any TOML file, any text as any setting, and the same text said in three ways."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from daemon.config import SETTINGS, Config, load
from probes.errors import UserError
from tests.fuzz.choices import LOG_CHARACTERS, Choices

MOST_SETTINGS: Final = 4
LONGEST_SENTENCE: Final = 16_000
"""Characters of an error that quotes what was written, for a text as long as fuzzers write them."""

WRONG: Final = "no value of any setting\x01"

SENSIBLE: Final[Mapping[str, tuple[str, ...]]] = {
    "listen": ("127.0.0.1:8080", "[::1]:0", "0.0.0.0:65535", "localhost:1", ":8080", "[::1:8080"),
    "rate-limit": ("50/s", "600/m", "off", "0/s", "1/d"),
    "allowed-hosts": ("none", "gpu-17", "a.b,c.d.", "a,,b"),
    "allowed-origins": ("none", "https://a.b", "http://a:99999", "https://[", "https://a/b"),
    "socket-operators": ("none", "alice,@gpu,1000", "alice,alice"),
    "oauth-issuer": ("none", "https://login.example/r", "http://[::1", "https://[", "ftp://x"),
    "oauth-audience": ("none", "xidwatch", "a b"),
    "oauth-jwks": ("none", "/k.json", "https://a/jwks"),
    "oauth-resource": ("none", "https://gpu-17.example/mcp", "//["),
    "socket": ("/run/x.sock", "~/x.sock", "x", "/" + "a" * 200),
    "probes": ("auto", "kmsg", "kmsg, bpf", "kmsg,kmsg", "kmgs", ","),
    "ebpf": ("auto", "off", "required", "on"),
    "gpu": ("auto", "mock", "off", "moc"),
    "mode": ("read-only", "operator", "operater"),
    "allow-drills": ("true", "false", "1", "0", "maybe"),
    "allow-anonymous": ("true", "no"),
    "node-name": ("gpu-17", " gpu-17 ", "\t", "é"),
    "quiet-gap": ("5s", "1ms", "1.5h", "0s", "5", "1 m", "36500d"),
    "ring-size": ("1", "4096", "0", "1000000", "1e3", "٣"),
    "retention": ("30d", "1s", "999999999999999w"),
    "retention-size": ("512MiB", "1MB", "1.5GiB", "1PB"),
    "node-reports": ("none", "events", "events, conditions", "event"),
    "otlp-endpoint": ("none", "http://c:4318", "http://c:4318/v1/logs", "http://[", "c:4318"),
    "log-level": ("info", "debug", "loud"),
    "log-format": ("text", "json"),
    "mock-scenario": ("built-in", "/s.toml"),
}
"""Texts that a person might write for a setting, right or nearly."""


def any_file(data: bytes) -> None:
    """Any bytes as the file of `--config`: settings, or one sentence that names the file."""
    path = _place() / "any.toml"
    path.write_bytes(data)
    try:
        settings = load({}, {}, path)
    except UserError as error:
        check_sentence(error)
        assert str(path) in error.message or "TLS" in error.message or "mock" in error.message, error.message
        return
    assert isinstance(settings, Config)
    assert settings == load({}, {}, path)


def said_in_three_ways(data: bytes) -> None:
    """Some settings as flags, as variables and as keys of a file: the same settings, or the same refusal."""
    choices = Choices(data)
    texts: dict[str, str] = {}
    for _ in range(choices.between(1, MOST_SETTINGS)):
        setting = choices.one_of(SETTINGS)
        nearly = choices.one_of(SENSIBLE.get(setting.name, ("/etc/x", "none", "a\\b")))
        text = choices.one_of((nearly, choices.word(LOG_CHARACTERS, 30), nearly + choices.word(" ,0/:é", 2)))
        texts[setting.name] = text
    path = _place() / "said.toml"
    path.write_text("".join(f"{name} = {json.dumps(text)}\n" for name, text in texts.items()), "utf-8")
    environ = {setting.variable: texts[setting.name] for setting in SETTINGS if setting.name in texts}
    said = [_outcome(texts, {}, None), _outcome({}, environ, None), _outcome({}, {}, path)]
    # Which of several wrong settings is named may differ with the order; that one is wrong may not.
    assert len({isinstance(each, Config) for each in said}) == 1, said
    if isinstance(said[0], Config):
        assert said[0] == said[1] == said[2]
    elif len(texts) == 1:
        [name] = texts
        sources = (f"--{name}", environ_name(name), f"{name} in {path}")
        refusals = {str(each).removeprefix(f"{source}: ") for each, source in zip(said, sources, strict=True)}
        assert len(refusals) == 1, refusals
    _check_precedence(choices, texts, said[0], path)


def _check_precedence(choices: Choices, texts: Mapping[str, str], said: Config | str, path: Path) -> None:
    """A flag beats a variable, which beats the file: what is beaten is not even looked at."""
    if not isinstance(said, Config):
        return
    path.write_text("".join(f"{name} = {json.dumps(WRONG)}\n" for name in texts), "utf-8")
    wrong = {environ_name(name): WRONG for name in texts}
    assert _outcome(texts, wrong if choices.flag() else {}, path) == said
    environ = {environ_name(name): text for name, text in texts.items() if text}  # an empty one is not set
    if len(environ) == len(texts):
        assert _outcome({}, environ, path) == said


def environ_name(name: str) -> str:
    """The variable of a setting."""
    return next(setting.variable for setting in SETTINGS if setting.name == name)


def _outcome(flags: Mapping[str, str], environ: Mapping[str, str], file: Path | None) -> Config | str:
    """The settings, or the sentence that refuses them."""
    try:
        return load(flags, environ, file)
    except UserError as error:
        check_sentence(error)
        return error.message


def check_sentence(error: UserError) -> None:
    """A refusal is something to read."""
    for text in (error.message, error.hint or "x"):
        assert 0 < len(text) < LONGEST_SENTENCE
        assert "\n" not in text.strip()


@cache
def _place() -> Path:
    """A directory of this process, in memory where there is one."""
    memory = Path("/dev/shm")
    keep = tempfile.TemporaryDirectory(prefix="xidwatch-fuzz-", dir=memory if memory.is_dir() else None)
    _KEPT.append(keep)
    return Path(keep.name)


_KEPT: Final[list[tempfile.TemporaryDirectory[str]]] = []
"""Removed when the process ends."""
