"""The commands: what each one takes on the command line, and how it is started.

A command imports what it needs when it runs, and is described to argparse only when it is the one
asked for, so that `tail` and `status` start at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from xidwatch.terminal import for_stream

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.config import Config


class Command(NamedTuple):
    """One subcommand."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    example: str | None = None


def _settings_arguments(parser: argparse.ArgumentParser) -> None:
    """Every setting of the daemon as a flag; only the flags given end up in the namespace."""
    from daemon.config import SETTINGS

    parser.add_argument("--config", metavar="FILE", help="TOML file with any of these settings")
    for setting in SETTINGS:
        text = f"{setting.help} (default: {setting.shown_default}; {setting.variable})"
        if setting.metavar is None:
            for flag, value in ((setting.flag, "true"), (f"--no-{setting.name}", "false")):
                parser.add_argument(
                    flag,
                    dest=setting.name,
                    action="store_const",
                    const=value,
                    default=argparse.SUPPRESS,
                    help=text if value == "true" else argparse.SUPPRESS,
                )
        else:
            parser.add_argument(
                setting.flag, dest=setting.name, metavar=setting.metavar, default=argparse.SUPPRESS, help=text
            )


def _config(options: argparse.Namespace) -> Config:
    from daemon.config import SETTINGS, load
    from daemon.paths import path

    names = {setting.name for setting in SETTINGS}
    given = {name: text for name, text in vars(options).items() if name in names}
    return load(given, os.environ, path(options.config) if options.config is not None else None)


def _json_argument(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="JSON instead of text for people")


def _socket_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket", metavar="PATH", help="the daemon's unix socket (default: the usual places)"
    )


def _client_path(options: argparse.Namespace, name: str) -> Path | None:
    """The path of a client's flag or of the daemon's own variable; None when neither is given."""
    text = getattr(options, name) or os.environ.get(f"XIDWATCH_{name.upper()}")
    if not text:
        return None
    from daemon.paths import path

    return path(text)


def _serve(options: argparse.Namespace) -> int:
    from mcp_server.signals import ending

    # The imports take a second or two, in which there is nothing yet to close.
    for number in ending():
        signal.signal(number, lambda number, frame: os._exit(0))
    config = _config(options)  # a mistyped flag is told before a second of imports
    from xidwatch import serve

    serve.run(config)


def _tail_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since",
        metavar="WHEN",
        help="a cursor, how long ago (15m, 7d), or a time (2026-11-22T11:20Z); default: the last 10",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on with every new event")
    parser.add_argument("--severity", metavar="LEVEL", help="at least this: info, warning, critical, fatal")
    for name, text in (
        ("code", "only these Xid or SXid numbers"),
        ("kind", "only these kinds: xid, sxid, gap …"),
        ("gpu", "only these GPUs: index, UUID or PCI address"),
    ):
        parser.add_argument(
            f"--{name}",
            metavar="LIST",
            action="append",
            default=[],
            help=f"{text}; may repeat or hold commas",
        )
    _socket_argument(parser)
    parser.add_argument("--state-dir", metavar="DIR", help="where to read the journal when no daemon runs")
    _json_argument(parser)


def _tail(options: argparse.Namespace) -> int:
    from xidwatch import tail

    return tail.run(
        tail.Options(
            since=options.since,
            follow=options.follow,
            as_json=options.json,
            socket=_client_path(options, "socket"),
            state_dir=_client_path(options, "state_dir"),
            severity=options.severity,
            codes=tuple(options.code),
            kinds=tuple(options.kind),
            gpus=tuple(options.gpu),
        )
    )


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    _socket_argument(parser)
    form = parser.add_mutually_exclusive_group()
    _json_argument(form)
    form.add_argument("--ready", action="store_true", help="one line: whether it hears, or why not")


def _status(options: argparse.Namespace) -> int:
    from xidwatch import status

    return status.run(_client_path(options, "socket"), as_json=options.json, ready=options.ready)


