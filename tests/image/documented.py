"""The commands of docs/docker.md, as podman runs them here."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from tests.support.daemon import ROOT

DOCUMENT = ROOT / "docs" / "docker.md"
_COMMAND = re.compile(r"^\$ (.*\n(?:^    .*\n)*)", re.MULTILINE)
_ELSEWHERE = ("--gpus", "--publish", "--network")
"""Flags with a value that need a GPU, or programs for networks; the network is the node's here."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the document."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.words)

    @property
    def is_daemon(self) -> bool:
        """True when it starts a container that stays."""
        return self.words[:2] == ("docker", "run") and self.inside[:1] in ((), ("serve",))

    @property
    def flags(self) -> tuple[str, ...]:
        """Of `docker run`, without those that say how the container is kept or need what is not here."""
        words = [each for each in self.words[2 : self._image] if each not in ("--detach", "--rm")]
        left_out = {at + n for at, word in enumerate(words) if word in _ELSEWHERE for n in (0, 1)}
        return tuple(word for at, word in enumerate(words) if at not in left_out)

    @property
    def image(self) -> str:
        """What `docker run` starts."""
        return self.words[self._image]

    @property
    def inside(self) -> tuple[str, ...]:
        """What stands behind the image: arguments of xidwatch."""
        return self.words[self._image + 1 :]

    @property
    def _image(self) -> int:
        """The first word after the last flag that is no flag's value: the image has its name from `--tag`."""
        return next(
            at
            for at in range(2, len(self.words))
            if re.fullmatch(r"xidwatch(:bcc)?", self.words[at]) and self.words[at - 1] != "--name"
        )


def commands(*beginning: str) -> list[Command]:
    """Those that begin with these words, in the order of the document."""
    found = _commands_of(DOCUMENT.read_text(encoding="utf-8"))
    return [each for each in found if each.words[: len(beginning)] == beginning]


def daemon_in(section: str) -> Command:
    """The command that starts a daemon in this section of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    part = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert part is not None, section
    return next(each for each in _commands_of(part[1]) if each.is_daemon)


def _commands_of(text: str) -> list[Command]:
    return [Command(tuple(shlex.split(each.replace("\\\n", " ")))) for each in _COMMAND.findall(text)]
