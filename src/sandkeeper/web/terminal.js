
(() => {
  "use strict";
  const DARK = { background: "#14161a", foreground: "#e6e6e6", cursor: "#e6e6e6", selectionBackground: "#3b5070" };
  const LIGHT = {
    background: "#ffffff", foreground: "#1f2328", cursor: "#1f2328", selectionBackground: "#b6d6fd",
    black: "#1f2328", white: "#57606a", brightWhite: "#8c959f", yellow: "#7d4e00", brightYellow: "#9a6700",
    green: "#116329", brightGreen: "#1a7f37", cyan: "#1b7c83", brightCyan: "#3192aa",
  };
  // Between two tries to connect; it tries for as long as the page is open.
  const LONGEST_PAUSE = 10000;
  // What is typed while there is no connection; more than that nobody types blindly.
  const MOST_KEPT = 65536;
  // So long a button does nothing: it may have come up below a click or a key meant for another page.
  const ASK_AFTER = 500;
  const FORWARDED = ["token", "bl_preview_token", "sessionId", "shell", "workingDir", "readOnly"];
  const byId = (id) => document.getElementById(id);
  const page = new URLSearchParams(location.search);

  const terminal = new Terminal({
    fontFamily: "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace",
    // At a line height of 1 fonts whose underscores lie low (DejaVu Sans Mono) lose them.
    fontSize: 14, lineHeight: 1.2, scrollback: 10000, cursorBlink: true, allowProposedApi: true,
    disableStdin: page.get("readOnly") === "true",
  });
  const fit = new FitAddon.FitAddon();
  const search = new SearchAddon.SearchAddon();
  terminal.loadAddon(fit);
  terminal.loadAddon(search);
  terminal.loadAddon(new WebLinksAddon.WebLinksAddon());
  terminal.unicode.register(clusterProvider(Unicode11Addon));
  terminal.unicode.activeVersion = "clusters";
  terminal.open(byId("terminal"));
  window.sandkeeperTerminal = terminal;

  let socket = null;
  let attempts = 0;
  let timer = 0;
  let ready = false;
  let kept = "";
  // The session that was shown last, by its id: what was typed for it is for no other.
  let shownId = "";

  function show(state) {
    const status = byId("status");
    status.dataset.state = state;
    status.textContent = state;
    const button = byId("reconnect");
    button.hidden = state === "connected" || state === "waiting" || (state === "connecting" && !attempts);
    button.textContent = { exited: "New shell", connecting: "Try now" }[state] ?? "Connect";
    if (state !== "exited") byId("ending").textContent = "";
  }

  // Relative to the page, so that a gateway's path prefix stays in front of it.
  function base() {
    return location.origin + location.pathname.replace(/\/+$/, "");
  }

  function address() {
    const url = new URL(base() + "/ws");
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    for (const name of FORWARDED) {
      if (page.has(name)) url.searchParams.set(name, page.get(name));
    }
    url.searchParams.set("cols", terminal.cols);
    url.searchParams.set("rows", terminal.rows);
    return url;
  }

  // What the server knows of the session; nothing where it cannot be asked.
  async function session() {
    const url = new URL(base().replace(/\/terminal$/, "") + "/terminals/" + encodeURIComponent(page.get("sessionId") ?? "default"));
    for (const name of ["token", "bl_preview_token"]) {
      if (page.has(name)) url.searchParams.set(name, page.get(name));
    }
    try {
      const reply = await fetch(url);
      return reply.ok ? await reply.json() : {};
    } catch {
      return {};
    }
  }

  async function tellEnding() {
    const { status, exitCode, exitSignal } = await session();
    if (status !== "exited" || byId("status").dataset.state !== "exited") return;
    byId("ending").textContent = exitSignal ? `by signal ${exitSignal}` : `with code ${exitCode}`;
  }

  async function learn() {
    const { id } = await session();
    shownId = id ?? shownId;
  }

  // Keys typed meanwhile go to the session they were meant for, and to no new shell under its name.
  async function handOver(mine) {
    const { id } = await session();
    if (socket !== mine) return;
    const typed = !shownId || id === shownId ? kept : "";
    ready = true;
    kept = "";
    if (typed) type(typed);
  }

  function connect() {
    clearTimeout(timer);
    show("connecting");
    fit.fit();
    let fresh = true;
    let refused = false;
    const mine = new WebSocket(address());
    socket = mine;
    ready = false;
    mine.onopen = () => {
      show("connected");
      if (kept) handOver(mine);
      else ready = true;
    };
    mine.onmessage = (event) => {
      const message = JSON.parse(event.data);
      if (fresh) {
        // The first output after a connect is a replay.
        fresh = false;
        attempts = 0;
        terminal.reset();
        learn();
      }
      if (message.type === "output") terminal.write(message.data);
      refused = message.type === "error";
      if (refused) terminal.write("\x1b[31m" + message.data + "\x1b[0m\r\n");
    };
    mine.onclose = (event) => {
      if (socket !== mine) return;
      ready = false;
      if (event.code === 1000) {
        kept = "";
        show("exited");
        tellEnding();
      } else if (event.code === 1011 && refused) {
        show("disconnected");
      } else {
        attempts += 1;
        show("connecting");
        timer = setTimeout(connect, Math.min(1000 * attempts, LONGEST_PAUSE));
      }
    };
  }

  // At once where there is reason to hope.
  function hope() {
    if (byId("status").dataset.state !== "connecting" || !attempts) return;
    attempts = 1;
    connect();
  }

  function send(message) {
    if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  }

  function type(data) {
    if (!ready) {
      const awaited = ["connecting", "connected"].includes(byId("status").dataset.state);
      if (awaited && kept.length + data.length <= MOST_KEPT) kept += data;
      return;
    }
    // In pieces below the server's limit of a frame; never between the halves of a character.
    const characters = Array.from(data);
    for (let start = 0; start < characters.length; start += 65536) {
      send({ type: "input", data: characters.slice(start, start + 65536).join("") });
    }
  }

  function setTheme(name) {
    document.documentElement.dataset.theme = name;
    terminal.options.theme = name === "light" ? LIGHT : DARK;
    byId("theme").textContent = name === "light" ? "Dark" : "Light";
    try { localStorage.setItem("sandkeeper-theme", name); } catch { /* storage is switched off */ }
  }

  function storedTheme() {
    try {
      const stored = localStorage.getItem("sandkeeper-theme");
      if (stored) return stored;
    } catch { /* storage is switched off */ }
    return matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";
  }

  function screenText() {
    const buffer = terminal.buffer.active;
    const lines = [];
    for (let row = 0; row < terminal.rows; row += 1) {
      lines.push(buffer.getLine(buffer.viewportY + row)?.translateToString(true) ?? "");
    }
    return lines.join("\n").trimEnd() + "\n";
  }

  async function copy() {
    const text = terminal.getSelection() || screenText();
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // No clipboard without https: the old way.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    terminal.focus();
  }

  terminal.onData(type);
  terminal.onBinary(type);
  terminal.onResize(({ cols, rows }) => send({ type: "resize", cols, rows }));
  terminal.onTitleChange((title) => {
    byId("title").textContent = title;
    document.title = title || "Terminal";
  });
  terminal.attachCustomKeyEventHandler((event) => {
    if (event.type !== "keydown" || !event.ctrlKey || !event.shiftKey) return true;
    if (event.code === "KeyC") { event.preventDefault(); copy(); return false; }
    if (event.code === "KeyF") { event.preventDefault(); byId("needle").focus(); return false; }
    return true;
  });
  new ResizeObserver(() => fit.fit()).observe(byId("terminal"));

  byId("search").onsubmit = (event) => { event.preventDefault(); search.findNext(byId("needle").value); };
  byId("needle").onkeydown = (event) => {
    if (event.key === "Escape") { search.clearDecorations(); terminal.focus(); }
    if (event.key === "Enter" && event.shiftKey) { event.preventDefault(); search.findPrevious(byId("needle").value); }
  };
  byId("previous").onclick = () => search.findPrevious(byId("needle").value);
  byId("copy").onclick = copy;
  byId("theme").onclick = () => setTheme(document.documentElement.dataset.theme === "light" ? "dark" : "light");
  addEventListener("online", hope);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) hope(); });
  byId("reconnect").onclick = () => { attempts = 0; connect(); terminal.focus(); };

  // An address can be anybody's: what it would start is started by a person, not by a link.
  function ask() {
    const [shell, folder] = [page.get("shell"), page.get("workingDir")];
    const session = page.get("sessionId") ?? "default";
    const start = byId("start");
    byId("what").textContent = `The link to this page opens the session “${session}”`
      + (shell ? ` and, if it is new, runs the program ${shell}` : "")
      + (folder ? ` in the folder ${folder}` : "") + ".";
    start.textContent = shell ? `Start ${shell}` : "Connect";
    byId("ask").hidden = false;
    show("waiting");
    setTimeout(() => { start.disabled = false; }, ASK_AFTER);
    start.onclick = (event) => {
      if (!event.isTrusted) return;
      byId("ask").hidden = true;
      connect();
      terminal.focus();
    };
  }

  setTheme(storedTheme());
  if (page.get("shell") || page.get("workingDir") || document.body.dataset.ask !== undefined) {
    ask();
  } else {
    connect();
    terminal.focus();
  }
})();