def _stdio_arguments(parser: argparse.ArgumentParser) -> None:
    _socket_argument(parser)
    parser.add_argument(
        "--era",
        choices=("auto", "legacy"),
        default="auto",
        help="legacy: only the MCP handshake of 2025 and before, for hosts that stumble over both",
    )
    parser.add_argument(
        "--channel",
        choices=("claude",),
        help="also push events the host's own way: claude = Claude Code channels",
    )


def _stdio(options: argparse.Namespace) -> int:
    from xidwatch import stdio

    return stdio.run(_client_path(options, "socket"), era=options.era, channel=options.channel)


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    _settings_arguments(parser)
    _json_argument(parser)


def _doctor(options: argparse.Namespace) -> int:
    from xidwatch import doctor

    return doctor.run(_config(options), as_json=options.json, out=sys.stdout)


def _decode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as it does anyway")


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", metavar="CODE|LINE", nargs="+", help="79, sxid 20034, or a line of the kernel log"
    )
    parser.add_argument(
        "--driver",
        metavar="VERSION",
        help="meanings of this driver, such as 535.161.08 (default: the current ones)",
    )
    _json_argument(parser)


def _explain(options: argparse.Namespace) -> int:
    from xidwatch import explain

    colour = for_stream(sys.stdout).enabled
    return explain.run(
        " ".join(options.what), as_json=options.json, out=sys.stdout, colour=colour, driver=options.driver
    )


def _decode(options: argparse.Namespace) -> int:
    from xidwatch import decode

    return decode.run(sys.stdin.buffer, sys.stdout)


def _replay_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="dmesg, journal, syslog, kmsg or pstore text, also compressed or in a tar; - is standard input",
    )
    for name, metavar, text in (
        ("format", "FORM", "text, json, markdown or html (default: by the name of --output, else text)"),
        ("output", "FILE", "write the report there"),
        ("since", "WHEN", "only what happened from then on: a time, or how long ago (7d)"),
        ("until", "WHEN", "only what happened up to then"),
        ("timezone", "ZONE", "zone of times that name none, e.g. Europe/Berlin (default: this machine's)"),
        ("utc-offset", "OFFSET", "the same as an offset: +02:00, or --utc-offset=-07:00"),
        ("year", "YEAR", "year of the first time without one (default: the latest possible)"),
        ("node-name", "NAME", "node that the events are from"),
    ):
        parser.add_argument(f"--{name}", metavar=metavar, help=text)
    parser.add_argument("--allow-drills", action="store_true", help="show test lines, marked as drills")


def _replay(options: argparse.Namespace) -> int:
    from xidwatch import replay

    return replay.run(
        replay.Options(
            files=options.files,
            format=options.format,
            output=_path(options.output),
            since=options.since,
            until=options.until,
            utc_offset=options.utc_offset,
            timezone=options.timezone,
            year=options.year,
            node=options.node_name,
            allow_drills=options.allow_drills,
        ),
        sys.stdout,
    )


def _path(text: str | None) -> Path | None:
    if text is None:
        return None
    from daemon.paths import path

    return path(text)


def _drill_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("code", metavar="CODE", help="Xid number, or an SXid from 10000 on")
    parser.add_argument("--sxid", action="store_true", help="an SXid whatever the number")
    parser.add_argument(
        "--exact", action="store_true", help="the driver's own form: alarms other monitors too"
    )
    parser.add_argument("--pci", metavar="ADDRESS", help="device it names (default: 0000:00:00.0, no GPU)")
    parser.add_argument("--pid", metavar="PID", type=int, help="process it names (default: this one)")
    parser.add_argument("--name", metavar="NAME", help="name of that process")
    parser.add_argument("--text", metavar="TEXT", help="what follows code and process")
    parser.add_argument(
        "--kmsg", metavar="PATH", default="/dev/kmsg", help="kernel log device (default: %(default)s)"
    )
    _json_argument(parser)


