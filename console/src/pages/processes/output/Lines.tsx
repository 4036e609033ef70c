import { ScrollText } from "lucide-preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { theme } from "../../../app/theme";
import { bytes, colours, Empty, Loading } from "../../../ui";
import { clock } from "../../../ui/format";
import type { Row } from "./rows";
import { type Look, parse, type Span } from "./sgr";
import type { LogWindow } from "./window";

const ROW = 20;
const AROUND = 12;
const EDGE = 40;
const SHOWN = 2000;

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

/** The lines that are in sight, in a space that is as high as all of the window. */
export function Lines({ log, finder, times, label, filtered, live, onTop, onWhole }: LinesProps) {
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
