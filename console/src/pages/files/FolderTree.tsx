import { ChevronRight, File, FileCode, FileImage, FileText, Folder, FolderOpen, FolderSymlink, Link2, Ellipsis } from "lucide-preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import { describe } from "../../api/client";
import { Button, contextMenu, type Item } from "../../ui";
import { ago, bytes, count } from "../../ui/format";
import { modeText } from "./modes";
import { shown } from "./paths";
import { Rows, rowId, type RowsHandle } from "./rows";
import type { Folder as OpenFolder, Node, Row, Sort, SortBy, Tree } from "./tree";

const LIST = "files-tree";
export const ROW_HEIGHT = 32;

interface Props {
  tree: Tree;
  /** Something is open beside it: names only. */
  narrow: boolean;
  openPath: string;
  /** The entry that keys are to go on from. */
  pointed: string;
  edited: ReadonlySet<string>;
  onOpen(node: Node): void;
  onEnter(node: Node): void;
  onDelete(nodes: Node[]): void;
  onRename(node: Node): void;
  menu(nodes: Node[]): Item[];
}

const COLUMNS: { by: SortBy; title: string }[] = [
  { by: "name", title: "Name" },
  { by: "size", title: "Size" },
  { by: "modified", title: "Modified" },
  { by: "owner", title: "Owner" },
  { by: "mode", title: "Mode" },
];

