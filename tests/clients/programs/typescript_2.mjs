// A client made with version 2 of the TypeScript SDK; see `sdk.py` for what it is told and tells.

import { Client, SSEClientTransport, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

const EVENTS = 'xid://events';
const spec = JSON.parse(process.argv[2]);
const tell = (what) => console.log(JSON.stringify(what));

function transport() {
  if (spec.transport === 'stdio') {
    const [command, ...args] = spec.command;
    return new StdioClientTransport({ command, args, env: spec.env, cwd: spec.cwd });
  }
  const Transport = spec.transport === 'sse' ? SSEClientTransport : StreamableHTTPClientTransport;
  return new Transport(new URL(spec.url));
}

async function readOn(client, since) {
  const events = [];
  for (;;) {
    const result = await client.callTool({ name: 'get_xid_events', arguments: { since, limit: 2 } });
    const page = result.structuredContent;
    events.push(...page.events);
    if (page.next_cursor === page.newest_cursor) return events;
    since = page.next_cursor;
  }
}

const mode = spec.era === 'legacy' ? 'legacy' : { pin: spec.era };
const client = new Client({ name: 'typescript-2.x', version: '1.0.0' }, { versionNegotiation: { mode } });
client.setNotificationHandler('notifications/resources/updated', ({ params }) =>
  tell({ pushed: params._meta?.['xidwatch/event'], via: 'resources/updated', uri: params.uri }),
);
client.setNotificationHandler('notifications/message', ({ params }) =>
  tell({ pushed: params.data, via: 'message' }),
);
await client.connect(transport());
tell({ connected: client.getNegotiatedProtocolVersion() });
if (spec.since !== null) {
  tell({ read: await readOn(client, spec.since) });
} else {
  const result = await client.callTool({ name: 'get_xid_events', arguments: { limit: 1 } });
  tell({ called: result.structuredContent });
  if (spec.era === 'legacy') await client.subscribeResource({ uri: EVENTS });
  else await client.listen({ resourceSubscriptions: [EVENTS] });
  tell({ subscribed: EVENTS });
  for await (const _ of process.stdin); // until the test closes it
}
await client.close();
