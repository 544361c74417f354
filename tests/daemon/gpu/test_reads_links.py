"""NVLink: each link, and their sums in the health."""

from __future__ import annotations

from tests.support.fake_nvml import Scenario
from tests.support.gpu_reader import (
    NOT_SUPPORTED,
    UNKNOWN,
    UNSUPPORTED,
    ReaderProcess,
    everything_null_has_a_reason,
    without_field,
)


def test_every_link_has_its_peer_and_its_counters(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.field("161,3", 12, type=3)
    links = reader.ask("nvlink")["links"]
    assert len(links) == 18
    assert links[3]["replay_errors"] == 12
    assert links[2]["replay_errors"] == 0
    assert (links[3]["up"], links[3]["speed_mb_per_s"]) == (True, 26562)
    assert (links[3]["remote_type"], links[3]["remote_pci"]) == ("switch", "0000:07:00.0")


def test_what_no_link_can_tell_is_said_once(reader: ReaderProcess) -> None:
    unread = reader.ask("nvlink")["unread"]
    assert unread["links.*.symbol_errors"] == UNSUPPORTED
    assert not any(path.startswith("links.0") for path in unread)


def test_a_link_that_is_down_has_neither_speed_nor_peer(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.answers("nvmlDeviceGetNvLinkState(5)", 0)
    read = reader.ask("nvlink")
    link = read["links"][5]
    assert (link["up"], link["speed_mb_per_s"], link["remote_pci"]) == (False, None, None)
    assert read["unread"]["links.5.speed_mb_per_s"] == "the link is down"
    sums = reader.ask("health")["nvlink"]
    assert (sums["links"], sums["links_up"], sums["links_down"]) == (18, 17, [5])


def test_a_peer_outside_this_virtual_machine_has_no_address(
    reader: ReaderProcess, scenario: Scenario
) -> None:
    nowhere = "FFFFFFFF:FF:FF.0"
    for link in range(18):
        scenario.answers(
            f"nvmlDeviceGetNvLinkRemotePciInfo_v2({link})", "FFFF:FF:FF.0", 0, 0, 0, 0, 0, nowhere
        )
    read = reader.ask("nvlink")
    assert read["links"][0]["remote_type"] == "switch"
    assert read["links"][0]["remote_pci"] is None
    assert "no address" in read["unread"]["links.*.remote_pci"]


def test_a_gpu_without_nvlink_has_no_list_of_links(reader: ReaderProcess, scenario: Scenario) -> None:
    without_field(scenario, "91", NOT_SUPPORTED)
    assert reader.ask("nvlink") == {"links": None, "unread": {"links": UNSUPPORTED}}
    health = reader.ask("health")
    everything_null_has_a_reason(health)
    assert health["nvlink"]["links_up"] is None


def test_before_hopper_each_link_has_counters_of_its_own(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.field(91, 12)
    for field in (161, 162, 163):
        without_field(scenario, field, NOT_SUPPORTED)
    for field in (*range(32, 38), *range(96, 102), *range(46, 52), *range(108, 114)):
        scenario.field(field, field, type=3)
    read = reader.ask("nvlink")
    assert [link["crc_errors"] for link in read["links"]] == [*range(32, 38), *range(96, 102)]
    assert [link["replay_errors"] for link in read["links"]] == [*range(46, 52), *range(108, 114)]
    assert read["unread"]["links.*.recovery_errors"] == UNSUPPORTED


def test_sums_tell_of_all_links_or_of_none(reader: ReaderProcess, scenario: Scenario) -> None:
    scenario.field("161,3", 12, type=3)
    scenario.field("161,4", 30, type=3)
    without_field(scenario, "162,9", UNKNOWN)
    health = reader.ask("health")
    assert health["nvlink"]["replay_errors"] == 42
    assert health["nvlink"]["recovery_errors"] is None
    assert health["unread"]["nvlink.recovery_errors"] == "unknown error"


def test_counters_of_the_last_minute_are_not_read_again(reader: ReaderProcess, scenario: Scenario) -> None:
    first = reader.ask("health")["nvlink"]
    assert first["errors_age_s"] == 0.0
    scenario.field("161,3", 12, type=3)
    assert reader.ask("health", again=True)["nvlink"]["replay_errors"] == 0
    assert reader.ask("nvlink", again=True)["links"][3]["replay_errors"] == 12
