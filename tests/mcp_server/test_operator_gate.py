"""Who may use the operator tools, and what is left of those who may not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from daemon.operator.audit import AuditEntry, OperatorAction, Outcome
from daemon.operator.who import Way, Who
from mcp_server.identity import ANONYMOUS, IDENTITY, OPERATING, READING, Identity
from mcp_server.operator_gate import RECORDED_AGAIN_S, OperatorGate
from mcp_server.refused import Reason, Refusals


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def whoever() -> Iterator[None]:
    before = IDENTITY.set(ANONYMOUS)
    yield
    IDENTITY.reset(before)


def test_only_those_who_may_operate_are_let_in() -> None:
    gate = OperatorGate(OperatorAction.RESET_GPU, list[AuditEntry]().append, Refusals())
    assert not gate.lets_in()
    IDENTITY.set(Identity(Who(Way.TOKEN, "dash"), READING))
    assert not gate.lets_in()
    IDENTITY.set(Identity(Who(Way.TOKEN, "on-call"), OPERATING))
    assert gate.lets_in()


@pytest.mark.parametrize(
    ("who", "said", "hint"),
    [
        (Who(Way.ANONYMOUS), "whoever asks over HTTP without a token may read", "--token-file"),
        (Who(Way.TOKEN, "dash"), "token dash may read", "--scope operate"),
        (Who(Way.OAUTH, "alice", "https://a.example"), "alice of https://a.example may read", "granted"),
        (Who(Way.SOCKET, "bob", uid=1000, pid=7), "uid 1000 (bob), pid 7 may read", "--socket-operators"),
        (Who(Way.CERTIFICATE, "CN=x"), "certificate CN=x may read", "--token-file"),
    ],
)
def test_everybody_else_is_told_what_would_let_them_in(who: Who, said: str, hint: str) -> None:
    IDENTITY.set(Identity(who, READING))
    error = OperatorGate(OperatorAction.RESET_GPU, list[AuditEntry]().append, Refusals()).refuse(None)
    assert error.message == f"{said}, and reset_gpu needs the scope operate"
    assert hint in (error.hint or "")


def test_somebody_who_tries_again_and_again_is_counted_and_is_one_record_a_minute() -> None:
    clock, records, refusals = Clock(), list[AuditEntry](), Refusals()
    gate = OperatorGate(OperatorAction.RESET_GPU, records.append, refusals, now=clock)
    for _ in range(100):
        gate.refuse("client 1")
    assert [(each.outcome, each.asked_by) for each in records] == [(Outcome.REFUSED, "client 1")]
    clock.now += RECORDED_AGAIN_S
    gate.refuse("client 1")
    assert records[1].sentence.endswith("99 more such calls since the last record.")
    assert refusals.counts()[Reason.SCOPE] == 101


def test_the_processes_of_one_user_are_one_record_a_minute_together() -> None:
    clock, records, refusals = Clock(), list[AuditEntry](), Refusals()
    gate = OperatorGate(OperatorAction.RESET_GPU, records.append, refusals, now=clock)
    for uid in (1000, 1001):
        for pid in range(50):
            IDENTITY.set(Identity(Who(Way.SOCKET, uid=uid, pid=pid), READING))
            gate.refuse(None)
    assert [each.sentence.partition(" may read")[0] for each in records] == [
        "uid 1000, pid of another namespace",
        "uid 1001, pid of another namespace",
    ]
    assert refusals.counts()[Reason.SCOPE] == 100
