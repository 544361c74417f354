"""A GPU worker with small operations of its own; run as a program, as the real one is."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from daemon.gpu.worker.device import Device, NvmlError
from daemon.gpu.worker.server import serve


def _temperature(device: Device, _arguments: Mapping[str, object]) -> Mapping[str, object]:
    return {"temperature_c": device.call("nvmlDeviceGetTemperature", 0)}


def _many(device: Device, arguments: Mapping[str, object]) -> Mapping[str, object]:
    times = arguments["times"]
    assert isinstance(times, int)
    return {"last": [device.call("nvmlDeviceGetTemperature", 0) for _ in range(times)][-1]}


def _module(device: Device, _arguments: Mapping[str, object]) -> Mapping[str, object]:
    return {"module": device.call("nvmlDeviceGetModuleId")}


def _call(device: Device, arguments: Mapping[str, object]) -> Mapping[str, object]:
    try:
        return {"value": device.call(str(arguments["function"]))}
    except NvmlError as error:
        return {"value": None, "code": error.code, "name": error.name, "message": error.message}


def _once(device: Device, _arguments: Mapping[str, object]) -> Mapping[str, object]:
    return {"name": device.once("name", lambda: device.call("nvmlDeviceGetName"))}


def _driver(device: Device, _arguments: Mapping[str, object]) -> Mapping[str, object]:
    return {"driver": device.system("nvmlSystemGetDriverVersion")}


def _bug(_device: Device, _arguments: Mapping[str, object]) -> Mapping[str, object]:
    raise ZeroDivisionError("a bug")


def _unsendable(_device: Device, _arguments: Mapping[str, object]) -> Mapping[str, object]:
    return {"value": object()}


if __name__ == "__main__":
    serve(
        int(sys.argv[1]),
        int(sys.argv[2]),
        {
            "temperature": _temperature,
            "many": _many,
            "module": _module,
            "call": _call,
            "once": _once,
            "driver": _driver,
            "bug": _bug,
            "unsendable": _unsendable,
        },
    )
