"""MIG layouts, read from a GPU in Python: its instances are handles, which the fake library cannot give."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TypeVar

import pynvml  # type: ignore[import-untyped]  # nvidia-ml-py has no types
import pytest

from daemon.gpu.readings import MigLayout
from daemon.gpu.worker.device import NvmlError
from daemon.gpu.worker.reads import OPERATIONS

T = TypeVar("T")

NO_PERMISSION = pynvml.NVML_ERROR_NO_PERMISSION
PROFILES = {0: (19, "MIG 1g.18gb", 7, 18), 2: (9, "MIG 3g.71gb", 2, 71)}
"""Number → id, name, most instances, gigabytes."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A GPU instance and the compute instances in it: id → first slice and slices."""

    gi: int
    profile: int
    start: int
    size: int
    compute: dict[int, tuple[int, int]]


@dataclass(slots=True)
class MigGpu:
    """Answers for one GPU with MIG, as nvidia-ml-py would."""

    instances: list[Instance]
    enabled: tuple[int, int] = (1, 1)
    forbidden: frozenset[str] = frozenset()
    pci: str = "0000:18:00.0"
    calls: list[str] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    handles: list[tuple[object, Instance]] = field(default_factory=list)

    def call(self, function: str, *arguments: object) -> object:
        return self.system(function, "gpu", *arguments)

    def system(self, function: str, *arguments: object) -> object:
        self.calls.append(function)
        if function in self.forbidden:
            raise NvmlError(NO_PERMISSION, "NoPermission", "Insufficient Permissions", function)
        return getattr(self, function)(*arguments)

    def once(self, fact: str, read: Callable[[], T]) -> T:
        if fact not in self.facts:
            self.facts[fact] = read()
        return self.facts[fact]  # type: ignore[return-value]  # kept under its name

    def _devices(self) -> list[tuple[Instance, int]]:
        return [(instance, ci) for instance in self.instances for ci in instance.compute]

    def nvmlDeviceGetMigMode(self, _gpu: object) -> list[int]:
        return list(self.enabled)

    def nvmlDeviceGetMaxMigDeviceCount(self, _gpu: object) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, _gpu: object, index: int) -> object:
        # The first place is free: MIG devices need not be numbered without gaps.
        if not 1 <= index <= len(self._devices()):
            raise NvmlError(pynvml.NVML_ERROR_NOT_FOUND, "NotFound", "Not Found", "")
        return self._devices()[index - 1]

    def nvmlDeviceGetGpuInstanceId(self, mig: tuple[Instance, int]) -> int:
        return mig[0].gi

    def nvmlDeviceGetComputeInstanceId(self, mig: tuple[Instance, int]) -> int:
        return mig[1]

    def nvmlDeviceGetUUID(self, mig: tuple[Instance, int]) -> str:
        return f"MIG-{mig[0].gi}-{mig[1]}"

    def nvmlDeviceGetMemoryInfo(self, mig: tuple[Instance, int], _version: int) -> object:
        return SimpleNamespace(total=PROFILES[mig[0].profile][3] << 30, used=5 << 20)

    def nvmlDeviceGetAttributes_v2(self, _mig: object) -> object:
        return SimpleNamespace(multiprocessorCount=16)

    def nvmlDeviceGetGpuInstanceProfileInfo(self, _gpu: object, number: int, _version: int = 2) -> object:
        if number not in PROFILES:
            raise NvmlError(pynvml.NVML_ERROR_NOT_SUPPORTED, "NotSupported", "Not Supported", "")
        ident, name, most, gigabytes = PROFILES[number]
        return SimpleNamespace(id=ident, name=name, instanceCount=most, memorySizeMB=gigabytes << 10)

    def nvmlDeviceGetGpuInstances(self, _gpu: object, profile: int, room: object, count: object) -> None:
        found = [entry for entry in self.instances if PROFILES[entry.profile][0] == profile]
        for place, entry in enumerate(found):
            # A handle is a pointer; the instance's id serves as its value.
            handle = pynvml.c_nvmlGpuInstance_t(pynvml.struct_c_nvmlGpuInstance_t())
            room[place] = handle  # type: ignore[index]  # an array of handles
            self.handles.append((handle, entry))
        count._obj.value = len(found)  # type: ignore[attr-defined]  # a reference to a number

    def _instance(self, handle: object) -> Instance:
        def address(pointer: object) -> int:
            return ctypes.addressof(pointer.contents)  # type: ignore[attr-defined]  # a pointer

        return next(entry for known, entry in self.handles if address(known) == address(handle))

    def nvmlGpuInstanceGetInfo(self, handle: object) -> object:
        entry = self._instance(handle)
        placement = SimpleNamespace(start=entry.start, size=entry.size)
        return SimpleNamespace(id=entry.gi, profileId=PROFILES[entry.profile][0], placement=placement)

    def nvmlGpuInstanceGetComputeInstanceById(self, handle: object, ci: int) -> object:
        return self._instance(handle), ci

    def nvmlComputeInstanceGetInfo_v2(self, compute: tuple[Instance, int]) -> object:
        start, size = compute[0].compute[compute[1]]
        return SimpleNamespace(profileId=0, placement=SimpleNamespace(start=start, size=size))


