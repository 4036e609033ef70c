import { X } from "lucide-preact";
import { useEffect, useState } from "preact/hooks";
import { Button, bytes, Dialog, failed, Field, Input } from "../../../ui";
import type { LogWindow } from "./window";

interface PlaceProps {
  log: LogWindow;
  begin: number;
  end: number;
  here: { current: number | null };
}

/** Where in all of the output one is; to be dragged. */
export function Place({ log, begin, end, here }: PlaceProps) {
  const [dragged, setDragged] = useState<number | null>(null);
  const [, look] = useState(0);
  useEffect(() => {
    const timer = window.setInterval(() => look((value) => value + 1), 500);
    return () => window.clearInterval(timer);
  }, []);
  const at = dragged ?? (log.following.value ? end : (here.current ?? end));
  return (
    <div class="log-place">
      <span class="num">{bytes(begin)}</span>
      <input
        type="range"
        class="slider"
        aria-label="Place in the output"
        aria-valuetext={`${bytes(at)} of ${bytes(end)}`}
        min={begin}
        max={Math.max(end, begin + 1)}
        step="any"
        value={at}
        onInput={(event) => setDragged(Number(event.currentTarget.value))}
        onChange={(event) => {
          const to = Math.floor(Number(event.currentTarget.value));
          setDragged(null);
          // The very ends are wherever they are by then.
          if (to >= end - 1) log.follow();
          else log.jump(to <= begin ? 0 : to);
        }}
      />
      <span class="num">{bytes(end)}</span>
    </div>
  );
}

export function TimeDialog({ log, onClose }: { log: LogWindow; onClose(): void }) {
  const [text, setText] = useState(() => local(new Date()));
  const [error, setError] = useState("");

  async function go(moment: Date) {
    try {
      if (await log.toTime(moment.toISOString())) onClose();
      else setError("Nothing was written at or after that time.");
    } catch (caught) {
      failed("The time could not be found", caught);
    }
  }

  return (
    <Dialog
      title="Go to a time"
      onClose={onClose}
      onSubmit={() => {
        const moment = new Date(text);
        if (Number.isNaN(moment.getTime())) setError("This is no time.");
        else void go(moment);
      }}
      footer={
        <>
          <Button onClick={onClose} icon={X}>
            Cancel
          </Button>
          <Button kind="primary" type="submit">
            Go there
          </Button>
        </>
      }
    >
      <Field label="First line at or after" error={error}>
        <Input type="datetime-local" step={1} value={text} autofocus onInput={(event) => setText(event.currentTarget.value)} />
      </Field>
      <div class="log-group">
        {[1, 5, 15, 60].map((minutes) => (
          <Button key={minutes} small onClick={() => void go(new Date(Date.now() - minutes * 60_000))}>
            {minutes < 60 ? `${minutes} min ago` : "1 h ago"}
          </Button>
        ))}
      </div>
    </Dialog>
  );
}

function local(moment: Date): string {
  const shifted = new Date(moment.getTime() - moment.getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 19);
}
