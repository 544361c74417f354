"""`kubectl xidwatch NODE …`: a real kubectl, and an API server of our own whose pods are processes here."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.api_server import Cluster, Exec, api_server
from tests.support.daemon import ROOT, Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.relay import INITIALIZE
from tests.support.waiting import DEADLINE_S, wait_for

PLUGIN = ROOT / "deploy" / "kubectl-xidwatch"
FELL_OFF = "NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus."
STARTED = "2026-11-22T11:20:06Z"
LABELS = {"app.kubernetes.io/name": "xidwatch", "app.kubernetes.io/component": "daemon"}


def pod(
    name: str, node: str, *, namespace: str = "gpu", state: dict[str, Any] | None = None, ready: bool = True
) -> dict[str, Any]:
    """A pod with a sidecar, as the API server shows it."""
    sidecar = {"name": "proxy", "ready": False, "state": {"waiting": {"reason": "NotMine"}}}
    ours = {"name": "xidwatch", "ready": ready, "state": state or {"running": {"startedAt": STARTED}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": LABELS},
        "spec": {"nodeName": node, "containers": [{"name": "proxy"}, {"name": "xidwatch"}]},
        "status": {"phase": "Running", "containerStatuses": [sidecar, ours]},
    }


@dataclass(slots=True)
class Place:
    """Where the plugin runs: a cluster, and an environment that knows nothing else."""

    cluster: Cluster
    environ: dict[str, str]

    def start(self, *words: str, **streams: Any) -> subprocess.Popen[bytes]:
        """The plugin, as kubectl finds it: `kubectl xidwatch …`."""
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(["kubectl", "xidwatch", *words], env=self.environ, **{**pipes, **streams})

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The same, to its end."""
        return subprocess.run(
            ["kubectl", "xidwatch", *words],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )


@pytest.fixture
def place(kubectl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A cluster without pods, kubectl and the plugin in PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "kubectl").symlink_to(kubectl)
    (programs / "kubectl-xidwatch").symlink_to(PLUGIN)
    search = f"{programs}:{os.defpath}"
    monkeypatch.setenv("PATH", search)  # where subprocess looks
    with api_server(Cluster()) as cluster:
        config = str(cluster.kubeconfig(tmp_path))
        yield Place(cluster, {"PATH": search, "HOME": str(tmp_path), "KUBECONFIG": config})


