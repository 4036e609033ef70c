import { useEffect, useMemo, useState } from "preact/hooks";
import { api, usePoll } from "../../api/client";
import type { ProcessRecord, ProcessStats } from "../../api/types";
import { bytes, Chart, count, Loading, Panel, percent, rate, seconds } from "../../ui";
import { place } from "./actions";
import { isOver, ranFor } from "./status";

/** A figure with its name, in a list of them. */
export function Fact({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

const COUNTED = ["cpuPercent", "memoryBytes", "processes", "threads", "stdoutBytes", "stderrBytes"] as const;
type Counted = (typeof COUNTED)[number];
export type Sample = Pick<ProcessStats, Counted> & Partial<ProcessStats> & { at: number };

const SAMPLES = 450;
const SPAN_SECONDS = 900;

interface Past {
  times: number[];
  figures: Record<Counted, number[]>;
}

/** What it uses, every two seconds, and before the page was opened as the server has kept it: a quarter of an hour at most. */
export function useFigures(process: ProcessRecord | undefined): Sample[] {
  const [samples, setSamples] = useState<Sample[]>([]);
  const past = usePast(process?.id);
  const over = process ? isOver(process) : true;
  const path = process ? place(process, "/stats") : "";
  const { data } = usePoll(
    async (signal) => (over ? undefined : api.get<ProcessStats & { time: string }>(path, { signal })),
    over ? 0 : 2000,
    [path, over],
  );
  useEffect(() => {
    if (data) {
      const at = Date.parse(data.time) / 1000;
      setSamples((before) => (before.at(-1)?.at === at ? before : [...before.slice(1 - SAMPLES), { ...data, at }]));
    }
  }, [data]);
  return useMemo(() => joined(past, samples), [past, samples]);
}

function usePast(id: string | undefined): Sample[] {
  const { data } = usePoll(
    async (signal) => (id ? api.get<Past>(`/process/${encodeURIComponent(id)}/stats/history`, { signal }) : undefined),
    0,
    [id],
  );
  return useMemo(
    () =>
      (data?.times ?? []).map((at, row) => {
        const one = { at } as Sample;
        for (const name of COUNTED) one[name] = data!.figures[name][row]!;
        return one;
      }),
    [data],
  );
}

function joined(past: Sample[], samples: Sample[]): Sample[] {
  const begun = samples[0]?.at ?? Infinity;
  const from = (samples.at(-1) ?? past.at(-1))?.at ?? 0;
  return [...past.filter((one) => one.at < begun), ...samples].filter((one) => one.at > from - SPAN_SECONDS);
}

/** What one that is over has used. */
function Usage({ process }: { process: ProcessRecord }) {
  const { usage } = process;
  return (
    <Panel title="Over all attempts" class="process-usage">
      <dl class="process-facts">
        <Fact name="CPU time" value={seconds(usage?.cpuSeconds)} />
        <Fact name="Most memory" value={bytes(usage?.peakRssBytes)} />
        <Fact name="Ran for" value={seconds(ranFor(process))} />
        <Fact name="Standard output" value={bytes(process.stdoutBytes)} />
        <Fact name="Standard error" value={bytes(process.stderrBytes)} />
      </dl>
    </Panel>
  );
}

/** Its charts; of one that is over what it has used as well. */
export function Figures({ samples, process }: { samples: Sample[]; process: ProcessRecord }) {
  const over = isOver(process);
  if (over && !samples.length) return <Usage process={process} />;
  if (!samples.length) return <Loading label="Waiting for the first figures" />;
  const times = samples.map((one) => one.at);
  const last = samples.at(-1);
  const limit = last?.memoryLimitBytes ?? 0;
  return (
    <div class="process-figures">
      {over ? <Usage process={process} /> : null}
      <Panel title="CPU" actions={<span class="num">{percent(last?.cpuPercent)} of one processor</span>}>
        <Chart
          label="CPU"
          times={times}
          series={[{ label: "CPU", values: samples.map((one) => one.cpuPercent), tone: 1 }]}
          format={percent}
          max={100}
          height={180}
        />
      </Panel>
      <Panel title="Memory" actions={<span class="num">{bytes(last?.memoryBytes)}{limit ? ` of ${bytes(limit)}` : ""}</span>}>
        <Chart
          label="Memory"
          times={times}
          series={[{ label: "Memory", values: samples.map((one) => one.memoryBytes), tone: 2 }]}
          format={bytes} binary
          max={limit || 1024 * 1024}
          height={180}
        />
      </Panel>
      <Panel title="Output" actions={<span class="num">{rate(written(samples).at(-1))}</span>}>
        <Chart
          label="Output"
          times={times}
          series={[{ label: "Output", values: written(samples), tone: 3 }]}
          format={rate} binary
          max={1024}
          height={180}
        />
      </Panel>
      <Panel title="Processes and threads" actions={<span class="num">{count(last?.processes)} and {count(last?.threads)}</span>}>
        <Chart
          label="Processes and threads"
          times={times}
          series={[
            { label: "Processes", values: samples.map((one) => one.processes), tone: 4 },
            { label: "Threads", values: samples.map((one) => one.threads), tone: 6 },
          ]}
          format={count}
          max={4}
          height={180}
        />
      </Panel>
    </div>
  );
}

function written(samples: Sample[]): (number | null)[] {
  return samples.map((one, index) => {
    const before = samples[index - 1];
    if (!before || one.at <= before.at) return null;
    const more = one.stdoutBytes + one.stderrBytes - before.stdoutBytes - before.stderrBytes;
    return Math.max(0, more) / (one.at - before.at);
  });
}
