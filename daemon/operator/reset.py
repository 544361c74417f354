"""Resetting a GPU through the driver's own tool.

Refused while processes run on a GPU that would be reset. Which GPUs those are is the driver's rule
(nvidia-smi(1), --gpu-reset): from Ampere on a GPU is reset alone; before that, all GPUs that NVLink
connects are reset by one command. Where an Ampere or later GPU needs its peers too (NVSwitches and no
Fabric Manager), the tool says so and resets nothing. It also refuses a GPU that is in use, so that a
process that comes after the last check is not hit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from daemon.gpu.numbering import index_alone
from daemon.gpu.process import ProcessReader
from daemon.gpu.selection import Choice
from daemon.gpu.watch import GpuLook, GpuWatch
from daemon.operator.audit import OperatorAction, Outcome
from daemon.operator.driver_tool import NAME, DriverTool
from daemon.operator.holding import gpu_name, refuse_mock, running_on, unlisted
from daemon.operator.plan import Ending, Plan, quoted
from probes.errors import UserError

RESET_S: Final = 120.0
"""How long a reset may take. It takes seconds; a GPU whose firmware does not answer takes a minute."""
RESET_TOGETHER: Final = frozenset({"kepler", "maxwell", "pascal", "volta", "turing"})
"""Architectures before Ampere, named as `Identity.architecture` is."""

_SHOWN = 8


class Driver(Protocol):
    """How this program's own use of the driver is stopped and taken up again (`NvmlSource` is one)."""

    def release(self) -> None:
        """Let go of the driver's device files until the next question."""

    def forgive(self, gpu: str) -> None:
        """Ask this GPU, a PCI address, again although a call on it hung."""


@dataclass(frozen=True, slots=True)
class ResetRequest:
    """What was asked for."""

    gpu: str
    """Names one GPU, see `daemon.gpu.selection`."""
    force: bool = False
    """Also when the processes on it cannot be read; never when some are known to run."""


@dataclass(frozen=True, slots=True)
class ResetTarget:
    """What would be run."""

    command: tuple[str, ...]
    gpus: tuple[str, ...]
    """PCI addresses."""


