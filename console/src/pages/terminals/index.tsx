import { CirclePlay, Eye, List, LogIn, Pencil, Plus, SquareTerminal, Trash2, X } from "lucide-preact";
import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { useKeys } from "../../app/keys";
import { href, navigate } from "../../app/router";
import { session } from "../../app/session";
import { usePoll } from "../../api/client";
import {
  Badge,
  Button,
  confirm,
  Dialog,
  Empty,
  Failure,
  failed,
  Field,
  Input,
  Loading,
  Menu,
  PageHead,
  prompt,
  Table,
  Tabs,
  type Column,
  type Item,
} from "../../ui";
import { ago, bytes } from "../../ui/format";
import type { PageProps } from "../page";
import { addTab, all, close, dropTab, ending, one, open, rename, tabs } from "./calls";
import { Player } from "./Player";
import { Session } from "./Session";
import type { TerminalRecord } from "./types";
import "./terminals.css";

const LOOK_MS = 2500;
const LIST = "list";
const sort = signal({ by: "started", down: true });

export default function TerminalsPage({ path, query }: PageProps) {
  const [id, what] = path;
  if (session.value && !session.value.terminals) {
    return (
      <div class="page">
        <PageHead title="Terminals" />
        <Empty icon={SquareTerminal} title="Terminals are switched off">
          The server was started with DISABLE_TERMINAL. Start it without that variable to have them.
        </Empty>
      </div>
    );
  }
  if (id !== undefined && what === "recording") return <Player key={id} id={id} />;
  return <Sessions id={id} readOnly={query.get("view") === "only"} />;
}

/** Sessions that were opened here: the list may not have them yet. */
const opened = new Set<string>();

function Sessions({ id, readOnly }: { id: string | undefined; readOnly: boolean }) {
  const poll = usePoll(all, LOOK_MS);
  const [asking, setAsking] = useState(false);
  const records = poll.data;
  const byId = new Map(records?.map((record) => [record.id, record]));

  // An address may have the name of a session.
  const named = id !== undefined && !byId.has(id) ? records?.find((record) => record.sessionId === id)?.id : undefined;
  useEffect(() => {
    if (named !== undefined) navigate(href("terminals", [named]), { replace: true });
    else if (id !== undefined && byId.has(id)) addTab(id);
  }, [id, named, byId.has(id ?? "")]);

  async function start(wanted: Parameters<typeof open>[0] = {}): Promise<boolean> {
    try {
      const made = await open({ workingDir: session.value?.workdir, ...wanted });
      opened.add(made.id);
      addTab(made.id);
      poll.refresh();
      navigate(href("terminals", [made.id]));
      return true;
    } catch (error) {
      failed("The terminal was not opened", error);
      return false;
    }
  }

  function leave(tab: string): void {
    dropTab(tab);
    if (tab === id) navigate(href("terminals", tabs.value.slice(-1)));
  }

  useKeys({ n: () => void start() }, "New terminal");

  const known = tabs.value.filter((tab) => !records || byId.has(tab) || tab === id);
  const shown = id === undefined ? undefined : byId.get(id);
  return (
    <div class="page page-fill terminals">
      <PageHead title="Terminals">
        <Button kind="primary" icon={Plus} onClick={() => void start()}>
          New terminal
        </Button>
        <Menu
          label="More"
          items={[
            { label: "New terminal with options", icon: SquareTerminal, run: () => setAsking(true) },
            ...(shown ? (["line", ...actions(shown, { refresh: poll.refresh, leave })] as Item[]) : []),
          ]}
        />
      </PageHead>
      <section class="panel terminals-panel" aria-label="Sessions">
        <Tabs
          label="Terminals"
          active={id ?? LIST}
          tabs={[
            { id: LIST, label: <TabLabel icon="list" text="All sessions" />, href: href("terminals") },
            ...known.map((tab) => ({
              id: tab,
              label: <TabLabel record={byId.get(tab)} text={byId.get(tab)?.sessionId ?? tab.slice(0, 8)} />,
              href: href("terminals", [tab]),
              onClose: () => leave(tab),
            })),
          ]}
        />
        {id === undefined ? (
          <SessionList records={records} error={poll.error} refresh={poll.refresh} onNew={() => void start()} leave={leave} />
        ) : !records && !opened.has(id) ? (
          poll.error ? <Failure error={poll.error} retry={poll.refresh} title="The sessions could not be read" /> : <Loading label="Reading sessions" />
        ) : (
          <Shown key={id} id={id} record={shown} isKnown={!opened.has(id)} readOnly={readOnly} refresh={poll.refresh} onNew={() => void start()} onLeave={() => leave(id)} />
        )}
      </section>
      {asking ? <NewTerminal onClose={() => setAsking(false)} onOpen={start} /> : null}
    </div>
  );
}

