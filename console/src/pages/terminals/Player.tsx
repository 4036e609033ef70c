/** A recording, played back. */

import { ArrowLeft, Download, Pause, Play, RotateCcw, SkipBack, SkipForward } from "lucide-preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { useComeback } from "../../app/comeback";
import { href } from "../../app/router";
import { theme } from "../../app/theme";
import { Checkbox, Empty, Failure, IconButton, LinkButton, Loading, PageHead, palette, Select } from "../../ui";
import { bytes, stamp } from "../../ui/format";
import { recording as fetchRecording, recordingUrl } from "./calls";
import { clock, Player as Clockwork, readRecording, withoutPauses, type Recording, type Stage } from "./recording";
import type { Made } from "./xterm";

const SPEEDS = [0.5, 1, 2, 4, 8, 16];
const STEP_SECONDS = 5;
const LONGEST_PAUSE = 2;

export function Player({ id }: { id: string }) {
  const [recording, setRecording] = useState<Recording>();
  const [fault, setFault] = useState<unknown>();
  const [came, setCame] = useState(0);
  const [again, setAgain] = useState(0);

  useEffect(() => {
    const control = new AbortController();
    setFault(undefined);
    setRecording(undefined);
    fetchRecording(id, control.signal)
      .then((reply) => readRecording(reply.body!, setCame))
      .then(setRecording)
      .catch((error: unknown) => control.signal.aborted || setFault(error));
    return () => control.abort();
  }, [id, again]);

  useComeback(() => fault !== undefined && setAgain((n) => n + 1));

  const title = recording?.title || "Recording";
  return (
    <div class="page page-fill terminals">
      <PageHead title={title} crumbs={[{ label: "Terminals", href: href("terminals") }]} status={recording ? <span class="muted small num">{stamp(recording.began * 1000)}</span> : null}>
        <LinkButton icon={Download} href={recordingUrl(id)} download={`${title}.cast`}>
          Download
        </LinkButton>
        <IconButton icon={RotateCcw} label="Load the recording again, with what came since" onClick={() => setAgain((n) => n + 1)} />
      </PageHead>
      {fault !== undefined ? (
        <Failure error={fault} retry={() => setAgain((n) => n + 1)} title="The recording could not be loaded" />
      ) : !recording ? (
        <Loading label={came ? `Loading the recording, ${bytes(came)}` : "Loading the recording"} />
      ) : recording.moments.length ? (
        <Playing key={`${id} ${again}`} recording={recording} />
      ) : (
        <Empty icon={Play} title="Nothing was recorded yet" action={<LinkButton href={href("terminals", [id])} icon={ArrowLeft}>Back to the terminal</LinkButton>}>
          What the terminal shows from now on can be played here.
        </Empty>
      )}
    </div>
  );
}

function Playing({ recording }: { recording: Recording }) {
  const host = useRef<HTMLDivElement>(null);
  const box = useRef<HTMLDivElement>(null);
  const made = useRef<Made>();
  const player = useRef<Clockwork>();
  const [, setTick] = useState(0);
  const [cut, setCut] = useState(true);

  useEffect(() => {
    let gone = false;
    let seen: ResizeObserver | undefined;
    void import("./xterm").then(({ makeTerminal }) => {
      if (gone || !host.current || !box.current) return;
      const one = makeTerminal(host.current, {
        disableStdin: true,
        cursorBlink: false,
        theme: palette(theme.value),
      });
      made.current = one;
      one.terminal.textarea?.setAttribute("aria-label", `Recording of ${recording.title}`);
      player.current = new Clockwork(withoutPauses(recording, LONGEST_PAUSE), stageOf(one, scale), () => setTick((n) => n + 1));
      seen = new ResizeObserver(scale);
      seen.observe(box.current);
      player.current.play();
    });
    return () => {
      gone = true;
      seen?.disconnect();
      player.current?.close();
      made.current?.terminal.dispose();
      made.current = undefined;
    };
  }, []);

  useEffect(() => {
    if (made.current) made.current.terminal.options.theme = palette(theme.value);
  }, [theme.value]);

  /** Show the recording's own size as large as there is room, at most a little larger than live. */
  function scale(): void {
    const one = made.current;
    const room = box.current;
    const screen = host.current?.querySelector<HTMLElement>(".xterm-screen");
    if (!one || !room || !screen?.offsetWidth) return;
    const size = one.terminal.options.fontSize ?? 14;
    const factor = Math.min((room.clientWidth - 24) / screen.offsetWidth, (room.clientHeight - 16) / screen.offsetHeight);
    const next = Math.max(8, Math.min(18, Math.floor(size * factor)));
    if (next !== size) one.terminal.options.fontSize = next;
  }

  const live = player.current;
  const seconds = live?.seconds ?? 0;
  const at = live?.position ?? 0;
  const gaps = recording.moments.filter((one) => one.kind === "m").length;

  function pressed(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    if (/^(SELECT|BUTTON)$/.test(target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    const acts: Record<string, () => void> = {
      " ": () => live?.toggle(),
      k: () => live?.toggle(),
      ArrowLeft: () => live?.seek(at - STEP_SECONDS),
      ArrowRight: () => live?.seek(at + STEP_SECONDS),
      Home: () => live?.seek(0),
      End: () => live?.seek(seconds),
    };
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  return (
    <section class="panel player" aria-label="Player" onKeyDown={pressed}>
      <div class="player-room" ref={box} onClick={() => live?.toggle()}>
        <div ref={host} class="player-screen" data-takes-keys />
      </div>
      <div class="player-bar">
        <IconButton icon={live?.playing ? Pause : Play} label={live?.playing ? "Pause" : "Play"} onClick={() => live?.toggle()} />
        <IconButton icon={SkipBack} label="Back 5 seconds" onClick={() => live?.seek(at - STEP_SECONDS)} />
        <IconButton icon={SkipForward} label="On 5 seconds" onClick={() => live?.seek(at + STEP_SECONDS)} />
        <span class="player-time num small">{clock(at)}</span>
        <input
          class="player-line"
          type="range"
          min={0}
          max={Math.max(0.001, seconds)}
          step="any"
          value={at}
          aria-label="Time"
          aria-valuetext={`${clock(at)} of ${clock(seconds)}`}
          onInput={(event) => live?.seek(Number(event.currentTarget.value))}
        />
        <span class="player-time num small">{clock(seconds)}</span>
        <Select class="player-speed" aria-label="Speed" value={String(live?.speed ?? 1)} onChange={(event) => live?.setSpeed(Number(event.currentTarget.value))}>
          {SPEEDS.map((speed) => (
            <option key={speed} value={String(speed)}>{`${speed}×`}</option>
          ))}
        </Select>
        <Checkbox
          label="Shorten pauses"
          checked={cut}
          onChange={(event) => {
            const shortens = event.currentTarget.checked;
            setCut(shortens);
            live?.recut(shortens ? withoutPauses(recording, LONGEST_PAUSE) : recording);
          }}
        />
        {gaps ? <span class="muted small">{`${gaps} ${gaps === 1 ? "part is" : "parts are"} not kept`}</span> : null}
      </div>
    </section>
  );
}

function stageOf({ terminal }: Made, resized: () => void): Stage {
  return {
    reset: (cols, rows) => {
      terminal.reset();
      terminal.resize(cols, rows);
      resized();
    },
    resize: (cols, rows) => {
      terminal.resize(cols, rows);
      resized();
    },
    write: (text) => new Promise((resolve) => terminal.write(text, resolve)),
  };
}