def layout(gpu: MigGpu) -> MigLayout:
    return MigLayout.from_json(OPERATIONS["mig"](gpu, {}))


@pytest.fixture
def gpu() -> MigGpu:
    """3g with two compute instances, 1g with one, 1g with none."""
    return MigGpu(
        [
            Instance(2, profile=2, start=0, size=4, compute={0: (0, 2), 1: (2, 1)}),
            Instance(9, profile=0, start=4, size=1, compute={0: (0, 1)}),
            Instance(11, profile=0, start=6, size=1, compute={}),
        ]
    )


def test_every_instance_is_there_with_its_place_and_uuid(gpu: MigGpu) -> None:
    read = layout(gpu)
    assert (read.enabled, read.enabled_pending, read.max_devices, read.unread) == (True, True, 7, {})
    assert read.gpu_instances is not None
    large, small, empty = read.gpu_instances
    assert (large.id, large.profile, large.placement_start, large.placement_size) == (2, "MIG 3g.71gb", 0, 4)
    assert (large.memory_total_bytes, large.memory_used_bytes) == (71 << 30, 5 << 20)
    assert [(ci.id, ci.uuid, ci.index) for ci in large.compute_instances] == [
        (0, "MIG-2-0", 1),
        (1, "MIG-2-1", 2),
    ]
    assert [(ci.placement_start, ci.placement_size) for ci in large.compute_instances] == [(0, 2), (2, 1)]
    assert (small.id, small.profile_id, small.compute_instances[0].multiprocessors) == (9, 19, 16)
    assert (empty.id, empty.placement_start, empty.compute_instances) == (11, 6, ())
    assert empty.memory_used_bytes is None
    assert empty.unread["memory_used_bytes"] == "it has no compute instance"


def test_without_the_right_to_the_configuration_mig_devices_are_read_and_their_places_are_not(
    gpu: MigGpu,
) -> None:
    gpu.forbidden = frozenset({"nvmlDeviceGetGpuInstances"})
    read = layout(gpu)
    assert read.gpu_instances is not None
    assert [instance.id for instance in read.gpu_instances] == [2, 9]
    assert read.gpu_instances[0].placement_start is None
    assert read.gpu_instances[0].unread["placement_start"] == "GPU instances cannot be listed: no permission"
    assert [ci.uuid for ci in read.gpu_instances[0].compute_instances] == ["MIG-2-0", "MIG-2-1"]
    assert "no permission" in read.gpu_instances[0].compute_instances[0].unread["placement_start"]
    assert "no permission" in read.unread["gpu_instances.empty"]


def test_with_mig_off_there_is_no_instance_and_nothing_more_is_asked(gpu: MigGpu) -> None:
    gpu.enabled = (0, 1)
    read = layout(gpu)
    assert (read.enabled, read.enabled_pending, read.gpu_instances) == (False, True, ())
    assert gpu.calls == ["nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount"]


def test_profiles_are_asked_for_once(gpu: MigGpu) -> None:
    first = layout(gpu)
    gpu.calls.clear()
    assert layout(gpu) == first
    assert "nvmlDeviceGetGpuInstanceProfileInfo" not in gpu.calls


def test_a_text_that_cannot_be_decoded_is_no_error_of_ours(
    gpu: MigGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def garbled(_gpu: MigGpu, _mig: object) -> str:
        return b"MIG-\xff\xfe".decode()

    monkeypatch.setattr(MigGpu, "nvmlDeviceGetUUID", garbled)
    read = layout(gpu)
    assert read.gpu_instances is not None
    (instance,) = read.gpu_instances[1].compute_instances
    assert (instance.uuid, instance.unread["uuid"]) == (None, "the answer is no text")