class ResetOperation:
    """An `Operation`; see the module's docstring. Belongs to the event loop."""

    action = OperatorAction.RESET_GPU

    def __init__(
        self,
        watch: GpuWatch,
        reader: ProcessReader,
        driver: Driver | None,
        *,
        tool: DriverTool | None = None,
        deadline_s: float = RESET_S,
    ) -> None:
        """`driver` is None where this program holds no device files."""
        self._watch = watch
        self._reader = reader
        self._driver = driver
        self._tool = tool or DriverTool()
        self._deadline_s = deadline_s

    async def plan(self, request: ResetRequest) -> Plan[ResetTarget]:
        """What would be reset. Raises UserError when it is refused."""
        refuse_mock(self._watch)
        gpu = await self._one(request.gpu)
        tool = self._tool.path()
        self._tool.check_idle()
        look = await self._watch.inventory([gpu.pci])
        group = await self._group(gpu, look.gpus)
        affected = [*_affected(group, look.gpus), *await self._refuse_used(group, request)]
        target = ResetTarget((tool, "--gpu-reset", "-i", ",".join(_id(each) for each in group)), _pcis(group))
        names = " and ".join(gpu_name(each.pci, each.index, each.uuid) for each in group)
        return Plan(
            action=self.action,
            target=target,
            sentence=f"Reset {names}: run {' '.join(target.command)}, for at most {self._deadline_s:g} s.",
            affected=tuple(affected),
            gpus=target.gpus,
            detail={
                "command": list(target.command),
                "gpus": [{"pci": each.pci, "uuid": each.uuid, "index": each.index} for each in group],
                "forced": request.force,
            },
        )

    async def act(self, request: ResetRequest, plan: Plan[ResetTarget], begin: Callable[[], None]) -> Ending:
        """Reset what the plan names. Raises UserError when it is refused."""
        now = await self.plan(request)
        if now.target != plan.target:
            raise UserError(
                "what would be reset is not what was confirmed: the GPUs of this node have changed",
                hint="look at get_gpu_inventory",
            )
        self._tool.check_idle()
        begin()
        if self._driver is not None:
            self._driver.release()
        run = await self._tool.run(plan.target.command, deadline_s=self._deadline_s)
        detail: dict[str, object] = {"output": run.output, "problem": run.problem, "answers": None}
        if run.problem is not None:
            return Ending(Outcome.FAILED, f"The reset FAILED: {run.problem}.", detail)
        silent = [gpu async for gpu in self._silent(plan.gpus)]
        detail["answers"] = not silent
        if silent:
            text = f"{NAME} reported success, but not all answer: {'; '.join(silent)}."
            return Ending(Outcome.FAILED, text, detail)
        which = "The GPU was" if len(plan.gpus) == 1 else f"{len(plan.gpus)} GPUs were"
        return Ending(
            Outcome.DONE, f"{which} reset and answers. See get_gpu_health for how it is now.", detail
        )

    async def _one(self, name: str) -> Choice:
        """The whole GPU that `name` means."""
        if not name.strip():
            raise UserError("no GPU is named", hint="give its index, UUID or PCI address")
        selected = await self._watch.selected([name])
        if len(selected) != 1:
            raise UserError(f"{len(selected)} GPUs are named", hint="reset one after the other")
        if selected[0].mig is not None:
            raise UserError(
                "a MIG instance cannot be reset alone",
                hint=f"name its GPU: {selected[0].gpu}; all instances on it go with the reset",
            )
        gpu = selected[0].gpu
        if index_alone(gpu.pci) is not None:
            raise UserError(
                f"the PCI address of GPU {gpu.index} is not known: a call on it does not return",
                hint="lspci -d 10de: lists the addresses; without one that is known nothing is reset",
            )
        return gpu

    async def _group(self, gpu: Choice, looks: Sequence[GpuLook]) -> tuple[Choice, ...]:
        """The GPUs that the driver resets with this one, by PCI address."""
        look = looks[0]
        if look.reading.lost or (look.expected is not None and look.expected.is_lost):
            raise UserError(
                f"{gpu_name(gpu.pci, gpu.index, gpu.uuid)} is lost: the driver no longer reaches it, nor "
                "would a reset",
                hint="reboot the node, or cycle its power if that does not bring the GPU back",
            )
        if look.identity is None or look.identity.architecture not in RESET_TOGETHER:
            return (gpu,)
        linked = await self._linked(gpu.pci)
        known = await self._watch.selected(())
        return tuple(sorted((each.gpu for each in known if each.gpu.pci in linked), key=lambda one: one.pci))

    async def _linked(self, pci: str) -> set[str]:
        """This GPU and those it reaches by NVLink, over switches and other GPUs too."""
        look = await self._watch.nvlink()
        ends: dict[str, set[str]] = {}
        for gpu in look.gpus:
            nvlink = gpu.reading.nvlink
            if nvlink is None or (nvlink.links is None and "links" not in nvlink.unread):
                raise UserError(
                    f"the NVLinks of GPU {gpu.pci} cannot be read, and the driver resets GPUs of this "
                    f"architecture together with all they are linked to: {gpu.reading.reason or 'no answer'}",
                    hint="reset all GPUs of the node by hand, or reboot it",
                )
            ends[gpu.pci] = {link.remote_pci for link in nvlink.links or () if link.up and link.remote_pci}
        reached, new = {pci}, [pci]
        while new:
            near = ends.get(new.pop(), set())
            # Two GPUs are linked when one names the other, or both name the same switch.
            for other, theirs in ends.items():
                if other not in reached and (other in near or near & theirs):
                    reached.add(other)
                    new.append(other)
        return reached

    async def _refuse_used(self, group: Sequence[Choice], request: ResetRequest) -> list[str]:
        """What is not known of the processes on these GPUs, where that was allowed. Raises UserError."""
        look = await self._watch.processes([gpu.pci for gpu in group])
        users = sorted({pid for gpu in look.gpus for pid in running_on(gpu)})
        if users:
            number = "1 process uses" if len(users) == 1 else f"{len(users)} processes use"
            shown = ", ".join(map(self._name, users[:_SHOWN])) + (", …" if len(users) > _SHOWN else "")
            raise UserError(
                f"{number} what would be reset: {shown}",
                hint="end them first, with kill_gpu_process or whatever started them",
            )
        unknown = [text for gpu in look.gpus if (text := unlisted(gpu)) is not None]
        if len(look.gpus) < len(group):
            unknown.append(look.state.reason or "not every GPU was answered for")
        if unknown and not request.force:
            raise UserError(
                f"whether processes use what would be reset cannot be told: {'; '.join(unknown)}",
                hint="make sure of it on the node, then pass force=true",
            )
        return [f"NOT KNOWN whether processes use it, and those would fail: {text}." for text in unknown]

    def _name(self, pid: int) -> str:
        name = self._reader.facts(pid).name
        return f"{pid} {quoted(name)}" if name else str(pid)

    async def _silent(self, gpus: Sequence[str]) -> AsyncIterator[str]:
        """The GPUs that do not answer after their reset, and why."""
        for gpu in gpus:
            if self._driver is not None:
                self._driver.forgive(gpu)
        look = await self._watch.inventory(gpus)
        for each in look.gpus:
            if not each.reading.answered:
                yield f"{each.pci}: {each.reading.reason or 'no answer'}"


def _id(gpu: Choice) -> str:
    """As nvidia-smi takes it: never the index, which changes when a GPU is lost."""
    return gpu.uuid or gpu.pci


def _pcis(gpus: Sequence[Choice]) -> tuple[str, ...]:
    return tuple(gpu.pci for gpu in gpus)


def _affected(group: Sequence[Choice], looks: Sequence[GpuLook]) -> Iterator[str]:
    if len(group) > 1:
        yield "The driver resets GPUs of this architecture together with all that NVLink connects them to."
    yield (
        "What their memory holds is lost, and volatile ECC counters start again. Row remappings, ECC and MIG "
        "modes that are pending take effect."
    )
    for look in looks:
        layout = look.identity.mig if look.identity is not None else None
        if layout is not None and layout.gpu_instances:
            number = len(layout.gpu_instances)
            yield f"The {number} MIG instances of GPU {look.pci} are destroyed and have to be made anew."
        elif layout is None or layout.gpu_instances is None:
            yield f"Whether GPU {look.pci} has MIG instances, which a reset destroys, is not known."
    yield "xidwatch lets go of the GPUs meanwhile and looks at them again afterwards."
