/** The folders that are open and what is in them: loaded a page at a time, sorted, as one list of rows. */

import { signal } from "@preact/signals";
import { ApiError } from "../../api/client";
import { entriesPage, look } from "./calls";
import { ancestry, decoded, joined, parentOf } from "./paths";
import type { Entry } from "./types";

const FIRST_PAGE = 1000;
const NEXT_PAGES = 10_000;
/** More than so many entries are not read again by themselves when a folder has changed. */
const RELOADED_MOST = 5000;
/** More than so many are sorted by bytes, as they came: a person's order takes too long. */
const COLLATED_MOST = 20_000;

export type SortBy = "name" | "size" | "modified" | "owner" | "mode";
export interface Sort {
  by: SortBy;
  down: boolean;
}

export interface Node {
  path: string;
  name: string;
  entry: Entry;
  isFolder: boolean;
  folder?: Folder;
}

export interface Folder {
  path: string;
  etag: string;
  state: "loading" | "ready" | "failed";
  error?: unknown;
  total: number;
  nodes: Node[];
  /** It has changed and was not read again. */
  stale: boolean;
  reading?: AbortController;
}

export type Row =
  | { kind: "entry"; node: Node; depth: number; position: number; siblings: number; isOpen: boolean }
  | { kind: "note"; folder: Folder; depth: number };

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

export function leadsToFolder(entry: Entry): boolean {
  return (entry.targetType ?? entry.type) === "directory";
}

export class Tree {
  /** Grows with every change. */
  readonly version = signal(0);
  readonly root: Folder;
  showHidden = true;
  private open = new Map<string, Folder>();
  private known: { version: number; rows: Row[]; places: Map<string, number> } | undefined;
  private ended = false;

  constructor(path: string, public sort: Sort) {
    this.root = folderAt(path);
    this.open.set(path, this.root);
    void this.load(this.root);
  }

  close(): void {
    this.ended = true;
    for (const folder of this.open.values()) folder.reading?.abort();
  }

  /** What is to be shown, top to bottom; made anew after a change only. */
  get rows(): Row[] {
    return this.current().rows;
  }

  rowOf(path: string): number {
    return this.current().places.get(path) ?? -1;
  }

  private current(): { rows: Row[]; places: Map<string, number> } {
    const version = this.version.peek();
    if (this.known?.version !== version) {
      const rows: Row[] = [];
      this.flatten(this.root, 1, rows);
      const places = new Map<string, number>();
      rows.forEach((row, index) => row.kind === "entry" && places.set(row.node.path, index));
      this.known = { version, rows, places };
    }
    return this.known;
  }

  private flatten(folder: Folder, depth: number, rows: Row[]): void {
    const seen = this.showHidden ? folder.nodes : folder.nodes.filter((node) => !node.name.startsWith("."));
    seen.forEach((node, index) => {
      const below = this.open.get(node.path);
      rows.push({ kind: "entry", node, depth, position: index + 1, siblings: seen.length, isOpen: !!below });
      if (below) this.flatten(below, depth + 1, rows);
    });
    const isWhole = folder.state === "ready" && !folder.stale;
    if (!isWhole || (seen.length === 0 && depth > 1)) rows.push({ kind: "note", folder, depth });
  }

  isOpen(path: string): boolean {
    return this.open.has(path);
  }

  openFolders(): string[] {
    return [...this.open.keys()];
  }

  expand(path: string): Promise<void> {
    const known = this.open.get(path);
    if (known) return Promise.resolve();
    const folder = folderAt(path);
    this.open.set(path, folder);
    this.changed();
    return this.load(folder);
  }

  collapse(path: string): void {
    if (path === this.root.path) return;
    for (const [at, folder] of this.open) {
      if (at === path || at.startsWith(path + "/")) {
        folder.reading?.abort();
        this.open.delete(at);
      }
    }
    this.changed();
  }

  resort(sort: Sort): void {
    this.sort = sort;
    for (const folder of this.open.values()) folder.nodes = sorted(folder.nodes, sort);
    this.changed();
  }

  setHidden(shows: boolean): void {
    this.showHidden = shows;
    this.changed();
  }

  /** Read a folder again, if it is open; what is open below it stays so. */
  reload(path: string): Promise<void> {
    const folder = this.open.get(path);
    return folder ? this.load(folder) : Promise.resolve();
  }

  /** Open the folders that lead to a path, as far as there are such. */
  async reveal(path: string): Promise<void> {
    const below = joined(this.root.path, "");
    if (!path.startsWith(below)) return;
    for (const folder of ancestry(parentOf(path)).filter((one) => one.startsWith(below))) {
      await this.expand(folder);
    }
  }

