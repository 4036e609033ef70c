import { ArrowDown, ArrowDownToLine, ArrowUp, CaseSensitive, Clock, Download, Filter as FilterIcon, Regex, ScrollText, Timer, X } from "lucide-preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { apiUrl } from "../../../api/client";
import { theme } from "../../../app/theme";
import { useKeys } from "../../../app/keys";
import {
  Button,
  bytes,
  colours,
  Dialog,
  Empty,
  failed,
  Field,
  IconButton,
  Input,
  LinkButton,
  Loading,
  SearchInput,
  Segmented,
  toast,
} from "../../../ui";
import { clock } from "../../../ui/format";
import { type Look, parse, type Span } from "./sgr";
import { type Filter, LogWindow, NO_FILTER, type Row } from "./window";
import "./LogView.css";

const ROW = 20;
const AROUND = 12;
const EDGE = 40;
const SHOWN = 2000;

export interface LogViewProps {
  id: string;
  name: string;
  live: boolean;
  /** How much was written, and how much of it is gone. */
  written: number;
  lost: number;
  onEnd(): void;
}

/** The output of a process: followed, searched, filtered, at any size. */
export function LogView({ id, name, live, written, lost, onEnd }: LogViewProps) {
  const log = useMemo(() => new LogWindow(id), [id]);
  const [filter, setFilter] = useState<Filter>(NO_FILTER);
  const [times, setTimes] = useState(false);
  const [asking, setAsking] = useState(false);
  const [whole, setWhole] = useState<Row | null>(null);
  log.live = live;
  log.onEnd = onEnd;

  const shape = `${filter.stream}/${filter.only ? `${filter.text}/${filter.regex}/${filter.ignoreCase}` : ""}`;
  useEffect(() => {
    const timer = window.setTimeout(() => {
      log.following.value = true;
      log.start(filter);
    }, filter.text ? 250 : 0);
    return () => window.clearTimeout(timer);
  }, [log, shape]);
  useEffect(() => () => log.close(), [log]);

  const finder = useMemo(() => pattern(filter), [filter.text, filter.regex, filter.ignoreCase]);
  const change = (part: Partial<Filter>) => setFilter((before) => ({ ...before, ...part }));

  async function match(back: boolean) {
    if (!filter.text) return;
    const at = log.target.value?.match ? log.target.value.offset : (here.current ?? log.first.value);
    try {
      if (!(await log.toMatch(filter, at, back))) {
        toast(back ? "No match before this one." : "No match after this one.");
      }
    } catch (error) {
      failed("The search failed", error);
    }
  }

  const here = useRef<number | null>(null);
  useKeys({ F: () => log.follow() }, "Follow the end of the output");
  useKeys({ n: () => void match(false) }, "Next match");
  useKeys({ N: () => void match(true) }, "Match before");

  const end = Math.max(log.tail.value, written);
  const begin = Math.max(log.first.value, lost);

  return (
    <div class="log">
      <div class="log-bar">
        <SearchInput
          value={filter.text}
          placeholder="Search the output"
          onInput={(text) => change({ text })}
          onKeyDown={(event) => {
            if (event.key === "Enter") {
              event.preventDefault();
              void match(event.shiftKey);
            }
          }}
        />
        <span class="log-group">
          <IconButton
            icon={CaseSensitive}
            label="Match case"
            aria-pressed={!filter.ignoreCase}
            onClick={() => change({ ignoreCase: !filter.ignoreCase })}
          />
          <IconButton
            icon={Regex}
            label="Regular expression (RE2)"
            aria-pressed={filter.regex}
            onClick={() => change({ regex: !filter.regex })}
          />
          <IconButton
            icon={FilterIcon}
            label="Only lines that match"
            aria-pressed={filter.only}
            onClick={() => change({ only: !filter.only })}
          />
          <IconButton icon={ArrowUp} label="Match before (Shift+Enter)" disabled={!filter.text} onClick={() => void match(true)} />
          <IconButton icon={ArrowDown} label="Next match (Enter)" disabled={!filter.text} onClick={() => void match(false)} />
        </span>
        <Segmented
          label="Stream"
          value={filter.stream}
          options={[
            { value: "", label: "Both" },
            { value: "stdout", label: "stdout" },
            { value: "stderr", label: "stderr" },
          ]}
          onChange={(stream) => change({ stream })}
        />
        <span class="log-group log-right">
          <IconButton icon={Clock} label="Show times" aria-pressed={times} onClick={() => setTimes(!times)} />
          <IconButton icon={Timer} label="Go to a time" onClick={() => setAsking(true)} />
          <LinkButton
            kind="ghost"
            icon={Download}
            title="Download the output"
            aria-label="Download the output"
            href={apiUrl(`/process/${encodeURIComponent(id)}/output`, { stream: filter.stream })}
            download={`${name}.log`}
          />
          <Button
            small
            kind={log.following.value ? "ghost" : "plain"}
            icon={ArrowDownToLine}
            aria-pressed={log.following.value}
            onClick={() => (log.following.value ? log.hold() : log.follow())}
          >
            {live ? "Follow" : "End"}
          </Button>
        </span>
      </div>
      <Lines
        log={log}
        finder={finder}
        times={times}
        label={`Output of ${name}`}
        onTop={(offset) => {
          here.current = offset;
        }}
        onWhole={setWhole}
        filtered={filter.only && filter.text !== ""}
        live={live}
      />
      <Place log={log} begin={begin} end={end} here={here} />
      {asking ? <TimeDialog log={log} onClose={() => setAsking(false)} /> : null}
      {whole ? (
        <Dialog title="Whole line" wide onClose={() => setWhole(null)}>
          <pre class="log-whole">{parse(whole.text).spans.map((span) => span.text).join("")}</pre>
        </Dialog>
      ) : null}
    </div>
  );
}

