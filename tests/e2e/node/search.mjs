// Drives find, grep, search and watch of @blaxel/core; prints one JSON object.
import { appendFileSync, writeFileSync } from "node:fs";
import { SandboxInstance } from "@blaxel/core";

const [url, project] = process.argv.slice(2);
const sandbox = new SandboxInstance({ metadata: { name: "local" }, spec: {}, forceUrl: url, headers: {} });
const { fs } = sandbox;
const seen = {};

seen.found = (await fs.find(project, { type: "file", patterns: ["*.py"] })).matches.map((m) => m.path);
seen.grepped = (await fs.grep("todo", project)).matches.map((m) => [m.path, m.line]);
const around = await fs.grep("TODO", project, { caseSensitive: true, contextLines: 1, filePattern: "*.py" });
seen.context = around.matches.map((m) => m.context);
seen.searched = (await fs.search("app", project)).matches.map((m) => m.path);

seen.watched = [];
const done = new Promise((resolve) => {
  fs.watch(`${project}/**`, (event) => {
    seen.watched.push([event.op, event.name]);
    if (event.op === "WRITE" && event.name === "node-file") resolve();
  });
});
// The client does not tell when its watch is armed, so the file is touched until it is seen.
writeFileSync(`${project}/node-file`, "text");
const again = setInterval(() => appendFileSync(`${project}/node-file`, "."), 20);
await done;
clearInterval(again);
console.log(JSON.stringify(seen));
process.exit(0);
