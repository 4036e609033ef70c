// Drives the process part of @blaxel/core against the server at argv[2]; prints one JSON object.
import net from "node:net";
import { SandboxInstance } from "@blaxel/core";

const [url, port] = [process.argv[2], Number(process.argv[3])];
const sandbox = new SandboxInstance({ metadata: { name: "local" }, spec: {}, forceUrl: url, headers: {} });
const p = sandbox.process;
const seen = {};
const pick = (r) => ({ status: r.status, exitCode: r.exitCode, stdout: r.stdout, stderr: r.stderr });
const status = async (call) => {
  try {
    await call();
    return 200;
  } catch (error) {
    return error?.status ?? error?.response?.status ?? String(error);
  }
};

const made = await p.exec({ name: "n-bg", command: "sleep 30" });
seen.background = [made.status, typeof made.pid, (await p.get("n-bg")).pid === made.pid];
seen.inUse = await status(() => p.exec({ name: "n-bg", command: "true" }));
seen.listed = (await p.list()).some((item) => item.name === "n-bg");
await p.kill("n-bg");
seen.killed = pick(await p.wait("n-bg", { interval: 10 }));
seen.killedTwice = await status(() => p.kill("n-bg"));

seen.waited = pick(
  await p.exec({ command: "echo out; echo err >&2; exit 3", waitForCompletion: true }),
);

const streamed = { out: "", err: "", log: "" };
seen.streaming = pick(
  await p.exec({
    name: "n-stream",
    command: "for i in 1 2 3; do echo tick$i; sleep 0.02; done; echo bad >&2; exit 4",
    waitForCompletion: true,
    onStdout: (text) => (streamed.out += text),
    onStderr: (text) => (streamed.err += text),
    onLog: (text) => (streamed.log += text),
  }),
);
seen.callbacks = streamed;

await p.exec({
  name: "n-port",
  command: `python3 -c "import signal,socket; s=socket.create_server(('0.0.0.0', ${port})); signal.alarm(60); signal.pause()"`,
  waitForPorts: [port],
});
seen.portOpen = await new Promise((resolve) => {
  const socket = net.connect(port, "127.0.0.1", () => {
    socket.destroy();
    resolve(true);
  });
  socket.on("error", () => resolve(false));
});
await p.stop("n-port");
seen.stopped = (await p.wait("n-port", { interval: 10 })).status;

await p.exec({ name: "n-logs", command: "for i in $(seq 20); do echo line$i; sleep 0.01; done; printf tail" });
const lines = [];
const stream = p.streamLogs("n-logs", { onStdout: (line) => lines.push(line) });
await stream.wait();
seen.lines = lines;
seen.logs = [await p.logs("n-logs"), await p.logs("n-logs", "stderr")];

const followed = [];
const follower = await p.exec({ name: "n-follow", command: "echo one; echo two", onLog: (line) => followed.push(line) });
while (followed.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
follower.close();
seen.followed = followed;

await p.exec({ name: "n-stdin", command: "cat", stdin: true });
await p.writeStdin("n-stdin", "héllo\n");
await p.writeStdin("n-stdin", new Uint8Array([0, 1, 10]));
await p.closeStdin("n-stdin");
await p.closeStdin("n-stdin");
seen.stdin = pick(await p.wait("n-stdin", { interval: 10 }));
seen.stdinLate = await status(() => p.writeStdin("n-stdin", "late"));

const again = await p.exec({
  command: "echo run; exit 1",
  restartOnFailure: true,
  maxRestarts: 1,
  keepAlive: true,
  waitForCompletion: true,
});
seen.restarted = [again.status, again.restartCount, again.maxRestarts, again.keepAlive];
seen.unknown = [];
for (const call of [p.get, p.stop, p.kill, p.logs]) seen.unknown.push(await status(() => call.call(p, "nobody")));

console.log(JSON.stringify(seen));
process.exit(0);
