// Drives MCP with the official client against the server at argv[2]; prints one JSON object.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const client = new Client({ name: "test", version: "1.0.0" });
await client.connect(new StreamableHTTPClientTransport(new URL(process.argv[2])));
const { tools } = await client.listTools();
const run = (command) =>
  client.callTool({ name: "processExecute", arguments: { command, waitForCompletion: true } });
const many = await Promise.all([...Array(20).keys()].map((n) => run(`echo ${n}`)));
const failed = await client.callTool({ name: "processGet", arguments: { identifier: "none" } });
let unknown = "";
try {
  await client.callTool({ name: "nope", arguments: {} });
} catch (error) {
  unknown = error.message;
}
console.log(
  JSON.stringify({
    server: client.getServerVersion(),
    tools: tools.map((tool) => tool.name),
    logs: many.map((result) => result.structuredContent.logs),
    failed: failed.isError,
    unknown,
  }),
);
await client.close();
