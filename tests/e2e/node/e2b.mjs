// Drives E2B's published client against the server at argv[2]; prints one JSON object. argv[3] is a folder, argv[4] the key.
import { Sandbox, CommandExitError, NotFoundError, FileNotFoundError, TimeoutError } from "e2b";

const [url, folder, key] = process.argv.slice(2);
const options = { apiUrl: url, sandboxUrl: url, apiKey: key };
const seen = {};
const kind = async (call) => {
  try {
    await call();
    return "none";
  } catch (error) {
    for (const one of [CommandExitError, FileNotFoundError, NotFoundError, TimeoutError]) if (error instanceof one) return one.name;
    return String(error);
  }
};
const box = await Sandbox.create({ ...options, timeoutMs: 600_000, metadata: { by: "node" }, envs: { GIVEN: "v" } });
const { commands: c, files: f, pty } = box;

const out = [];
const done = await c.run("echo out; echo err >&2; echo $GIVEN", { onStdout: (text) => out.push(text) });
seen.run = [done.stdout, done.stderr, done.exitCode, out.join("")];
seen.failed = await kind(() => c.run("exit 3"));
seen.timeout = await kind(() => c.run("sleep 60", { timeoutMs: 500 }));
const cat = await c.run("cat", { background: true, stdin: true });
await c.sendStdin(cat.pid, "typed é\n");
await c.closeStdin(cat.pid);
seen.typed = (await cat.wait()).stdout;
const sleeper = await c.run("sleep 60", { background: true });
seen.listed = (await c.list()).some((one) => one.pid === sleeper.pid && one.cmd === "/bin/bash");
await sleeper.disconnect();
const again = await c.connect(sleeper.pid);
seen.killed = [await again.kill(), await kind(() => again.wait())];
seen.unknown = await kind(() => c.connect(4194301));
seen.many = (await Promise.all([1, 2, 3].map((n) => c.run(`echo ${n}`)))).map((one) => one.stdout.trim());

let shown = "";
const decoder = new TextDecoder();
const terminal = await pty.create({ cols: 80, rows: 24, onData: (data) => (shown += decoder.decode(data)) });
await pty.resize(terminal.pid, { cols: 99, rows: 31 });
await pty.sendInput(terminal.pid, new TextEncoder().encode("stty size; exit\n"));
await terminal.wait();
seen.pty = shown.includes("31 99");

const path = `${folder}/new/f`;
seen.written = (await f.write(path, "héllo", { metadata: { k: "v" } })).path === path;
seen.read = await f.read(path);
seen.bytes = (await f.read(path, { format: "bytes" })).length;
seen.blob = (await f.read(path, { format: "blob" })).size;
let streamed = 0;
for await (const part of await f.read(path, { format: "stream" })) streamed += part.length;
seen.streamed = streamed;
await f.write(`${folder}/gz`, "packed ".repeat(1000), { gzip: true });
seen.gzip = (await f.read(`${folder}/gz`, { gzip: true })).length;
seen.multiple = (await f.write([{ path: `${folder}/m1`, data: "1" }, { path: `${folder}/m2`, data: new Blob(["2"]) }])).length;
seen.names = (await f.list(folder, { depth: 2 })).map((one) => one.name);
const info = await f.getInfo(path);
seen.info = [info.name, info.type, info.size, info.metadata];
seen.dirs = [await f.makeDir(`${folder}/d`), await f.makeDir(`${folder}/d`)];
seen.moved = (await f.rename(`${folder}/m1`, `${folder}/d/e/m3`)).path;
seen.exists = [await f.exists(`${folder}/d/e/m3`), await f.exists(`${folder}/m1`)];
await f.remove(`${folder}/d`);
seen.missing = await kind(() => f.read(`${folder}/d`));
const told = new Promise((resolve) => (seen.watch = resolve));
const watch = await f.watchDir(folder, (event) => seen.watch?.([event.name, event.type]), { recursive: true });
await f.write(`${folder}/new/watched`, "x");
seen.watch = await told;
await watch.stop();

const up = await box.uploadUrl(`${folder}/signed`, { useSignatureExpiration: 300 });
const form = new FormData();
form.append("file", new Blob(["by url"]), "f");
seen.uploaded = (await fetch(up, { method: "POST", body: form })).status;
const down = await box.downloadUrl(`${folder}/signed`, { useSignatureExpiration: 300 });
seen.downloaded = await (await fetch(down)).text();
seen.forged = (await fetch(down.replace("signed", "other"))).status;

seen.running = [await box.isRunning()];
await box.setTimeout(900_000);
seen.sandbox = [(await box.getInfo()).metadata, (await box.getMetrics())[0].memTotal > 0];
seen.all = (await Sandbox.list(options).nextItems()).map((one) => one.sandboxId === box.sandboxId);
seen.paused = await box.pause();
seen.running.push(await box.isRunning());
seen.connected = (await (await Sandbox.connect(box.sandboxId, options)).commands.run("echo back")).stdout;
seen.ended = [await box.kill(), await box.kill()];
seen.running.push(await box.isRunning());
console.log(JSON.stringify(seen));
process.exit(0);
