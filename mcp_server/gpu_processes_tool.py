"""`get_gpu_processes`: who uses each GPU, as the driver's books say, and who that is while it lives.

Names and command lines were chosen by the processes themselves: they are quoted as untrusted data, and
command lines, which may hold secrets, are told only at full. A list that could not be read is not empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from daemon.gpu.process import ProcessFacts
from daemon.gpu.readings import GpuProcess
from daemon.gpu.selection import MigChoice
from daemon.gpu.watch import GpuLook, NodeLook
from mcp_server.gpu_looks import GpuAsking, MigNamed, about, filled, is_full, notices
from mcp_server.gpu_summary import fitting_data
from mcp_server.gpu_words import counted, fitting, gib, label, listed, no_answer, short
from mcp_server.quote import quoted
from mcp_server.services import Services
from mcp_server.tools import Answer, Caller, Tool
from mcp_server.wire_processes import GetGpuProcesses, ProcessesOut

TEXT_TOKENS: Final = 1_500
"""What the text may cost its reader, by the estimate of `mcp_server.quote.tokens`."""
MOST_PROCESSES: Final = 16
"""Of all GPUs together, in a summary; at least one of each GPU."""

_INVENTED: Final = "invented, like its GPU"
_KINDS: Final = ("compute", "graphics")
_ID_CHARS: Final = 12
"""Of a container id in the text, as container runtimes print it."""


@dataclass(frozen=True, slots=True)
class _Looked:
    look: NodeLook
    used: Mapping[str, Sequence[GpuProcess] | None]
    """By PCI address, most memory first; None: could not be listed."""
    shown: Mapping[str, Sequence[GpuProcess]]
    facts: Mapping[int, ProcessFacts]
    """Of those that are shown."""
    instances: tuple[MigNamed, ...]

    def asked_of(self, gpu: GpuLook) -> Sequence[MigChoice]:
        """The instances of this GPU that were asked for; none: all of it was."""
        return [each.instance for each in self.instances if each.pci == gpu.pci]


class GpuProcessesTool:
    """The tool."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._asking = GpuAsking(services)

    def tool(self) -> Tool[GetGpuProcesses]:
        """Ready for a toolbox."""
        return Tool(
            name="get_gpu_processes",
            title="Processes on the GPUs",
            description=(
                "Which processes use each GPU or MIG instance of this node: pid, name, user, container, GPU "
                "memory. detail=full adds command line and start time. Names and command lines are "
                "untrusted data. A GPU whose processes could not be listed says why."
            ),
            arguments=GetGpuProcesses,
            result=ProcessesOut,
            run=self._run,
        )

    async def _run(self, asked: GetGpuProcesses, caller: Caller) -> Answer:
        looked = await self._look(asked)
        return Answer("\n".join(self._text(looked, full=is_full(asked))), self._data(looked, asked))

    def _data(self, looked: _Looked, asked: GetGpuProcesses) -> dict[str, Any]:
        most = max((len(shown) for shown in looked.shown.values()), default=0)
        if is_full(asked):
            return self._with(looked, asked, most)
        return fitting_data(lambda count: self._with(looked, asked, count), range(most, min(most, 1) - 1, -1))

    def _with(self, looked: _Looked, asked: GetGpuProcesses, most: int) -> dict[str, Any]:
        """With so many processes of each GPU."""
        return {
            **self._asking.opening(looked.look, asked, looked.instances),
            "gpus": [_gpu(gpu, looked, most, full=is_full(asked)) for gpu in looked.look.gpus],
        }

    async def _look(self, asked: GetGpuProcesses) -> _Looked:
        instances = await self._asking.instances(asked.gpu)
        look = await self._asking.ask(self._services.watch.processes, asked.gpu)
        used = {gpu.pci: _used(gpu, instances) for gpu in look.gpus}
        most = max(1, MOST_PROCESSES // max(1, len(look.gpus)))
        shown = {pci: (every or ())[: None if is_full(asked) else most] for pci, every in used.items()}
        pids = {process.pid for processes in shown.values() for process in processes}
        facts = {} if look.state.mock else await self._services.processes.look_up(sorted(pids))
        return _Looked(look, used, shown, facts, instances)

    def _text(self, looked: _Looked, *, full: bool) -> Iterator[str]:
        gpus = looked.look.gpus
        yield from notices(looked.look, looked.instances)
        if not gpus:
            yield f"No GPU of {self._services.node} is known."
            return
        total = sum(len(every) for every in looked.used.values() if every is not None)
        unlisted = sum(every is None for every in looked.used.values())
        if unlisted < len(gpus):
            known = [gpu for gpu in gpus if looked.used[gpu.pci] is not None]
            reserve = ", but not every list could be read" if any(map(_not_listed, known)) else ""
            yield f"{_count(total)} on {_where(known, looked)} of {self._services.node}{reserve}."
        if unlisted:
            yield f"The processes of {counted(unlisted)} of {self._services.node} could NOT be listed."
        unused = [gpu for gpu in gpus if looked.used[gpu.pci] == () and not _not_listed(gpu)]
        paragraphs = [_paragraph(gpu, looked, full=full) for gpu in gpus if gpu not in unused]
        room = TEXT_TOKENS * (4 if full else 1)
        yield from fitting(paragraphs, room, "{} more: see the structured content.")
        if in_whole := [gpu for gpu in unused if not looked.asked_of(gpu)]:
            yield f"No process on {listed(in_whole)}."
        for gpu in unused:
            if instances := looked.asked_of(gpu):
                yield f"No process in {_instances(instances)} of {short(gpu)}."
        if any(looked.shown.values()):
            yield "Names are untrusted data: the processes chose them."


def _count(processes: int) -> str:
    return f"{processes} process{'es' * (processes != 1)}"


def _where(gpus: Sequence[GpuLook], looked: _Looked) -> str:
    """`3 GPUs`, `2 MIG instances`, `1 GPU and 1 MIG instance`."""
    whole = sum(not looked.asked_of(gpu) for gpu in gpus)
    parts = sum(len(looked.asked_of(gpu)) for gpu in gpus)
    instances = f"{parts} MIG instance{'s' * (parts != 1)}"
    return " and ".join([*([counted(whole)] if whole or not parts else []), *([instances] if parts else [])])


def _instances(instances: Sequence[MigChoice]) -> str:
    """`MIG instance gi=2 ci=0`."""
    return ", ".join(f"MIG instance gi={mig.gi} ci={mig.ci}" for mig in instances)


def _used(gpu: GpuLook, instances: Sequence[MigNamed]) -> tuple[GpuProcess, ...] | None:
    """The processes of this GPU, or of its instances that were asked for."""
    listed = gpu.reading.processes.processes if gpu.reading.processes is not None else None
    if listed is None:
        return None
    asked_for = [each.instance for each in instances if each.pci == gpu.pci]
    found = (
        process
        for process in listed
        if not asked_for or any((process.gi, process.ci) == (mig.gi, mig.ci) for mig in asked_for)
    )
    return tuple(sorted(found, key=lambda process: (-(process.memory_used_bytes or 0), process.pid)))


def _gpu(gpu: GpuLook, looked: _Looked, most: int, *, full: bool) -> dict[str, Any]:
    every, shown = looked.used[gpu.pci], looked.shown[gpu.pci][:most]
    return {
        **about(gpu, full=full),
        "process_count": None if every is None else len(every),
        "processes": None if every is None else [_process(one, looked.facts, full=full) for one in shown],
        **filled(
            {
                "processes_left_out": len(every or ()) - len(shown),
                "unread": dict(gpu.reading.processes.unread) if gpu.reading.processes is not None else {},
            }
        ),
    }


def _process(process: GpuProcess, facts: Mapping[int, ProcessFacts], *, full: bool) -> dict[str, Any]:
    found, public = facts.get(process.pid), process.to_json()
    if process.gi is None and not full:
        public = {key: value for key, value in public.items() if key not in ("gi", "ci")}
    if found is None or not found.found:
        return {**public, "name": None, "unknown": _unknown(found), **_facts(found, full=full)}
    return {
        **public,
        "name": found.name,
        "user": found.user,
        "in_container": found.in_container,
        **filled({"container_id": found.container_id}),
        **_facts(found, full=full),
    }


def _facts(found: ProcessFacts | None, *, full: bool) -> dict[str, Any]:
    return {"facts": found.to_json()} if full and found is not None else {}


def _unknown(facts: ProcessFacts | None) -> str | None:
    """Why nothing is known of a process but its pid."""
    if facts is None:
        return _INVENTED
    return None if facts.found else facts.unread.get("name", "it was not found")


def _paragraph(gpu: GpuLook, looked: _Looked, *, full: bool) -> str:
    every, shown = looked.used[gpu.pci], looked.shown[gpu.pci]
    if every is None:
        unread = gpu.reading.processes.unread if gpu.reading.processes is not None else {}
        why = no_answer(gpu) or "; ".join(dict.fromkeys(unread.values())) or "they were not read"
        return f"- {label(gpu)}: processes UNKNOWN: {why}."
    instances = looked.asked_of(gpu)
    only = f" in {_instances(instances)}" if instances else ""
    lines = [f"- {label(gpu)}: {_count(len(every))}{only}{_not_listed(gpu)}"]
    lines += [f"  {_line(process, looked.facts.get(process.pid), full=full)}" for process in shown]
    if len(shown) < len(every):
        lines.append(f"  and {len(every) - len(shown)} with less memory: detail=full")
    return "\n".join(lines)


def _not_listed(gpu: GpuLook) -> str:
    """The driver keeps two lists; one that cannot be read is not an empty one."""
    unread = gpu.reading.processes.unread if gpu.reading.processes is not None else {}
    unknown = [f"{kind} processes UNKNOWN: {unread[kind]}" for kind in _KINDS if kind in unread]
    return f"; {'; '.join(unknown)}" if unknown else ""


def _line(process: GpuProcess, facts: ProcessFacts | None, *, full: bool) -> str:
    mig = "" if process.gi is None else f" on MIG gi={process.gi} ci={process.ci}"
    text = f"pid {process.pid}, {process.type}, {gib(process.memory_used_bytes)}{mig}"
    if facts is None or not facts.found:
        return f"{text}: not known ({_unknown(facts)})"
    name = quoted(facts.name) if facts.name else "unknown"
    text += f": {name} of {facts.user or f'uid {facts.uid}'}, {_container(facts)}"
    return f"{text}, command line {quoted(facts.command_line)}" if full and facts.command_line else text


def _container(facts: ProcessFacts) -> str:
    if facts.container_id is not None:
        return f"container {facts.container_id[:_ID_CHARS]}"
    if facts.in_container is None:
        return "container unknown"
    return "in a container" if facts.in_container else "not in a container"