interface LinesProps {
  log: LogWindow;
  finder: RegExp | null;
  times: boolean;
  label: string;
  filtered: boolean;
  live: boolean;
  onTop(offset: number): void;
  onWhole(row: Row): void;
}

function Lines({ log, finder, times, label, filtered, live, onTop, onWhole }: LinesProps) {
  const element = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 400 });
  const ours = useRef(0);
  const rows = log.rows.value;
  const following = log.following.value;
  const target = log.target.value;
  const tones = colours(theme.value);

  useLayoutEffect(() => {
    const shown = element.current;
    if (!shown) return;
    const observer = new ResizeObserver(() => measure());
    observer.observe(shown);
    return () => observer.disconnect();
  }, []);

  useLayoutEffect(() => {
    const shown = element.current;
    if (!shown) return;
    if (following) place(shown.scrollHeight);
    else if (target) {
      const index = rows.findIndex((row) => row.offset >= target.offset && row.kind === "line");
      place(Math.max(0, index * ROW - shown.clientHeight / 3));
      if (!target.match) log.target.value = null;
    } else if (log.shifted) place(shown.scrollTop + log.shifted * ROW);
    log.shifted = 0;
  }, [rows, following]);

  /** Scroll ourselves: what comes of it is no wish of the person's. */
  function place(top: number) {
    const shown = element.current;
    if (!shown) return;
    shown.scrollTop = top;
    ours.current = shown.scrollTop;
    measure();
  }

  function measure() {
    const shown = element.current;
    if (!shown) return;
    const { scrollTop: top, clientHeight: height } = shown;
    setView((before) => (before.top === top && before.height === height ? before : { top, height }));
    const row = log.rows.peek()[Math.floor(top / ROW)];
    if (row) onTop(row.offset);
  }

  function onScroll() {
    const shown = element.current;
    if (!shown) return;
    const { scrollTop: top, clientHeight: height, scrollHeight: full } = shown;
    measure();
    if (Math.abs(top - ours.current) < 2) return;
    ours.current = -1;
    if (log.target.peek()) log.target.value = null;
    const isLow = full - top - height < ROW;
    if (log.following.peek()) {
      if (!isLow) log.hold();
    } else if (isLow && log.isAtEnd && live) log.follow();
    else if (full - top - height < EDGE * ROW) log.later();
    if (top < EDGE * ROW) log.earlier();
  }

  const first = Math.max(0, Math.floor(view.top / ROW) - AROUND);
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / ROW) + AROUND);

  if (log.error.value) {
    return (
      <div class="log-lines log-message" role="alert">
        <p>{log.error.value.message}</p>
      </div>
    );
  }
  if (!rows.length) {
    return (
      <div class="log-lines log-message">
        {log.busy.value ? (
          <Loading label={filtered ? "Searching" : "Loading"} />
        ) : (
          <Empty icon={ScrollText} title={filtered ? "No line matches" : "No output yet"}>
            {filtered
              ? "Change the search, or show all lines."
              : live
                ? "What the process writes appears here at once."
                : "The process wrote nothing."}
          </Empty>
        )}
      </div>
    );
  }
  return (
    <div
      ref={element}
      class="log-lines"
      role="log"
      aria-live="off"
      aria-label={label}
      tabIndex={0}
      onScroll={onScroll}
      onKeyDown={(event) => {
        if (event.key === "End") {
          event.preventDefault();
          log.follow();
        } else if (event.key === "Home") {
          event.preventDefault();
          log.jump(0);
        }
      }}
    >
      {log.flooded.value ? (
        <p class="log-flood">Output comes faster than anybody can read: only the newest lines are shown.</p>
      ) : null}
      <div class="log-space" style={{ height: `${rows.length * ROW}px` }}>
        <div class="log-rows" style={{ transform: `translateY(${first * ROW}px)` }}>
          {rows.slice(first, last).map((row) => (
            <Line
              key={row.key}
              row={row}
              times={times}
              finder={finder}
              tones={tones}
              current={target?.match === true && target.offset === row.offset}
              onWhole={onWhole}
            />
          ))}
        </div>
      </div>
    </div>
  );
}

