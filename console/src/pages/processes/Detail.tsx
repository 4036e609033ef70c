import { CircleStop, CornerDownLeft, OctagonX, RotateCw, SearchX, Send, Trash2, Unplug } from "lucide-preact";
import { useRef, useState } from "preact/hooks";
import { api, usePoll } from "../../api/client";
import type { ProcessRecord } from "../../api/types";
import { href, navigate, setQuery } from "../../app/router";
import {
  Badge,
  Button,
  bytes,
  confirm,
  count,
  Empty,
  failed,
  Failure,
  IconButton,
  Input,
  Loading,
  Menu,
  PageHead,
  Panel,
  percent,
  seconds,
  stamp,
  Tabs,
  toast,
} from "../../ui";
import { forget, kill, place, restart, send, SIGNALS, stop } from "./actions";
import { Fact, Figures, type Sample, useFigures } from "./Figures";
import { LogView } from "./output/LogView";
import { age, cause, isOver, StatusBadge } from "./status";
import "./processes.css";

const TABS = [
  { id: "output", label: "Output" },
  { id: "figures", label: "CPU and memory" },
  { id: "details", label: "Details" },
];

export function Detail({ id, tab }: { id: string; tab: string }) {
  const { data, error, refresh } = usePoll(
    (signal) => api.get<ProcessRecord>(`/process/${encodeURIComponent(id)}`, { query: { output: false }, signal }),
    2000,
    [id],
  );
  const figures = useFigures(data);

  if (error?.status === 404 && !data) {
    return (
      <div class="page">
        <PageHead title="Process" crumbs={[{ label: "Processes", href: href("processes") }]} />
        <Empty
          icon={SearchX}
          title="There is no such process"
          action={<Button onClick={() => navigate(href("processes"))}>Show all processes</Button>}
        >
          No process has the pid, the name or the id “{id}”. It may have been removed.
        </Empty>
      </div>
    );
  }
  if (error && !data) return <Failure error={error} retry={refresh} />;
  if (!data) return <Loading />;
  const over = isOver(data);
  const last = over ? undefined : figures.at(-1);

  return (
    <div class="page page-fill process">
      <PageHead title={data.name} crumbs={[{ label: "Processes", href: href("processes") }]} status={<StatusBadge process={data} />}>
        {over ? (
          <>
            <Button icon={RotateCw} onClick={() => void restart(data)}>
              Start again
            </Button>
            <Button
              icon={Trash2}
              onClick={() => void forget(data, () => navigate(href("processes")))}
            >
              Remove
            </Button>
          </>
        ) : (
          <>
            <Button icon={RotateCw} onClick={() => void restart(data)}>
              Restart
            </Button>
            <Button icon={CircleStop} onClick={() => void stop(data).then(refresh)}>
              Stop
            </Button>
            <Menu
              small={false}
              label="Send a signal"
              icon={Send}
              items={SIGNALS.map((name) => ({ label: name, run: () => void send(data, name).then(refresh) }))}
            />
            <IconButton icon={OctagonX} label="Kill" onClick={() => void kill(data).then(refresh)} />
          </>
        )}
      </PageHead>
      <div class="process-line">
        <code class="clip" title={data.command}>
          {data.command}
        </code>
        <dl class="num">
          <Fact name="PID" value={data.pid} />
          <Fact name={over ? "Ran for" : "Runs for"} value={age(data)} />
          {last ? <Fact name="CPU" value={percent(last.cpuPercent)} /> : null}
          {last ? <Fact name="Memory" value={bytes(last.memoryBytes)} /> : null}
          <Fact name="Output" value={bytes(data.stdoutBytes + data.stderrBytes)} />
          {data.restartCount ? <Fact name="Restarts" value={count(data.restartCount)} /> : null}
        </dl>
      </div>
      {over ? (
        <p class={`process-cause process-${data.status}`}>
          {cause(data)} <span class="muted">{stamp(data.completedAt)}</span>
          {data.outputUncertain ? " Its last words may be missing: nobody held its pipes when it ended." : ""}
        </p>
      ) : null}
      <Tabs label="Parts" active={tab} tabs={TABS} onChange={(one) => setQuery({ tab: one === "output" ? null : one })} />
      {tab === "figures" ? (
        <Figures samples={figures} process={data} />
      ) : tab === "details" ? (
        <Details process={data} last={last} />
      ) : (
        <Panel pad={false} class="process-output">
          <LogView
            key={data.id}
            id={data.id}
            name={data.name}
            live={!over}
            written={data.stdoutBytes + data.stderrBytes}
            lost={data.lostBytes}
            onEnd={refresh}
          />
          {data.stdin && !over ? <StandardInput process={data} /> : null}
        </Panel>
      )}
    </div>
  );
}

