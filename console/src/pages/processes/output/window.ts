/** A window on the output of a process: some thousand lines, wherever they stand in the journal.
 *
 * Places are byte offsets of the journal. Everything comes from `GET /process/{id}/lines`, which
 * looks, filters and finds on the server, so that output of any size and rate costs the page the
 * same. While a flood is followed, what nobody could read is passed over: the last lines are
 * fetched a few times a second, and the rest stays on the server for whoever scrolls back.
 */

import { signal } from "@preact/signals";
import { ApiError, lines, type Query, reachable } from "../../../api/client";
import type { LogRecord } from "../../../api/types";
import {
  asked,
  coloured,
  type Filter,
  gapRow,
  isQuestion,
  lineRow,
  MOST_CHARACTERS,
  NO_FILTER,
  type Row,
  trimEnd,
  trimStart,
  withoutFarGap,
} from "./rows";

const PAGE = 400;
const CATCH_UP = 1500;
const FLOOD_ROWS = 250;
const FAST_MS = 120;
const SLOW_MS = 1000;
const FLOOD_MS = 250;
const HIDDEN_MS = 3000;
const OVER_MS = 15_000;

interface Batch {
  rows: Row[];
  /** Where reading ended. */
  end: number;
  truncated: boolean;
}

export class LogWindow {
  readonly rows = signal<Row[]>([]);
  readonly following = signal(true);
  readonly flooded = signal(false);
  readonly busy = signal(true);
  readonly error = signal<ApiError | null>(null);
  /** Where the kept output begins and ends, as far as is known. */
  readonly first = signal(0);
  readonly tail = signal(0);
  /** The row to be shown in the middle next, and the match that it is for. */
  readonly target = signal<{ offset: number; match: boolean } | null>(null);
  /** Rows put before, or taken from, the front: what the scroll position has to follow. */
  shifted = 0;
  live = true;
  /** Called when the process ends while its output is followed. */
  onEnd: () => void = () => undefined;

  private filter: Filter = NO_FILTER;
  private control = new AbortController();
  private atEnd = true;
  private atStart = false;
  private loading = "";
  private end = 0;

  constructor(private readonly id: string) {}

  /** Look at the end and go on with it. */
  start(filter: Filter): void {
    this.filter = filter;
    this.restart();
    void this.run(async (signal) => {
      const batch = await this.fetch({ tail: PAGE }, signal);
      this.replace(batch);
      this.atEnd = true;
      await this.pursue(signal);
    });
  }

  close(): void {
    this.control.abort();
  }

  /** Go to the end and stay there. */
  follow(): void {
    if (this.following.value) return;
    this.following.value = true;
    this.start(this.filter);
  }

  /** Stay where one is. What comes is fetched when somebody scrolls there. */
  hold(): void {
    this.following.value = false;
    this.flooded.value = false;
  }

  /** Show what stands around an offset. */
  jump(offset: number, match = false): void {
    this.restart();
    this.following.value = false;
    // Until it is there, the view may still stand at the end and be moved by what disappears: that asks for nothing.
    this.atEnd = false;
    this.loading = "jump";
    const { control } = this;
    void this.run(async (signal) => {
      const ahead = await this.fetch({ since: `offset:${offset}`, limit: PAGE }, signal);
      const behind = offset > 0 ? await this.fetch({ until: `offset:${offset}`, tail: PAGE / 2 }, signal) : null;
      const known = new Set(ahead.rows.map((row) => row.key));
      const before = (behind?.rows ?? []).filter((row) => !known.has(row.key));
      this.replace({ ...ahead, rows: [...before, ...ahead.rows] });
      this.atEnd = !ahead.truncated;
      this.target.value = { offset, match };
    }).finally(() => {
      if (this.control === control) this.loading = "";
    });
  }

  /** Go to the first line at or after a moment (RFC 3339); false if there is none. */
  async toTime(moment: string): Promise<boolean> {
    const found = await this.find({ since: moment, limit: 1 });
    if (!found) return false;
    this.jump(found.offset);
    return true;
  }