function TabLabel({ record, text, icon }: { record?: TerminalRecord; text: string; icon?: "list" }) {
  return (
    <span class="terminals-tab">
      {icon ? <List size={14} /> : <span class={`terminals-dot ${record?.status === "running" ? "is-running" : ""}`} />}
      <span class="clip">{text || "(no name)"}</span>
      {record && record.clients > 1 ? (
        <span class="terminals-eyes num" title={`${record.clients} viewers`}>
          <Eye size={12} />
          {record.clients}
        </span>
      ) : null}
    </span>
  );
}

interface ShownProps {
  id: string;
  record: TerminalRecord | undefined;
  isKnown: boolean;
  readOnly: boolean;
  refresh(): void;
  onNew(): void;
  onLeave(): void;
}

function Shown({ id, record, isKnown, readOnly, refresh, onNew, onLeave }: ShownProps) {
  const [title, setTitle] = useState("");
  const [over, setOver] = useState<TerminalRecord>();

  async function exited(): Promise<void> {
    refresh();
    setOver(await one(id).catch(() => undefined));
  }

  if (isKnown && !record && !over) {
    return (
      <Empty
        icon={SquareTerminal}
        title="There is no such session"
        action={
          <>
            <Button kind="primary" icon={Plus} onClick={onNew}>
              New terminal
            </Button>
            <Button onClick={onLeave}>Close the tab</Button>
          </>
        }
      >
        It has ended and was removed, or the address is wrong.
      </Empty>
    );
  }
  const now = over ?? record;
  return (
    <div class="terminals-shown">
      {now?.status === "exited" ? (
        <div class="terminals-over" role="status">
          <p>{`This session ${ending(now)}. What it showed last is below.`}</p>
          <Button small icon={CirclePlay} onClick={() => navigate(href("terminals", [id, "recording"]))}>
            Play the recording
          </Button>
          <Button small kind="primary" icon={Plus} onClick={onNew}>
            New terminal
          </Button>
        </div>
      ) : null}
      {title ? <p class="terminals-title muted small clip">{title}</p> : null}
      <Session id={id} name={record?.sessionId ?? id} readOnly={readOnly} clients={record?.clients ?? 0} onExit={() => void exited()} onTitle={setTitle} />
    </div>
  );
}

interface ListProps {
  records: TerminalRecord[] | undefined;
  error: unknown;
  refresh(): void;
  onNew(): void;
  leave(id: string): void;
}

const COLUMNS: Column<TerminalRecord>[] = [
  { id: "name", title: "Name", value: (row) => row.sessionId, render: (row) => <a href={href("terminals", [row.id])}>{row.sessionId || "(no name)"}</a> },
  {
    id: "status",
    title: "State",
    width: "172px",
    value: (row) => row.status,
    render: (row) => (row.status === "running" ? <Badge tone="good">Running</Badge> : <Badge tone={row.exitCode ? "warn" : "plain"}>{capital(ending(row))}</Badge>),
  },
  { id: "shell", title: "Program", hideBelow: "phone", value: (row) => [row.shell, ...(row.args ?? [])].join(" "), render: (row) => <span class="mono clip">{[row.shell, ...(row.args ?? [])].join(" ")}</span> },
  { id: "clients", title: "Viewers", align: "end", width: "92px", hideBelow: "tablet", value: (row) => row.clients },
  { id: "size", title: "Size", align: "end", width: "100px", hideBelow: "tablet", value: (row) => row.cols * row.rows, render: (row) => `${row.cols} × ${row.rows}` },
  { id: "output", title: "Output", align: "end", width: "100px", hideBelow: "tablet", value: (row) => row.outputBytes, render: (row) => bytes(row.outputBytes) },
  { id: "started", title: "Started", align: "end", width: "120px", hideBelow: "phone", value: (row) => row.startedAt, render: (row) => ago(row.startedAt) },
];

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function SessionList({ records, error, refresh, onNew, leave }: ListProps) {
  if (!records) return error ? <Failure error={error} retry={refresh} title="The sessions could not be read" /> : <Loading label="Reading sessions" />;
  return (
    <Table
      label="Sessions"
      rows={records}
      columns={COLUMNS}
      keyOf={(row) => row.id}
      sort={sort}
      rowHref={(row) => href("terminals", [row.id])}
      menu={(row) => actions(row, { refresh, leave })}
      empty={
        <Empty
          icon={SquareTerminal}
          title="No terminal is open"
          action={
            <Button kind="primary" icon={Plus} onClick={onNew}>
              New terminal
            </Button>
          }
        >
          A terminal goes on when this page is closed: come back to it from anywhere, or let others watch.
        </Empty>
      }
    />
  );
}

