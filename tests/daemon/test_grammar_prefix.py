"""Prefixes of saved logs: kmsg, dmesg, journal."""

from __future__ import annotations

import pytest

from daemon.grammar import strip_prefix
from probes.line import Origin

XID = "NVRM: Xid (PCI:0000:01:00): 79, x"


@pytest.mark.parametrize(
    ("prefix", "origin"),
    [
        ("", Origin.UNKNOWN),
        ("4,359,26994671,c;", Origin.KERNEL),
        ("4,359,26994671,-,caller=T1;", Origin.KERNEL),
        ("4,1227,437812449,c,1,-;", Origin.KERNEL),
        ("12,1227,437812449,-;", Origin.USERSPACE),
        # `dmesg -r` of util-linux 2.38.1 writes the facility and the level ORed into one digit.
        ("<4>[  201.650687] ", Origin.UNKNOWN),
        ("<12>[ 6515.870443] ", Origin.USERSPACE),
        ("kern  :warn  : 2025-01-21T02:21:33,499059+00:00 ", Origin.KERNEL),
        ("kern  :err   : [  117.985304] ", Origin.KERNEL),
        ("user  :warn  : [  117.985304] ", Origin.USERSPACE),
        ("[  117.985304] ", Origin.UNKNOWN),
        ("[  117.985304][    T1] ", Origin.UNKNOWN),
        ("[Sat Oct 12 18:35:32 2024] ", Origin.UNKNOWN),
        ("[Feb27 15:10] ", Origin.UNKNOWN),
        ("[  +0.000021] ", Origin.UNKNOWN),
        ("[...] ", Origin.UNKNOWN),
        ("2024-11-15T12:02:03,498753+00:00 ", Origin.UNKNOWN),
        ("kernel: ", Origin.UNKNOWN),
        ("kernel: [16450076.435595] ", Origin.UNKNOWN),
        ("May 27 16:50:10 fedora kernel: ", Origin.UNKNOWN),
        ("May  7 16:50:10.123456 fedora kernel: ", Origin.UNKNOWN),
        ("kwi 15 07:56:59 testowy kernel: ", Origin.UNKNOWN),
        ("Okt 06 17:59:27 balrog kernel: ", Origin.UNKNOWN),
        ("févr. 22 14:56:44 hôte kernel: ", Origin.UNKNOWN),
        ("11月 22 14:56:44 host kernel: ", Origin.UNKNOWN),
        ("Nov 22 14:56:44 cctv-MS-7B17 kernel: [94555.573307] ", Origin.UNKNOWN),
        ("2025-01-17T17:39:30+0000 host.example kernel: ", Origin.UNKNOWN),
        ("Thu 2024-11-21 16:50:10 UTC host kernel: ", Origin.UNKNOWN),
        ("Thu 2024-11-21 16:50:10 CEST host kernel: ", Origin.UNKNOWN),
        ("[   12.345678] host kernel: ", Origin.UNKNOWN),
        ("1732222222.123456 host kernel: ", Origin.UNKNOWN),
        ("May 27 16:50:10 kernel: ", Origin.UNKNOWN),
    ],
)
def test_a_known_prefix_is_taken_off_and_says_who_printed(prefix: str, origin: Origin) -> None:
    assert strip_prefix(prefix + XID) == (XID, origin)


@pytest.mark.parametrize(
    "line",
    [
        f"May 27 16:50:10 host dcgm-exporter[123]: {XID}",
        f"May 27 16:50:10 host sshd[1]: kernel: {XID}",
        f"May 27 16:50:10 host app: error from kernel: {XID}",
        f"app says kernel: {XID}",
        f"xkernel: {XID}",
        f"6,x,2,-;{XID}",
        f"-1,1,2,-;{XID}",
        f"x,1,2,-;{XID}",
    ],
)
def test_a_line_of_another_program_keeps_its_prefix(line: str) -> None:
    assert strip_prefix(line) == (line, Origin.UNKNOWN)


def test_kmsg_escapes_are_decoded_and_the_dictionary_dropped() -> None:
    record = (
        "6,1093,4096000,-,caller=T1;nvidia\\x0a\\xc3\\xbc\\x5c: on\n SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0"
    )
    assert strip_prefix(record) == ("nvidia\nü\\: on", Origin.KERNEL)
