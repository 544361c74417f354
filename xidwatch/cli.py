"""The command line: finding the command, running it, and how errors look.

A `UserError` becomes one sentence and a hint on stderr, exit code 2; Ctrl-C and a closed pipe end
quietly, with the exit codes a shell would report.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from probes.errors import UserError
from xidwatch.commands import COMMANDS
from xidwatch.terminal import print_error
from xidwatch.version import VERSION

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports
EXIT_PIPE_CLOSED = 141  # 128 + SIGPIPE


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors look like every other error of this program."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, hint=f"`{self.prog} --help` says what it takes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    # None is what Python makes of a descriptor that was closed before the start (`xidwatch tail >&-`).
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 (for good)
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 (for good)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except UserError as error:
        print_error(error)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED
    return code


def _run(arguments: Sequence[str]) -> int:
    if not arguments:
        build_parser(None).print_help(sys.stderr)
        return EXIT_USER_ERROR
    # argparse takes its own options and `--` before the command.
    name = next((word for word in arguments if not word.startswith("-")), None)
    if name is not None and name not in COMMANDS:
        raise _unknown_command(name)
    options, unknown = build_parser(name).parse_known_args(arguments)
    if unknown:
        # Told here, because argparse would point to the help of `xidwatch` itself.
        raise UserError(
            f"unrecognized arguments: {' '.join(unknown)}",
            hint=f"`xidwatch {options.command} --help` says what it takes",
        )
    return COMMANDS[options.command].run(options)


def _unknown_command(name: str) -> UserError:
    from daemon.settings import did_you_mean

    near = did_you_mean(name, COMMANDS)
    return UserError(f"there is no command {name!r}", hint=near or f"the commands are {', '.join(COMMANDS)}")


def build_parser(wanted: str | None) -> argparse.ArgumentParser:
    """The parser of the command line; of the commands only `wanted` knows its arguments."""
    parser = _Parser(
        prog="xidwatch",
        description="Hears every NVIDIA Xid and SXid of this node, says what it means, keeps it, pushes it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"xidwatch {VERSION}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog=command.example and f"example: {command.example}",
            allow_abbrev=False,
        )
        if name == wanted:
            command.add_arguments(sub)
    return parser
