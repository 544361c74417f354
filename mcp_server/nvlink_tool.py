"""`get_nvlink_topology`: where each GPU's NVLinks lead, which are down, and what errors they count.

It tells what was read and judges nothing: a board may leave links unwired, and whether a link that is
down is a fault is `get_gpu_health`'s to say.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from daemon.gpu.readings import Link
from daemon.gpu.watch import GpuLook, NodeLook
from mcp_server.gpu_looks import GpuAsking, about, filled, index_of, is_full, notices, whole
from mcp_server.gpu_words import counted, fitting, label, listed, no_answer
from mcp_server.services import Services
from mcp_server.tools import Answer, Caller, Tool
from mcp_server.wire_nvlink import GetNvlinkTopology, NvLinkOut

TEXT_TOKENS: Final = 1_500
"""What the text may cost its reader, by the estimate of `mcp_server.quote.tokens`."""

_COUNTERS: Final = ("replay_errors", "recovery_errors", "crc_errors")
_SWITCH: Final = "switch"


class NvLinkTool:
    """The tool."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._asking = GpuAsking(services)

    def tool(self) -> Tool[GetNvlinkTopology]:
        """Ready for a toolbox."""
        return Tool(
            name="get_nvlink_topology",
            title="NVLink topology",
            description=(
                "How the GPUs of this node are connected by NVLink: to which GPUs and NVSwitches, how many "
                "links are up, which are down, their speed and error counters. detail=full has each link. "
                "get_gpu_health judges whether a link that is down is a fault."
            ),
            arguments=GetNvlinkTopology,
            result=NvLinkOut,
            run=self._run,
        )

    async def _run(self, asked: GetNvlinkTopology, caller: Caller) -> Answer:
        instances = await self._asking.instances(asked.gpu)
        look = await self._asking.ask(self._services.watch.nvlink, asked.gpu)
        data = {
            **self._asking.opening(look, asked, instances),
            "nvswitches": _switches(look),
            "gpus": [_gpu(gpu, full=is_full(asked)) for gpu in look.gpus],
        }
        return Answer("\n".join([*notices(look, instances), *self._text(look)]), data)

    def _text(self, look: NodeLook) -> Iterator[str]:
        if not look.gpus:
            yield f"No GPU of {self._services.node} is known."
            return
        alike: dict[str, list[GpuLook]] = defaultdict(list)
        lines = []
        for gpu in look.gpus:
            text = _state(gpu, look.gpus)
            if text is None:
                lines.append(_unknown(gpu))
            else:
                alike[text].append(gpu)
        yield f"NVLink of {counted(len(look.gpus))} on {self._services.node}:"
        told = [
            f"- {label(gpus[0]) if len(gpus) == 1 else f'{listed(gpus)}, each'}: {text}."
            for text, gpus in alike.items()
        ]
        yield from fitting([*lines, *told], TEXT_TOKENS, "{} more: see the structured content.")
        if any(_sums(gpu)["links_down"] for gpu in look.gpus):
            yield "A board may leave links unwired: get_gpu_health says whether one that is down is a fault."


def _links(gpu: GpuLook) -> tuple[Link, ...] | None:
    return gpu.reading.nvlink.links if gpu.reading.nvlink is not None else None


def _gpu(gpu: GpuLook, *, full: bool) -> dict[str, Any]:
    links, nvlink = _links(gpu), gpu.reading.nvlink
    unread = nvlink.unread if nvlink is not None else {}
    return {
        **about(gpu, full=full),
        **_sums(gpu),
        **filled(
            {
                "links_unknown": [link.link for link in links or () if link.up is None],
                "peers": _peers_json(links or ()) if full or not _all_switched(links) else [],
                "links": [whole(link) for link in links or ()] if full else None,
                "unread": dict(unread) if full else _unread_as_a_whole(unread),
            }
        ),
    }