  /** Read again what could not be read. */
  retry(): void {
    for (const folder of this.open.values()) if (folder.state === "failed") void this.load(folder);
  }

  async reloadAll(): Promise<void> {
    await Promise.all(this.openFolders().map((path) => this.reload(path)));
  }

  /** Look which open folders have changed, and read those again. */
  async refresh(signal: AbortSignal): Promise<void> {
    for (const folder of [...this.open.values()]) {
      if (folder.state !== "ready" || folder.reading) continue;
      const now = await look(folder.path, signal);
      if (this.ended || this.open.get(folder.path) !== folder || now.etag === folder.etag) continue;
      if (!now.kind && folder !== this.root) this.collapse(folder.path);
      else if (folder.total <= RELOADED_MOST) await this.load(folder);
      else if (!folder.stale) {
        folder.stale = true;
        this.changed();
      }
    }
  }

  private changed(): void {
    this.version.value += 1;
  }

  private async load(folder: Folder): Promise<void> {
    folder.reading?.abort();
    const reading = new AbortController();
    folder.reading = reading;
    const isFirst = folder.nodes.length === 0;
    if (isFirst) folder.state = "loading";
    try {
      const state = await look(folder.path, reading.signal);
      if (!state.kind) throw new ApiError(404, "there is no such folder");
      if (state.kind === "file") throw new ApiError(400, "it is no folder");
      const nodes = await this.pages(folder, reading.signal, isFirst);
      folder.nodes = nodes;
      folder.etag = state.etag;
      folder.state = "ready";
      folder.stale = false;
      folder.error = undefined;
      this.dropGone(folder);
    } catch (error) {
      if (reading.signal.aborted) return;
      folder.state = "failed";
      folder.error = error;
    } finally {
      if (folder.reading === reading) folder.reading = undefined;
    }
    this.changed();
  }

  private async pages(folder: Folder, signal: AbortSignal, asTheyCome: boolean): Promise<Node[]> {
    const before = new Map(folder.nodes.map((node) => [node.path, node]));
    const found: Node[] = [];
    let after = "";
    for (let limit = FIRST_PAGE; ; limit = NEXT_PAGES) {
      const page = await entriesPage(folder.path, after, limit, signal);
      for (const entry of page.entries) found.push(nodeOf(folder.path, entry, before));
      folder.total = page.total;
      if (!page.next) return sorted(found, this.sort);
      after = page.next;
      if (asTheyCome) {
        folder.nodes = sorted(found, this.sort);
        this.changed();
      }
    }
  }

  /** Forget open folders below one of which the entry is gone. */
  private dropGone(folder: Folder): void {
    const there = new Set(folder.nodes.map((node) => node.path));
    for (const path of this.open.keys()) {
      const isChild = path !== folder.path && path.startsWith(joined(folder.path, "")) && path.lastIndexOf("/") === joined(folder.path, "").length - 1;
      if (isChild && !there.has(path)) this.collapse(path);
    }
  }
}

function folderAt(path: string): Folder {
  return { path, etag: "", state: "loading", total: 0, nodes: [], stale: false };
}

function nodeOf(folder: string, entry: Entry, before: Map<string, Node>): Node {
  const name = entry.encodedName === undefined ? entry.name : decoded(entry.encodedName);
  const path = joined(folder, name);
  const known = before.get(path);
  if (!known) return { path, name, entry, isFolder: leadsToFolder(entry) };
  known.entry = entry;
  known.isFolder = leadsToFolder(entry);
  return known;
}

const KEYS: Record<SortBy, (node: Node) => string | number> = {
  name: (node) => node.name,
  size: (node) => (node.isFolder ? -1 : node.entry.size),
  modified: (node) => node.entry.lastModified,
  owner: (node) => node.entry.owner,
  mode: (node) => node.entry.permissions,
};

/** Folders first, then by what is asked for, then by name. */
export function sorted(nodes: Node[], { by, down }: Sort): Node[] {
  const key = KEYS[by];
  const sign = down ? -1 : 1;
  const names = nodes.length > COLLATED_MOST ? plain : collator.compare;
  const order = (left: Node, right: Node): number => {
    if (left.isFolder !== right.isFolder) return left.isFolder ? -1 : 1;
    if (by === "name") return sign * names(left.name, right.name);
    const [a, b] = [key(left), key(right)];
    return a === b ? names(left.name, right.name) : sign * (a < b ? -1 : 1);
  };
  return [...nodes].sort(order);
}

function plain(left: string, right: string): number {
  return left < right ? -1 : left > right ? 1 : 0;
}
