/** Files by their names and by what is in them; what is chosen is shown beside, at its line. */

import { FileSearch, Folder as FolderIcon, SearchX, TextSearch } from "lucide-preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import { useComeback } from "../../app/comeback";
import { Badge, Checkbox, Empty, Failure, Field, Input, Loading, SearchInput, Segmented } from "../../ui";
import { count } from "../../ui/format";
import { findContent, findNames } from "./calls";
import { joined, nameOf, parentOf, shown } from "./paths";
import { Rows, rowId, type RowsHandle } from "./rows";
import type { ContentMatch } from "./types";

const LIST = "files-found";
const ROW_HEIGHT = 30;
const PAUSE_MS = 200;
const SHOWN_MS = 150;
const NAMES_MOST = 1000;
const LINES_MOST = 2000;

type What = "names" | "content";

interface Asked {
  what: What;
  text: string;
  caseSensitive: boolean;
  pattern: string;
  all: boolean;
}

type Found =
  | { kind: "path"; path: string; isFolder: boolean }
  | { kind: "group"; path: string; lines: number }
  | { kind: "line"; path: string; match: ContentMatch };

interface Props {
  folder: string;
  onOpen(path: string, line: number): void;
  onEnter(folder: string): void;
}

// What was asked last stays when another page is shown.
let last: Asked = { what: "names", text: "", caseSensitive: false, pattern: "", all: false };

