"""The device map: what teaches it, and what it forgets."""

from __future__ import annotations

from daemon.decoded import Context
from daemon.devices import DeviceMap
from daemon.event import Gpu, Mig
from probes.procfs import ProcGpu

PCI = "0000:91:00.0"
UUID = "GPU-11111111-2222-3333-4444-555555555555"


def test_a_serial_number_belongs_to_the_gpu_line_right_before_it() -> None:
    devices = DeviceMap()
    assert devices.learn(Context(PCI, uuid=UUID))
    assert devices.learn(Context(None, serial="1650"))
    assert devices.gpu(PCI, None) == Gpu(PCI, uuid=UUID, serial="1650")


def test_a_serial_number_without_a_gpu_line_before_it_is_nobodys() -> None:
    devices = DeviceMap()
    assert not devices.learn(Context(None, serial="1650"))
    assert devices.dump() == {}


def test_what_is_already_known_is_no_news() -> None:
    devices = DeviceMap()
    devices.learn(Context(PCI, uuid=UUID))
    assert not devices.learn(Context(PCI, uuid=UUID))


def test_the_drivers_list_adds_the_model_and_keeps_the_serial_number() -> None:
    devices = DeviceMap()
    devices.learn(Context(PCI, uuid=UUID))
    devices.learn(Context(None, serial="1650"))
    assert devices.learn_from_proc([ProcGpu(PCI, UUID, "NVIDIA H200", 0, None)])
    assert devices.gpu(PCI, Mig(5, None)) == Gpu(PCI, UUID, "1650", None, "NVIDIA H200", Mig(5, None))


def test_another_board_in_the_same_slot_takes_nothing_from_the_one_before() -> None:
    devices = DeviceMap()
    devices.learn(Context(PCI, uuid=UUID))
    devices.learn(Context(None, serial="1650"))
    other = UUID.replace("1111", "9999")
    devices.learn(Context(PCI, uuid=other))
    assert devices.gpu(PCI, None) == Gpu(PCI, uuid=other)


def test_a_map_survives_being_written_down() -> None:
    devices, copy = DeviceMap(), DeviceMap()
    devices.learn(Context(PCI, uuid=UUID))
    copy.load(devices.dump())
    assert copy.gpu(PCI, None) == devices.gpu(PCI, None)
    assert copy.is_real(PCI)
    assert not copy.is_real("0000:00:00.0")
    assert not copy.is_real(None)


def test_an_index_that_passed_to_another_gpu_is_no_longer_the_first_ones() -> None:
    devices = DeviceMap()
    other = "0000:92:00.0"
    devices.learn_from_nvml([Gpu(PCI, index=0), Gpu(other, index=1)])
    assert devices.learn_from_nvml([Gpu(other, index=0)])
    assert [gpu.index for gpu in devices.gpus()] == [None, 0]
    assert devices.learn_from_nvml([Gpu(PCI, index=1), Gpu(other, index=0)])
    assert [gpu.index for gpu in devices.gpus()] == [1, 0]