def _peers_json(links: Sequence[Link]) -> list[dict[str, Any]]:
    return [{"type": kind, "pci": pci, "links": count} for (kind, pci), count in _peers(links).items()]


def _unread_as_a_whole(unread: Mapping[str, str]) -> dict[str, str]:
    """Reasons that are not about single links."""
    return {path: why for path, why in unread.items() if not path.startswith("links.")}


def _sums(gpu: GpuLook) -> dict[str, Any]:
    """The links in a few numbers. A sum is null when no link gave its part."""
    links = _links(gpu)
    if links is None:
        names = ("links_total", "links_up", "links_down", "speed_mb_per_s", *_COUNTERS)
        return dict.fromkeys(names)
    return {
        "links_total": len(links),
        "links_up": sum(link.up is True for link in links),
        "links_down": [link.link for link in links if link.up is False],
        "speed_mb_per_s": _sum(link.speed_mb_per_s for link in links),
        **{name: _sum(getattr(link, name) for link in links) for name in _COUNTERS},
    }


def _sum(values: Iterator[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _peers(links: Sequence[Link]) -> Counter[tuple[str, str | None]]:
    """What is at the other ends, and by how many links."""
    return Counter((link.remote_type or "unknown", link.remote_pci) for link in links)


def _all_switched(links: Sequence[Link] | None) -> bool:
    return links is not None and all(link.remote_type == _SWITCH for link in links)


def _switches(look: NodeLook) -> list[dict[str, Any]] | None:
    """Those that the links lead to; None when no links could be read."""
    if all(_links(gpu) is None for gpu in look.gpus):
        return None
    found: dict[str, list[tuple[str, Link]]] = defaultdict(list)
    for gpu in look.gpus:
        for link in _links(gpu) or ():
            if link.remote_type == _SWITCH and link.remote_pci is not None:
                found[link.remote_pci].append((gpu.pci, link))
    return [
        {
            "pci": pci,
            "links": len(ends),
            "links_down": sum(link.up is False for _, link in ends),
            "gpus": len({gpu for gpu, _ in ends}),
        }
        for pci, ends in sorted(found.items())
    ]


def _state(gpu: GpuLook, every: Sequence[GpuLook]) -> str | None:
    """The links of one GPU in words; None when they were not read."""
    links, sums = _links(gpu), _sums(gpu)
    if links is None:
        return None
    parts = [f"{sums['links_up']} of {sums['links_total']} links up"]
    if sums["links_down"]:
        parts.append(f"DOWN: link {', '.join(map(str, sums['links_down']))}")
    if unknown := [str(link.link) for link in links if link.up is None]:
        parts.append(f"state unknown: link {', '.join(unknown)}")
    if sums["speed_mb_per_s"] is not None:
        parts.append(f"{sums['speed_mb_per_s']} MB/s each way")
    parts.append(", ".join(_to(kind, pci, count, every) for (kind, pci), count in _peers(links).items()))
    parts.append(_errors(sums))
    return "; ".join(part for part in parts if part)


def _errors(sums: Mapping[str, Any]) -> str:
    if all(sums[name] == 0 for name in _COUNTERS):
        return "no errors counted"
    said = {name: "unknown" if sums[name] is None else sums[name] for name in _COUNTERS}
    return ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in said.items())


def _to(kind: str, pci: str | None, count: int, every: Sequence[GpuLook]) -> str:
    what = {_SWITCH: "NVSwitch", "gpu": "GPU"}.get(kind, kind)
    index = next((index_of(gpu) for gpu in every if gpu.pci == pci), None)
    return f"{count} to {what} {index if index is not None else pci or 'unknown'}"


def _unknown(gpu: GpuLook) -> str:
    unread = gpu.reading.nvlink.unread if gpu.reading.nvlink is not None else {}
    why = no_answer(gpu) or unread.get("links") or "; ".join(dict.fromkeys(unread.values()))
    return f"- {label(gpu)}: links unknown: {why or 'they were not read'}."
