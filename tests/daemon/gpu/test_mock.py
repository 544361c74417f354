"""The invented fleet: like real readings, always marked, changed by commands and steps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from daemon.gpu.expected import ExpectedGpus, sightings
from daemon.gpu.mock import (
    DEFAULT,
    Command,
    Condition,
    MockFleet,
    MockSource,
    Scenario,
    ScenarioFile,
    load,
    parse,
)
from daemon.gpu.mock.h200 import BROKEN_LINK, LINKS, SWITCHES
from daemon.gpu.process import MOST_PID
from daemon.gpu.protocol import Trouble
from daemon.gpu.readings import Health, Reading
from daemon.gpu.source import GpuSource, SourceName, Sweep
from daemon.gpu.verdict import Code, State, judge
from probes.errors import UserError
from tests.support.events import TIME_US
from tests.support.fake_nvml import Scenario as NvmlScenario
from tests.support.gpu_reader import ReaderProcess


def source(text: str = "") -> MockSource:
    return MockSource(MockFleet(parse(text), wall_us=lambda: TIME_US))


def ask(question: Coroutine[Any, Any, Sweep]) -> tuple[Reading, ...]:
    return asyncio.run(question).gpus


def state_of(reading: Reading) -> State:
    return judge(reading.pci, reading, now_us=TIME_US).state


def error(text: str) -> tuple[str, str]:
    with pytest.raises(UserError) as caught:
        parse(text)
    return caught.value.message, caught.value.hint or ""


# -- the fleet -----------------------------------------------------------------------------------


def test_it_is_a_gpu_source_that_says_of_every_answer_that_it_is_a_mock() -> None:
    gpus: GpuSource = source()
    for question in (gpus.inventory, gpus.health, gpus.processes, gpus.nvlink, gpus.costly):
        sweep = asyncio.run(question())
        assert sweep.state.mock
        assert "invented" in (sweep.state.reason or "")
        assert len(sweep.gpus) == len(DEFAULT.gpus)
    asyncio.run(gpus.close())


def test_without_a_scenario_it_is_eight_h200_in_the_order_of_their_addresses() -> None:
    readings = ask(source().inventory())
    identities = [reading.identity for reading in readings]
    assert [identity.index for identity in identities if identity] == list(range(8))
    assert {identity.name for identity in identities if identity} == {"NVIDIA H200"}
    assert len({identity.uuid for identity in identities if identity}) == 8
    assert all(
        identity.pci == reading.pci
        for identity, reading in zip(identities, readings, strict=True)
        if identity
    )


def test_one_throttles_one_degrades_and_the_others_are_healthy() -> None:
    readings = ask(source().health())
    assert [state_of(reading) for reading in readings] == [State.HEALTHY] * 4 + [State.DEGRADED] * 2 + [
        State.HEALTHY
    ] * 2
    degrading = judge(readings[5].pci, readings[5], now_us=TIME_US)
    assert {Code.ROW_REMAP_PENDING, Code.NVLINK_DOWN} <= {reason.code for reason in degrading.reasons}


def test_one_is_cut_into_mig_instances_and_its_programs_run_in_them() -> None:
    gpus = source()
    identity = ask(gpus.inventory())[2].identity
    assert identity is not None
    assert identity.mig is not None
    instances = identity.mig.gpu_instances
    assert instances is not None
    assert [instance.profile for instance in instances] == ["MIG 3g.71gb", "MIG 2g.35gb", "MIG 1g.18gb"]
    processes = ask(gpus.processes())[2].processes
    assert processes is not None
    assert [(p.gi, p.ci) for p in processes.processes or ()] == [(instance.id, 0) for instance in instances]


def test_nvlinks_lead_to_the_switches_and_the_broken_one_is_down() -> None:
    readings = ask(source().nvlink())
    sound, broken = readings[0].nvlink, readings[5].nvlink
    assert sound is not None
    assert broken is not None
    assert sound.switches == SWITCHES
    assert [link.up for link in sound.links or ()] == [True] * LINKS
    assert [link.link for link in broken.links or () if not link.up] == [BROKEN_LINK]


def test_the_sums_of_the_links_agree_with_the_links() -> None:
    gpus = source()
    for by_sum, by_link in zip(ask(gpus.health()), ask(gpus.nvlink()), strict=True):
        assert by_sum.health is not None
        assert by_link.nvlink is not None
        links = by_link.nvlink.links or ()
        assert by_sum.health.nvlink.links_up == sum(link.up is True for link in links)
        assert by_sum.health.nvlink.crc_errors == sum(link.crc_errors or 0 for link in links)


def test_no_real_process_can_have_the_pid_of_an_invented_one() -> None:
    found = [
        p
        for reading in ask(source().processes())
        if reading.processes
        for p in reading.processes.processes or ()
    ]
    assert found
    assert all(process.pid > MOST_PID for process in found)
    assert len({process.pid for process in found}) == len(found)


def test_the_same_question_gets_the_same_answer() -> None:
    assert ask(source().health()) == ask(source().health())
    gpus = source()
    assert ask(gpus.health()) == ask(gpus.health())


def test_readings_survive_their_json_form() -> None:
    for reading in (*ask(source().health()), *ask(source().inventory()), *ask(source().nvlink())):
        assert Reading.from_json(json.loads(json.dumps(reading.to_json()))) == reading


def test_every_null_has_its_reason() -> None:
    health = ask(source().health())[0].health
    assert health is not None
    nulls = set(_nulls(health.to_json(), ""))
    explained = {
        path for path in nulls if any(path == key or path.startswith(f"{key}.") for key in health.unread)
    }
    assert nulls == explained


def _nulls(value: object, path: str) -> list[str]:
    if value is None:
        return [path]
    if not isinstance(value, dict):
        return []
    return [
        null
        for name, inner in value.items()
        if name != "unread"
        for null in _nulls(inner, f"{path}.{name}".strip("."))
    ]


def test_it_reads_what_nvml_reads_of_an_h200_and_lacks_what_that_lacks(fleet: NvmlScenario) -> None:
    reader = ReaderProcess(fleet)
    try:
        real = Health.from_json(reader.ask("health"))
    finally:
        reader.close()
    mock = ask(source().health())[0].health
    assert mock is not None
    assert dict(mock.unread) == dict(real.unread)
    assert set(_nulls(mock.to_json(), "")) == set(_nulls(real.to_json(), ""))
    for name in ("memory", "ecc", "row_remapping", "pcie", "nvlink", "fabric", "modes", "recovery_action"):
        assert getattr(mock, name) == getattr(real, name), name


def test_a_gpu_that_does_not_answer_is_still_known_by_the_files_of_the_driver() -> None:
    gpus = source()
    board = gpus.fleet.command(Command.FALL_OFF, "4")
    reading = ask(gpus.inventory())[4]
    assert not reading.answered
    assert reading.identity is not None
    assert (reading.identity.uuid, reading.identity.serial) == (board.uuid, None)


# -- commands and steps --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "trouble"), [(Command.FALL_OFF, Trouble.LOST), (Command.HANG, Trouble.HUNG)]
)
def test_a_gpu_falls_off_the_bus_or_hangs_on_command_and_comes_back(
    command: Command, trouble: Trouble
) -> None:
    gpus = source()
    gpus.fleet.command(command, "1")
    reading = ask(gpus.health())[1]
    assert (reading.answered, reading.trouble) == (False, trouble)
    assert state_of(reading) is State.UNHEALTHY
    assert [call.gpu for call in gpus.state().hung] == ([reading.pci] if command is Command.HANG else [])
    gpus.fleet.command(Command.COME_BACK, "1")
    assert state_of(ask(gpus.health())[1]) is State.HEALTHY
    assert gpus.fleet.condition(reading.pci) is Condition.BUSY
    assert gpus.state().hung == ()


def test_a_hanging_call_is_named_with_when_it_began() -> None:
    gpus = source('[[gpu]]\nstate = "hung"')
    (call,) = gpus.state().hung
    assert (call.call, call.since_us, call.trouble) == ("nvmlDeviceGetTemperature", TIME_US, Trouble.HUNG)


@pytest.mark.parametrize(
    ("command", "code"),
    [(Command.THROTTLE, Code.THERMAL_SLOWDOWN), (Command.DEGRADE, Code.ROW_REMAP_PENDING)],
)
def test_a_gpu_throttles_or_degrades_on_command(command: Command, code: Code) -> None:
    gpus = source()
    gpus.fleet.command(command, "GPU-a0")
    reading = ask(gpus.health())[0]
    assert code in {reason.code for reason in judge(reading.pci, reading, now_us=TIME_US).reasons}


def test_a_gpu_that_vanishes_is_missed_by_the_table_of_expected_gpus() -> None:
    gpus, table = source(), ExpectedGpus()

    def look(at_us: int) -> None:
        table.observe(sightings(ask(gpus.inventory())), asked_us=at_us, complete=True)

    look(TIME_US)
    board = gpus.fleet.command(Command.VANISH, "3")
    look(TIME_US + 1)
    assert [gpu.pci for gpu in table.lost()] == [board.pci]
    assert ask(gpus.health([board.pci]))[0].trouble == Trouble.NOT_FOUND


def test_a_fleet_of_which_all_have_vanished_is_a_driver_without_gpus() -> None:
    gpus = source('[[gpu]]\nstate = "gone"')
    assert gpus.state().name is SourceName.NO_GPU
    assert ask(gpus.health()) == ()


def test_a_command_for_a_gpu_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(UserError, match="no GPU of this node is '9'"):
        source().fleet.command(Command.HANG, "9")


def test_only_the_gpus_asked_for_answer_each_once() -> None:
    gpus = source()
    pci = list(gpus.fleet.boards)[4]
    assert [reading.pci for reading in ask(gpus.health([pci, pci]))] == [pci]
    assert ask(gpus.health(["0000:ff:00.0"]))[0].trouble == Trouble.NOT_FOUND


def test_steps_come_after_the_looks_they_wait_for() -> None:
    gpus = source('[[step]]\nafter_looks = 2\ngpu = 0\nstate = "lost"')
    assert [ask(gpus.health())[0].answered for _ in range(4)] == [True, True, False, False]


def test_steps_come_at_their_second_and_only_once() -> None:
    now = [100.0]
    text = """
    [[step]]
    at_s = 20
    gpu = 0
    state = "busy"
    [[step]]
    at_s = 10.5
    gpu = 0
    state = "lost"
    """
    gpus = MockSource(MockFleet(parse(text), wall_us=lambda: TIME_US, clock_s=lambda: now[0]))
    answered = []
    for now[0] in (100.0, 110.4, 110.5, 119.0, 120.0):
        answered.append(ask(gpus.health())[0].answered)
    assert answered == [True, True, False, False, True]
    gpus.fleet.command(Command.FALL_OFF, "0")
    assert not ask(gpus.health())[0].answered


# -- scenario files ------------------------------------------------------------------------------


def test_an_empty_scenario_is_the_default_one() -> None:
    assert parse("") == DEFAULT == Scenario(DEFAULT.gpus)


def test_a_scenario_says_who_is_there_and_what_they_do() -> None:
    found = parse(
        'driver = "550.54.15"\n'
        '[[gpu]]\nstate = "busy"\nmig = ["7g.141gb"]\n'
        '[[gpu]]\npci = "00000000:AB:00.0"\n'
        '[[step]]\nafter_looks = 5\ngpu = 1\nstate = "gone"\n'
        '[[step]]\nafter_looks = 1\ngpu = 0\nstate = "hung"'
    )
    assert found.driver_version == "550.54.15"
    assert [(gpu.board.pci, gpu.condition) for gpu in found.gpus] == [
        ("0000:1b:00.0", Condition.BUSY),
        ("0000:ab:00.0", Condition.IDLE),
    ]
    assert found.gpus[0].board.mig == ("7g.141gb",)
    assert [(step.after_looks, step.condition) for step in found.steps] == [(1, "hung"), (5, "gone")]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("drvier = 1", "unknown key 'drvier'", "did you mean 'driver'? valid ones are driver, gpu, step"),
        ("driver = 580", "driver is not a version", "write for example"),
        ('[[gpu]]\nstat = "busy"', "gpu 0 has an unknown key 'stat'", "valid ones are state, mig, pci"),
        ('[[gpu]]\nstate = "broken"', "there is no state 'broken'", "idle, busy, throttling"),
        ("[[gpu]]\nstate = 7", "there is no state 7", "idle, busy, throttling"),
        ('[[gpu]]\nmig = "1g.18gb"', "mig of gpu 0 is not a list", "write for example"),
        ('[[gpu]]\nmig = ["1g.10gb"]', "there is no profile '1g.10gb'", "1g.18gb"),
        ("[[gpu]]\nmig = [[1]]", "there is no profile [1]", "1g.18gb"),
        ('[[gpu]]\nmig = ["4g.71gb", "4g.71gb"]', "takes 8 compute and 8 memory slices", "7 and 8"),
        ('[[gpu]]\npci = "here"', "the pci of gpu 0 is not a PCI address", "write for example"),
        ('[[gpu]]\npci = "43:00.0"\n[[gpu]]', "two GPUs have the PCI address 0000:43:00.0", ""),
        ("gpu = 8", "gpu is not a list of tables", "write [[gpu]] before each"),
        ('[[step]]\ngpu = 0\nstate = "lost"', "step 1 has neither of at_s and after_looks", "a step needs"),
        ('[[step]]\nat_s = 1\nafter_looks = 1\ngpu = 0\nstate = "lost"', "both of at_s and", ""),
        ('[[step]]\nat_s = 1\nstate = "lost"', "step 1 has no gpu", "a step needs"),
        ('[[step]]\nat_s = "1s"\ngpu = 0\nstate = "lost"', "at_s of step 1 is not a number of seconds", ""),
        ('[[step]]\nat_s = nan\ngpu = 0\nstate = "lost"', "at_s of step 1 is not a number of seconds", ""),
        ('[[step]]\nafter_looks = -1\ngpu = 0\nstate = "lost"', "not a whole number from 0", ""),
        ('[[step]]\nafter_looks = true\ngpu = 0\nstate = "lost"', "not a whole number from 0", ""),
        ('[[step]]\nafter_looks = 0\ngpu = 8\nstate = "lost"', "gpu of step 1 is none of", "0 to 7"),
        ("driver = ", "it is not TOML", ""),
        ("driver = " + "[" * 5_000, "it is nested too deeply", ""),
        ("[[gpu]]\n" * 17, "there are 17 GPUs", "the most is 16"),
    ],
)  # fmt: skip
def test_what_a_scenario_cannot_hold_is_refused_naming_what_it_can(
    text: str, message: str, hint: str
) -> None:
    found = error(text)
    assert message in found[0]
    assert hint in found[1]


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    with pytest.raises(UserError, match=r"cannot read the mock scenario .*fleet\.toml: no such file"):
        load(path)
    path.write_text('[[gpu]]\nstate = "lost"')
    assert load(path).gpus[0].condition is Condition.LOST
    path.write_text("gpus = 8")
    with pytest.raises(
        UserError, match=r"the mock scenario .*fleet\.toml: the file has an unknown key 'gpus'"
    ):
        load(path)
    with pytest.raises(UserError, match="is not a file"):
        load(tmp_path)
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="is not UTF-8"):
        load(path)
    path.write_bytes(b"#" * 70_000)
    with pytest.raises(UserError, match="larger than 64 KiB"):
        load(path)


def test_a_file_that_is_saved_again_is_the_new_fleet(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text("[[gpu]]\n[[gpu]]")
    file = ScenarioFile(path)
    gpus = MockSource(MockFleet(file.first, wall_us=lambda: TIME_US), file)
    assert [reading.answered for reading in ask(gpus.health())] == [True, True]
    path.write_text('[[gpu]]\n[[gpu]]\nstate = "lost"')
    assert [reading.answered for reading in ask(gpus.health())] == [True, False]
    (tmp_path / "new").write_text("[[gpu]]\n[[gpu]]\n[[gpu]]")
    (tmp_path / "new").rename(path)
    assert [reading.answered for reading in ask(gpus.inventory())] == [True, True, True]


@pytest.mark.parametrize("broken", ['[[gpu]]\nstat = "lost"', "[[gpu", None])
def test_a_broken_new_file_leaves_the_fleet_as_it_was_and_every_answer_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text("[[gpu]]")
    file = ScenarioFile(path)
    gpus = MockSource(MockFleet(file.first), file)
    if broken is None:
        path.unlink()
    else:
        path.write_text(broken)
    for _ in range(3):
        sweep = asyncio.run(gpus.health())
        assert [reading.answered for reading in sweep.gpus] == [True]
        assert "the scenario before is in force" in (sweep.state.reason or "")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    path.write_text('[[gpu]]\nstate = "lost"')
    sweep = asyncio.run(gpus.health())
    assert [reading.answered for reading in sweep.gpus] == [False]
    assert "in force" not in (sweep.state.reason or "")


def test_a_call_that_hangs_hangs_on_over_a_new_file() -> None:
    now = [TIME_US]
    hangs = parse('[[gpu]]\nstate = "hung"')
    fleet = MockFleet(hangs, wall_us=lambda: now[0])
    now[0] += 5
    fleet.take(hangs)
    assert [call.since_us for call in fleet.hung()] == [TIME_US]
    fleet.take(parse("[[gpu]]"))
    fleet.take(hangs)
    assert [call.since_us for call in fleet.hung()] == [TIME_US + 5]


@pytest.mark.parametrize("met", ["", "# soon\n", 'driver = "580.159.04"\n', "[[gpu]]\n"])
def test_a_file_that_is_met_while_it_is_written_takes_no_gpu_away(tmp_path: Path, met: str) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text("[[gpu]]\n[[gpu]]\n[[gpu]]\n")
    file = ScenarioFile(path)
    gpus = MockSource(MockFleet(file.first), file)
    path.write_text(met)
    assert [reading.answered for reading in ask(gpus.health())] == [True] * 3
    path.write_text('[[gpu]]\n[[gpu]]\nstate = "lost"\n[[gpu]]\n')
    assert [reading.answered for reading in ask(gpus.health())] == [True, False, True]
    assert "in force" not in (gpus.state().reason or "")


def test_a_file_with_fewer_gpus_counts_once_it_has_rested(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text("[[gpu]]\n[[gpu]]\n")
    late_ns = [0]
    file = ScenarioFile(path, wall_ns=lambda: path.stat().st_mtime_ns + late_ns[0])
    path.write_text('[[gpu]]\nstate = "lost"\n')
    assert file.changed() is None
    late_ns[0] = 1_000_000_000
    changed = file.changed()
    assert changed is not None
    assert [gpu.condition for gpu in changed.gpus] == [Condition.LOST]


def test_a_file_that_names_no_gpu_any_more_is_refused_as_long_as_it_does_not(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text("[[gpu]]\n")
    file = ScenarioFile(path, wall_ns=lambda: path.stat().st_mtime_ns + 10**10)
    path.write_text("")
    assert file.changed() is None
    assert file.trouble is not None
    assert "names no GPU any more (write [[gpu]] for each" in file.trouble
