/** One session, live: typed at, seen, searched; its size is everybody's. */

import { ArrowDown, ArrowUp, Copy, Maximize, Search, X, ZoomIn, ZoomOut } from "lucide-preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { epoch } from "../../app/connection";
import { theme } from "../../app/theme";
import { Badge, Button, IconButton, palette, type Tone } from "../../ui";
import { Link, type LinkState } from "./link";
import type { Made } from "./xterm";
import "./terminals.css";

interface Props {
  id: string;
  name: string;
  readOnly: boolean;
  clients: number;
  onExit(): void;
  onTitle(title: string): void;
}

interface Size {
  cols: number;
  rows: number;
}

const STATES: Record<LinkState, { tone: Tone; text: string }> = {
  connecting: { tone: "info", text: "Connecting" },
  connected: { tone: "good", text: "Connected" },
  lost: { tone: "warn", text: "Waiting for the server" },
  exited: { tone: "plain", text: "Ended" },
  refused: { tone: "bad", text: "Not connected" },
};
const SIZES = [10, 11, 12, 13, 14, 16, 18, 20, 24];
const FONT_KEY = "sandkeeper.terminal.font";

export function Session({ id, name, readOnly, clients, onExit, onTitle }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const made = useRef<Made>();
  const link = useRef<Link>();
  const fits = useRef<Size>({ cols: 80, rows: 24 });
  const [state, setState] = useState<LinkState>("connecting");
  const [fault, setFault] = useState("");
  const [shared, setShared] = useState<Size>();
  const [searching, setSearching] = useState(false);
  const [font, setFont] = useState(keptFont);
  const told = useRef({ onExit, onTitle });
  told.current = { onExit, onTitle };

  useEffect(() => {
    let gone = false;
    let seen: ResizeObserver | undefined;
    void import("./xterm").then(({ makeTerminal }) => {
      if (gone || !host.current) return;
      const one = makeTerminal(host.current, { fontSize: font, theme: palette(theme.value), disableStdin: readOnly });
      made.current = one;
      const { terminal } = one;
      terminal.textarea?.setAttribute("aria-label", `Terminal ${name}`);
      takeFit(true);
      const live = new Link(id, screenOf(one), readOnly, () => {
        setState(live.state);
        setFault(live.fault);
        if (live.state === "exited") told.current.onExit();
      });
      link.current = live;
      live.start();
      terminal.onData((text) => live.type(text));
      terminal.onBinary((text) => live.type(text));
      terminal.onTitleChange((title) => told.current.onTitle(title));
      terminal.attachCustomKeyEventHandler(ownKey);
      seen = new ResizeObserver(() => takeFit(false));
      seen.observe(host.current);
      terminal.focus();
    });
    return () => {
      gone = true;
      seen?.disconnect();
      link.current?.close();
      made.current?.terminal.dispose();
      link.current = undefined;
      made.current = undefined;
    };
  }, [id, readOnly]);

  useEffect(() => {
    if (made.current) made.current.terminal.options.theme = palette(theme.value);
  }, [theme.value]);

  useEffect(() => link.current?.hope(), [epoch.value]);

  useEffect(() => {
    if (!made.current || made.current.terminal.options.fontSize === font) return;
    made.current.terminal.options.fontSize = font;
    takeFit(false);
  }, [font]);

  function screenOf({ terminal }: Made) {
    return {
      get cols() {
        return terminal.cols;
      },
      get rows() {
        return terminal.rows;
      },
      reset: () => terminal.reset(),
      write: (text: string) => terminal.write(text),
      sized: (cols: number, rows: number) => {
        terminal.resize(cols, rows);
        setShared({ cols, rows });
      },
    };
  }

  /** Look what fits, and make it everybody's size if it was ours before (or `always`). */
  function takeFit(always: boolean): void {
    const one = made.current;
    const proposed = one?.fit.proposeDimensions();
    if (!one || !proposed || !(proposed.cols > 1) || !(proposed.rows > 1)) return;
    const before = fits.current;
    const isOurs = one.terminal.cols === before.cols && one.terminal.rows === before.rows;
    fits.current = { cols: proposed.cols, rows: proposed.rows };
    if (readOnly || !(always || isOurs)) {
      setShared((now) => (now ? { ...now } : now));
      return;
    }
    one.terminal.resize(proposed.cols, proposed.rows);
    link.current?.resize(proposed.cols, proposed.rows);
  }

  function ownKey(event: KeyboardEvent): boolean {
    if (event.type !== "keydown" || !event.ctrlKey || !event.shiftKey) return true;
    const acts: Record<string, () => void> = { KeyC: () => void copy(), KeyF: () => setSearching(true) };
    const act = acts[event.code];
    if (!act) return true;
    event.preventDefault();
    act();
    return false;
  }

  async function copy(): Promise<void> {
    const one = made.current;
    if (!one) return;
    await toClipboard(one.terminal.getSelection() || screenText(one));
    one.terminal.focus();
  }

  function zoom(by: number): void {
    const at = Math.max(0, SIZES.findIndex((size) => size >= font));
    const next = SIZES[Math.max(0, Math.min(SIZES.length - 1, at + by))]!;
    setFont(next);
    keepFont(next);
  }

  const isOthers = shared !== undefined && (shared.cols !== fits.current.cols || shared.rows !== fits.current.rows);
  const { tone, text } = STATES[state];
  return (
    <div class="session" data-state={state}>
      <div class="session-bar">
        <span role="status">
          <Badge tone={tone}>{text}</Badge>
        </span>
        {readOnly ? <Badge tone="plain">View only</Badge> : null}
        {clients > 1 ? <span class="muted small num">{`${clients} viewers`}</span> : null}
        {isOthers && state === "connected" ? (
          <span class="session-size">
            <span class="muted small num">{`Another viewer's size, ${shared.cols} × ${shared.rows}`}</span>
            {readOnly ? null : (
              <Button small icon={Maximize} onClick={() => takeFit(true)}>
                Fit to this window
              </Button>
            )}
          </span>
        ) : null}
        {fault ? <span class="session-fault small">{fault}</span> : null}
        <span class="session-space" />
        <IconButton small icon={ZoomOut} label="Smaller text" onClick={() => zoom(-1)} />
        <IconButton small icon={ZoomIn} label="Larger text" onClick={() => zoom(1)} />
        <IconButton small icon={Copy} label="Copy the selection, or the whole screen" onClick={() => void copy()} />
        <IconButton small icon={Search} label="Search the output" aria-pressed={searching} onClick={() => setSearching(!searching)} />
      </div>
      {searching ? <SearchBar made={made} onClose={() => (setSearching(false), made.current?.terminal.focus())} /> : null}
      <div class={`session-screen ${isOthers ? "session-others" : ""}`} data-takes-keys ref={host} data-terminal={id} />
      {readOnly ? null : <TouchKeys onType={(keys) => (link.current?.type(keys), made.current?.terminal.focus())} />}
    </div>
  );
}

