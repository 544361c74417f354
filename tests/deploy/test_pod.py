"""The pod of the chart in a real container: the image, with the rights, files and probes that were rendered.

There is no kubelet here. What it does with a pod's fields is done by podman with the flags of the same
meaning; the directories of the node are a test's own. Networks, scheduling and GPU access are not tried.
"""

from __future__ import annotations

import http.client
import json
import shlex
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from probes.kernel import Capability
from tests.deploy.chart import Helm, Object, Schemas, Values
from tests.support import real_kernel_log
from tests.support.certificates import Https
from tests.support.daemon import free_port
from tests.support.podman import Podman, skip_unless_bpf_may_be_loaded
from tests.support.relay import INITIALIZE
from tests.support.token_file import TokenFileOnDisk
from tests.support.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.slow

WITHOUT_GPU: Values = {"gpu": {"access": "none"}}


@dataclass(slots=True)
class Pod:
    """A container that runs as the chart says."""

    podman: Podman
    spec: Object
    name: str
    port: int

    @property
    def container(self) -> Object:
        found: Object
        (found,) = self.spec["containers"]
        return found

    def exec(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        flags = ["--interactive"] if stdin is not None else []
        return subprocess.run(
            self.podman.command("exec", *flags, self.name, *words),
            env=self.podman.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def passes(self, probe: str) -> bool:
        """Ask one of its probes once, as kubelet would: without a token, without a certificate."""
        asked = self.container[probe]
        if "exec" in asked:
            return self.exec(*asked["exec"]["command"]).returncode == 0
        get = asked["httpGet"]
        if get.get("scheme") == "HTTPS":
            context = ssl._create_unverified_context()  # noqa: S323 (kubelet does not verify either)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=DEADLINE_S, context=context
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request("GET", get["path"])
            return 200 <= connection.getresponse().status < 400
        except OSError:
            return False
        finally:
            connection.close()

    def capabilities(self) -> int:
        """The effective ones of its first process, as a bit mask."""
        pid = self.podman.inspect(self.name, ".State.Pid")
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("CapEff:")), 16)


Start = Callable[..., Pod]


@pytest.fixture
def start(podman: Podman, helm_4: Helm, kubernetes: Schemas, tmp_path: Path) -> Iterator[Start]:
    """Renders the chart with these values and starts its pod; `secrets` are the files of each Secret."""
    image = podman.build("xidwatch").name
    with ExitStack() as stack:

        def with_values(values: Values, secrets: Mapping[str, Mapping[str, bytes]] | None = None) -> Pod:
            port = free_port()
            found = kubernetes.check(helm_4.template({**values, "listen": {"port": port}}))
            name = f"xidwatch-{port}"
            flags = run_flags(found.pod, found.container, found.config, tmp_path, secrets or {})
            stack.callback(podman, "rm", "--force", "--volumes", "--time", "0", name)
            engine = podman.run_flags()
            words = ["run", "--detach", "--name", name, *engine, *flags, image, *found.container["args"]]
            done = podman(*words)
            assert done.code == 0, f"{shlex.join(words)}: {done.err}"
            pod = Pod(podman, found.pod, name, port)
            try:
                wait_for(lambda: pod.passes("startupProbe"), "the startup probe", pause_s=0.2)
            except AssertionError as error:
                logs = podman("logs", name)
                raise AssertionError(f"{error}\n{logs.out}{logs.err}") from None
            return pod

        yield with_values


def run_flags(
    pod: Object, container: Object, config: str, directory: Path, secrets: Mapping[str, Mapping[str, bytes]]
) -> list[str]:
    """podman's flags for a pod of the chart. A field of the security context that is not known here fails."""
    context = dict(container["securityContext"])
    flags = ["--user", f"{context.pop('runAsUser')}:{context.pop('runAsGroup')}"]
    flags += ["--read-only", "--read-only-tmpfs=false"] if context.pop("readOnlyRootFilesystem") else []
    flags += ["--privileged", "--security-opt", "seccomp=unconfined"] if context.pop("privileged") else []
    if context.pop("allowPrivilegeEscalation", None) is False:
        flags += ["--security-opt", "no-new-privileges"]
    capabilities = context.pop("capabilities", {"drop": [], "add": []})
    flags += [f"--cap-drop={name}" for name in capabilities["drop"]]
    flags += [f"--cap-add={name}" for name in capabilities["add"]]
    context.pop("seccompProfile", None)  # the engine's own, in place of the runtime's
    assert not context, f"unknown here: {context}"
    for variable in container["env"]:
        value = variable.get("value", "gpu-17" if "fieldRef" in variable.get("valueFrom", {}) else None)
        assert value is not None
        flags += ["--env", f"{variable['name']}={value}"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    for mount in container["volumeMounts"]:
        source = _source(volumes[mount["name"]], config, directory, secrets)
        if source is None:
            flags += ["--tmpfs", mount["mountPath"]]
            continue
        source = source / mount["subPath"] if "subPath" in mount else source
        mode = ":ro" if mount.get("readOnly") else ""
        flags += ["--volume", f"{source}:{mount['mountPath']}{mode}"]
    return flags


def _source(
    volume: Object, config: str, directory: Path, secrets: Mapping[str, Mapping[str, bytes]]
) -> Path | None:
    """A directory or device with what the volume holds; None for one that begins empty."""
    if "emptyDir" in volume:
        return None
    if "hostPath" in volume and volume["hostPath"]["path"].startswith("/dev/"):
        return Path(volume["hostPath"]["path"])
    place = directory / str(volume["name"])
    place.mkdir(exist_ok=True)
    if "configMap" in volume:
        (place / "config.toml").write_text(config, encoding="utf-8")
    if "secret" in volume:
        secret = volume["secret"]
        for item in secret["items"]:
            file = place / str(item["path"])
            file.write_bytes(secrets[secret["secretName"]][item["key"]])
            file.chmod(secret["defaultMode"])
    return place


def called(pod: Pod, tool: str, arguments: Object) -> Any:
    """The answer of a tool, through `xidwatch stdio` in the pod."""
    call = {"name": tool, "arguments": arguments}
    messages = [
        INITIALIZE,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call},
    ]
    done = pod.exec("xidwatch", "stdio", stdin="\n".join(map(json.dumps, messages)) + "\n")
    assert done.returncode == 0, done.stderr
    answers = {each.get("id"): each for each in map(json.loads, done.stdout.splitlines())}
    return answers[1]["result"]["structuredContent"]


