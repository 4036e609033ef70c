// What xterm.js shows, with the clusters of our page: a line of JSON in, one out. Of the texts a pair is a new size.
const { readFileSync } = require("node:fs");
const { createInterface } = require("node:readline");
const { Terminal } = require("@xterm/headless");
const Unicode11Addon = require("@xterm/addon-unicode11");

const clusterProvider = new Function(readFileSync(process.argv[2], "utf8") + "\nreturn clusterProvider;")();

function shown(terminal) {
  const buffer = terminal.buffer.active;
  const lines = [];
  for (let y = 0; y < terminal.rows; y += 1) {
    const line = buffer.getLine(buffer.baseY + y);
    lines.push(Array.from({ length: terminal.cols }, (_, x) => {
      const cell = line.getCell(x);
      // Of a wide character that lost its first half xterm.js keeps the second: it looks like a blank.
      const second = x > 0 && line.getCell(x - 1).getWidth() === 2;
      return cell.getChars() || (second ? "" : " ");
    }));
  }
  return { lines, cursor: [Math.min(buffer.cursorX, terminal.cols - 1), buffer.cursorY], alternate: buffer.type === "alternate" };
}

createInterface({ input: process.stdin }).on("line", async (line) => {
  const { cols, rows, texts } = JSON.parse(line);
  const terminal = new Terminal({ cols, rows, allowProposedApi: true, scrollback: 100 });
  terminal.unicode.register(clusterProvider(Unicode11Addon));
  terminal.unicode.activeVersion = "clusters";
  for (const text of texts) {
    if (Array.isArray(text)) terminal.resize(...text);
    else await new Promise((done) => terminal.write(text, done));
  }
  console.log(JSON.stringify(shown(terminal)));
  terminal.dispose();
});