export function FindPanel({ folder, onOpen, onEnter }: Props) {
  const [asked, setAsked] = useState(last);
  const [found, setFound] = useState<Found[] | undefined>();
  const [fault, setFault] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const [active, setActive] = useState(-1);
  const list = useRef<RowsHandle>(null);
  const timer = useRef(0);
  last = asked;

  useEffect(() => {
    setActive(-1);
    setFault(undefined);
    if (!asked.text) {
      setFound(undefined);
      setBusy(false);
      return undefined;
    }
    const control = new AbortController();
    setBusy(true);
    const wait = window.setTimeout(() => {
      searched(folder, asked, control.signal).then(
        (rows) => {
          if (control.signal.aborted) return;
          setFound(rows);
          setBusy(false);
        },
        (error) => {
          if (control.signal.aborted) return;
          setFault(error);
          setBusy(false);
        },
      );
    }, PAUSE_MS);
    return () => {
      clearTimeout(wait);
      control.abort();
    };
  }, [folder, asked]);

  useEffect(() => () => clearTimeout(timer.current), []);
  useComeback(() => fault !== undefined && ask({}));

  function ask(changes: Partial<Asked>): void {
    setAsked({ ...asked, ...changes });
  }

  function open(index: number): void {
    const row = found?.[index];
    if (!row) return;
    if (row.kind === "path" && row.isFolder) onEnter(row.path);
    else onOpen(row.path, row.kind === "line" ? row.match.line : 0);
  }

  function choose(index: number): void {
    if (!found?.length) return;
    const next = Math.max(0, Math.min(found.length - 1, index));
    setActive(next);
    list.current?.show(next);
    clearTimeout(timer.current);
    const row = found[next]!;
    if (row.kind !== "path" || !row.isFolder) timer.current = window.setTimeout(() => open(next), SHOWN_MS);
  }

  function pressed(event: JSX.TargetedKeyboardEvent<HTMLElement> | KeyboardEvent, page: number): void {
    const to: Record<string, () => void> = {
      ArrowDown: () => choose(active + 1),
      ArrowUp: () => choose(active - 1),
      PageDown: () => choose(active + page),
      PageUp: () => choose(active - page),
      Home: () => choose(0),
      End: () => choose((found?.length ?? 0) - 1),
      Enter: () => open(Math.max(0, active)),
    };
    const run = to[event.key];
    if (!run || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    run();
  }

  function fromField(event: KeyboardEvent): void {
    if (event.key === "ArrowDown") {
      event.preventDefault();
      list.current?.focus();
      choose(Math.max(0, active));
    } else if (event.key === "Enter") open(Math.max(0, active));
  }

  const lines = found?.filter((row) => row.kind !== "group").length ?? 0;
  const most = asked.what === "names" ? NAMES_MOST : LINES_MOST;
  return (
    <div class="find">
      <div class="find-form">
        <Segmented
          label="Search"
          value={asked.what}
          options={[
            { value: "names", label: "Names" },
            { value: "content", label: "Contents" },
          ]}
          onChange={(what) => ask({ what })}
        />
        <SearchInput
          value={asked.text}
          onInput={(text) => ask({ text })}
          onKeyDown={fromField}
          placeholder={asked.what === "names" ? "Part of a name, or *.py" : "Text in files"}
        />
        {asked.what === "content" ? (
          <div class="find-options">
            <Checkbox label="Match case" checked={asked.caseSensitive} onChange={(event) => ask({ caseSensitive: event.currentTarget.checked })} />
            <Field label="Only in files">
              <Input value={asked.pattern} placeholder="*.py" onInput={(event) => ask({ pattern: event.currentTarget.value })} />
            </Field>
          </div>
        ) : null}
        <Checkbox
          label="Also in hidden folders, dependencies and build output"
          checked={asked.all}
          onChange={(event) => ask({ all: event.currentTarget.checked })}
        />
      </div>
      <p class="find-count muted small" role="status">
        {busy && !found ? "Searching" : found && asked.text ? told(lines, most, asked.what) : ""}
      </p>
      {fault !== undefined ? <Failure error={fault} retry={() => ask({})} title="The search failed" /> : null}
      {!asked.text ? (
        <Empty icon={asked.what === "names" ? FileSearch : TextSearch} title={asked.what === "names" ? "Find a file" : "Search in files"}>
          {`Type ${asked.what === "names" ? "a part of its name" : "a text"} to search in ${shown(folder)} and below.`}
        </Empty>
      ) : !found ? (
        fault === undefined ? <Loading label="Searching" /> : null
      ) : !found.length ? (
        <Empty icon={SearchX} title="Nothing was found">
          {asked.all ? "Try another text, or another folder." : "Try another text, or search in hidden folders, dependencies and build output too."}
        </Empty>
      ) : (
        <Rows
          ref={list}
          id={LIST}
          className="find-rows"
          count={found.length}
          rowHeight={ROW_HEIGHT}
          label="Found"
          role="listbox"
          active={active}
          onKeyDown={pressed}
          render={(index) => (
            <FoundRow
              key={index}
              id={rowId(LIST, index)}
              row={found[index]!}
              folder={folder}
              asked={asked}
              active={index === active}
              onClick={() => {
                setActive(index);
                open(index);
              }}
            />
          )}
        />
      )}
    </div>
  );
}

function told(lines: number, most: number, what: What): string {
  const noun = what === "names" ? (lines === 1 ? "path" : "paths") : lines === 1 ? "line" : "lines";
  return lines >= most ? `The first ${count(lines)} ${noun}` : `${count(lines)} ${noun}`;
}

async function searched(folder: string, asked: Asked, signal: AbortSignal): Promise<Found[]> {
  if (asked.what === "names") {
    const matches = await findNames(folder, asked.text, { all: asked.all, most: NAMES_MOST }, signal);
    return matches.map(({ path, type }) => ({ kind: "path", path: joined(folder, path), isFolder: type === "directory" }));
  }
  const matches = await findContent(folder, asked.text, { ...asked, most: LINES_MOST }, signal);
  const rows: Found[] = [];
  for (let at = 0; at < matches.length; ) {
    const name = matches[at]!.path;
    const some = matches.slice(at).findIndex((match) => match.path !== name);
    const lines = some < 0 ? matches.length - at : some;
    const path = joined(folder, name);
    rows.push({ kind: "group", path, lines });
    for (const match of matches.slice(at, at + lines)) rows.push({ kind: "line", path, match });
    at += lines;
  }
  return rows;
}

interface FoundRowProps {
  id: string;
  row: Found;
  folder: string;
  asked: Asked;
  active: boolean;
  onClick(): void;
}

function FoundRow({ id, row, folder, asked, active, onClick }: FoundRowProps) {
  const below = shown(row.path.slice(joined(folder, "").length));
  const where = parentOf("/" + below).slice(1);
  return (
    <div id={id} role="option" aria-selected={active} class={`find-row find-${row.kind} ${active ? "is-active" : ""}`} onClick={onClick}>
      {row.kind === "line" ? (
        <>
          <span class="find-number num">{row.match.line}</span>
          <span class="find-text mono">
            <Marked text={row.match.text} from={row.match.column - 1} asked={asked} />
          </span>
        </>
      ) : (
        <>
          {row.kind === "path" && row.isFolder ? <FolderIcon size={16} class="tree-icon tree-icon-folder" /> : null}
          <span class="find-name">{nameOf("/" + below)}</span>
          <span class="find-where muted small clip">{where}</span>
          {row.kind === "group" ? <Badge tone="plain">{row.lines}</Badge> : null}
        </>
      )}
    </div>
  );
}

const BEFORE = 40;

/** A line with what was found in it; the column counts bytes. */
function Marked({ text, from, asked }: { text: string; from: number; asked: Asked }) {
  const start = new TextDecoder().decode(new TextEncoder().encode(text).subarray(0, from)).length;
  const head = text.slice(0, start).trimStart();
  return (
    <>
      {head.length > BEFORE ? "…" + head.slice(-BEFORE) : head}
      <mark>{text.slice(start, start + asked.text.length)}</mark>
      {text.slice(start + asked.text.length, start + asked.text.length + 300)}
    </>
  );
}