interface LineProps {
  row: Row;
  times: boolean;
  finder: RegExp | null;
  tones: string[];
  current: boolean;
  onWhole(row: Row): void;
}

function Line({ row, times, finder, tones, current, onWhole }: LineProps) {
  if (row.kind === "gap") {
    return (
      <div class="log-row log-gap">
        <span>{row.text}</span>
      </div>
    );
  }
  const { spans } = parse(row.text.length > SHOWN ? row.text.slice(0, SHOWN) : row.text, row.look);
  return (
    <div class={`log-row log-${row.stream} ${current ? "log-current" : ""}`}>
      {times ? <time class="log-time">{clock(row.time)}</time> : null}
      <span class="log-text">
        {finder ? marked(spans, finder, tones) : spans.map((span, index) => shown(span, index, tones))}
      </span>
      {row.text.length > SHOWN ? (
        <button type="button" class="log-more" onClick={() => onWhole(row)}>
          {bytes(row.text.length - SHOWN)} more
        </button>
      ) : null}
    </div>
  );
}

function shown(span: Span, key: number | string, tones: string[], mark = false) {
  const { look } = span;
  if (!Object.keys(look).length) return mark ? <mark key={key}>{span.text}</mark> : span.text;
  const tone = (one: number | string | undefined) => (typeof one === "number" ? tones[one] : one);
  let color = tone(look.fore);
  let background = tone(look.back);
  if (look.inverse) [color, background] = [background ?? "var(--sunken)", color ?? "var(--text)"];
  else if (background && !color) color = isLight(background) ? "#17202a" : "#ffffff";
  const style = mark ? { color: undefined } : { color, background };
  return (
    <span key={key} class={classOf(look)} style={style}>
      {mark ? <mark>{span.text}</mark> : span.text}
    </span>
  );
}

/** Whether dark text reads better on a colour (relative luminance, roughly). */
function isLight(colour: string): boolean {
  const hex = /^#(..)(..)(..)$/.exec(colour)?.slice(1).map((part) => parseInt(part, 16));
  const [red = 0, green = 0, blue = 0] = hex ?? (colour.match(/\d+/g) ?? []).map(Number);
  return 0.21 * red + 0.72 * green + 0.07 * blue > 120;
}

function classOf(look: Look): string | undefined {
  const names = (["bold", "dim", "italic", "under", "struck"] as const).filter((name) => look[name]);
  return names.length ? names.map((name) => `sgr-${name}`).join(" ") : undefined;
}

