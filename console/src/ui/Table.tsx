import type { Signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { ArrowDown, ArrowUp } from "lucide-preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { isTyping } from "../app/keys";
import { Menu, type Item } from "./Menu";
import { Track } from "./virtual";
import "./Table.css";

export interface Column<T> {
  id: string;
  title: string;
  /** What the column is sorted by, and shown where there is no `render`. */
  value?(row: T): string | number | null;
  render?(row: T): ComponentChildren;
  align?: "end";
  width?: string;
  hideBelow?: "phone" | "tablet";
}

export interface Sort {
  by: string;
  down: boolean;
}

export interface TableProps<T> {
  label: string;
  rows: T[];
  columns: Column<T>[];
  keyOf(row: T): string;
  sort: Signal<Sort>;
  onOpen?(row: T): void;
  rowHref?(row: T): string;
  menu?(row: T): Item[];
  empty: ComponentChildren;
}

const ROW = 40;
const HEAD = 36;
const AROUND = 12;
const VIRTUAL_FROM = 200;

/** Rows that can be sorted, walked with the arrow keys and opened with Enter. */
export function Table<T>(props: TableProps<T>) {
  const { rows, columns, keyOf, sort, label } = props;
  const sorted = useMemo(() => ordered(rows, columns, sort.value), [rows, columns, sort.value]);
  const [at, setAt] = useState("");
  const scroller = useRef<HTMLDivElement>(null);
  const body = useRef<HTMLTableSectionElement>(null);
  const [view, setView] = useState({ top: 0, height: 800 });
  const virtual = sorted.length > VIRTUAL_FROM;

  useEffect(() => {
    const shown = scroller.current;
    if (!shown) return;
    const measure = () => setView({ top: shown.scrollTop, height: shown.clientHeight });
    const observer = new ResizeObserver(measure);
    observer.observe(shown);
    return () => observer.disconnect();
  }, []);

  if (!sorted.length) return <>{props.empty}</>;

  const track = new Track(sorted.length, ROW, Math.max(ROW, view.height - HEAD));
  const { from: first, to: last } = virtual
    ? track.window(track.firstAt(view.top), AROUND)
    : { from: 0, to: sorted.length };
  const current = sorted.findIndex((row) => keyOf(row) === at);

  function go(index: number) {
    const to = Math.max(0, Math.min(sorted.length - 1, index));
    const row = sorted[to];
    if (!row) return;
    setAt(keyOf(row));
    const shown = scroller.current;
    if (shown && virtual) {
      shown.scrollTop = track.scrollTopOf(track.showing(to, track.firstAt(shown.scrollTop)));
    }
    requestAnimationFrame(() => {
      body.current?.querySelector<HTMLElement>(`[data-key="${CSS.escape(keyOf(row))}"]`)?.focus();
    });
  }

  function onKeyDown(event: KeyboardEvent) {
    if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves: Record<string, number> = {
      ArrowDown: current + 1,
      j: current + 1,
      ArrowUp: current - 1,
      k: current - 1,
      Home: 0,
      End: sorted.length - 1,
      PageDown: current + 12,
      PageUp: current - 12,
    };
    const to = moves[event.key];
    if (to !== undefined) {
      event.preventDefault();
      go(to);
    } else if (event.key === "Enter" && event.target instanceof HTMLTableRowElement) {
      const row = sorted[current];
      if (row) open(row);
    }
  }

  function open(row: T) {
    if (props.onOpen) props.onOpen(row);
    else if (props.rowHref) location.hash = props.rowHref(row);
  }

  function by(column: Column<T>) {
    const { by: now, down } = sort.value;
    sort.value = { by: column.id, down: now === column.id ? !down : column.align === "end" };
  }

  const hidden = (column: Column<T>) => (column.hideBelow ? `hide-${column.hideBelow}` : "");
  const opens = Boolean(props.onOpen || props.rowHref);

  return (
    <div
      class="table-scroll"
      ref={scroller}
      tabIndex={-1}
      onScroll={(event) => setView({ top: event.currentTarget.scrollTop, height: event.currentTarget.clientHeight })}
      onKeyDown={onKeyDown}
    >
      <table class="table" aria-label={label} aria-rowcount={sorted.length + 1}>
        <thead>
          <tr>
            {columns.map((column) => {
              const isBy = sort.value.by === column.id;
              return (
                <th
                  key={column.id}
                  scope="col"
                  class={`${column.align === "end" ? "end" : ""} ${hidden(column)}`}
                  style={column.width ? { width: column.width } : undefined}
                  aria-sort={isBy ? (sort.value.down ? "descending" : "ascending") : undefined}
                >
                  {column.value ? (
                    <button type="button" class="table-sort" onClick={() => by(column)}>
                      {column.title}
                      {isBy ? sort.value.down ? <ArrowDown size={12} /> : <ArrowUp size={12} /> : null}
                    </button>
                  ) : (
                    column.title
                  )}
                </th>
              );
            })}
            {props.menu ? (
              <th scope="col" class="table-menu">
                <span class="sr-only">Actions</span>
              </th>
            ) : null}
          </tr>
        </thead>
        <tbody ref={body}>
          {first > 0 ? <tr class="table-space" style={{ height: `${first * ROW}px` }} aria-hidden="true" /> : null}
          {sorted.slice(first, last).map((row, index) => {
            const key = keyOf(row);
            const isFocusable = key === at || (current < 0 && first + index === 0);
            return (
              <tr
                key={key}
                data-key={key}
                aria-rowindex={first + index + 2}
                tabIndex={isFocusable ? 0 : -1}
                class={opens ? "opens" : ""}
                onFocus={() => setAt(key)}
                onClick={(event) => {
                  if (opens && !onControl(event)) open(row);
                }}
              >
                {columns.map((column) => (
                  <td key={column.id} class={`${column.align === "end" ? "end num" : ""} ${hidden(column)}`}>
                    {column.render ? column.render(row) : (column.value?.(row) ?? "–")}
                  </td>
                ))}
                {props.menu ? (
                  <td class="table-menu">
                    <Menu label="Actions" items={props.menu(row)} />
                  </td>
                ) : null}
              </tr>
            );
          })}
          {last < sorted.length ? (
            <tr class="table-space" style={{ height: `${(sorted.length - last) * ROW}px` }} aria-hidden="true" />
          ) : null}
        </tbody>
      </table>
    </div>
  );
}

/** Whether a click belongs to something inside of the row, or only marks text. */
function onControl(event: MouseEvent): boolean {
  const target = event.target as HTMLElement;
  return target.closest("a, button, input, .menu-list") !== null || Boolean(String(window.getSelection() ?? ""));
}

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

function ordered<T>(rows: T[], columns: Column<T>[], sort: Sort): T[] {
  const value = columns.find((column) => column.id === sort.by)?.value;
  if (!value) return rows;
  const sign = sort.down ? -1 : 1;
  return [...rows].sort((one, other) => {
    const a = value(one);
    const b = value(other);
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * collator.compare(String(a), String(b));
  });
}