def test_a_session_with_the_nodes_daemon_goes_through_kubectl(
    place: Place, running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    place.cluster.socket = running_daemon.socket
    place.cluster.pods = [pod("xidwatch-a", "gpu-16"), pod("xidwatch-b", "gpu-17")]
    with place.start("gpu-17", "mcp") as session:
        assert session.stdin is not None
        assert session.stdout is not None
        session.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
        session.stdin.flush()
        assert json.loads(session.stdout.readline())["result"]["serverInfo"]["name"] == "xidwatch"
        wait = {"name": "wait_for_xid", "arguments": {"since": 0}}
        for message in (
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": wait},
        ):
            session.stdin.write(json.dumps(message).encode() + b"\n")
        session.stdin.flush()
        kernel_log.write(FELL_OFF)
        answers = (json.loads(line) for line in session.stdout)
        result = next(each for each in answers if each.get("id") == 1)["result"]
        assert result["structuredContent"]["events"][0]["code"] == 79
        session.stdin.close()
        assert session.wait(DEADLINE_S) == 0
    expected = Exec("gpu", "xidwatch-b", "xidwatch", ["xidwatch", "stdio"], stdin=True, tty=False)
    assert place.cluster.execs == [expected]


def test_arguments_output_and_exit_code_pass_through(
    place: Place, running_daemon: Daemon, kernel_log: FakeKernelLog
) -> None:
    place.cluster.socket = running_daemon.socket
    place.cluster.pods = [pod("xidwatch-b", "gpu-17")]
    kernel_log.write(FELL_OFF)
    wait_for(running_daemon.events, "the event")
    told = place.run("gpu-17", "tail", "--json", "--since", "0")
    assert 79 in [json.loads(line)["code"] for line in told.stdout.splitlines()]
    assert place.cluster.execs[-1].command == ["xidwatch", "tail", "--json", "--since", "0"]
    assert not place.cluster.execs[-1].stdin
    status = place.run("gpu-17", "status")
    assert (status.returncode, "test-node" in status.stdout) == (0, True)
    wrong = place.run("gpu-17", "tail", "--colour")
    assert wrong.returncode == 2
    assert "unrecognized arguments: --colour" in wrong.stderr


def test_words_reach_the_pod_as_they_were_written(place: Place) -> None:
    place.cluster.pods = [pod("xidwatch-b", "gpu-17")]
    odd = ["--severity", "$(id)", "a b", "", "*", "'"]
    place.run("gpu-17", "tail", *odd)
    assert place.cluster.execs[-1].command == ["xidwatch", "tail", *odd]


def test_a_terminal_is_handed_on_so_that_an_interrupt_ends_the_command(place: Place) -> None:
    place.cluster.pods = [pod("xidwatch-b", "gpu-17")]
    ours, theirs = pty.openpty()
    with place.start("gpu-17", "status", stdin=theirs, stdout=theirs) as running:
        os.close(theirs)
        while select.select([ours], [], [], DEADLINE_S)[0]:
            try:
                os.read(ours, 65_536)
            except OSError:  # the other side is closed
                break
        running.wait(DEADLINE_S)
    os.close(ours)
    assert (place.cluster.execs[-1].tty, place.cluster.execs[-1].stdin) == (True, True)


def test_a_pod_that_does_not_hear_can_still_be_asked_why(place: Place, running_daemon: Daemon) -> None:
    place.cluster.socket = running_daemon.socket
    place.cluster.pods = [pod("xidwatch-b", "gpu-17", ready=False)]
    done = place.run("gpu-17", "status")
    assert done.returncode == 0
    assert "xidwatch-b runs, but does not hear" in done.stderr


def test_the_pod_that_hears_is_chosen_before_one_that_does_not(place: Place) -> None:
    ending = pod("xidwatch-a", "gpu-17")
    ending["metadata"]["deletionTimestamp"] = STARTED
    place.cluster.pods = [ending, pod("xidwatch-b", "gpu-17", ready=False), pod("xidwatch-c", "gpu-17")]
    place.run("gpu-17", "status")
    assert place.cluster.execs[-1].pod == "xidwatch-c"


def test_a_namespace_can_be_named_and_must_be_where_two_would_do(place: Place) -> None:
    place.cluster.pods = [pod("x-a", "gpu-17", namespace="one"), pod("x-b", "gpu-17", namespace="two")]
    done = place.run("gpu-17", "status")
    assert (done.returncode, "more than one xidwatch runs on gpu-17" in done.stderr) == (2, True)
    for option in (["-n", "two"], ["--namespace", "two"], ["--namespace=two"]):
        place.run(*option, "--context", "test", "gpu-17", "status")
        assert place.cluster.execs[-1].pod == "x-b"


def test_without_rights_in_the_whole_cluster_it_says_to_name_a_namespace(place: Place) -> None:
    place.cluster.forbids_whole_cluster = True
    place.cluster.pods = [pod("xidwatch-b", "gpu-17")]
    done = place.run("gpu-17", "status")
    assert done.returncode == 2
    assert "forbidden" in done.stderr
    assert "name that with --namespace" in done.stderr
    place.run("-n", "gpu", "gpu-17", "status")
    assert place.cluster.execs[-1].pod == "xidwatch-b"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gpu-18", "status"], "there is no xidwatch pod on gpu-18"),
        (["-n", "gpu", "gpu-18", "status"], "there is no xidwatch pod on gpu-18 in namespace gpu"),
        (["gpu-19", "status"], "does not run (gpu/xidwatch-c: ImagePullBackOff)"),
        (["gpu-17"], "what to do on gpu-17?"),
        (["gpu-17", "serve"], "there is no command 'serve'"),
        (["gpu-17,spec.x=y", "status"], "'gpu-17,spec.x=y' is not the name of a node"),
        (["--all", "gpu-17", "status"], "there is no option --all"),
        (["-n"], "-n needs a value"),
        (["--kubeconfig", "/nowhere", "gpu-17", "status"], "cannot list the pods"),
        ([], "usage: kubectl xidwatch"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(place: Place, words: list[str], said: str) -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff"}}
    place.cluster.pods = [
        pod("xidwatch-b", "gpu-17"),
        pod("xidwatch-c", "gpu-19", state=waiting, ready=False),
    ]
    done = place.run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert place.cluster.execs == []


def test_it_says_that_kubectl_is_missing(tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    done = subprocess.run(
        [str(PLUGIN), "gpu-17", "status"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "kubectl is not in PATH" in done.stderr) == (2, True)


def test_help_is_no_error(place: Place) -> None:
    done = place.run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "NODE COMMAND" in done.stdout


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: tests/install.sh does it")
    done = subprocess.run(
        ["shellcheck", "--shell=sh", str(PLUGIN)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
