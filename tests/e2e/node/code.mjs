// Drives two published clients of code interpreters, E2B's and Blaxel's, against the server at argv[2]; prints one JSON object. argv[3] is a
// folder, argv[4] the key.
import { Sandbox } from "@e2b/code-interpreter";
import { CodeInterpreter } from "@blaxel/core";

const [url, folder, key] = process.argv.slice(2);
const seen = {};
const failed = async (call) => {
  try {
    await call();
    return "none";
  } catch (error) {
    return `${error.constructor.name}: ${error.message}`;
  }
};
const plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4])\nplt.title('T')\nplt.show()";

const box = await Sandbox.create({ apiUrl: url, sandboxUrl: url, apiKey: key, timeoutMs: 600_000, envs: { GIVEN: "v" } });
const lines = [];
const first = await box.runCode("x = 1\nprint('o')\nx + 1", { onStdout: (one) => lines.push([one.line, one.error]) });
seen.first = [first.text, first.logs.stdout, lines, first.error ?? null];
seen.count = (await box.runCode("x")).executionCount - first.executionCount;
const wrong = await box.runCode("1 / 0");
seen.wrong = [wrong.error.name, wrong.error.value, wrong.error.traceback.includes("ZeroDivisionError")];
const plotted = await box.runCode(plot);
seen.plot = [plotted.results[0].png.slice(0, 5), plotted.results[0].chart.type, plotted.results[0].chart.title];
seen.data = (await box.runCode("import pandas as pd\npd.DataFrame({'a': [1, 2]})")).results[0].data;
seen.envs = (await box.runCode("echo $GIVEN $ONE", { language: "bash", envs: { ONE: "1" } })).logs.stdout;
const made = await box.createCodeContext({ language: "python", cwd: folder });
seen.context = [made.language, made.cwd === folder, (await box.listCodeContexts()).some((one) => one.id === made.id)];
seen.folder = (await box.runCode("import os; y = 1; os.getcwd()", { context: made })).text === folder;
await box.restartCodeContext(made);
seen.restarted = (await box.runCode("'y' in globals()", { context: made })).text;
seen.timeout = await failed(() => box.runCode("import threading; threading.Event().wait()", { context: made, timeoutMs: 1500 }));
seen.after = (await box.runCode("2 + 2", { context: made })).text;
await box.removeCodeContext(made);
seen.removed = await failed(() => box.runCode("1", { context: made }));
await box.kill();

const headers = { Authorization: `Bearer ${key}` };
const other = new CodeInterpreter({ metadata: { name: "local" }, spec: {}, forceUrl: url, headers });
const texts = [];
const ran = await other.runCode("v = 3\nprint('p')\nv * 2", { onStdout: (one) => texts.push(one.text) });
seen.blaxel = [ran.results[0].text, ran.logs.stdout, texts, ran.error];
const apart = await other.createCodeContext({ language: "bash", cwd: folder });
await other.runCode("A=kept", { context: apart });
seen.apart = (await other.runCode("echo $A; pwd", { context: apart })).logs.stdout.join("");
const name = await other.runCode("no_such", { envs: { E: "1" } });
seen.name = [name.error.name, name.error.value];
seen.png = (await other.runCode(plot)).results[0].png.slice(0, 5);
seen.none = (await failed(() => other.runCode("1", { context: { id: "none" } }))).includes("404");
console.log(JSON.stringify(seen));
process.exit(0);