function actions(record: TerminalRecord, { refresh, leave }: { refresh(): void; leave(id: string): void }): Item[] {
  const isLive = record.status === "running";
  return [
    ...(isLive
      ? [
          { label: "Join", icon: LogIn, run: () => go(record.id, {}) },
          { label: "View only", icon: Eye, run: () => go(record.id, { view: "only" }) },
        ]
      : []),
    { label: "Play the recording", icon: CirclePlay, run: () => navigate(href("terminals", [record.id, "recording"])) },
    { label: "Rename", icon: Pencil, run: () => void renamed(record, refresh) },
    "line",
    { label: isLive ? "End the session" : "Remove it and its recording", icon: isLive ? X : Trash2, danger: true, run: () => void ended(record, refresh, leave) },
  ];
}

function go(id: string, query: Record<string, string>): void {
  navigate(href("terminals", [id], query));
}

async function renamed(record: TerminalRecord, refresh: () => void): Promise<void> {
  const name = await prompt({ title: "Rename the session", label: "Name", value: record.sessionId, action: "Rename" });
  if (name === null || name === record.sessionId) return;
  try {
    await rename(record.id, name.trim());
  } catch (error) {
    failed("The session was not renamed", error);
  }
  refresh();
}

async function ended(record: TerminalRecord, refresh: () => void, leave: (id: string) => void): Promise<void> {
  const isLive = record.status === "running";
  const sure = await confirm({
    title: isLive ? `End ${record.sessionId || "this session"}?` : `Remove ${record.sessionId || "this session"}?`,
    text: isLive ? "Its shell and all that runs in it are hung up. The recording stays." : "Its recording goes as well. This cannot be undone.",
    action: isLive ? "End session" : "Remove",
    danger: true,
  });
  if (!sure) return;
  try {
    await close(record.id);
    if (!isLive) leave(record.id);
  } catch (error) {
    failed(isLive ? "The session was not ended" : "The session was not removed", error);
  }
  refresh();
}

function NewTerminal({ onClose, onOpen }: { onClose(): void; onOpen(wanted: Parameters<typeof open>[0]): Promise<boolean> }) {
  const [name, setName] = useState("");
  const [shell, setShell] = useState("");
  const [folder, setFolder] = useState("");
  const [busy, setBusy] = useState(false);

  async function submit(): Promise<void> {
    setBusy(true);
    const wanted = { sessionId: name.trim() || undefined, shell: shell.trim() || undefined, ...(folder.trim() ? { workingDir: folder.trim() } : {}) };
    const isOpen = await onOpen(wanted);
    setBusy(false);
    if (isOpen) onClose();
  }

  return (
    <Dialog
      title="New terminal"
      onClose={onClose}
      onSubmit={() => void submit()}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" kind="primary" busy={busy}>
            Open terminal
          </Button>
        </>
      }
    >
      <div class="terminals-form">
        <Field label="Name" hint="Made up if you leave it empty.">
          <Input value={name} maxLength={256} autofocus onInput={(event) => setName(event.currentTarget.value)} />
        </Field>
        <Field label="Program" hint="The login shell if you leave it empty.">
          <Input class="mono" value={shell} placeholder="/bin/bash" onInput={(event) => setShell(event.currentTarget.value)} />
        </Field>
        <Field label="Folder" hint="Where it starts.">
          <Input class="mono" value={folder} placeholder={session.value?.workdir} onInput={(event) => setFolder(event.currentTarget.value)} />
        </Field>
      </div>
    </Dialog>
  );
}