@pytest.mark.kmsg
@pytest.mark.parametrize("log", ["unprivileged", "privileged"])
def test_a_pod_hears_a_line_and_tells_of_it_through_a_session_in_it(log: str, start: Start) -> None:
    real_kernel_log.skip_unless_usable()
    skip_unless_bpf_may_be_loaded()
    pod = start({**WITHOUT_GPU, "logAccess": log, "config": {"allow-drills": True}})
    assert pod.passes("livenessProbe")
    wait_for(lambda: pod.passes("readinessProbe"), "the readiness probe", pause_s=0.2)
    pci = f"{real_kernel_log.own_domain()}:3b:00"
    real_kernel_log.write(real_kernel_log.drill_line(pci, 79, pid=1))
    asked = {"since": 0, "gpu": [f"{pci}.0"], "kind": ["xid"]}
    (event,) = called(pod, "wait_for_xid", asked)["events"]
    assert (event["code"], event["drill"]) == (79, True)
    hears = {each["name"] for each in called(pod, "get_daemon_status", {})["probes"] if each["hears"]}
    assert hears >= {"bpf", "kmsg" if log == "privileged" else "klog"}
    assert ("kmsg" in hears) is (log == "privileged")
    # What loading programs took is given up; a process with CAP_SYS_ADMIN keeps all.
    if log == "unprivileged":
        assert pod.capabilities() == 1 << Capability.SYSLOG
    else:
        assert pod.capabilities() >> Capability.SYS_ADMIN & 1


def test_a_locked_pod_lives_for_kubelet_and_opens_to_its_tokens(start: Start, tmp_path: Path) -> None:
    tokens = TokenFileOnDisk(tmp_path / "made")
    secret = tokens.add("grafana")
    values = {**WITHOUT_GPU, "auth": {"existingSecret": "tokens", "key": "file"}}
    pod = start(values, {"tokens": {"file": tokens.path.read_bytes()}})
    assert pod.passes("livenessProbe")
    wait_for(lambda: pod.passes("readinessProbe"), "the readiness probe", pause_s=0.2)
    assert [status(pod, "/metrics"), status(pod, "/metrics", secret)] == [401, 200]
    assert status(pod, "/version", secret, host="xidwatch.xidwatch.svc:80") == 200
    assert status(pod, "/version", secret, host="elsewhere.example.com") != 200


def test_with_certificates_for_clients_kubelet_asks_inside_the_pod(start: Start, tmp_path: Path) -> None:
    https = Https(tmp_path, mutual=True)
    tokens = TokenFileOnDisk(tmp_path / "made")
    tokens.add("grafana")
    assert https.files.client_ca is not None
    values = {
        **WITHOUT_GPU,
        "auth": {"existingSecret": "tokens"},
        "tls": {"existingSecret": "tls", "clientCA": {"existingSecret": "clients"}},
    }
    files = {
        "tokens": {"tokens": tokens.path.read_bytes()},
        "tls": {"tls.crt": https.files.certificate.read_bytes(), "tls.key": https.files.key.read_bytes()},
        "clients": {"ca.crt": https.files.client_ca.read_bytes()},
    }
    pod = start(values, files)
    assert pod.passes("livenessProbe")
    wait_for(lambda: pod.passes("readinessProbe"), "the readiness probe", pause_s=0.2)
    with pytest.raises(OSError, match=r"(?i)ssl|certificate|reset"):
        https.get(pod.port, "/healthz")


@pytest.mark.kmsg
def test_events_outlive_the_pod(start: Start, podman: Podman) -> None:
    real_kernel_log.skip_unless_usable()
    values = {**WITHOUT_GPU, "config": {"allow-drills": True}}
    first = start(values)
    wait_for(lambda: first.passes("readinessProbe"), "the readiness probe", pause_s=0.2)
    pci = f"{real_kernel_log.own_domain()}:3b:00"
    real_kernel_log.write(real_kernel_log.drill_line(pci, 79, pid=1))
    asked = {"since": 0, "gpu": [f"{pci}.0"], "kind": ["xid"]}
    (heard,) = called(first, "wait_for_xid", asked)["events"]
    assert podman("stop", "--time", "30", first.name).code == 0
    assert podman.inspect(first.name, ".State.ExitCode") == "0"
    (kept,) = called(start(values), "get_xid_events", asked)["events"]
    assert (kept["id"], kept["time"]) == (heard["id"], heard["time"])
    assert kept["cursor"] >= heard["cursor"]


def status(pod: Pod, path: str, token: str | None = None, *, host: str | None = None) -> int:
    """Of the answer to one request to the pod's port."""
    connection = http.client.HTTPConnection("127.0.0.1", pod.port, timeout=DEADLINE_S)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        connection.request("GET", path, headers={**headers, **({"Host": host} if host else {})})
        return connection.getresponse().status
    finally:
        connection.close()
