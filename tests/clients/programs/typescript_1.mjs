// A client made with version 1 of the TypeScript SDK; see `sdk.py` for what it is told and tells.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';

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

const client = new Client({ name: 'typescript-1.x', version: '1.0.0' });
client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) =>
  tell({ pushed: params._meta?.['xidwatch/event'], via: 'resources/updated', uri: params.uri }),
);
client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) =>
  tell({ pushed: params.data, via: 'message' }),
);
const wire = transport();
const setVersion = wire.setProtocolVersion?.bind(wire); // stdio has none
let version;
wire.setProtocolVersion = (agreed) => {
  version = agreed;
  setVersion?.(agreed);
};
await client.connect(wire);
tell({ connected: version });
if (spec.since !== null) {
  tell({ read: await readOn(client, spec.since) });
} else {
  const result = await client.callTool({ name: 'get_xid_events', arguments: { limit: 1 } });
  tell({ called: result.structuredContent });
  await client.subscribeResource({ uri: EVENTS });
  tell({ subscribed: EVENTS });
  for await (const _ of process.stdin); // until the test closes it
}
await client.close();
