import { Cable, Copy, ExternalLink, Link2, SquareTerminal, Trash2 } from "lucide-preact";
import { computed, signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { href } from "../../app/router";
import { api, usePoll } from "../../api/client";
import type { ProcessRecord } from "../../api/types";
import {
  Badge,
  Button,
  Empty,
  Failure,
  failed,
  IconButton,
  LinkButton,
  Loading,
  PageHead,
  Panel,
  SearchInput,
  Table,
  toast,
  type Column,
  type Item,
} from "../../ui";
import { stamp } from "../../ui/format";
import "./ports.css";

interface Port {
  pid: number;
  protocol: string;
  localAddr: string;
  localPort: number;
  state: string;
  processName: string;
  routable: boolean;
}

interface PortLink {
  id: string;
  port: number;
  host: string;
  once: boolean;
  spent: boolean;
  expiresAt: string;
}

interface NewLink extends PortLink {
  url: string;
}

interface Seen {
  ports: Port[];
  links: PortLink[];
  processes: ProcessRecord[];
}

const LOOK_MS = 2000;
const EXAMPLE = "python3 -m http.server 3000";
const sort = signal({ by: "port", down: false });
const filter = signal("");
const words = computed(() => filter.value.toLowerCase().split(/\s+/).filter(Boolean));

async function look(abort: AbortSignal): Promise<Seen> {
  const [{ ports }, { links }, processes] = await Promise.all([
    api.get<{ ports: Port[] }>("/network/ports", { signal: abort }),
    api.get<{ links: PortLink[] }>("/network/links", { signal: abort }),
    api.get<ProcessRecord[]>("/process", { signal: abort }),
  ]);
  return { ports, links, processes };
}

export default function PortsPage() {
  const { data, error, refresh } = usePoll(look, LOOK_MS);
  if (!data) {
    return (
      <div class="page">
        <PageHead title="Ports" />
        {error ? <Failure error={error} retry={refresh} title="The ports could not be read" /> : <Loading label="Reading ports" />}
      </div>
    );
  }
  const byPid = new Map(data.processes.map((one) => [Number(one.pid), one]));
  const shown = data.ports.filter((port) => words.value.every((word) => textOf(port, byPid.get(port.pid)).includes(word)));
  const previews = data.links.filter((link) => !link.once);
  return (
    <div class="page ports">
      <PageHead title="Ports">
        {data.ports.length ? <SearchInput value={filter.value} onInput={(text) => (filter.value = text)} placeholder="Port, process, address" /> : null}
      </PageHead>
      <Panel pad={false}>
        <Table
          label="Ports"
          rows={shown}
          columns={columns(byPid)}
          keyOf={(port) => `${port.protocol} ${port.localAddr} ${port.localPort}`}
          sort={sort}
          menu={(port) => (opens(port) ? items(port, refresh) : [{ label: "Copy its address", icon: Copy, run: () => void copied(addressOf(port)) }])}
          empty={data.ports.length ? <NoMatch /> : <NoPorts />}
        />
      </Panel>
      {previews.length ? <Previews links={previews} refresh={refresh} /> : null}
    </div>
  );
}

function textOf(port: Port, record: ProcessRecord | undefined): string {
  const { localPort, protocol, localAddr, pid, processName } = port;
  return [localPort, protocol, localAddr, pid, processName, record?.name].join(" ").toLowerCase();
}

function opens(port: Port): boolean {
  return port.protocol === "tcp" && port.state === "LISTEN" && !isOurs(port);
}

/** Whether it is the port by which this page came, which leads nowhere else. */
function isOurs(port: Port): boolean {
  return String(port.localPort) === location.port;
}

function addressOf({ localAddr, localPort }: Port): string {
  return localAddr.includes(":") ? `[${localAddr}]:${localPort}` : `${localAddr}:${localPort}`;
}

function columns(byPid: ReadonlyMap<number, ProcessRecord>): Column<Port>[] {
  return [
    { id: "port", title: "Port", align: "end", width: "84px", value: (port) => port.localPort, render: (port) => <strong>{port.localPort}</strong> },
    { id: "protocol", title: "Protocol", width: "100px", hideBelow: "phone", value: (port) => port.protocol, render: (port) => port.protocol.toUpperCase() },
    { id: "process", title: "Process", value: (port) => port.processName, render: (port) => <Holder port={port} record={byPid.get(port.pid)} /> },
    { id: "address", title: "Address", hideBelow: "tablet", value: addressOf, render: (port) => <span class="mono">{addressOf(port)}</span> },
    {
      id: "reach",
      title: "Reached from",
      width: "196px",
      hideBelow: "tablet",
      value: (port) => Number(port.routable),
      render: (port) => (port.routable ? <Badge tone="info">Other machines too</Badge> : <Badge tone="plain">This machine</Badge>),
    },
    { id: "open", title: "Open", width: "116px", render: (port) => (opens(port) ? <OpenButton port={port.localPort} /> : isOurs(port) ? <span class="muted small">This console</span> : null) },
  ];
}

function Holder({ port, record }: { port: Port; record: ProcessRecord | undefined }) {
  if (!port.pid) return <span class="muted">Not known</span>;
  const name = port.processName || "?";
  return (
    <span class="ports-holder">
      {record ? <a href={href("processes", [record.id])}>{record.name || name}</a> : <span class="clip">{name}</span>}
      <span class="ports-pid muted small num">{port.pid}</span>
    </span>
  );
}

/** The address at which this browser sees a port; good for one visit. */
function linkTo(port: number, wanted: { once: boolean }): Promise<NewLink> {
  return api.post(`/network/ports/${port}/links`, { body: { path: "/", ...wanted } });
}

function OpenButton({ port }: { port: number }) {
  const [busy, setBusy] = useState(false);
  return (
    <Button
      small
      icon={ExternalLink}
      busy={busy}
      aria-label={`Open port ${port} in a new tab`}
      onClick={() => {
        setBusy(true);
        void opened(port).finally(() => setBusy(false));
      }}
    >
      Open
    </Button>
  );
}

async function opened(port: number): Promise<void> {
  // The window first: a browser lets a page open one in answer to a click only.
  const tab = window.open("about:blank", "_blank");
  if (tab) tab.opener = null;
  try {
    const { url } = await linkTo(port, { once: true });
    if (tab) tab.location.replace(url);
    else toast("This browser lets no page open a new tab.", { action: { label: "Open here", run: () => location.assign(url) } });
  } catch (error) {
    tab?.close();
    failed(`Port ${port} was not opened`, error);
  }
}

function items(port: Port, refresh: () => void): Item[] {
  const number = port.localPort;
  return [
    { label: "Open in a new tab", icon: ExternalLink, run: () => void opened(number) },
    { label: "Copy a link for one visit", icon: Link2, run: () => void shared(number, true, refresh) },
    { label: "Copy a link for others, for a day", icon: Link2, run: () => void shared(number, false, refresh) },
    { label: "Copy its address in the sandbox", icon: Copy, run: () => void copied(addressOf(port)) },
  ];
}

async function shared(port: number, once: boolean, refresh: () => void): Promise<void> {
  try {
    const { url } = await linkTo(port, { once });
    await copied(url);
    refresh();
  } catch (error) {
    failed("The link was not made", error);
  }
}

async function copied(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    toast("It was copied.", { kind: "good" });
  } catch {
    // No clipboard without https: at least it can be seen.
    toast(text);
  }
}

