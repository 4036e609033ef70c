// The files half of the published Node client against a server: MODULES URL FOLDER.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { randomBytes } from "node:crypto";

const [modules, url, root] = process.argv.slice(2);
process.env.BL_API_KEY = "dummy";
process.env.BL_WORKSPACE = "dummy";
const { SandboxInstance } = createRequire(modules + "/")("@blaxel/core");

for (const base of [url, url + "/"]) {
  const sandbox = new SandboxInstance({ metadata: { name: "local" }, spec: {}, forceUrl: base, headers: {} });
  const fs = sandbox.fs;
  const dir = `${root}/${base.endsWith("/") ? "slash" : "plain"}`;

  await fs.mkdir(`${dir}/a/b`);
  await fs.write(`${dir}/a/hello.txt`, "líne & <tag>\n漢字");
  assert.equal(await fs.read(`${dir}/a/hello.txt`), "líne & <tag>\n漢字");
  const listing = await fs.ls(`${dir}/a`);
  assert.deepEqual(listing.files.map((f) => [f.name, f.path]), [["hello.txt", `${dir}/a/hello.txt`]]);
  assert.deepEqual(listing.subdirectories.map((d) => d.name), ["b"]);
  await assert.rejects(fs.rm(`${dir}/a`));
  await fs.rm(`${dir}/a`, true);
  await assert.rejects(fs.read(`${dir}/a/hello.txt`));

  const small = randomBytes(100_000);
  await fs.writeBinary(`${dir}/small.bin`, small);
  const back = await fs.readBinary(`${dir}/small.bin`);
  assert.ok(Buffer.from(await back.arrayBuffer()).equals(small));
  const big = randomBytes(6 * 1024 * 1024 + 7);
  await fs.writeBinary(`${dir}/big.bin`, big);
  assert.ok(Buffer.from(await (await fs.readBinary(`${dir}/big.bin`)).arrayBuffer()).equals(big));

  await fs.writeTree([{ path: "x.py", content: "x" }, { path: "s/y", content: "y" }], `${dir}/tree`);
  assert.equal(await fs.read(`${dir}/tree/s/y`), "y");
  assert.equal((await fs.ls("/")).path, "/");
  console.log(base, "ok");
}
process.exit(0);
