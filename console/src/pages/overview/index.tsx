import { signal } from "@preact/signals";
import { Gauge, ScrollText } from "lucide-preact";
import { useRef } from "preact/hooks";
import { api, usePoll } from "../../api/client";
import { href } from "../../app/router";
import { session } from "../../app/session";
import {
  Badge,
  bytes,
  Chart,
  type Column,
  count,
  Empty,
  Failure,
  Loading,
  Meter,
  PageHead,
  Panel,
  percent,
  plural,
  rate,
  seconds,
  Table,
  type Sort,
} from "../../ui";
import "./overview.css";

interface History {
  everySeconds: number;
  times: number[];
  figures: Record<string, (number | null)[]>;
}

interface Cursor {
  consumer: string;
  process: string;
  name: string;
  offset: number;
  lag: number;
  seconds: number;
}

interface Diagnostics {
  version: string;
  uptimeSeconds: number;
  server: { pid: number; residentBytes: number; cpuSeconds: number; threads: number; openFiles: number; openFilesLimit: number };
  cursors: Cursor[];
  cursorsOmitted: number;
  journals: { journals: number; keptBytes: number; lostBytes: number; totalLimitBytes: number };
  processes: Record<string, number>;
}

const SPAN_SECONDS = 900;
const CONSUMERS: [string, string][] = [
  ["logs", "Logs"],
  ["events", "Events"],
  ["exec", "Waited starts"],
  ["wait", "Waits"],
  ["telemetry", "Telemetry"],
];
const sort = signal<Sort>({ by: "lag", down: true });

export default function Overview() {
  const history = useHistory();
  const now = usePoll((signal) => api.get<Diagnostics>("/diagnostics", { signal }), 3000);
  const ready = usePoll((signal) => readiness(signal), 5000);

  if (history.error && !history.data) {
    return (
      <div class="page">
        <PageHead title="Overview" />
        <Failure error={history.error} retry={history.refresh} />
      </div>
    );
  }
  if (!history.data || !now.data) return <Loading />;
  const { times, figures } = history.data;
  // A server that has just been started fills the charts soon; later they are a quarter of an hour.
  const span = Math.min(SPAN_SECONDS, Math.max(120, (times.at(-1) ?? 0) - (times[0] ?? 0)));
  const last = (name: string) => figures[name]?.at(-1) ?? null;
  const one = (name: string, label: string, tone?: 1 | 2 | 3 | 4 | 5 | 6) => [
    { label, values: figures[name] ?? [], tone },
  ];
  const output = (figures.outputBytes ?? []).map((value) =>
    value === null ? null : value / history.data!.everySeconds,
  );
  const running = (now.data.processes.running ?? 0) + (now.data.processes.backoff ?? 0);

  return (
    <div class="page">
      <PageHead title="Overview" status={<Health checks={ready.data} />}>
        <span class="muted num">
          Up {seconds(now.data.uptimeSeconds)} · {session.value?.workdir}
        </span>
      </PageHead>
      <div class="overview-grid">
        <Figure title="CPU" value={percent(last("cpuPercent"))} share={[last("cpuPercent"), 100]}>
          <Chart label="CPU" times={times} span={span} series={one("cpuPercent", "CPU")} format={percent} max={100} fixed />
        </Figure>
        <Figure
          title="Memory"
          value={bytes(last("memoryUsedBytes"))}
          of={bytes(last("memoryTotalBytes"))}
          share={[last("memoryUsedBytes"), last("memoryTotalBytes")]}
        >
          <Chart
            label="Memory"
            times={times} span={span}
            series={one("memoryUsedBytes", "Memory", 2)}
            format={bytes} binary
            max={last("memoryTotalBytes") ?? 0}
            fixed
          />
        </Figure>
        <Figure
          title="Disk"
          value={bytes(last("diskUsedBytes"))}
          of={bytes(last("diskTotalBytes"))}
          share={[last("diskUsedBytes"), last("diskTotalBytes")]}
        >
          <Chart
            label="Disk"
            times={times} span={span}
            series={one("diskUsedBytes", "Disk", 4)}
            format={bytes} binary
            max={last("diskTotalBytes") ?? 0}
            fixed
          />
        </Figure>
        <Figure title="Processes" value={count(running)} href={href("processes")}>
          <Chart label="Processes" times={times} span={span} series={one("processes", "Processes")} format={count} max={4} />
        </Figure>
        <Figure title="Terminals" value={count(last("terminals"))} href={href("terminals")}>
          <Chart label="Terminals" times={times} span={span} series={one("terminals", "Terminals", 2)} format={count} max={4} />
        </Figure>
        <Figure title="Ports" value={count(last("ports"))} href={href("ports")}>
          <Chart label="Ports" times={times} span={span} series={one("ports", "Ports", 3)} format={count} max={4} />
        </Figure>
        <Figure title="Drives" value={count(last("drives"))}>
          <Chart label="Drives" times={times} span={span} series={one("drives", "Drives", 6)} format={count} max={4} />
        </Figure>
        <Figure title="Output of processes" value={rate(output.at(-1))}>
          <Chart
            label="Output"
            times={times} span={span}
            series={[{ label: "Output", values: output, tone: 1 }]}
            format={rate} binary
            max={1024}
          />
        </Figure>
        <Figure title="Loop delay" value={seconds(last("loopDelaySeconds"))}>
          <Chart
            label="Loop delay"
            times={times} span={span}
            series={one("loopDelaySeconds", "Longest delay", 5)}
            format={seconds}
            max={0.01}
          />
        </Figure>
        <Panel
          class="overview-wide"
          title="Lag of readers"
          actions={<span class="muted small">Bytes that the slowest reader of each kind has still before it</span>}
        >
          <Chart
            label="Lag of readers"
            times={times} span={span}
            height={160}
            series={CONSUMERS.map(([name, label]) => ({ label, values: figures[`lag.${name}`] ?? [] }))}
            format={bytes} binary
            max={1024}
          />
        </Panel>
        <Panel class="overview-wide" title="Cursors" pad={false}>
          <Table
            label="Cursors"
            rows={now.data.cursors}
            columns={columns}
            keyOf={(row) => `${row.consumer}/${row.process}/${row.seconds.toFixed(0)}/${row.offset}`}
            sort={sort}
            rowHref={(row) => href("processes", [row.process])}
            empty={
              <Empty icon={ScrollText} title="Nobody reads output now">
                Each stream of a process’s output that somebody follows stands here, with how far it is behind.
              </Empty>
            }
          />
          {now.data.cursorsOmitted ? (
            <p class="overview-more muted">{plural(now.data.cursorsOmitted, "more cursor")} not shown.</p>
          ) : null}
        </Panel>
        <ServerPanel now={now.data} />
      </div>
    </div>
  );
}

