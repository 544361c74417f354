"""The file of --on-event: what it gives, and how bad ones are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.event import Kind, Severity
from daemon.sinks.configuration import load
from daemon.sinks.news import Updates
from daemon.sinks.targets import AlertmanagerTarget, BodyFormat, CommandTarget, WebhookTarget
from probes.errors import UserError

WEBHOOK = 'name = "hook"\ntype = "webhook"\nurl = "https://example.com/hook"\n'
ALERTMANAGER = 'name = "am"\ntype = "alertmanager"\nurl = "http://am:9093/"\n'
COMMAND = 'name = "page"\ntype = "command"\ncommand = ["/bin/true", "a b", "$(id)"]\n'


def write(directory: Path, *sinks: str) -> Path:
    file = directory / "sinks.toml"
    file.write_text("".join(f"[[sink]]\n{sink}\n" for sink in sinks), encoding="utf-8")
    return file


def secret(path: Path, text: str = "0123456789abcdef", mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def refusal(file: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        load(file)
    return caught.value


def test_the_least_that_has_to_be_said_is_enough(tmp_path: Path) -> None:
    hook, alertmanager, page = load(write(tmp_path, WEBHOOK, ALERTMANAGER, COMMAND))
    assert isinstance(hook.target, WebhookTarget)
    assert (hook.target.http.url, hook.target.http.timeout_s) == ("https://example.com/hook", 10.0)
    assert hook.target.format is BodyFormat.JSON
    assert hook.match.min_severity is Severity.WARNING
    assert (hook.drills, hook.updates, hook.per_minute) == (False, Updates.IMPORTANT, 60)
    assert isinstance(alertmanager.target, AlertmanagerTarget)
    assert alertmanager.target.http.url == "http://am:9093/api/v2/alerts"
    assert alertmanager.target.hold_us == 24 * 3_600_000_000
    assert isinstance(page.target, CommandTarget)
    assert page.target.argv == ("/bin/true", "a b", "$(id)")


def test_everything_that_can_be_said_arrives(tmp_path: Path) -> None:
    key = secret(tmp_path / "key")
    more = (
        'severity = "fatal"\nkind = ["xid", "incident"]\ncode = [79, "48"]\ngpu = [3]\ndrills = true\n'
        f'updates = "all"\nper-minute = 6\nformat = "slack"\nsecret-file = "{key}"\ntimeout = "2s"\n'
        f'headers = {{ X-Team = "gpu" }}\nheader-files = {{ Authorization = "{key}" }}\n'
    )
    (hook,) = load(write(tmp_path, WEBHOOK + more))
    assert isinstance(hook.target, WebhookTarget)
    assert (hook.match.min_severity, set(hook.match.codes)) == (Severity.FATAL, {79, 48})
    assert (set(hook.match.kinds), set(hook.match.gpus)) == ({Kind.XID, Kind.INCIDENT}, {3})
    assert (hook.drills, hook.updates, hook.per_minute) == (True, Updates.ALL, 6)
    assert hook.target.format is BodyFormat.SLACK
    assert hook.target.secret_file == key
    assert hook.target.http.headers == {"X-Team": "gpu"}
    assert hook.target.http.header_files == {"Authorization": key}


def test_a_url_in_a_file_is_read_and_nothing_of_a_path_is_ever_printed(tmp_path: Path) -> None:
    url = secret(tmp_path / "url", "https://hooks.example.com/T000/B000/token\n")
    (hook,) = load(write(tmp_path, f'name = "chat"\ntype = "webhook"\nurl-file = "{url}"'))
    assert isinstance(hook.target, WebhookTarget)
    assert hook.target.http.url.endswith("/token")
    assert hook.shown_target == "https://hooks.example.com"
    assert "token" not in repr(hook)


@pytest.mark.parametrize(
    ("sink", "told", "hint"),
    [
        (WEBHOOK.replace("hook", "No Name", 1), "'No Name' is not a name", "a-z"),
        (WEBHOOK.replace("webhook", "webhok"), "'webhok' is not one of", "did you mean 'webhook'"),
        ('name = "x"', "type is missing", None),
        (WEBHOOK + 'severty = "fatal"', "unknown key 'severty'", "did you mean 'severity'"),
        (WEBHOOK + 'severity = "loud"', "unknown severity 'loud'", "fatal"),
        (WEBHOOK + "code = [1.5]", "is not a list of texts or numbers", None),
        (WEBHOOK + 'kind = ["xyd"]', "unknown kind 'xyd'", "xid"),
        (WEBHOOK + 'drills = "yes"', "is not true or false", None),
        (WEBHOOK + "per-minute = 0", "is not a whole number from 1 to 600", None),
        (WEBHOOK + "per-minute = true", "is not a whole number", None),
        (WEBHOOK + 'timeout = "5"', "is not a duration", "5s"),
        (WEBHOOK + 'timeout = "1h"', "too long", None),
        (WEBHOOK.replace("https", "ftp"), "not a URL that can be posted to", "https://"),
        (WEBHOOK.replace("https://", "https://user:pw@"), "user name or password", "header-files"),
        (WEBHOOK.replace("example.com", "exa mple.com"), "not a URL", None),
        (WEBHOOK.replace("example.com", "example.com:99999"), "not a URL", None),
        (WEBHOOK + 'url-file = "/x"', "either url or url-file", None),
        ('name = "x"\ntype = "webhook"', "either url or url-file", None),
        (WEBHOOK + 'headers = { Authorization = "Bearer x" }', "holds a secret", "header-files"),
        (WEBHOOK + 'headers = { "X Y" = "z" }', "not a header that can be set", None),
        (WEBHOOK + 'headers = { Host = "z" }', "not a header that can be set", None),
        (WEBHOOK + r'headers = { X-Y = "a\r\nb" }', "not printable ASCII", None),
        (WEBHOOK + 'header-files = { X-Y = "/no/such/file" }', "cannot read /no/such/file", None),
        (WEBHOOK + 'ca-file = "/no/such/file"', "cannot read /no/such/file", None),
        (WEBHOOK + 'ca-file = "/etc/passwd"', "holds no certificate", None),
        (WEBHOOK + 'command = ["/bin/true"]', "unknown key 'command'", None),
        (ALERTMANAGER + 'kind = ["xid"]', "kind leaves out `incident`", "add"),
        (ALERTMANAGER + 'labels = { severity = "x" }', "is one that xidwatch sets", None),
        (ALERTMANAGER + 'labels = { "a-b" = "x" }', "is not a label", None),
        (ALERTMANAGER + 'updates = "all"', "unknown key 'updates'", None),
        (ALERTMANAGER + 'hold = "6m"', "hold is shorter than twice resend", None),
        (COMMAND.replace("/bin/true", "true"), "not the absolute path of an executable", "write /"),
        (COMMAND.replace("/bin/true", "/etc/passwd"), "not the absolute path of an executable", "chmod"),
        (COMMAND.replace("/bin/true", "/no/such"), "not the absolute path of an executable", None),
        ('name = "x"\ntype = "command"', "command is missing", "as a list"),
        ('name = "x"\ntype = "command"\ncommand = []', "command is missing", None),
        (r'name = "x"' + '\ntype = "command"\n' + r'command = ["/bin/true", "\u0000"]', "NUL", None),
    ],
)
def test_a_bad_sink_is_refused_with_its_name_and_what_to_write(
    tmp_path: Path, sink: str, told: str, hint: str | None
) -> None:
    error = refusal(write(tmp_path, sink))
    assert told in error.message
    assert "sink" in error.message
    assert hint is None or hint in (error.hint or "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no sink"),
        ("sink = 3", "has no sink"),
        ("[sink]\nname = 'x'", "has no sink"),
        ("[[sink]\n", "is not TOML"),
        ("sink = " + "[" * 5_000, "is nested too deeply"),
        ("[[sinks]]\n", "unknown key 'sinks'"),
        ("[[sink]]\n" * 17, "has 17 sinks"),
        (f"[[sink]]\n{WEBHOOK}[[sink]]\n{WEBHOOK}", "are called 'hook'"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "sinks.toml"
    file.write_text(text, encoding="utf-8")
    assert told in refusal(file).message


def test_a_file_that_is_not_there_or_that_others_may_write_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.toml").message
    file = write(tmp_path, COMMAND)
    file.chmod(0o666)
    assert "others may write" in refusal(file).message
    file.write_bytes(b"\xff")
    file.chmod(0o600)
    assert "not UTF-8" in refusal(file).message


def test_a_pipe_in_the_place_of_the_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sinks.toml", 0o600)
    assert "is no regular file" in refusal(tmp_path / "sinks.toml").message


def test_a_command_that_others_may_write_is_refused(tmp_path: Path) -> None:
    program = secret(tmp_path / "page", "#!/bin/sh\n", 0o777)
    sink = COMMAND.replace("/bin/true", str(program))
    assert "others may write" in refusal(write(tmp_path, sink)).message
    program.chmod(0o755)
    assert load(write(tmp_path, sink))


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        ("0123456789abcdef", 0o644, "others may read"),
        ("0123456789abcdef", 0o602, "others may read or write"),
        ("", 0o600, "is empty"),
        ("\n", 0o600, "is empty"),
        ("short", 0o600, "shorter than 16 characters"),
        ("0123456789abcdef\nsecond", 0o600, "not one line"),
        ("0123456789abcdefü", 0o600, "something else than ASCII"),
        ("x" * 10_000, 0o600, "not one line"),
    ],
)
def test_a_secret_that_is_none_is_refused(tmp_path: Path, content: str, mode: int, told: str) -> None:
    key = secret(tmp_path / "key", content, mode)
    assert told in refusal(write(tmp_path, WEBHOOK + f'secret-file = "{key}"')).message


def test_a_secret_file_of_a_kubernetes_volume_is_read_through_its_links(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    secret(tmp_path / "..data" / "key", "0123456789abcdef", 0o440)
    (tmp_path / "key").symlink_to("..data/key")
    assert load(write(tmp_path, WEBHOOK + f'secret-file = "{tmp_path / "key"}"'))


def test_a_directory_or_a_fifo_is_no_secret(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path):
        assert str(path) in refusal(write(tmp_path, WEBHOOK + f'secret-file = "{path}"')).message