function Previews({ links, refresh }: { links: PortLink[]; refresh(): void }) {
  async function revoke(link: PortLink): Promise<void> {
    try {
      await api.del(`/network/links/${encodeURIComponent(link.id)}`);
    } catch (error) {
      failed("The link was not revoked", error);
    }
    refresh();
  }
  return (
    <Panel title="Links that others have" pad={false}>
      <ul class="ports-links">
        {links.map((link) => (
          <li key={link.id}>
            <strong class="num">{link.port}</strong>
            <span class="mono small clip">{link.host || `/port/${link.port}/`}</span>
            <span class="muted small">{`until ${stamp(link.expiresAt)}`}</span>
            <IconButton small icon={Trash2} label={`Revoke the link to port ${link.port}`} onClick={() => void revoke(link)} />
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function NoMatch() {
  return (
    <Empty icon={Cable} title="No port matches" action={<Button onClick={() => (filter.value = "")}>Show all</Button>}>
      {`Nothing that listens fits “${filter.value}”.`}
    </Empty>
  );
}

function NoPorts() {
  return (
    <Empty
      icon={Cable}
      title="Nothing listens here"
      action={
        <>
          <Button icon={Copy} onClick={() => void copied(EXAMPLE)}>
            Copy the command
          </Button>
          <LinkButton icon={SquareTerminal} href={href("terminals")}>
            Go to the terminals
          </LinkButton>
        </>
      }
    >
      Start a server, for instance <code>{EXAMPLE}</code>, and it shows up here by itself.
    </Empty>
  );
}
