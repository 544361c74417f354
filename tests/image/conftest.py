"""The images of the document, and daemons in containers of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.image.contained import Contained
from tests.image.documented import Command, commands
from tests.support.podman import Image, Podman

FIGURES: pytest.StashKey[list[str]] = pytest.StashKey()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> list[str]:
    """What was measured, in lines for the end of the run."""
    return request.config.stash.setdefault(FIGURES, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    if lines := terminalreporter.config.stash.get(FIGURES, []):
        terminalreporter.section("the image")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="package")
def images(podman: Podman) -> dict[str, Image]:
    """The image of each target, built with the commands of the document."""
    return {
        tag: podman.build(tag, *[word for word in words[2:-1] if word not in ("--tag", tag)])
        for words in (each.words for each in commands("docker", "build"))
        for tag in [words[words.index("--tag") + 1]]
    }


@pytest.fixture
def start(podman: Podman, images: dict[str, Image]) -> Iterator[Callable[..., Contained]]:
    """Starts a daemon as a command of the document does, with more arguments of `serve`; it is removed at the
    end."""
    started: list[Contained] = []

    def start(command: Command, *arguments: str, image: str = "", flags: Sequence[str] = ()) -> Contained:
        assert (image or command.image) in images
        daemon = Contained(podman, command, arguments, image=image or command.image, flags=flags)
        started.append(daemon)
        return daemon.start()

    try:
        yield start
    finally:
        for each in started:
            each.remove()