def _drill(options: argparse.Namespace) -> int:
    from daemon.paths import path
    from xidwatch import drill

    wanted = drill.Drill(
        options.code,
        sxid=options.sxid,
        exact=options.exact,
        pci=options.pci,
        pid=options.pid,
        name=options.name,
        text=options.text,
    )
    return drill.run(wanted, out=sys.stdout, err=sys.stderr, as_json=options.json, kmsg=path(options.kmsg))


def _release_driver_arguments(parser: argparse.ArgumentParser) -> None:
    _socket_argument(parser)
    _json_argument(parser)


def _release_driver(options: argparse.Namespace) -> int:
    from xidwatch import release_driver

    return release_driver.run(_client_path(options, "socket"), as_json=options.json, out=sys.stdout)


def _token_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="what the token is called in logs and records")
    parser.add_argument(
        "--scope",
        choices=("read", "operate"),
        default="read",
        help="read: see everything; operate: also use the operator tools (default: %(default)s)",
    )
    parser.add_argument("--expires", metavar="WHEN", help="90d, 2027-06-30 or a time (default: never)")
    parser.add_argument("--file", metavar="FILE", help="token file to add it to (default: print the line)")


def _token(options: argparse.Namespace) -> int:
    from mcp_server.identity import Scope
    from xidwatch import token

    wanted = token.Wanted(options.name, Scope(options.scope), options.expires, _path(options.file))
    return token.run(wanted, out=sys.stdout, err=sys.stderr)


def _sinks_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="test", choices=("test",), help="send a marked test alarm")
    parser.add_argument("name", metavar="NAME", nargs="?", help="only through this sink")
    _settings_arguments(parser)
    _json_argument(parser)


def _sinks(options: argparse.Namespace) -> int:
    from xidwatch import sinks

    return sinks.test(_config(options), options.name, as_json=options.json, out=sys.stdout)


def _version(options: argparse.Namespace) -> int:
    from xidwatch import version

    return version.run(as_json=options.json)


COMMANDS = {
    "serve": Command("run the daemon", _settings_arguments, _serve, "xidwatch serve --allow-drills"),
    "stdio": Command(
        "speak MCP on stdin and stdout: what an AI assistant starts",
        _stdio_arguments,
        _stdio,
        "claude mcp add xidwatch -- xidwatch stdio",
    ),
    "tail": Command("print events, newest last", _tail_arguments, _tail, "xidwatch tail --since 1h --follow"),
    "status": Command("say what the daemon hears, keeps and serves", _status_arguments, _status),
    "doctor": Command(
        "say what can run here, and exactly what is missing",
        _doctor_arguments,
        _doctor,
        "sudo xidwatch doctor",
    ),
    "explain": Command(
        "say what an Xid, an SXid or a log line means and what to do",
        _explain_arguments,
        _explain,
        "xidwatch explain 79",
    ),
    "decode": Command(
        "read log lines on stdin, write what each one means as a line of JSON",
        _decode_arguments,
        _decode,
        "dmesg | xidwatch decode",
    ),
    "replay": Command(
        "read saved logs as if they were heard live, and report on them",
        _replay_arguments,
        _replay,
        "xidwatch replay /var/log/messages --output report.html",
    ),
    "drill": Command(
        "write a test line into the kernel log, to see an alarm arrive",
        _drill_arguments,
        _drill,
        "xidwatch drill 79",
    ),
    "release-driver": Command(
        "have the daemon let go of the NVIDIA driver, so that it can be unloaded and GPUs reset",
        _release_driver_arguments,
        _release_driver,
        "xidwatch release-driver && modprobe -r nvidia_uvm nvidia",
    ),
    "sinks": Command(
        "send a test alarm through each sink of --on-event, and say what came back",
        _sinks_arguments,
        _sinks,
        "xidwatch sinks test --on-event /etc/xidwatch/sinks.toml",
    ),
    "token": Command(
        "make a bearer token for HTTP clients: prints its secret, and the line for the token file",
        _token_arguments,
        _token,
        "xidwatch token grafana --expires 90d --file /etc/xidwatch/tokens",
    ),
    "version": Command("print the version", _json_argument, _version),
}
"""By name, in the order of `--help`."""
