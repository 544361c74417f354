"""One request to the API server: what is shown of a failure, and what an answer may cost."""

from __future__ import annotations

import asyncio

from daemon.node_reports.cluster import Answer, ApiServer
from tests.support.fake_api_server import NODE, FakeApiServer


def asked(api: FakeApiServer) -> Answer:
    async def main() -> Answer:
        server = ApiServer(api.cluster, agent="xidwatch/test")
        try:
            return await server.request("GET", f"/api/v1/nodes/{NODE}")
        finally:
            await server.close()

    return asyncio.run(main())


def test_a_token_that_http_would_refuse_is_said_and_not_shown(api: FakeApiServer) -> None:
    api.cluster.token_file.write_text("s3cret\x01half")
    answer = asked(api)
    assert (answer.status, answer.said) == (None, f"{api.cluster.token_file} does not hold a token")
    assert api.requests == []


def test_an_answer_is_an_object(api: FakeApiServer) -> None:
    assert asked(api).body["status"]["conditions"]
