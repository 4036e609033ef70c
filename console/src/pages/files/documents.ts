/** Texts that were changed and not saved: kept when another file or page is shown. */

import { signal } from "@preact/signals";

export interface Draft {
  /** What the editor makes of its state, its history too. */
  state: unknown;
  /** The state of the file on which the changes were made; empty: there was none. */
  etag: string;
  /** What was saved last. */
  saved: string;
}

export const drafts = signal<ReadonlyMap<string, Draft>>(new Map());

export function keep(path: string, draft: Draft): void {
  drafts.value = new Map(drafts.value).set(path, draft);
}

export function drop(path: string): void {
  if (!drafts.value.has(path)) return;
  const next = new Map(drafts.value);
  next.delete(path);
  drafts.value = next;
}

/** How lines end: CodeMirror reads all ends as one, so only a file that has one kind is read by it. */
export function lineEnd(text: string): "\n" | "\r\n" {
  const all = text.match(/\r\n|\r|\n/g) ?? [];
  return all.length > 0 && all.every((one) => one === "\r\n") ? "\r\n" : "\n";
}

/** Bytes as text, nothing where they are no UTF-8 or hold a NUL character. */
export function textOf(data: Uint8Array): string | undefined {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
    return text.includes("\0") ? undefined : text;
  } catch {
    return undefined;
  }
}

/** Whether the beginning of a file is text: a character may be cut at its end. */
export function looksLikeText(sample: Uint8Array, isWhole: boolean): boolean {
  for (let cut = 0; cut < (isWhole ? 1 : 4) && cut <= sample.length; cut += 1) {
    if (textOf(sample.subarray(0, sample.length - cut)) !== undefined) return true;
  }
  return false;
}

addEventListener("beforeunload", (event) => {
  if (drafts.value.size) event.preventDefault();
});
