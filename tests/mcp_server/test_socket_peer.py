"""Who is at the other end of the unix socket, and what they may do: real processes of other users."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_server.access import Access
from mcp_server.identity import Scope
from mcp_server.socket_peer import Peer, SocketOperators
from probes.errors import UserError
from tests.mcp_server.serving import Served
from tests.support.waiting import DEADLINE_S

NOBODY = 65534
SOMEBODY = 12_345
GROUP = 23_456

TALK = """
import json, os, socket, sys
path, line, uid, gid = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
os.setgroups(json.loads(sys.argv[5]))
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
client = socket.socket(socket.AF_UNIX)
client.connect(path)
client.sendall(line.encode() + b"\\n")
sys.stdout.write(client.makefile().readline())
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


def test_root_the_own_user_and_those_named_may_operate_and_others_read() -> None:
    operators = SocketOperators(frozenset({os.geteuid(), SOMEBODY}), frozenset({GROUP}))
    may = {
        Peer(1, 0, frozenset({0})): True,
        Peer(1, os.geteuid(), frozenset({NOBODY})): True,
        Peer(1, SOMEBODY, frozenset({NOBODY})): True,
        Peer(1, NOBODY, frozenset({1, GROUP})): True,
        Peer(1, NOBODY, frozenset({NOBODY})): False,
    }
    for peer, operates in may.items():
        identity = operators.identity(peer)
        assert identity.may(Scope.READ)
        assert identity.may(Scope.OPERATE) is operates, peer
        assert (identity.who.uid, identity.who.pid) == (peer.uid, 1)


def test_users_and_groups_are_named_by_name_or_number() -> None:
    operators = SocketOperators.of(("root", "12345", "@root", "@23456"))
    assert operators.uids == {0, SOMEBODY, os.geteuid()}
    assert operators.gids == {0, GROUP}
    assert str(operators.identity(Peer(7, 0, frozenset())).who) == "uid 0 (root), pid 7"
    assert (
        str(operators.identity(Peer(0, SOMEBODY, frozenset())).who) == "uid 12345, pid of another namespace"
    )


@pytest.mark.parametrize(("name", "said"), [("no-such-user", "no user"), ("@no-such-group", "no group")])
def test_a_user_or_group_that_does_not_exist_is_refused_at_start(name: str, said: str) -> None:
    with pytest.raises(UserError, match=f"--socket-operators: there is {said} {name.strip('@')}") as caught:
        SocketOperators.of((name,))
    assert "number" in (caught.value.hint or "")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    async def let_go() -> dict[str, object]:
        return {"reader": "gone", "events": None, "tracepoint": None}

    operators = SocketOperators(frozenset({SOMEBODY}), frozenset({GROUP}))
    path = tmp_path / "s"
    with Served(socket_path=path, access=Access(operators=operators), let_go_of_driver=let_go) as running:
        path.chmod(0o666)
        for each in (tmp_path, *tmp_path.parents[:2]):
            each.chmod(each.stat().st_mode | 0o011)
        yield running


def ask_as(served: Served, want: str, uid: int, groups: tuple[int, ...] = ()) -> dict[str, Any]:
    line = json.dumps({"xidwatch": {"want": want}})
    arguments = [str(served.socket_path), line, str(uid), str(NOBODY), json.dumps(groups)]
    command = [sys.executable, "-c", TALK, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@as_root
def test_another_user_may_read_and_not_have_the_driver_let_go_of(served: Served) -> None:
    assert ask_as(served, "status", NOBODY)["node"] == "gpu-17"
    refused = ask_as(served, "release-driver", NOBODY)
    assert "may not have the driver let go of" in refused["error"]
    assert f"uid {NOBODY}" in refused["error"]
    assert "--socket-operators" in refused["hint"]


@as_root
@pytest.mark.parametrize(("uid", "groups"), [(0, ()), (SOMEBODY, ()), (NOBODY, (7, GROUP))])
def test_root_a_named_user_and_a_member_of_a_named_group_may(
    served: Served, uid: int, groups: tuple[int, ...]
) -> None:
    assert ask_as(served, "release-driver", uid, groups)["reader"] == "gone"
