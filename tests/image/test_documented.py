"""The commands of docs/docker.md do what it says, with podman in docker's place."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping

import pytest

from tests.image.contained import Contained
from tests.image.documented import DOCUMENT, commands, daemon_in
from tests.support import real_kernel_log
from tests.support.podman import Image, Podman
from xidwatch.cli import build_parser

pytestmark = pytest.mark.slow

Start = Callable[..., Contained]


def test_every_command_of_the_document_is_of_a_kind_that_is_tried() -> None:
    tried = [
        *commands("docker", "build"),
        *commands("docker", "run"),
        *commands("docker", "exec", "xidwatch"),
        *commands("docker", "stop", "xidwatch"),
        *commands("claude", "mcp", "add", "xidwatch", "--", "docker", "exec", "-i", "xidwatch"),
    ]
    assert len(tried) == len(commands()) > 10
    assert len([each for each in commands("docker", "run") if each.is_daemon]) == 4


def test_what_a_container_is_asked_to_do_is_what_xidwatch_takes() -> None:
    asked = [each.inside for each in commands("docker", "run") if each.inside]
    asked += [each.words[4:] for each in commands("docker", "exec", "xidwatch", "xidwatch")]
    for words in asked:
        assert build_parser(words[0]).parse_args(words).command == words[0]


def test_only_what_needs_a_gpu_asks_for_one_and_says_so() -> None:
    asking = [each for each in commands("docker", "run") if "--gpus" in each.words]
    assert asking == [daemon_in("A machine with GPUs")]
    assert "needs a GPU" in DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("inside", ["doctor", "drill"])
@pytest.mark.kmsg
def test_a_command_in_a_container_of_its_own_ends_well(
    podman: Podman, images: Mapping[str, Image], inside: str
) -> None:
    real_kernel_log.skip_unless_usable()
    command = next(each for each in commands("docker", "run") if each.inside[:1] == (inside,))
    done = podman("run", "--rm", *podman.run_flags(), *command.flags, command.image, *command.inside)
    assert done.code == 0, done.out + done.err


@pytest.mark.kmsg
def test_a_running_container_answers_what_the_document_asks_it(start: Start) -> None:
    real_kernel_log.skip_unless_usable()
    daemon = start(daemon_in("/dev/kmsg only"), "--gpu", "off")
    for command in commands("docker", "exec", "xidwatch"):
        done = daemon.exec(*command.words[3:])
        assert done.code == 0, done.err
    client = next(iter(commands("claude", "mcp", "add"))).words
    program, words = client[client.index("--") + 1 :][:4], client[client.index("--") + 5 :]
    assert program == ("docker", "exec", "-i", "xidwatch")
    assert words == ("xidwatch", "stdio")
    assert commands("docker", "stop", "xidwatch")
    assert daemon.stop(within_s=2) == 0


def test_the_options_of_docker_exist() -> None:
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("docker is not installed; podman stood in for it")
    known = subprocess.run([docker, "run", "--help"], capture_output=True, text=True, check=True).stdout
    for command in commands("docker", "run"):
        for word in command.words:
            if word.startswith("--") and word not in command.inside:
                assert f"{word} " in known
