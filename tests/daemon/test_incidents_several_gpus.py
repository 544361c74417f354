"""The same fault on several GPUs at once: when it is a matter of the node, and when it is over."""

from __future__ import annotations

import pytest

from tests.support.incidents import Node
from tests.support.records import GPU, OTHER_GPU, xid

GPUS = (GPU, OTHER_GPU, "0000:3b:00", "0000:5d:00")
NVLINK = "pid=<unknown>, name=<unknown>, NVLink: fatal error detected on link 6(0x10000, 0x0, 0x0)"
TIMEOUT = "Timeout after 6s of waiting for RPC response from GPU4 GSP! Expected function 10 (FREE) (0x1 0x0)."
TO_NONE = "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"


def test_the_two_ends_of_a_link_are_not_the_whole_node() -> None:
    node = Node(real_gpus=GPUS[:2])
    node.hear(1, xid(74, NVLINK))
    node.hear(1.2, xid(74, NVLINK, OTHER_GPU))
    node.wait(10)
    incident = node.incident()
    assert (incident.detail["pattern"], incident.detail["blast_radius"]["scope"]) == (None, "fabric")


def test_link_faults_on_many_gpus_do_not_acquit_one_of_them() -> None:
    node = Node()
    for n, gpu in enumerate(GPUS[:3]):
        node.hear(1 + n, xid(74, NVLINK, gpu))
    node.wait(10)
    incident = node.incident()
    assert incident.detail["pattern"] == "many_gpus"
    assert "not the fault of one GPU" not in incident.summary
    assert "that these links share" in incident.summary


@pytest.mark.parametrize(
    "said",
    [
        "NVRM: GPU {}.0: GPU has fallen off the bus.",
        "NVRM: GPU {}.0: RmInitAdapter failed! (0x62:0x55:2477)",
    ],
)
def test_trouble_without_a_code_on_all_gpus_is_one_incident(said: str) -> None:
    node = Node()
    for n, gpu in enumerate(GPUS):
        node.hear(1 + n * 0.3, said.format(gpu))
    node.wait(10)
    incident = node.incident()
    assert incident.detail["pattern"] == "many_gpus"
    assert "on 4 of 4 GPUs" in incident.summary


def test_a_count_told_late_does_not_make_a_recovered_gpu_sick_again() -> None:
    node = Node()
    for n, gpu in enumerate(GPUS[:3]):
        node.hear(1 + n, xid(119, f"pid=7, name=a, {TIMEOUT}", gpu))
    node.hear(5.8, xid(119, f"pid=7, name=a, {TIMEOUT}"))
    node.hear(5.9, xid(119, f"pid=7, name=a, {TIMEOUT}"))  # told a second later, after the recovery
    for n, gpu in enumerate(GPUS[:3]):
        node.hear(6 + n, xid(154, TO_NONE, gpu))
    node.wait(20)
    assert node.incident().detail["state"] == "recovered"


def test_a_fault_that_goes_on_on_one_gpu_opens_the_whole_again() -> None:
    node = Node()
    for n, gpu in enumerate(GPUS[:3]):
        node.hear(1 + n, xid(119, f"pid=7, name=a, {TIMEOUT}", gpu))
    for n, gpu in enumerate(GPUS[:3]):
        node.hear(4 + n * 0.1, xid(154, TO_NONE, gpu))
    node.hear(5, xid(119, f"pid=7, name=a, {TIMEOUT}"))
    node.wait(20)
    assert node.incident().detail["state"] == "open"
    node.hear(30, xid(154, TO_NONE))
    assert node.incident().detail["state"] == "recovered"
