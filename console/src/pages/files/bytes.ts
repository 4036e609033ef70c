/** A file as bytes, read by ranges as they are looked at; of any size, never whole in memory. */

export const BLOCK = 64 << 10;
const KEPT = 48;

export type ReadRange = (from: number, to: number, signal: AbortSignal) => Promise<Uint8Array>;

export class Bytes {
  private blocks = new Map<number, Uint8Array>();
  private asked = new Map<number, Promise<void>>();
  private ended = new AbortController();

  /** `read` gives bytes `from` up to, and without, `to`; `changed` is told when something came. */
  constructor(readonly size: number, private read: ReadRange, private changed: (fault?: unknown) => void) {}

  /** The bytes of a row of `width` (a divisor of BLOCK), fewer at the end; nothing while they are on their way. */
  row(index: number, width: number): Uint8Array | undefined {
    const start = index * width;
    const number = Math.floor(start / BLOCK);
    const block = this.blocks.get(number);
    if (!block) {
      void this.want(number);
      return undefined;
    }
    // Looked at last, dropped last.
    this.blocks.delete(number);
    this.blocks.set(number, block);
    return block.subarray(start - number * BLOCK, start - number * BLOCK + width);
  }

  private want(number: number): Promise<void> {
    const known = this.asked.get(number);
    if (known) return known;
    // Whoever scrolls far passes over thousands of blocks: what is asked for last is wanted.
    const made = this.fetch(number).finally(() => this.asked.delete(number));
    this.asked.set(number, made);
    return made;
  }

  private async fetch(number: number): Promise<void> {
    const start = number * BLOCK;
    try {
      const data = await this.read(start, Math.min(this.size, start + BLOCK), this.ended.signal);
      this.blocks.set(number, data);
      for (const oldest of this.blocks.keys()) {
        if (this.blocks.size <= KEPT) break;
        this.blocks.delete(oldest);
      }
      this.changed();
    } catch (fault) {
      if (!this.ended.signal.aborted) this.changed(fault);
    }
  }

  close(): void {
    this.ended.abort();
    this.blocks.clear();
  }
}

/** An offset in as many hexadecimal digits as the last one needs. */
export function offsetText(offset: number, size: number): string {
  return offset.toString(16).padStart(Math.max(8, size.toString(16).length), "0");
}

export function hexOf(bytes: Uint8Array): string[] {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0"));
}

/** ASCII, a dot for each other byte. */
export function asciiOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
}

/** An offset as a person writes it: `0x1f`, `1fh`, `31`; not a number where it is none. */
export function offsetOf(text: string): number {
  const plain = text.trim().replace(/_/g, "");
  if (/^0x[0-9a-f]+$/i.test(plain)) return parseInt(plain, 16);
  if (/^[0-9a-f]+h$/i.test(plain)) return parseInt(plain, 16);
  return /^[0-9]+$/.test(plain) ? Number(plain) : NaN;
}