/** The spans with every match marked, also where a match reaches over the border of two. */
function marked(spans: Span[], finder: RegExp, tones: string[]) {
  const text = spans.map((span) => span.text).join("");
  const matches = [...text.matchAll(finder)].filter((found) => found[0]);
  if (!matches.length) return spans.map((span, index) => shown(span, index, tones));
  const cuts = matches.map((found) => [found.index, found.index + found[0].length] as const);
  const made = [];
  let at = 0;
  for (const span of spans) {
    const end = at + span.text.length;
    let from = at;
    for (const [start, stop] of cuts) {
      if (stop <= from || start >= end) continue;
      if (start > from) made.push(shown({ ...span, text: text.slice(from, start) }, made.length, tones));
      const to = Math.min(stop, end);
      made.push(shown({ ...span, text: text.slice(Math.max(start, from), to) }, made.length, tones, true));
      from = to;
    }
    if (from < end) made.push(shown({ ...span, text: text.slice(from, end) }, made.length, tones));
    at = end;
  }
  return made;
}

/** The same as the server looks for, as far as this browser's expressions go. */
function pattern(filter: Filter): RegExp | null {
  if (!filter.text) return null;
  const source = filter.regex ? filter.text : filter.text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  try {
    return new RegExp(source, filter.ignoreCase ? "giu" : "gu");
  } catch {
    return null;
  }
}

interface PlaceProps {
  log: LogWindow;
  begin: number;
  end: number;
  here: { current: number | null };
}

/** Where in all of the output one is; to be dragged. */
function Place({ log, begin, end, here }: PlaceProps) {
  const [dragged, setDragged] = useState<number | null>(null);
  const [, look] = useState(0);
  useEffect(() => {
    const timer = window.setInterval(() => look((value) => value + 1), 500);
    return () => window.clearInterval(timer);
  }, []);
  const at = dragged ?? (log.following.value ? end : (here.current ?? end));
  return (
    <div class="log-place">
      <span class="num">{bytes(begin)}</span>
      <input
        type="range"
        class="slider"
        aria-label="Place in the output"
        aria-valuetext={`${bytes(at)} of ${bytes(end)}`}
        min={begin}
        max={Math.max(end, begin + 1)}
        step="any"
        value={at}
        onInput={(event) => setDragged(Number(event.currentTarget.value))}
        onChange={(event) => {
          const to = Math.floor(Number(event.currentTarget.value));
          setDragged(null);
          // The very ends are wherever they are by then.
          if (to >= end - 1) log.follow();
          else log.jump(to <= begin ? 0 : to);
        }}
      />
      <span class="num">{bytes(end)}</span>
    </div>
  );
}

function TimeDialog({ log, onClose }: { log: LogWindow; onClose(): void }) {
  const [text, setText] = useState(() => local(new Date()));
  const [error, setError] = useState("");

  async function go(moment: Date) {
    try {
      if (await log.toTime(moment.toISOString())) onClose();
      else setError("Nothing was written at or after that time.");
    } catch (caught) {
      failed("The time could not be found", caught);
    }
  }

  return (
    <Dialog
      title="Go to a time"
      onClose={onClose}
      onSubmit={() => {
        const moment = new Date(text);
        if (Number.isNaN(moment.getTime())) setError("This is no time.");
        else void go(moment);
      }}
      footer={
        <>
          <Button onClick={onClose} icon={X}>
            Cancel
          </Button>
          <Button kind="primary" type="submit">
            Go there
          </Button>
        </>
      }
    >
      <Field label="First line at or after" error={error}>
        <Input type="datetime-local" step={1} value={text} autofocus onInput={(event) => setText(event.currentTarget.value)} />
      </Field>
      <div class="log-group">
        {[1, 5, 15, 60].map((minutes) => (
          <Button key={minutes} small onClick={() => void go(new Date(Date.now() - minutes * 60_000))}>
            {minutes < 60 ? `${minutes} min ago` : "1 h ago"}
          </Button>
        ))}
      </div>
    </Dialog>
  );
}

function local(moment: Date): string {
  const shifted = new Date(moment.getTime() - moment.getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 19);
}
