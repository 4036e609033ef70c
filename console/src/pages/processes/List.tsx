import { signal } from "@preact/signals";
import { Activity, Play, Trash2 } from "lucide-preact";
import { useMemo, useState } from "preact/hooks";
import { api, ApiError, usePoll } from "../../api/client";
import type { ProcessRecord, ProcessStats } from "../../api/types";
import { useKeys } from "../../app/keys";
import { href, setQuery } from "../../app/router";
import {
  ago,
  Button,
  bytes,
  type Column,
  confirm,
  count,
  Empty,
  failed,
  Failure,
  Loading,
  PageHead,
  Panel,
  percent,
  plural,
  SearchInput,
  Segmented,
  type Sort,
  stamp,
  Table,
  toast,
  Toolbar,
} from "../../ui";
import { items, place } from "./actions";
import { StartDialog } from "./StartDialog";
import { cause, isOver, StatusBadge } from "./status";
import "./processes.css";

interface Row extends ProcessRecord {
  stats?: ProcessStats;
}

type Show = "all" | "running" | "over";
const sort = signal<Sort>({ by: "started", down: true });

/** All processes and what the ones that run use now. */
export async function looked(signal: AbortSignal): Promise<Row[]> {
  const [records, stats] = await Promise.all([
    api.get<ProcessRecord[]>("/process", { query: { output: false }, signal }),
    figures(signal),
  ]);
  const known = new Map(stats.map((one) => [one.id, one]));
  return records.map((record) => ({ ...record, stats: known.get(record.id) }));
}

async function figures(signal: AbortSignal): Promise<ProcessStats[]> {
  try {
    return (await api.get<{ processes: ProcessStats[] }>("/process-stats", { signal })).processes;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return []; // an older server
    throw error;
  }
}

export function List({ query }: { query: URLSearchParams }) {
  const { data, error, refresh } = usePoll(looked, 2000);
  const [starting, setStarting] = useState(false);
  const text = query.get("q") ?? "";
  const show = (query.get("show") ?? "all") as Show;
  useKeys({ s: () => setStarting(true) }, "Start a process");

  const rows = useMemo(() => chosen(data ?? [], text, show), [data, text, show]);
  const running = (data ?? []).filter((row) => !isOver(row)).length;
  const over = (data ?? []).length - running;

  async function prune() {
    const gone = (data ?? []).filter(isOver);
    const sure = await confirm({
      title: "Remove all that are over?",
      text: `${plural(gone.length, "record")} and their output are deleted. This cannot be undone.`,
      action: "Remove all",
      danger: true,
    });
    if (!sure) return;
    let removed = 0;
    for (const one of gone) {
      try {
        await api.del(place(one, "/record"));
        removed += 1;
      } catch (caught) {
        failed(`${one.name} was not removed`, caught);
      }
    }
    toast(`${plural(removed, "process", "processes")} removed.`, { kind: "good" });
    refresh();
  }

  if (error && !data) {
    return (
      <div class="page">
        <PageHead title="Processes" />
        <Failure error={error} retry={refresh} />
      </div>
    );
  }
  return (
    <div class="page page-fill">
      <PageHead title="Processes">
        {over > 0 ? (
          <Button icon={Trash2} onClick={() => void prune()}>
            Remove finished
          </Button>
        ) : null}
        <Button kind="primary" icon={Play} onClick={() => setStarting(true)}>
          Start process
        </Button>
      </PageHead>
      {data?.length ? (
        <Toolbar>
          <SearchInput
            value={text}
            placeholder="Filter by name, command or pid"
            onInput={(value) => setQuery({ q: value || null })}
          />
          <Segmented<Show>
            label="Show"
            value={show}
            options={[
              { value: "all", label: `All ${count(data.length)}` },
              { value: "running", label: `Running ${count(running)}` },
              { value: "over", label: `Finished ${count(over)}` },
            ]}
            onChange={(value) => setQuery({ show: value === "all" ? null : value })}
          />
        </Toolbar>
      ) : null}
      {!data ? (
        <Loading />
      ) : (
        <Panel pad={false} class="processes-panel">
          <Table
            label="Processes"
            rows={rows}
            columns={columns}
            keyOf={(row) => row.id}
            sort={sort}
            rowHref={(row) => href("processes", [row.id])}
            menu={(row) => items(row, refresh)}
            empty={
              data.length ? (
                <Empty
                  icon={Activity}
                  title="No process matches"
                  action={<Button onClick={() => setQuery({ q: null, show: null })}>Show all</Button>}
                >
                  Change the filter to see others.
                </Empty>
              ) : (
                <Empty
                  icon={Activity}
                  title="No processes yet"
                  action={
                    <Button kind="primary" icon={Play} onClick={() => setStarting(true)}>
                      Start process
                    </Button>
                  }
                >
                  What agents and people start by the API or the command line appears here, with its output and what it uses.
                </Empty>
              )
            }
          />
        </Panel>
      )}
      {starting ? <StartDialog onClose={() => setStarting(false)} /> : null}
    </div>
  );
}

const columns: Column<Row>[] = [
  {
    id: "name",
    title: "Name",
    value: (row) => row.name,
    render: (row) => (
      <a class="processes-name" href={href("processes", [row.id])} tabIndex={-1}>
        {row.name}
      </a>
    ),
    width: "15%",
  },
  {
    id: "status",
    title: "Status",
    value: (row) => row.status,
    render: (row) => (
      <span title={cause(row)}>
        <StatusBadge process={row} />
      </span>
    ),
    width: "136px",
  },
  {
    id: "command",
    title: "Command",
    value: (row) => row.command,
    render: (row) => (
      <code class="processes-command" title={row.command}>
        {row.command}
      </code>
    ),
    hideBelow: "phone",
  },
  { id: "pid", title: "PID", value: (row) => Number(row.pid), render: (row) => row.pid, align: "end", width: "84px", hideBelow: "tablet" },
  {
    id: "cpu",
    title: "CPU",
    value: (row) => row.stats?.cpuPercent ?? null,
    render: (row) => percent(row.stats?.cpuPercent),
    align: "end",
    width: "88px",
  },
  {
    id: "memory",
    title: "Memory",
    value: (row) => row.stats?.memoryBytes ?? null,
    render: (row) => bytes(row.stats?.memoryBytes),
    align: "end",
    width: "96px",
    hideBelow: "phone",
  },
  {
    id: "output",
    title: "Output",
    value: (row) => row.stdoutBytes + row.stderrBytes,
    render: (row) => bytes(row.stdoutBytes + row.stderrBytes),
    align: "end",
    width: "96px",
    hideBelow: "tablet",
  },
  {
    id: "started",
    title: "Started",
    value: (row) => Date.parse(row.startedAt),
    render: (row) => <span title={stamp(row.startedAt)}>{ago(row.startedAt)}</span>,
    align: "end",
    width: "108px",
    hideBelow: "phone",
  },
];

function chosen(rows: Row[], text: string, show: Show): Row[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter((row) => {
    if (show !== "all" && isOver(row) !== (show === "over")) return false;
    const hay = `${row.name} ${row.command} ${row.pid} ${row.id} ${row.tag ?? ""} ${row.user ?? ""} ${row.status}`.toLowerCase();
    return words.every((word) => hay.includes(word));
  });
}

