// Drives the archive calls that @blaxel/core generates but does not export; prints one JSON object.
import { client } from "./node_modules/@blaxel/core/dist/esm/sandbox/client/client.gen.js";
import * as calls from "./node_modules/@blaxel/core/dist/esm/sandbox/client/sdk.gen.js";

const [baseUrl, target] = process.argv.slice(2);
client.setConfig({ baseUrl });
const seen = {};
const answer = ({ data, error, response }) => [response.status, data ?? error];
seen.nowhere = answer(await calls.postArchiveExport({ client, body: {} }));
seen.dry = answer(await calls.postArchiveExport({ client, body: { dryRun: true } }));
seen.sent = answer(await calls.postArchiveExport({ client, body: { url: target } }));
seen.frozen = answer(await calls.getArchiveStatus({ client }));
seen.resumed = answer(await calls.postArchiveResume({ client }));
console.log(JSON.stringify(seen));
process.exit(0);
