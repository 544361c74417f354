"""NVLink: how many links, which are up, what they are connected to, and their errors.

State and errors come as field values, all links in one call. On Hopper and later the counters of a link
are fields with the link as scope; before, each link has fields of its own (`…_L7`, up to 12 links).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from daemon import pci
from daemon.gpu.readings import Link, NvLink, NvLinkSums
from daemon.gpu.worker.reads.convert import as_is, named, whole
from daemon.gpu.worker.reads.reader import Device, Field, GpuReader, call, lasting

_REMOTE_TYPES = {0: "gpu", 1: "npu", 2: "switch", 255: "unknown"}
_ERRORS = {
    "replay_errors": "NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY",
    "recovery_errors": "NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY",
    "crc_errors": "NVML_FI_DEV_NVLINK_ERROR_DL_CRC",
}
_ERRORS_BEFORE_HOPPER = {
    "replay_errors": "NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_L",
    "recovery_errors": "NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_L",
    "crc_errors": "NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_L",
}
_LINKS_BEFORE_HOPPER = 12
_GOOD_FOR_S = 60.0
_SUMMED = (
    "nvlink.links_up",
    "nvlink.links_down",
    *(f"nvlink.{name}" for name in _ERRORS),
    "nvlink.errors_age_s",
)
_OTHERS = {
    "speed_mb_per_s": "NVML_FI_DEV_NVLINK_GET_SPEED",
    "version": "NVML_FI_DEV_NVLINK_GET_VERSION",
    "remote_link": "NVML_FI_DEV_NVLINK_REMOTE_NVLINK_ID",
    "receive_errors": "NVML_FI_DEV_NVLINK_COUNT_RCV_ERRORS",
    "symbol_errors": "NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS",
    "effective_errors": "NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS",
    "recoveries": "NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS",
    "recoveries_failed": "NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS",
}
_HIDDEN = "the driver gives no address for the other end: it is not in this (virtual) machine"
_DOWN = "the link is down"
_NOT_WHEN_DOWN = ("speed_mb_per_s", "remote_type", "remote_pci", "remote_link")


def nvlink(device: Device, _arguments: Mapping[str, object]) -> dict[str, object]:
    """`readings.NvLink` as JSON: every link with its peer."""
    read = GpuReader(device)
    count = _count(read, "links")
    if count is None:
        return NvLink(unread=read.unread).to_json()
    links = range(count)
    up = _up(read, links)
    counters = _counters(read, links)
    read.unread |= counters.reasons
    values = counters.values | read.fields(
        {
            f"links.{link}.{name}": Field(constant, link)
            for link in links
            for name, constant in _OTHERS.items()
        }
    )
    answer = [_link(read, link, up.get(link), values) for link in links]
    return NvLink(links=tuple(answer), unread=_folded(read.unread, count)).to_json()


def sums(read: GpuReader) -> NvLinkSums:
    """The links of a GPU in a few numbers; reasons go under `nvlink.…`.

    The states are read now. The error counters of 18 links take 9 to 16 ms a GPU (H200, driver 580), more
    than all else together, and GPUs read at once wait for each other: those of the last minute will do.
    """
    count = _count(read, "nvlink.links")
    if count is None:
        read.note(_SUMMED, read.unread["nvlink.links"])
        return NvLinkSums()
    own = read.apart()
    up = _up(own, range(count))
    whole_read = len(up) == count
    if not whole_read:
        read.note(_SUMMED[:2], next(iter(own.unread.values())))
    counters = _counters(own, range(count), good_for_s=_GOOD_FOR_S)
    totals = counters.totals(count)
    for name in _ERRORS:
        if name not in totals:
            read.note(f"nvlink.{name}", counters.reason(name))
    return NvLinkSums(
        links=count,
        links_up=sum(up.values()) if whole_read else None,
        links_down=tuple(link for link, state in up.items() if not state) if whole_read else None,
        replay_errors=totals.get("replay_errors"),
        recovery_errors=totals.get("recovery_errors"),
        crc_errors=totals.get("crc_errors"),
        errors_age_s=round(counters.age_s(), 1),
    )


@dataclass(frozen=True, slots=True)
class _Counters:
    """The error counters of all links by path, and the reasons for those that are not there."""

    values: dict[str, int]
    reasons: dict[str, str]
    at: float = field(default_factory=time.monotonic)

    def age_s(self) -> float:
        return time.monotonic() - self.at

    def reason(self, name: str) -> str:
        """Why there is no total."""
        return next(reason for path, reason in self.reasons.items() if path.endswith(f".{name}"))

    def totals(self, links: int) -> dict[str, int]:
        """Kind of error → sum, for kinds that every link was read of: a partial sum would hide errors."""
        totals = {}
        for name in _ERRORS:
            counts = [self.values.get(f"links.{link}.{name}") for link in range(links)]
            known = [count for count in counts if count is not None]
            if len(known) == links:
                totals[name] = sum(known)
        return totals


def _count(read: GpuReader, path: str) -> int | None:
    asked = {path: Field("NVML_FI_DEV_NVLINK_LINK_COUNT")}
    return read.field_facts(path, asked).get(path)


def _up(read: GpuReader, links: Iterable[int]) -> dict[int, bool]:
    states = {
        link: read.get(f"links.{link}.up", call(whole, "nvmlDeviceGetNvLinkState", link)) for link in links
    }
    return {link: state != 0 for link, state in states.items() if state is not None}


def _counters(read: GpuReader, links: range, *, good_for_s: float = 0.0) -> _Counters:
    """The error counters, read now or not longer ago than this."""
    kept: dict[str, _Counters] = read.device.once("nvlink error counters", dict)
    last = kept.get("last")
    if last is not None and last.age_s() < good_for_s:
        return last
    counters = _read_counters(read, links)
    if counters.values or all(map(lasting, counters.reasons.values())):
        kept["last"] = counters
    return counters


def _read_counters(read: GpuReader, links: range) -> _Counters:
    """As this generation of GPUs gives them.

    Asked link by link: then NVML reads a link once for its three counters. By kind of error it takes three
    times as long (38 ms instead of 14, driver 580).
    """
    asking = read.apart()
    values = asking.fields(
        {
            f"links.{link}.{name}": Field(constant, link)
            for link in links
            for name, constant in _ERRORS.items()
        }
    )
    if values or len(links) > _LINKS_BEFORE_HOPPER:
        return _Counters(values, asking.unread)
    asking = read.apart()
    before = _ERRORS_BEFORE_HOPPER.items()
    values = asking.fields(
        {f"links.{link}.{name}": Field(f"{constant}{link}") for link in links for name, constant in before}
    )
    return _Counters(values, asking.unread)


def _link(read: GpuReader, link: int, up: bool | None, values: Mapping[str, int]) -> Link:
    def value(name: str) -> int | None:
        return values.get(f"links.{link}.{name}")

    if up is False:
        read.note([f"links.{link}.{name}" for name in _NOT_WHEN_DOWN], _DOWN)
        kind, address = None, None
    else:
        kind, address = _peer(read, link)
    return Link(
        link=link,
        up=up,
        speed_mb_per_s=value("speed_mb_per_s") if up is not False else None,
        version=value("version"),
        remote_type=kind,
        remote_pci=address,
        remote_link=value("remote_link") if up is not False else None,
        replay_errors=value("replay_errors"),
        recovery_errors=value("recovery_errors"),
        crc_errors=value("crc_errors"),
        receive_errors=value("receive_errors"),
        symbol_errors=value("symbol_errors"),
        effective_errors=value("effective_errors"),
        recoveries=value("recoveries"),
        recoveries_failed=value("recoveries_failed"),
    )


def _peer(read: GpuReader, link: int) -> tuple[str | None, str | None]:
    kind = read.get(f"links.{link}.remote_type", call(whole, "nvmlDeviceGetNvLinkRemoteDeviceType", link))
    info = read.get(f"links.{link}.remote_pci", call(as_is, "nvmlDeviceGetNvLinkRemotePciInfo", link))
    address = _address(info) if info is not None else None
    if info is not None and address is None:
        read.note(f"links.{link}.remote_pci", _HIDDEN)
    return named(_REMOTE_TYPES, kind) if kind is not None else None, address


def _address(info: object) -> str | None:
    # A virtual machine that is not given the NVSwitches is told FFFFFFFF:FF:FF.0 (driver 580).
    text = str(getattr(info, "busId", ""))
    return None if text.upper().startswith("FFFFFFFF") else pci.normalize(text)


def _folded(unread: Mapping[str, str], count: int) -> dict[str, str]:
    """Reasons that all links share, said once: `links.*.symbol_errors`."""
    shared: dict[tuple[str, str], list[str]] = {}
    for path, reason in unread.items():
        shared.setdefault((path.rpartition(".")[2], reason), []).append(path)
    folded: dict[str, str] = {}
    for (name, reason), paths in shared.items():
        if len(paths) == count > 1:
            folded[f"links.*.{name}"] = reason
        else:
            folded.update(dict.fromkeys(paths, reason))
    return folded
