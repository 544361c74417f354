"""MCP messages that nobody should send, on every transport and in both eras.

Requests are generated from the tools' own input schemas, valid and nearly valid, and then bent: ids, types,
huge numbers, deep nesting, keys twice, half surrogate pairs, NaN. Every request gets exactly one well-formed
answer with its id, every structured answer keeps the tool's output schema, and the daemon serves on.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it comes without types
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server.rpc import MAX_ID_LENGTH
from tests.mcp_server.speaking import MODERN_META, modern
from tests.support.bystander import Bystander, open_files
from tests.support.daemon import Daemon
from tests.support.fault_lab import Happened, fault, rounds
from tests.support.kernel_log import FakeKernelLog
from tests.support.mcp_wires import WIRES, ModernWire
from tests.support.memory import rss_kib
from tests.support.waiting import wait_for

GROWTH_KIB = 60 * 1024
"""What the daemon may grow by over all of a test: the caches of a first use, and what fragments."""
SOON_S = st.sampled_from([0, 0.0, -0.0, 0.01, "0.02"])
NEVER_S = st.sampled_from([-1, 601, 1e400, math.nan, -math.inf, "nan", "soon", [], {}, True, 10**400])


@dataclass(frozen=True, slots=True)
class Victim:
    """A daemon that is sent all this, somebody who should not notice, and what the daemon says it takes."""

    daemon: Daemon
    bystander: Bystander
    tools: dict[str, dict[str, Any]]
    """As tools/list has them, by name."""


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """One daemon with GPUs for all the messages of this file."""
    directory: Path = tmp_path_factory.mktemp("mcp")
    with FakeKernelLog(directory / "kmsg") as log:
        daemon = Daemon(directory, kmsg=log.path, flags=["--gpu", "mock"])
        try:
            daemon.start()
            with Bystander(daemon, log) as bystander:
                bystander.hears()
                with modern(daemon.port, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}) as answer:
                    tools = {tool["name"]: tool for tool in answer.json()["result"]["tools"]}
                yield Victim(daemon, bystander, tools)
                bystander.hears()
                bystander.asks()
                bystander.check_that_all_is_kept()
        finally:
            assert daemon.stop() == 0
        assert "Traceback" not in daemon.log.read_text()


# ---- what is sent ------------------------------------------------------------------------------------

BENT_NUMBERS = st.sampled_from(
    [-1, 0, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400, 1e308, 1e400, -1e400, math.nan, 0.1, -0.0]
)
BENT_TEXTS = st.sampled_from(
    [
        "",
        "\0",
        "\x1b[2J",
        "\ud800",
        "\udfff\ud800",
        "\u2028",
        "\ufeff",
        "\u0130",
        "²",
        "٣",
        "9" * 5000,
        "a," * 2000,
    ]
)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), BENT_NUMBERS, BENT_TEXTS, st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=8), BENT_TEXTS), inner, max_size=3),
    ),
    max_leaves=6,
)
KEYS = [
    "0000:91:00.0",
    "GPU-11111111-2222-3333-4444-555555555555",
    "0",
    "79",
    "ev_0",
    "inc_0",
    "24h",
    "2026-11-22",
]


def nested(depth: int) -> Any:
    """A list of lists, so deep."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def valid(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a JSON schema, as far as those of the tools go."""
    if "anyOf" in schema:
        return st.one_of([valid(schema | {"anyOf": None} | one) for one in schema["anyOf"] or ()])
    if schema.get("enum"):
        return st.sampled_from(schema["enum"])
    least, most = schema.get("minimum"), schema.get("maximum")
    texts = st.text(max_size=min(30, schema.get("maxLength", 30)))
    by_type = {
        "string": st.one_of(st.sampled_from(KEYS), texts),
        "integer": st.integers(least, most),
        "number": st.floats(least, most, allow_nan=False),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    if schema["type"] == "array":
        return st.lists(valid(schema["items"]), max_size=4)
    return by_type[schema["type"]]


def arguments_of(tool: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Arguments of a tool: valid, nearly valid, and no arguments at all."""
    fields = tool["inputSchema"]["properties"]
    sound = {
        name: valid({k: v for k, v in schema.items() if v is not None}) for name, schema in fields.items()
    }
    bent = {name: st.one_of(strategy, ANYTHING) for name, strategy in sound.items()}
    if "timeout_s" in fields:  # nobody waits for an hour here: always given, and short or not valid
        always = {"timeout_s": st.one_of(SOON_S, NEVER_S)}
        sound, bent = (
            {name: strategy for name, strategy in each.items() if name != "timeout_s"}
            for each in (sound, bent)
        )
        return st.one_of(
            st.fixed_dictionaries({"timeout_s": SOON_S}, optional=sound),
            st.fixed_dictionaries(always, optional=bent | {"unknown": ANYTHING}),
        )
    whole = st.fixed_dictionaries({}, optional=sound)
    return st.one_of(whole, whole, st.fixed_dictionaries({}, optional=bent | {"unknown": ANYTHING}), ANYTHING)


URIS = st.one_of(
    st.sampled_from(
        ["xid://events", "xid://incidents", "gpu://inventory", "node://status", "xid://catalog/79"]
    ),
    st.builds(
        "xid://{}/{}".format, st.sampled_from(["events", "incidents", "catalog"]), st.sampled_from(KEYS)
    ),
    st.builds("gpu://{}/{}".format, st.sampled_from(KEYS), st.sampled_from(["events", "health", "x"])),
    st.text(max_size=30),
    BENT_TEXTS,
)
PROMPTS = ["gpu-health-check", "diagnose-xid-errors", "gpu-triage"]
REFS = st.one_of(
    st.fixed_dictionaries({"type": st.just("ref/prompt"), "name": st.sampled_from([*PROMPTS, "x"])}),
    st.fixed_dictionaries(
        {"type": st.just("ref/resource"), "uri": st.sampled_from(["xid://events/{id}", "x"])}
    ),
    ANYTHING,
)


def calls(tools: dict[str, dict[str, Any]]) -> st.SearchStrategy[tuple[str, Any]]:
    """Method and params of requests to everything that is offered, and to what is not."""
    strings = st.dictionaries(
        st.sampled_from(["gpu", "since", "code", "incident"]), st.sampled_from([*KEYS, ""])
    )
    return st.one_of(
        *(
            st.tuples(
                st.just("tools/call"),
                st.fixed_dictionaries({"name": st.just(name), "arguments": arguments_of(tool)}),
            )
            for name, tool in tools.items()
        ),
        st.tuples(st.just("resources/read"), st.fixed_dictionaries({"uri": URIS})),
        st.tuples(
            st.sampled_from(["resources/subscribe", "resources/unsubscribe"]),
            st.fixed_dictionaries({"uri": URIS}),
        ),
        st.tuples(
            st.just("prompts/get"),
            st.fixed_dictionaries(
                {"name": st.sampled_from([*PROMPTS, "x"])},
                optional={"arguments": st.one_of(strings, ANYTHING)},
            ),
        ),
        st.tuples(
            st.just("completion/complete"),
            st.fixed_dictionaries(
                {
                    "ref": REFS,
                    "argument": st.fixed_dictionaries(
                        {"name": st.sampled_from(["id", "gpu"]), "value": BENT_TEXTS}
                    ),
                }
            ),
        ),
        st.tuples(
            st.sampled_from(
                [
                    "ping",
                    "tools/list",
                    "resources/list",
                    "prompts/list",
                    "server/discover",
                    "logging/setLevel",
                    "initialize",
                ]
            ),
            st.one_of(
                st.just({}), st.dictionaries(st.sampled_from(["cursor", "level", "x"]), ANYTHING), ANYTHING
            ),
        ),
        st.tuples(st.one_of(st.text(max_size=20), BENT_TEXTS), ANYTHING),
    )


IDS = st.one_of(
    st.integers(-(2**53), 2**53),
    st.text(min_size=1, max_size=20),
    st.sampled_from(["_GET_stream", "0", "\n", "\u2028", "\ud800", "9" * 300, 10**250, 10**300, 2**64]),
    st.sampled_from([None, True, 1.5, math.nan, [], {}, nested(3)]),
)
HEADS = st.sampled_from(
    [{"jsonrpc": "2.0"}] * 12 + [{"jsonrpc": "1.0"}, {}, {"jsonrpc": "2.0", "result": {}}]
)
SHAPES = st.sampled_from(["plain"] * 12 + ["key twice", "nested", "deeply nested", "batch", "cut", "no id"])


@dataclass(frozen=True, slots=True)
class Bent:
    """One message as it is sent, and what the protocol lets its sender expect."""

    text: bytes
    id: Any
    """What an answer has to carry; None where the protocol has no id for it."""
    is_request: bool
    """True: well-formed, so answered, with its id. False: answered with an error, or no request at all."""
    tool: str | None


def bend(asked: tuple[str, Any], number: Any, head: dict[str, Any], shape: str, *, modern: bool) -> Bent:
    """Put a message together."""
    method, params = asked
    if modern and isinstance(params, dict):
        params = {**params, "_meta": MODERN_META}
    message = {**head, "id": number, "method": method, "params": params}
    if shape == "no id":
        del message["id"]
    text = json.dumps(message)
    match shape:
        case "key twice":
            text = f'{text[:-1]}, "method": {json.dumps(method)}}}'
        case "nested" | "deeply nested":
            depth = 150 if shape == "nested" else 50_000
            text = f'{text[:-1]}, "more": {"[" * depth}{"]" * depth}}}'
        case "batch":
            text = f"[{text}]"
        case "cut":
            text = text[: len(text) // 2]
    name = params.get("name") if method == "tools/call" and isinstance(params, dict) else None
    return Bent(text.encode(), number, is_sound(text, head, shape), name)


def is_sound(text: str, head: dict[str, Any], shape: str) -> bool:
    """Whether this is a request as JSON-RPC and MCP define it, of what any reader of JSON can read."""
    if shape not in ("plain", "key twice") or head != {"jsonrpc": "2.0"}:
        return False
    try:
        message = json.loads(text)
        text.encode().decode("unicode_escape").encode()  # half a surrogate pair is no text
    except ValueError:
        return False
    number = message["id"]
    is_id = (
        isinstance(number, int | str) and not isinstance(number, bool) and len(str(number)) <= MAX_ID_LENGTH
    )
    return (
        is_id and isinstance(message["params"], dict) and not message["method"].startswith("notifications/")
    )


# ---- what comes back ---------------------------------------------------------------------------------


def check(answers: list[dict[str, Any]], sent: Bent, tools: dict[str, dict[str, Any]]) -> str:
    """One well-formed answer, with its id; what sort it is, for the count."""
    assert len(answers) <= 1, (sent, answers)
    if sent.is_request:
        assert len(answers) == 1, sent
    if not answers:
        return "not answered, being no request"
    [answer] = answers
    assert answer["jsonrpc"] == "2.0"
    assert ("result" in answer) != ("error" in answer), answer
    if "error" in answer:
        assert isinstance(answer["error"]["code"], int)
        assert isinstance(answer["error"]["message"], str)
        assert "Traceback" not in answer["error"]["message"]
        assert answer["error"]["code"] != INTERNAL_ERROR, (sent, answer)
        assert answer.get("id") is None or answer["id"] == sent.id, (sent, answer)
        return "refused by the protocol"
    assert answer["id"] == sent.id, (sent, answer)
    result = answer["result"]
    if sent.tool is None:
        return "answered"
    assert all(part["type"] == "text" and part["text"] for part in result["content"])
    if result.get("isError"):
        assert "Internal error" not in result["content"][0]["text"], (sent, answer)
        return "refused by a tool"
    jsonschema.validate(result["structuredContent"], tools[sent.tool]["outputSchema"])
    return "answered by a tool"


INTERNAL_ERROR = -32603


@pytest.mark.parametrize("wire", WIRES)
@fault(
    "random JSON-RPC made from the tools' own schemas, valid, nearly valid and bent",
    promise=4,
    promised="each request gets one answer with its id; each result keeps its schema; nothing breaks",
)
def test_every_request_gets_one_answer_that_keeps_the_schema(
    victim: Victim, wire: str, happened: Happened
) -> None:
    daemon, tools = victim.daemon, victim.tools
    before, before_kib, seen = open_files(daemon), rss_kib(daemon), Counter[str]()
    speaking = WIRES[wire](daemon)
    is_modern = isinstance(speaking, ModernWire)

    @settings(
        max_examples=rounds(short=150, long=20_000),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(calls(tools), IDS, HEADS, SHAPES)
    def send(asked: tuple[str, Any], number: Any, head: dict[str, Any], shape: str) -> None:
        sent = bend(asked, number, head, shape, modern=is_modern)
        answers = speaking.exchange(sent.text, wants_answer=sent.is_request)
        seen[check(answers, sent, tools)] += 1
        if sum(seen.values()) % 100 == 0:
            victim.bystander.hears()

    try:
        send()
    finally:
        speaking.close()
    victim.bystander.asks()
    wait_for(lambda: open_files(daemon) <= before, "what the client left open to be closed")
    growth_kib = rss_kib(daemon) - before_kib
    assert growth_kib < GROWTH_KIB
    kinds = "; ".join(f"{count:,} {kind}" for kind, count in seen.most_common())
    happened(f"{wire}: {sum(seen.values()):,} messages: {kinds}")


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("number", ["\ud800", None, 1.5, True, [], {}], ids=repr)
def test_an_id_that_is_none_is_refused_and_the_session_goes_on(
    victim: Victim, wire: str, number: Any
) -> None:
    speaking = WIRES[wire](victim.daemon)
    try:
        for method in ("ping", 7):
            message = {"jsonrpc": "2.0", "id": number, "method": method}
            [answer] = speaking.exchange(json.dumps(message).encode(), wants_answer=True)
            assert "error" in answer
            assert answer.get("id") in (None, number)
        notification = {"jsonrpc": "2.0", "id": None, "method": "notifications/cancelled"}
        assert len(speaking.exchange(json.dumps(notification).encode(), wants_answer=False)) <= 1
    finally:
        speaking.close()


@pytest.mark.parametrize("wire", ["unix socket", "/sse"])
def test_an_id_as_long_as_a_message_does_not_come_back(victim: Victim, wire: str) -> None:
    speaking = WIRES[wire](victim.daemon)
    try:
        message = {"jsonrpc": "2.0", "id": "9" * 200_000, "method": 7}
        [answer] = speaking.exchange(json.dumps(message).encode(), wants_answer=True)
        assert answer["id"] is None
    finally:
        speaking.close()
