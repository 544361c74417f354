"""What the worker can read of a GPU: operations, each a `daemon.gpu.readings` payload as JSON.

Every operation takes a Device and the request's arguments. A reading that fails is null with its reason;
`DeviceGone` (the GPU is lost, the driver unloaded) ends the operation and passes to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from daemon.gpu.worker.reads.costly import costly
from daemon.gpu.worker.reads.health import health
from daemon.gpu.worker.reads.identity import identity
from daemon.gpu.worker.reads.links import nvlink
from daemon.gpu.worker.reads.mig import mig
from daemon.gpu.worker.reads.processes import processes
from daemon.gpu.worker.reads.reader import Device

OPERATIONS: Mapping[str, Callable[[Device, Mapping[str, object]], dict[str, object]]] = {
    "identity": identity,
    "health": health,
    "processes": processes,
    "nvlink": nvlink,
    "mig": mig,
    "costly": costly,
}
"""Operation of a request → what serves it."""
