/** Lines and gaps of output as they are shown, and the question that a filter asks. */

import type { Query } from "../../../api/client";
import type { LogRecord } from "../../../api/types";
import { after, type Look, PLAIN } from "./sgr";

export interface Row {
  /** Unique in the window and the same when it is fetched again. */
  key: string;
  kind: "line" | "gap";
  offset: number;
  /** Where a gap ends. */
  to?: number;
  stream: "stdout" | "stderr" | "notice";
  time: string;
  text: string;
  look: Look;
}

export interface Filter {
  text: string;
  regex: boolean;
  ignoreCase: boolean;
  stream: "" | "stdout" | "stderr";
  /** Only lines that match, or all of them with the matches marked. */
  only: boolean;
}

export const NO_FILTER: Filter = { text: "", regex: false, ignoreCase: true, stream: "", only: false };

export const MOST_CHARACTERS = 3_000_000;
const MOST_ROWS = 4000;

/** What is not kept at the front is told by every answer; it belongs before the first kept line. */
export function withoutFarGap(rows: Row[]): Row[] {
  const [gap, line] = rows;
  const isFar = gap?.kind === "gap" && gap.offset === 0 && line !== undefined && line.offset !== gap.to;
  return isFar ? rows.slice(1) : rows;
}

export function isQuestion(filter: Filter): boolean {
  return filter.only && filter.text !== "";
}

/** The part of a question that a filter makes. */
export function asked(filter: Filter): Query {
  const query: Query = { stream: filter.stream };
  if (isQuestion(filter)) {
    query[filter.regex ? "regex" : "grep"] = filter.text;
    query.ignoreCase = filter.ignoreCase || undefined;
  }
  return query;
}

export function lineRow(record: LogRecord & { type: "line" }): Row {
  const { offset, stream, time, text } = record;
  return { key: `${offset}/${stream}`, kind: "line", offset, stream, time, text, look: PLAIN };
}

export function gapRow(offset: number, to: number, reason: string): Row {
  const size = to - offset;
  const why = reason === "storage" ? "could not be kept" : "are not kept any more";
  return {
    key: `gap/${offset}`,
    kind: "gap",
    offset,
    to,
    stream: "notice",
    time: "",
    text: `${size.toLocaleString("en-GB")} bytes ${why}`,
    look: PLAIN,
  };
}

/** Give each line the colours that the one before left on. */
export function coloured(rows: Row[]): Row[] {
  const looks: Record<string, Look> = {};
  for (const row of rows) {
    row.look = looks[row.stream] ?? PLAIN;
    looks[row.stream] = after(row.text, row.look);
  }
  return rows;
}

export function trimStart(rows: Row[]): Row[] {
  let characters = 0;
  let from = rows.length;
  while (from > 0 && rows.length - from < MOST_ROWS && characters < MOST_CHARACTERS) {
    from -= 1;
    characters += rows[from]?.text.length ?? 0;
  }
  return from > 0 ? rows.slice(from) : rows;
}

export function trimEnd(rows: Row[]): Row[] {
  let characters = 0;
  let to = 0;
  while (to < rows.length && to < MOST_ROWS && characters < MOST_CHARACTERS) {
    characters += rows[to]?.text.length ?? 0;
    to += 1;
  }
  return to < rows.length ? rows.slice(0, to) : rows;
}
