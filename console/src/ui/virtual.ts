/**
 * Which rows of a long list are seen. Browsers cut elements of more than some 17 million pixels, so a
 * longer list is drawn on a shorter track: its scroll bar then stands for parts of the whole, and wheel
 * and keys, which are exact, move `first` themselves.
 */

export const TRACK_MOST = 8_000_000;

export interface Window {
  /** First row to draw, and one behind the last. */
  from: number;
  to: number;
  /** Where row `from` stands, in pixels below the top of what is seen. */
  offset: number;
}

export class Track {
  constructor(public rows: number, public rowHeight: number, public height: number) {}

  /** Pixels that all rows would take. */
  get full(): number {
    return this.rows * this.rowHeight;
  }

  /** Pixels of the track that is scrolled. */
  get length(): number {
    return Math.max(this.height, Math.min(this.full, TRACK_MOST));
  }

  get isScaled(): boolean {
    return this.full > TRACK_MOST;
  }

  /** The largest value of `first`: then the last row ends where the view does. */
  get last(): number {
    return Math.max(0, this.rows - this.height / this.rowHeight);
  }

  /** The row, and part of it, at the top when the bar is at `scrollTop`. */
  firstAt(scrollTop: number): number {
    const range = this.length - this.height;
    return range <= 0 ? 0 : Math.min(this.last, (Math.max(0, scrollTop) / range) * this.last);
  }

  scrollTopOf(first: number): number {
    const range = this.length - this.height;
    return this.last <= 0 ? 0 : (this.clamped(first) / this.last) * range;
  }

  clamped(first: number): number {
    return Math.max(0, Math.min(this.last, first));
  }

  /** The rows to draw when `first` is at the top, with `spare` ones above and below. */
  window(first: number, spare = 6): Window {
    const top = this.clamped(first);
    const from = Math.max(0, Math.floor(top) - spare);
    const seen = Math.ceil(this.height / this.rowHeight) + 1;
    const to = Math.min(this.rows, Math.floor(top) + seen + spare);
    return { from, to, offset: Math.round((from - top) * this.rowHeight) };
  }

  /** `first` such that a row is in view, moved as little as possible. */
  showing(row: number, first: number): number {
    const rows = Math.max(1, this.height / this.rowHeight);
    if (row < first) return this.clamped(row);
    return row + 1 > first + rows ? this.clamped(row + 1 - rows) : this.clamped(first);
  }
}
