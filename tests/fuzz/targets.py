"""What is fuzzed: for each target the function that checks its properties, and the code that it is about.

A target takes any bytes and raises where a property is broken. The raw ones take what comes from outside as
it is; in the others the bytes decide what a model writes, and the program has to read back what was meant.
Nothing of the program is imported here: a fuzzer has to prepare what it watches before that.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

HERE: Final = Path(__file__).parent
CORPUS: Final = HERE / "corpus"
"""A folder for each target: inputs that reach something that the others do not."""
CRASHES: Final = HERE / "crashes"
"""A folder for each target: inputs that once broke a property."""

Check = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that is fuzzed."""

    name: str
    function: str
    """`lines.any_line`: a module here, and a function in it."""
    about: tuple[str, ...]
    """Modules and packages whose lines and branches count as reached by it."""
    longest: int = 4096
    """Bytes of an input that a fuzzer makes."""

    def load(self) -> Check:
        """The function; imports what it checks."""
        module, _, name = self.function.partition(".")
        return cast("Check", getattr(importlib.import_module(f"tests.fuzz.{module}"), name))

    def inputs(self) -> Iterator[Path]:
        """The kept inputs of this target, in the order of their names."""
        for folder in (CORPUS / self.name, CRASHES / self.name):
            yield from sorted(folder.iterdir()) if folder.is_dir() else ()


_GRAMMAR = ("daemon.grammar", "daemon.decoded", "daemon.pci", "daemon.text")
_RECORD = ("probes.kmsg_record",)
_REPLAY = ("probes.replay", "probes.log_formats")
_ASKED = ("mcp_server.query", "daemon.filter", "daemon.page")
_CONFIG = ("daemon.config", "daemon.settings", "daemon.access", "daemon.units", "daemon.toml_text")
_STREAM = ("mcp_server.lines", "mcp_server.request_id")

TARGETS: Final = {
    target.name: target
    for target in (
        Target("line", "lines.any_line", _GRAMMAR, 2048),
        Target("driver-line", "lines.driver_lines", _GRAMMAR, 256),
        Target("record", "records.any_record", _RECORD, 1024),
        Target("written-record", "records.written_record", _RECORD, 512),
        Target("log", "saved_logs.any_log", _REPLAY),
        Target("written-log", "saved_logs.written_log", _REPLAY, 512),
        Target("question", "questions.any_question", _ASKED, 512),
        Target("asked-question", "questions.asked_question", _ASKED, 64),
        Target("hello", "questions.any_hello", ("mcp_server.hello", "daemon.filter"), 512),
        Target("config", "setting_texts.any_file", _CONFIG, 1024),
        Target("settings", "setting_texts.said_in_three_ways", _CONFIG, 128),
        Target("tokens", "token_texts.any_token_file", ("mcp_server.tokens",), 512),
        Target("written-tokens", "token_texts.written_token_file", ("mcp_server.tokens",), 512),
        Target("keys", "token_texts.any_key_set", ("mcp_server.jwks", "jwt.api_jwk"), 1024),
        Target("message", "framing.any_message", ("mcp_server.rpc",), 1024),
        Target("stream", "framing.cut_stream", _STREAM, 512),
    )
}
"""By name; the name is also that of the folder in `corpus` and `crashes`."""