const columns: Column<Cursor>[] = [
  { id: "consumer", title: "Reader", value: (row) => row.consumer, width: "20%" },
  { id: "name", title: "Process", value: (row) => row.name },
  { id: "lag", title: "Behind by", value: (row) => row.lag, render: (row) => bytes(row.lag), align: "end", width: "18%" },
  {
    id: "offset",
    title: "At byte",
    value: (row) => row.offset,
    render: (row) => count(row.offset),
    align: "end",
    width: "22%",
    hideBelow: "phone",
  },
  {
    id: "seconds",
    title: "For",
    value: (row) => row.seconds,
    render: (row) => seconds(row.seconds),
    align: "end",
    width: "16%",
    hideBelow: "phone",
  },
];

function Figure(props: {
  title: string;
  value: string;
  of?: string;
  share?: [number | null, number | null];
  href?: string;
  children: preact.ComponentChildren;
}) {
  const [used, total] = props.share ?? [null, null];
  return (
    <section class="panel overview-figure" aria-label={props.title}>
      <header>
        <h2>{props.href ? <a href={props.href}>{props.title}</a> : props.title}</h2>
        <p class="num">
          <strong>{props.value}</strong>
          {props.of ? <span class="muted"> of {props.of}</span> : null}
        </p>
      </header>
      {used !== null && total !== null ? <Meter value={used} max={total} label={props.title} /> : null}
      {props.children}
    </section>
  );
}

function ServerPanel({ now }: { now: Diagnostics }) {
  const { server, journals } = now;
  const facts: [string, string][] = [
    ["Memory of the server", bytes(server.residentBytes)],
    ["CPU time", seconds(server.cpuSeconds)],
    ["Open files", `${count(server.openFiles)} of ${count(server.openFilesLimit)}`],
    ["Threads", count(server.threads)],
    ["Output kept", `${bytes(journals.keptBytes)}${journals.totalLimitBytes ? ` of ${bytes(journals.totalLimitBytes)}` : ""}`],
    ["Output dropped", bytes(journals.lostBytes)],
  ];
  return (
    <Panel class="overview-wide" title="Server">
      <dl class="overview-facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt class="muted">{name}</dt>
            <dd class="num">{value}</dd>
          </div>
        ))}
      </dl>
    </Panel>
  );
}

function Health({ checks }: { checks: Record<string, string> | undefined }) {
  if (!checks) return null;
  const bad = Object.entries(checks).filter(([, found]) => found !== "ok");
  if (!bad.length) return <Badge tone="good">Ready</Badge>;
  return (
    <span title={bad.map(([name, why]) => `${name}: ${why}`).join("\n")}>
      <Badge tone="bad">
        <Gauge size={12} /> {bad.map(([name, why]) => `${name}: ${why}`).join(", ")}
      </Badge>
    </span>
  );
}

/** 503 is an answer here, with the reasons in it. */
async function readiness(signal: AbortSignal): Promise<Record<string, string>> {
  try {
    return (await api.get<{ checks: Record<string, string> }>("/ready", { signal })).checks;
  } catch (error) {
    const body = (error as { body?: { checks?: Record<string, string> } }).body;
    if (body?.checks) return body.checks;
    throw error;
  }
}

/** The last quarter of an hour: fetched once, then what is new. */
function useHistory() {
  const kept = useRef<History | null>(null);
  return usePoll(async (signal) => {
    const before = kept.current;
    const since = before?.times.at(-1);
    const fresh = await api.get<History>("/diagnostics/history", { query: { since }, signal });
    kept.current = before ? joined(before, fresh) : fresh;
    return kept.current;
  }, 5000);
}

function joined(before: History, fresh: History): History {
  const newest = fresh.times.at(-1) ?? before.times.at(-1) ?? 0;
  const from = before.times.findIndex((time) => time > newest - SPAN_SECONDS);
  const start = from < 0 ? before.times.length : from;
  const figures: History["figures"] = {};
  for (const [name, values] of Object.entries(fresh.figures)) {
    figures[name] = [...(before.figures[name] ?? []).slice(start), ...values];
  }
  return { ...fresh, times: [...before.times.slice(start), ...fresh.times], figures };
}
