import { ArrowDown, ArrowDownToLine, ArrowUp, CaseSensitive, Clock, Download, Filter as FilterIcon, Regex, Timer } from "lucide-preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { apiUrl } from "../../../api/client";
import { useKeys } from "../../../app/keys";
import { Button, Dialog, failed, IconButton, LinkButton, SearchInput, Segmented, toast } from "../../../ui";
import { Lines } from "./Lines";
import { Place, TimeDialog } from "./Place";
import { type Filter, NO_FILTER, type Row } from "./rows";
import { parse } from "./sgr";
import { LogWindow } from "./window";
import "./LogView.css";

export interface LogViewProps {
  id: string;
  name: string;
  live: boolean;
  /** How much was written, and how much of it is gone. */
  written: number;
  lost: number;
  onEnd(): void;
}

/** The output of a process: followed, searched, filtered, at any size. */
export function LogView({ id, name, live, written, lost, onEnd }: LogViewProps) {
  const log = useMemo(() => new LogWindow(id), [id]);
  const [filter, setFilter] = useState<Filter>(NO_FILTER);
  const [times, setTimes] = useState(false);
  const [asking, setAsking] = useState(false);
  const [whole, setWhole] = useState<Row | null>(null);
  log.live = live;
  log.onEnd = onEnd;

  const shape = `${filter.stream}/${filter.only ? `${filter.text}/${filter.regex}/${filter.ignoreCase}` : ""}`;
  useEffect(() => {
    const timer = window.setTimeout(() => {
      log.following.value = true;
      log.start(filter);
    }, filter.text ? 250 : 0);
    return () => window.clearTimeout(timer);
  }, [log, shape]);
  useEffect(() => () => log.close(), [log]);

  const finder = useMemo(() => pattern(filter), [filter.text, filter.regex, filter.ignoreCase]);
  const change = (part: Partial<Filter>) => setFilter((before) => ({ ...before, ...part }));

  async function match(back: boolean) {
    if (!filter.text) return;
    const at = log.target.value?.match ? log.target.value.offset : (here.current ?? log.first.value);
    try {
      if (!(await log.toMatch(filter, at, back))) {
        toast(back ? "No match before this one." : "No match after this one.");
      }
    } catch (error) {
      failed("The search failed", error);
    }
  }

  const here = useRef<number | null>(null);
  useKeys({ F: () => log.follow() }, "Follow the end of the output");
  useKeys({ n: () => void match(false) }, "Next match");
  useKeys({ N: () => void match(true) }, "Match before");

  const end = Math.max(log.tail.value, written);
  const begin = Math.max(log.first.value, lost);

  return (
    <div class="log">
      <div class="log-bar">
        <SearchInput
          value={filter.text}
          placeholder="Search the output"
          onInput={(text) => change({ text })}
          onKeyDown={(event) => {
            if (event.key === "Enter") {
              event.preventDefault();
              void match(event.shiftKey);
            }
          }}
        />
        <span class="log-group">
          <IconButton
            icon={CaseSensitive}
            label="Match case"
            aria-pressed={!filter.ignoreCase}
            onClick={() => change({ ignoreCase: !filter.ignoreCase })}
          />
          <IconButton
            icon={Regex}
            label="Regular expression (RE2)"
            aria-pressed={filter.regex}
            onClick={() => change({ regex: !filter.regex })}
          />
          <IconButton
            icon={FilterIcon}
            label="Only lines that match"
            aria-pressed={filter.only}
            onClick={() => change({ only: !filter.only })}
          />
          <IconButton icon={ArrowUp} label="Match before (Shift+Enter)" disabled={!filter.text} onClick={() => void match(true)} />
          <IconButton icon={ArrowDown} label="Next match (Enter)" disabled={!filter.text} onClick={() => void match(false)} />
        </span>
        <Segmented
          label="Stream"
          value={filter.stream}
          options={[
            { value: "", label: "Both" },
            { value: "stdout", label: "stdout" },
            { value: "stderr", label: "stderr" },
          ]}
          onChange={(stream) => change({ stream })}
        />
        <span class="log-group log-right">
          <IconButton icon={Clock} label="Show times" aria-pressed={times} onClick={() => setTimes(!times)} />
          <IconButton icon={Timer} label="Go to a time" onClick={() => setAsking(true)} />
          <LinkButton
            kind="ghost"
            icon={Download}
            title="Download the output"
            aria-label="Download the output"
            href={apiUrl(`/process/${encodeURIComponent(id)}/output`, { stream: filter.stream })}
            download={`${name}.log`}
          />
          <Button
            small
            kind={log.following.value ? "ghost" : "plain"}
            icon={ArrowDownToLine}
            aria-pressed={log.following.value}
            onClick={() => (log.following.value ? log.hold() : log.follow())}
          >
            {live ? "Follow" : "End"}
          </Button>
        </span>
      </div>
      <Lines
        log={log}
        finder={finder}
        times={times}
        label={`Output of ${name}`}
        onTop={(offset) => {
          here.current = offset;
        }}
        onWhole={setWhole}
        filtered={filter.only && filter.text !== ""}
        live={live}
      />
      <Place log={log} begin={begin} end={end} here={here} />
      {asking ? <TimeDialog log={log} onClose={() => setAsking(false)} /> : null}
      {whole ? (
        <Dialog title="Whole line" wide onClose={() => setWhole(null)}>
          <pre class="log-whole">{parse(whole.text).spans.map((span) => span.text).join("")}</pre>
        </Dialog>
      ) : null}
    </div>
  );
}

/** The same as the server looks for, as far as this browser's expressions go. */
function pattern(filter: Filter): RegExp | null {
  if (!filter.text) return null;
  const source = filter.regex ? filter.text : filter.text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  try {
    return new RegExp(source, filter.ignoreCase ? "giu" : "gu");
  } catch {
    return null;
  }
}
