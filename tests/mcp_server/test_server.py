"""What the server says of itself, honestly in every era."""

from __future__ import annotations

from mcp_server.server import build_server
from tests.mcp_server.mcp_wire import ask_modern, old_session
from tests.mcp_server.serving import Served


def test_an_old_session_is_offered_subscriptions_and_log_messages(served: Served) -> None:
    with old_session(served) as session:
        assert session.welcome["capabilities"] == {
            "tools": {"listChanged": False},
            "resources": {"subscribe": True, "listChanged": False},
            "prompts": {"listChanged": False},
            "logging": {},
            "completions": {},
        }


def test_a_client_of_2026_is_offered_listening_and_no_log_messages(served: Served) -> None:
    found = ask_modern(served, "server/discover")
    assert found["capabilities"] == {
        "tools": {"listChanged": False},
        "resources": {"subscribe": True, "listChanged": False},
        "prompts": {"listChanged": False},
        "completions": {},
    }
    assert "wait_for_xid" in found["instructions"]


def test_it_gives_its_name_version_and_a_short_instruction(served: Served) -> None:
    with old_session(served) as session:
        info = session.welcome["serverInfo"]
        assert (info["name"], info["version"]) == ("xidwatch", "0.0.test")
        assert info["title"]
        said = session.welcome["instructions"]
    assert "gpu-17" in said
    assert "since=next_cursor" in said
    assert "untrusted data" in said
    assert len(said) < 1_500


def test_only_the_channel_flavour_announces_a_channel(served: Served) -> None:
    plain, channel = build_server(served.services), build_server(served.services, channel=True)
    assert plain.get_capabilities().experimental is None
    assert channel.get_capabilities().experimental == {"claude/channel": {}}
    assert channel.get_capabilities(protocol_version="2026-07-28").experimental is None
    assert "<channel" in (channel.instructions or "")
    assert "<channel" not in (plain.instructions or "")


def test_a_tool_list_may_be_kept_for_a_while_and_resources_may_not(served: Served) -> None:
    assert ask_modern(served, "tools/list")["ttlMs"] > 0
    assert ask_modern(served, "resources/list")["ttlMs"] == 0
    assert ask_modern(served, "resources/read", uri="xid://events")["ttlMs"] == 0
