// Drives codegen, drives, network and interpreter of @blaxel/core against the server at argv[2];
// argv[3] is a folder, argv[4] the port of a web server; prints one JSON object.
import { CodeInterpreter, SandboxInstance } from "@blaxel/core";

const [url, folder, port] = process.argv.slice(2);
const local = { metadata: { name: "local" }, spec: {}, forceUrl: url, headers: {} };
const sandbox = new SandboxInstance(local);
const seen = {};
const failure = async (call) => {
  try {
    await call();
    return null;
  } catch (error) {
    return error?.status ?? error?.response?.status ?? String(error);
  }
};

await sandbox.fs.write(`${folder}/code.js`, "one\ntwo\n");
const edit = "one\nand a half\n// ... existing code ...\n";
const done = await sandbox.codegen.fastapply(`${folder}/code.js`, edit);
seen.edited = [done.success, done.provider, await sandbox.fs.read(`${folder}/code.js`)];
const ranked = await sandbox.codegen.reranking(folder, "half", 0.1, 1000, "code");
seen.ranked = ranked.files.map((file) => file.path);
seen.noFolder = await failure(() => sandbox.codegen.reranking(`${folder}/code.js`, "half"));

const mountPath = `${folder}/mnt/x y`;
const mounted = await sandbox.drives.mount({ driveName: "node-drive", mountPath, drivePath: "/" });
seen.mounted = [mounted.success, mounted.driveName, mounted.mountPath, mounted.readOnly];
seen.listed = (await sandbox.drives.list()).map((one) => [one.driveName, one.mountPath, one.drivePath]);
seen.inUse = await failure(() => sandbox.drives.mount({ driveName: "other", mountPath }));
seen.unmounted = (await sandbox.drives.unmount(mountPath)).success;
seen.unmountedTwice = await failure(() => sandbox.drives.unmount(mountPath));

const reply = await sandbox.network.fetch(Number(port), "a/b?c=1", { method: "POST", body: "body" });
seen.fetched = [reply.status, await reply.text()];

const interpreter = new CodeInterpreter(local);
const context = await interpreter.createCodeContext({ language: "python" });
const out = [];
const execution = await interpreter.runCode("1 + 1", {
  context,
  onStdout: (message) => out.push(message.text),
});
seen.context = context.id;
seen.executed = [out, execution.results.map((one) => one.text), execution.executionCount];

console.log(JSON.stringify(seen));
process.exit(0);