  /** Go to the next match after (or before) an offset; false if there is none. */
  async toMatch(filter: Filter, from: number, back: boolean): Promise<boolean> {
    const where: Query = back
      ? { until: `offset:${from}`, tail: 1 }
      : { since: `offset:${from + 1}`, limit: 1 };
    const found = await this.find({ ...where, ...asked({ ...filter, only: true }) });
    if (!found) return false;
    this.jump(found.offset, true);
    return true;
  }

  /** Fetch what stands before the window; the view asks when it comes near its edge. */
  earlier(): void {
    const first = this.rows.value[0];
    if (this.loading || this.atStart || !first || first.offset <= 0) return;
    this.loading = "earlier";
    void this.run(async (signal) => {
      const batch = await this.fetch({ until: `offset:${first.offset}`, tail: PAGE }, signal);
      const known = new Set(this.rows.value.map((row) => row.key));
      const fresh = batch.rows.filter((row) => !known.has(row.key) && row.offset <= first.offset);
      this.atStart = fresh.length === 0 || fresh.every((row) => row.kind === "gap");
      if (fresh.length) {
        const kept = trimEnd([...fresh, ...this.rows.value]);
        if (kept.length < fresh.length + this.rows.value.length) this.atEnd = false;
        this.shifted += fresh.length;
        this.rows.value = coloured(kept);
      }
    }).finally(() => {
      this.loading = "";
    });
  }

  /** Fetch what stands behind the window. */
  later(): void {
    if (this.loading || this.following.value) return;
    this.loading = "later";
    void this.run(async (signal) => {
      const batch = await this.fetch({ since: `offset:${this.resume()}`, limit: PAGE }, signal);
      this.append(batch);
      this.atEnd = !batch.truncated;
    }).finally(() => {
      this.loading = "";
    });
  }

  get isAtEnd(): boolean {
    return this.atEnd;
  }

  private restart(): void {
    this.control.abort();
    this.control = new AbortController();
    this.loading = "";
    this.atStart = false;
    this.flooded.value = false;
  }

  private async run(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const { signal } = this.control;
    this.busy.value = true;
    while (!signal.aborted) {
      try {
        await work(signal);
        this.error.value = null;
        break;
      } catch (error) {
        if (signal.aborted) return;
        const told = error instanceof ApiError ? error : new ApiError(-1, String(error));
        if (told.status !== 0) {
          this.error.value = told;
          break;
        }
        await reachable(signal);
      }
    }
    if (!signal.aborted) this.busy.value = false;
  }