/** Type lines, or end of file. */
function StandardInput({ process }: { process: ProcessRecord }) {
  const [text, setText] = useState("");
  const [closed, setClosed] = useState(false);
  const past = useRef<string[]>([]);
  const back = useRef(0);

  async function submit(event: Event) {
    event.preventDefault();
    try {
      await api.post(place(process, "/stdin"), { body: `${text}\n`, headers: { "Content-Type": "text/plain" } });
      if (text) past.current = [...past.current.slice(-99), text];
      back.current = 0;
      setText("");
    } catch (error) {
      failed("The line was not written", error);
    }
  }

  async function close() {
    const sure = await confirm({
      title: "Send end of file?",
      text: "Standard input is closed: nothing can be written to it any more.",
      action: "Send end of file",
    });
    if (!sure) return;
    try {
      await api.del(place(process, "/stdin"));
      setClosed(true);
      toast("End of file was sent.", { kind: "good" });
    } catch (error) {
      failed("End of file was not sent", error);
    }
  }

  function onKeyDown(event: KeyboardEvent) {
    const step = event.key === "ArrowUp" ? 1 : event.key === "ArrowDown" ? -1 : 0;
    if (!step) return;
    event.preventDefault();
    back.current = Math.max(0, Math.min(past.current.length, back.current + step));
    setText(back.current ? (past.current.at(-back.current) ?? "") : "");
  }

  if (closed) {
    return <p class="process-stdin muted">Standard input is closed.</p>;
  }
  return (
    <form class="process-stdin" onSubmit={(event) => void submit(event)}>
      <Input
        class="mono"
        aria-label="A line for standard input"
        placeholder="Write a line to standard input"
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      <Button type="submit" icon={CornerDownLeft}>
        Send line
      </Button>
      <IconButton icon={Unplug} label="Send end of file" onClick={() => void close()} />
    </form>
  );
}

function Details({ process, last }: { process: ProcessRecord; last: Sample | undefined }) {
  const limits = process.limits ?? {};
  const enforced = process.limits?.enforcedBy ?? {};
  const rows: [string, preact.ComponentChildren][] = [
    ["Id", <code>{process.id}</code>],
    ["Command", <code class="process-wrap">{process.command}</code>],
    ["Folder", process.workingDir ? <code class="process-wrap">{process.workingDir}</code> : "the server’s own"],
    ["User", process.user ?? "the workload’s own"],
    ["Tag", process.tag ?? "–"],
    ["Started", stamp(process.startedAt)],
    ["Ended", isOver(process) ? stamp(process.completedAt) : "–"],
    ["Exit", isOver(process) ? `${cause(process)} Code ${process.exitCode}${process.exitSignal ? `, ${process.exitSignal}` : ""}.` : "–"],
    ["Restarts", `${count(process.restartCount)}${process.restartOnFailure ? ` of ${process.maxRestarts < 0 ? "any number" : count(process.maxRestarts)}` : ""}`],
    ["Keeps the sandbox awake", process.keepAlive ? "Yes" : "No"],
    ["Standard input", process.stdin ? "A pipe" : "Nothing (/dev/null)"],
    ["CPU time", seconds(last?.cpuSeconds ?? process.usage?.cpuSeconds)],
    ["Most memory", bytes(process.usage?.peakRssBytes)],
    ["Standard output", bytes(process.stdoutBytes)],
    ["Standard error", bytes(process.stderrBytes)],
    ["Not kept any more", bytes(process.lostBytes)],
  ];
  const kept = Object.entries(limits).filter(([name, value]) => name !== "enforcedBy" && value !== null);
  return (
    <div class="process-details">
      <Panel title="Record">
        <dl class="process-list">
          {rows.map(([name, value]) => (
            <div key={name}>
              <dt class="muted">{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      </Panel>
      <Panel title="Limits">
        {kept.length ? (
          <dl class="process-list">
            {kept.map(([name, value]) => (
              <div key={name}>
                <dt class="muted">{LIMITS[name] ?? name}</dt>
                <dd>
                  {name === "memoryBytes" ? bytes(Number(value)) : count(Number(value))}{" "}
                  <Badge tone={enforced[name] === "none" ? "warn" : "plain"}>
                    {enforced[name] === "none" ? "not kept by this machine" : `kept by ${enforced[name] ?? "?"}`}
                  </Badge>
                </dd>
              </div>
            ))}
          </dl>
        ) : (
          <p class="muted">It may use all that the machine has.</p>
        )}
      </Panel>
    </div>
  );
}

const LIMITS: Record<string, string> = {
  memoryBytes: "Memory",
  pids: "Processes",
  cpus: "Processors",
  openFiles: "Open files",
};