export function FolderTree({ tree, narrow, openPath, pointed, edited, ...on }: Props) {
  void tree.version.value;
  const rows = tree.rows;
  const list = useRef<RowsHandle>(null);
  const [active, setActive] = useState("");
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const [anchor, setAnchor] = useState("");
  const at = tree.rowOf(active);

  // What is opened from elsewhere (a search, a link) is where keys go on.
  usePointed(openPath);
  usePointed(pointed);

  function usePointed(path: string): void {
    const isThere = tree.rowOf(path) >= 0;
    useEffect(() => {
      if (!isThere || path === active) return;
      setActive(path);
      setChosen(new Set([path]));
      setAnchor(path);
      list.current?.show(tree.rowOf(path));
    }, [path, tree, isThere]);
  }

  function nodeAt(index: number): Node | undefined {
    const row = rows[index];
    return row?.kind === "entry" ? row.node : undefined;
  }

  function choose(index: number, event?: { ctrlKey: boolean; metaKey: boolean; shiftKey: boolean }): void {
    const node = nodeAt(index);
    if (!node) return;
    setActive(node.path);
    if (event?.shiftKey) {
      const [from, to] = [Math.max(0, tree.rowOf(anchor)), index].sort((a, b) => a - b) as [number, number];
      setChosen(new Set(rows.slice(from, to + 1).flatMap((row) => (row.kind === "entry" ? [row.node.path] : []))));
    } else if (event && (event.ctrlKey || event.metaKey)) {
      const next = new Set(chosen);
      if (!next.delete(node.path)) next.add(node.path);
      setChosen(next);
      setAnchor(node.path);
    } else {
      setChosen(new Set([node.path]));
      setAnchor(node.path);
    }
    list.current?.show(index);
  }

  function chosenNodes(): Node[] {
    return rows.flatMap((row) => (row.kind === "entry" && chosen.has(row.node.path) ? [row.node] : []));
  }

  function toggle(node: Node): void {
    if (tree.isOpen(node.path)) tree.collapse(node.path);
    else void tree.expand(node.path);
  }

  function act(node: Node): void {
    if (node.isFolder) toggle(node);
    else on.onOpen(node);
  }

  function step(from: number, by: number): number {
    let index = from;
    const sign = Math.sign(by);
    for (let left = Math.abs(by); left > 0; left -= 1) {
      let next = index + sign;
      while (rows[next]?.kind === "note") next += sign;
      if (!rows[next]) break;
      index = next;
    }
    return index;
  }

  function sideways(index: number, right: boolean): void {
    const row = rows[index];
    if (row?.kind !== "entry") return;
    if (right && row.node.isFolder) {
      if (row.isOpen) choose(step(index, 1));
      else void tree.expand(row.node.path);
    } else if (!right && row.isOpen) tree.collapse(row.node.path);
    else if (!right) {
      for (let above = index - 1; above >= 0; above -= 1) {
        const other = rows[above]!;
        if (other.depth < row.depth) {
          choose(above);
          return;
        }
      }
    }
  }

  function pressed(event: JSX.TargetedKeyboardEvent<HTMLElement>, page: number): void {
    const node = nodeAt(at);
    const moves: Record<string, () => number> = {
      ArrowDown: () => (at < 0 ? 0 : step(at, 1)),
      ArrowUp: () => step(at, -1),
      j: () => (at < 0 ? 0 : step(at, 1)),
      k: () => step(at, -1),
      PageDown: () => step(Math.max(0, at), page),
      PageUp: () => step(at, -page),
      Home: () => 0,
      End: () => step(rows.length, -1),
    };
    const acts: Record<string, () => void> = {
      ArrowRight: () => sideways(at, true),
      ArrowLeft: () => sideways(at, false),
      Enter: () => node && act(node),
      " ": () => node && choose(at, { ctrlKey: true, metaKey: false, shiftKey: false }),
      F2: () => node && on.onRename(node),
      Delete: () => on.onDelete(chosenNodes()),
      ContextMenu: () => menuAt(at),
      Escape: () => setChosen(new Set()),
    };
    if (event.key === "F10" && event.shiftKey) menuAt(at);
    else if (moves[event.key] && !event.altKey && (!event.ctrlKey || event.key.startsWith("A"))) {
      choose(moves[event.key]!(), event.shiftKey ? event : undefined);
    } else if (event.key === "a" && (event.ctrlKey || event.metaKey)) {
      setChosen(new Set(rows.flatMap((row) => (row.kind === "entry" ? [row.node.path] : []))));
    } else if (acts[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) acts[event.key]!();
    else return;
    event.preventDefault();
  }

  function menuAt(index: number): void {
    const node = nodeAt(index);
    const element = document.getElementById(rowId(LIST, index));
    if (!node || !element) return;
    const place = element.getBoundingClientRect();
    openMenu(node, index, place.left + 40, place.bottom);
  }

  function openMenu(node: Node, index: number, x: number, y: number): void {
    const nodes = chosen.has(node.path) ? chosenNodes() : [node];
    if (!chosen.has(node.path)) choose(index);
    contextMenu(new MouseEvent("contextmenu", { clientX: x, clientY: y, cancelable: true }), on.menu(nodes));
  }

  function render(index: number) {
    const row = rows[index];
    if (!row) return null;
    if (row.kind === "note") return <Note key={`note ${row.folder.path}`} id={rowId(LIST, index)} row={row} tree={tree} />;
    const { node } = row;
    return (
      <TreeRow
        key={node.path}
        id={rowId(LIST, index)}
        row={row}
        active={node.path === active}
        chosen={chosen.has(node.path)}
        open={node.path === openPath}
        edited={edited.has(node.path)}
        onClick={(event) => {
          choose(index, event);
          list.current?.focus();
          if (!event.ctrlKey && !event.metaKey && !event.shiftKey) act(node);
        }}
        onDblClick={() => node.isFolder && on.onEnter(node)}
        onMenu={(x, y) => openMenu(node, index, x, y)}
      />
    );
  }

  return (
    <div class={`files-tree ${narrow ? "files-tree-narrow" : ""}`}>
      <div class="tree-head" role="group" aria-label="Sort by">
        {COLUMNS.map(({ by, title }) => (
          <SortButton key={by} by={by} title={title} sort={tree.sort} onSort={(sort) => tree.resort(sort)} />
        ))}
      </div>
      <Rows
        ref={list}
        id={LIST}
        className="tree-rows"
        count={rows.length}
        rowHeight={ROW_HEIGHT}
        label="Files"
        role="tree"
        multiselectable
        active={at}
        render={render}
        onKeyDown={pressed}
        onFocus={() => at < 0 && rows.length > 0 && setActive(nodeAt(0)?.path ?? "")}
      />
    </div>
  );
}

function SortButton({ by, title, sort, onSort }: { by: SortBy; title: string; sort: Sort; onSort(sort: Sort): void }) {
  const isNow = sort.by === by;
  const order = isNow ? (sort.down ? ", descending" : ", ascending") : "";
  return (
    <button
      type="button"
      class={`tree-sort tree-col-${by}`}
      aria-pressed={isNow}
      aria-label={`${title}${order}`}
      onClick={() => onSort({ by, down: isNow ? !sort.down : by === "size" || by === "modified" })}
    >
      {title}
      <span class="tree-arrow" aria-hidden="true">
        {isNow ? (sort.down ? "↓" : "↑") : ""}
      </span>
    </button>
  );
}

interface TreeRowProps {
  id: string;
  row: Extract<Row, { kind: "entry" }>;
  active: boolean;
  chosen: boolean;
  open: boolean;
  edited: boolean;
  onClick(event: MouseEvent): void;
  onDblClick(): void;
  onMenu(x: number, y: number): void;
}

function TreeRow({ id, row, active, chosen, open, edited, onClick, onDblClick, onMenu }: TreeRowProps) {
  const { node, depth, isOpen } = row;
  const { entry } = node;
  const Icon = iconOf(node, isOpen);
  const leadsTo = entry.link ?? entry.target;
  return (
    <div
      id={id}
      role="treeitem"
      class={`tree-row ${active ? "is-active" : ""} ${chosen ? "is-chosen" : ""} ${open ? "is-open" : ""}`}
      data-folder={node.isFolder ? node.path : undefined}
      aria-level={depth}
      aria-posinset={row.position}
      aria-setsize={row.siblings}
      aria-selected={chosen}
      aria-expanded={node.isFolder ? isOpen : undefined}
      onClick={onClick}
      onDblClick={onDblClick}
      onContextMenu={(event) => {
        event.preventDefault();
        onMenu(event.clientX, event.clientY);
      }}
    >
      <span class="tree-col-name" style={{ paddingLeft: `${(depth - 1) * 16}px` }}>
        <span class={`tree-twist ${isOpen ? "is-open" : ""}`} aria-hidden="true">
          {node.isFolder ? <ChevronRight size={16} /> : null}
        </span>
        <Icon size={16} class={node.isFolder ? "tree-icon tree-icon-folder" : "tree-icon"} />
        <span class="tree-name clip" title={leadsTo ? `${shown(node.name)} → ${leadsTo}` : undefined}>
          {shown(node.name)}
        </span>
        {leadsTo ? <span class="tree-target clip">→ {leadsTo}</span> : null}
        {edited ? (
          <span class="tree-dot" title="Not saved">
            <span class="sr-only">not saved</span>
          </span>
        ) : null}
      </span>
      <span class="tree-col-size num">{node.isFolder ? "" : bytes(entry.size)}</span>
      <span class="tree-col-modified num" title={entry.lastModified}>
        {ago(entry.lastModified)}
      </span>
      <span class="tree-col-owner clip">{entry.owner}</span>
      <span class="tree-col-mode mono">{modeText(entry.permissions)}</span>
      <button
        type="button"
        class="tree-more"
        tabIndex={-1}
        aria-hidden="true"
        title="Actions"
        onClick={(event) => {
          event.stopPropagation();
          const place = event.currentTarget.getBoundingClientRect();
          onMenu(place.left, place.bottom);
        }}
      >
        <Ellipsis size={16} />
      </button>
    </div>
  );
}

function Note({ id, row, tree }: { id: string; row: { folder: OpenFolder; depth: number }; tree: Tree }) {
  const { folder, depth } = row;
  const progress = folder.nodes.length ? `Loading, ${count(folder.nodes.length)} of ${count(folder.total)}` : "Loading";
  return (
    <div id={id} role="treeitem" aria-level={depth} aria-selected={false} class="tree-note" style={{ paddingLeft: `${(depth - 1) * 16 + 32}px` }}>
      {folder.state === "loading" ? <span class="muted">{progress}</span> : null}
      {folder.state === "failed" ? (
        <>
          <span class="tree-fault clip">{describe(folder.error)}</span>
          <Button small kind="ghost" onClick={() => void tree.reload(folder.path)}>
            Try again
          </Button>
        </>
      ) : null}
      {folder.state === "ready" && folder.stale ? (
        <Button small kind="ghost" onClick={() => void tree.reload(folder.path)}>
          This folder has changed: load it again
        </Button>
      ) : null}
      {folder.state === "ready" && !folder.stale ? <span class="muted">Empty</span> : null}
    </div>
  );
}

const PICTURES = /\.(png|jpe?g|gif|webp|svg|avif|ico|bmp)$/i;
const CODE = /\.(py|[jt]sx?|mjs|rs|go|c|h|cc|cpp|java|rb|php|sh|sql|html?|css|json|ya?ml|toml|xml)$/i;
const TEXTS = /\.(txt|md|rst|log|csv)$/i;

function iconOf(node: Node, isOpen: boolean) {
  if (node.isFolder) return node.entry.type === "symlink" ? FolderSymlink : isOpen ? FolderOpen : Folder;
  if (node.entry.type === "symlink") return Link2;
  if (PICTURES.test(node.name)) return FileImage;
  if (CODE.test(node.name)) return FileCode;
  return TEXTS.test(node.name) ? FileText : File;
}