  /** Follow the end for as long as somebody wants that. */
  private async pursue(signal: AbortSignal): Promise<void> {
    let pause = FAST_MS;
    this.busy.value = false;
    while (!signal.aborted && this.following.value) {
      const before = this.end;
      let waited = false;
      try {
        if (pause < SLOW_MS || this.flooded.value || !this.live || document.hidden) {
          await rest(this.pause(pause), signal);
        } else {
          await this.news(signal);
          waited = true;
        }
        if (signal.aborted || !this.following.value) return;
        if (this.flooded.value) await this.pursueFlood(signal);
        else await this.pursueLines(signal);
        this.error.value = null;
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof ApiError) || error.status !== 0) throw error;
        await reachable(signal);
      }
      pause = this.end === before && !waited ? Math.min(SLOW_MS, pause * 1.5) : FAST_MS;
    }
  }

  /** Wait until more is written: the server says so, nobody need ask. Only tabs in sight wait so,
   * for a browser has few connections for all of them. */
  private async news(signal: AbortSignal): Promise<void> {
    const control = new AbortController();
    const leave = () => control.abort();
    signal.addEventListener("abort", leave);
    document.addEventListener("visibilitychange", leave);
    const stop = this.following.subscribe((follows) => {
      if (!follows) leave();
    });
    try {
      const query = { cursor: this.end };
      const path = `/process/${encodeURIComponent(this.id)}/events`;
      for await (const record of lines<{ type: string }>(path, { query, signal: control.signal })) {
        if (record.type === "end") {
          this.live = false;
          this.onEnd();
        }
        if (record.type !== "heartbeat") return;
      }
    } catch (error) {
      if (control.signal.aborted) return;
      if (error instanceof ApiError && error.status === 0) throw error;
      await rest(SLOW_MS, signal);
    } finally {
      leave();
      stop();
      signal.removeEventListener("abort", leave);
      document.removeEventListener("visibilitychange", leave);
    }
  }

  private pause(usual: number): number {
    if (document.hidden) return HIDDEN_MS;
    if (!this.live) return OVER_MS;
    return this.flooded.value ? FLOOD_MS : usual;
  }

  private async pursueLines(signal: AbortSignal): Promise<void> {
    const batch = await this.fetch({ since: `offset:${this.resume()}`, limit: CATCH_UP }, signal);
    // What matches a filter is followed line by line: it was looked for.
    if (batch.truncated && !isQuestion(this.filter)) this.flooded.value = true;
    else this.append(batch);
  }

  private async pursueFlood(signal: AbortSignal): Promise<void> {
    const before = this.end;
    const batch = await this.fetch({ tail: FLOOD_ROWS }, signal);
    const overlaps = (batch.rows[0]?.offset ?? 0) <= before;
    this.flooded.value = !overlaps;
    if (overlaps) this.append(batch);
    else this.replace(batch);
  }

  private replace(batch: Batch): void {
    this.shifted = 0;
    this.rows.value = coloured(trimStart(batch.rows));
    this.ended(batch);
  }

  private append(batch: Batch): void {
    this.ended(batch);
    if (!batch.rows.length) return;
    const last = this.rows.value;
    const fresh = new Map(batch.rows.map((row) => [row.key, row]));
    let changed = false;
    const updated = last.map((row) => {
      const again = fresh.get(row.key);
      fresh.delete(row.key);
      if (!again || again.text === row.text) return row;
      changed = true;
      return again;
    });
    if (!changed && !fresh.size) return;
    const all = [...updated, ...fresh.values()];
    const kept = trimStart(all);
    this.shifted -= all.length - kept.length;
    if (kept.length < all.length) this.atStart = false;
    this.rows.value = coloured(kept);
  }

  private ended(batch: Batch): void {
    this.end = batch.end;
    this.tail.value = Math.max(this.tail.value, batch.end);
  }

  /** Where to go on: at the last lines, which may have grown. One of each stream may be open. */
  private resume(): number {
    const rows = this.rows.value;
    const open = new Map<string, number>();
    for (let index = rows.length - 1; index >= 0 && open.size < 2 && rows.length - index < 50; index -= 1) {
      const row = rows[index];
      if (row?.kind === "line" && !open.has(row.stream)) open.set(row.stream, row.offset);
    }
    // With a filter what was looked at and did not match need not be looked at again.
    const last = open.size ? Math.min(...open.values()) : this.end;
    return isQuestion(this.filter) ? Math.max(last, this.end - 65_536) : last;
  }

  private async find(query: Query): Promise<{ offset: number } | null> {
    for await (const record of lines<LogRecord>(this.path, { query, signal: this.control.signal })) {
      if (record.type === "line") return record;
    }
    return null;
  }

  private get path(): string {
    return `/process/${encodeURIComponent(this.id)}/lines`;
  }

  private async fetch(query: Query, signal: AbortSignal): Promise<Batch> {
    const batch: Batch = { rows: [], end: this.end, truncated: false };
    let characters = 0;
    const all = { ...query, ...asked(this.filter) };
    for await (const record of lines<LogRecord>(this.path, { query: all, signal })) {
      if (record.type === "line") {
        batch.rows.push(lineRow(record));
        batch.end = Math.max(batch.end, record.offset + record.text.length);
        characters += record.text.length;
        if (characters > MOST_CHARACTERS) {
          batch.truncated = true;
          break;
        }
      } else if (record.type === "gap") {
        if (record.offset === 0) this.first.value = Math.max(this.first.value, record.to);
        batch.rows.push(gapRow(record.offset, record.to, record.reason));
      } else if (record.type === "end") {
        batch.end = record.offset;
        batch.truncated = record.truncated;
      }
    }
    batch.rows = withoutFarGap(batch.rows);
    return batch;
  }
}

function rest(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = window.setTimeout(done, ms);
    function done() {
      window.clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done);
  });
}
