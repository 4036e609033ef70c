// The files half of the published Node client against a server: URL FOLDER.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";

const [url, root] = process.argv.slice(2);
process.env.BL_API_KEY = "dummy";
process.env.BL_WORKSPACE = "dummy";
const { SandboxInstance } = await import("@blaxel/core");

// What it does not encode (writeBinary, writeTree, find, grep) means in a URL what it means there.
const encoded = ["with space;&=+,", "ünï 漢字 😀", "quote'\"[x]{y}|z", "100%", "a#b?c%41"];
const names = encoded.slice(0, -1);

async function checkOddNames(fs, dir) {
  for (const name of encoded) {
    await fs.write(`${dir}/odd dir/${name}`, name);
    assert.equal(await fs.read(`${dir}/odd dir/${name}`), name);
    const binary = await fs.readBinary(`${dir}/odd dir/${name}`);
    assert.equal(await binary.text(), name);
  }
  const listed = (await fs.ls(`${dir}/odd dir`)).files.map((f) => f.name);
  assert.deepEqual(listed.toSorted(), encoded.toSorted());
  for (const name of encoded) await fs.rm(`${dir}/odd dir/${name}`);
  for (const name of names) {
    await fs.writeBinary(`${dir}/odd binary/${name}`, Buffer.from(name));
    assert.equal(await fs.read(`${dir}/odd binary/${name}`), name);
  }
  await fs.writeTree(names.map((name) => ({ path: name, content: `needle ${name}` })), `${dir}/odd tree`);
  const found = (await fs.find(`${dir}/odd tree`, { type: "file" })).matches.map((m) => m.path);
  assert.deepEqual(found.toSorted(), names.toSorted());
  const grepped = (await fs.grep("needle", `${dir}/odd tree`)).matches.map((m) => m.text);
  assert.deepEqual(grepped.toSorted(), names.map((name) => `needle ${name}`).toSorted());
  await fs.mkdir(`${dir}/odd#dir`);
  await fs.write(`${dir}/odd#dir/big`, "ü".repeat(3_000_000));
  assert.equal(await fs.read(`${dir}/odd#dir/big`), "ü".repeat(3_000_000));
}

async function checkWatch(fs, dir) {
  await fs.mkdir(`${dir}/watched dir`);
  const seen = [];
  let stop;
  const whole = new Promise((resolve) => (stop = resolve));
  const handle = fs.watch(
    `${dir}/watched dir/**`,
    (event) => {
      seen.push(event.name);
      if (event.name === "lást file" && event.content === "whole") stop();
    },
    { withContent: true, ignore: ["secret"], onError: (error) => assert.fail(error) },
  );
  const again = setInterval(() => {
    writeFileSync(`${dir}/watched dir/secret`, "x");
    writeFileSync(`${dir}/watched dir/lást file`, "whole");
  }, 20);
  await whole;
  clearInterval(again);
  handle.close();
  assert.ok(!seen.includes("secret"));
}

const done = [];
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
  await fs.download(`${dir}/small.bin`, `${dir}/got.bin`, { mode: 0o600 });
  assert.ok(readFileSync(`${dir}/got.bin`).equals(small));
  await fs.cp(`${dir}/tree`, `${dir}/copied tree`);
  assert.equal(await fs.read(`${dir}/copied tree/s/y`), "y");
  await checkOddNames(fs, dir);
  await checkWatch(fs, dir);
  done.push("ok");
}
console.log(JSON.stringify(done));
process.exit(0);
