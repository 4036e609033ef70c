/** What has changed in a folder since a moment that a person chooses. */

import { signal } from "@preact/signals";
import { FileDiff, Flag, ListChecks } from "lucide-preact";
import { useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import { usePoll } from "../../api/client";
import { Badge, Button, Empty, Failure, failed, Loading } from "../../ui";
import { clock, count } from "../../ui/format";
import { changesSince } from "./calls";
import { joined, shown } from "./paths";
import { Rows, rowId, type RowsHandle } from "./rows";

const LIST = "files-changes";
const ROW_HEIGHT = 30;
const LOOK_MS = 3000;

interface Since {
  cursor: string;
  at: Date;
}

/** From when on changes are looked at, for each folder; kept as long as the page is open. */
const begun = signal<ReadonlyMap<string, Since>>(new Map());

async function begin(folder: string): Promise<void> {
  try {
    const { cursor } = await changesSince(folder, "");
    begun.value = new Map(begun.value).set(folder, { cursor, at: new Date() });
  } catch (error) {
    failed("Changes are not noted", error);
  }
}

type Kind = "created" | "changed" | "deleted";
const TONES = { created: "good", changed: "info", deleted: "bad" } as const;
const WORDS: Record<Kind, string> = { created: "New", changed: "Changed", deleted: "Deleted" };

interface Props {
  folder: string;
  onOpen(path: string): void;
}

export function ChangesPanel({ folder, onOpen }: Props) {
  const since = begun.value.get(folder);
  const [busy, setBusy] = useState(false);

  async function start(): Promise<void> {
    setBusy(true);
    await begin(folder);
    setBusy(false);
  }

  if (!since) {
    return (
      <Empty
        icon={Flag}
        title="See what a command changes"
        action={
          <Button kind="primary" icon={Flag} busy={busy} onClick={() => void start()}>
            Note changes from now
          </Button>
        }
      >
        {`Set a mark, then run something: everything that is created, changed or deleted in ${shown(folder)} after it is listed here.`}
      </Empty>
    );
  }
  return <Changed key={since.cursor} folder={folder} since={since} busy={busy} onStart={() => void start()} onOpen={onOpen} />;
}

function Changed({ folder, since, busy, onStart, onOpen }: Props & { since: Since; busy: boolean; onStart(): void }) {
  const poll = usePoll((abort) => changesSince(folder, since.cursor, abort), LOOK_MS, [folder, since.cursor]);
  const [active, setActive] = useState(-1);
  const list = useRef<RowsHandle>(null);
  const all = poll.data;
  const rows = all
    ? (["created", "changed", "deleted"] as const).flatMap((kind) => all[kind].map((path) => ({ kind, path })))
    : [];

  function choose(index: number): void {
    const next = Math.max(0, Math.min(rows.length - 1, index));
    setActive(next);
    list.current?.show(next);
  }

  function open(index: number): void {
    const row = rows[index];
    if (row && row.kind !== "deleted") onOpen(joined(folder, row.path));
  }

  function pressed(event: JSX.TargetedKeyboardEvent<HTMLElement>, page: number): void {
    const to: Record<string, () => void> = {
      ArrowDown: () => choose(active + 1),
      ArrowUp: () => choose(active - 1),
      PageDown: () => choose(active + page),
      PageUp: () => choose(active - page),
      Home: () => choose(0),
      End: () => choose(rows.length - 1),
      Enter: () => open(active),
    };
    const run = to[event.key];
    if (!run || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    run();
  }

  return (
    <div class="changes">
      <div class="changes-bar">
        <p class="muted small num" role="status">
          {`Since ${clock(since.at)}: ${all && !all.reset ? `${count(rows.length)} ${rows.length === 1 ? "path" : "paths"}` : "not known"}`}
        </p>
        <Button small icon={Flag} busy={busy} onClick={onStart}>
          Set the mark anew
        </Button>
      </div>
      {poll.error ? (
        <Failure error={poll.error} retry={poll.refresh} title="The changes could not be read" />
      ) : !all ? (
        <Loading label="Reading changes" />
      ) : all.reset ? (
        <Empty icon={FileDiff} title="The record was lost" action={<Button onClick={onStart}>Set the mark anew</Button>}>
          The server was started again, or too much has changed: what happened since the mark is not known.
        </Empty>
      ) : !rows.length ? (
        <Empty icon={ListChecks} title="Nothing has changed">
          This list follows by itself: run a command, or save a file.
        </Empty>
      ) : (
        <Rows
          ref={list}
          id={LIST}
          className="find-rows"
          count={rows.length}
          rowHeight={ROW_HEIGHT}
          label="Changes"
          role="listbox"
          active={active}
          onKeyDown={pressed}
          render={(index) => {
            const row = rows[index]!;
            return (
              <div
                key={`${row.kind} ${row.path}`}
                id={rowId(LIST, index)}
                role="option"
                aria-selected={index === active}
                class={`find-row changes-${row.kind} ${index === active ? "is-active" : ""}`}
                onClick={() => {
                  setActive(index);
                  open(index);
                }}
              >
                <Badge tone={TONES[row.kind]}>{WORDS[row.kind]}</Badge>
                <span class="changes-path clip" title={shown(row.path)}>
                  {shown(row.path)}
                </span>
              </div>
            );
          }}
        />
      )}
    </div>
  );
}