function SearchBar({ made, onClose }: { made: { current: Made | undefined }; onClose(): void }) {
  const [text, setText] = useState("");
  const [missed, setMissed] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), []);
  useEffect(() => () => made.current?.search.clearDecorations(), []);

  function find(back: boolean): void {
    if (!text) return;
    setMissed(!(back ? made.current?.search.findPrevious(text) : made.current?.search.findNext(text)));
  }

  return (
    <form
      class="session-search"
      role="search"
      onSubmit={(event) => {
        event.preventDefault();
        find(false);
      }}
    >
      <input
        ref={field}
        class="input"
        type="search"
        aria-label="Search the output"
        placeholder="Search the output"
        autocomplete="off"
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Escape") onClose();
          if (event.key === "Enter" && event.shiftKey) {
            event.preventDefault();
            find(true);
          }
        }}
      />
      <span class="muted small" role="status">
        {missed ? "Not found" : ""}
      </span>
      <IconButton small icon={ArrowUp} label="Match before" onClick={() => find(true)} />
      <IconButton small icon={ArrowDown} label="Next match" type="submit" />
      <IconButton small icon={X} label="Close the search" onClick={onClose} />
    </form>
  );
}

const KEYS: { label: string; keys: string; title: string }[] = [
  { label: "Esc", keys: "\x1b", title: "Escape" },
  { label: "Tab", keys: "\t", title: "Tab" },
  { label: "^C", keys: "\x03", title: "Control C" },
  { label: "^D", keys: "\x04", title: "Control D" },
  { label: "←", keys: "\x1b[D", title: "Left" },
  { label: "↑", keys: "\x1b[A", title: "Up" },
  { label: "↓", keys: "\x1b[B", title: "Down" },
  { label: "→", keys: "\x1b[C", title: "Right" },
  { label: "|", keys: "|", title: "Pipe" },
  { label: "~", keys: "~", title: "Tilde" },
];

/** Keys that the keyboard of a phone has not. */
function TouchKeys({ onType }: { onType(keys: string): void }) {
  return (
    <div class="touch-keys" role="group" aria-label="Keys">
      {KEYS.map(({ label, keys, title }) => (
        <button key={label} type="button" aria-label={/^\w+$/.test(label) ? undefined : title} onClick={() => onType(keys)}>
          {label}
        </button>
      ))}
    </div>
  );
}

function screenText({ terminal }: Made): string {
  const buffer = terminal.buffer.active;
  const lines: string[] = [];
  for (let row = 0; row < terminal.rows; row += 1) {
    lines.push(buffer.getLine(buffer.viewportY + row)?.translateToString(true) ?? "");
  }
  return lines.join("\n").trimEnd() + "\n";
}

async function toClipboard(text: string): Promise<void> {
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
}

function keptFont(): number {
  try {
    const size = Number(localStorage.getItem(FONT_KEY));
    return SIZES.includes(size) ? size : 14;
  } catch {
    return 14;
  }
}

function keepFont(size: number): void {
  try {
    localStorage.setItem(FONT_KEY, String(size));
  } catch {
    // It holds for this page.
  }
}

