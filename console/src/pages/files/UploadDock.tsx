/** What is on its way into the sandbox: how far, and how to hold it. */

import { Check, ChevronDown, ChevronUp, CircleAlert, File as FileIcon, Folder, Pause, Play, X } from "lucide-preact";
import { useState } from "preact/hooks";
import { Button, IconButton } from "../../ui";
import { bytes, count } from "../../ui/format";
import { nameOf, shown } from "./paths";
import {
  answer,
  cancel,
  clearEnded,
  isOver,
  pause,
  pauseAll,
  resume,
  resumeAll,
  uploads,
  type Upload,
} from "./uploads";

const LISTED = 40;

export function UploadDock() {
  const all = uploads.value;
  // Until a person says otherwise, it is open while there is something to see or to decide.
  const [chosen, setChosen] = useState<boolean>();
  if (!all.length) return null;
  const going = all.filter((one) => !isOver(one));
  const faults = all.filter((one) => one.state === "failed").length;
  const folded = chosen ?? (going.length === 0 && faults === 0);
  const size = all.reduce((sum, one) => sum + one.size, 0);
  const sent = all.reduce((sum, one) => sum + (one.state === "done" || one.state === "skipped" ? one.size : one.sent), 0);
  const isHeld = going.length > 0 && going.every((one) => one.state === "paused" || one.state === "asking");
  const title = going.length
    ? `${isHeld ? "Paused" : "Uploading"}: ${count(all.length - going.length)} of ${count(all.length)}`
    : faults
      ? `${count(faults)} of ${count(all.length)} failed`
      : `${count(all.length)} ${all.length === 1 ? "upload is" : "uploads are"} done`;
  // Those that need somebody first, then what moves.
  const rank = { asking: 0, failed: 1, retrying: 2, running: 3, paused: 4, waiting: 5, skipped: 6, done: 7 };
  const listed = [...all].sort((a, b) => rank[a.state] - rank[b.state] || a.id - b.id).slice(0, LISTED);
  return (
    <section class="dock" aria-label="Uploads">
      <header class="dock-head">
        <div class="dock-title">
          <h2 role="status">{title}</h2>
          <p class="muted small num">{`${bytes(sent)} of ${bytes(size)}`}</p>
        </div>
        {going.some((one) => one.state !== "paused" && one.state !== "asking") ? (
          <IconButton small icon={Pause} label="Pause all" onClick={pauseAll} />
        ) : going.some((one) => one.state === "paused") ? (
          <IconButton small icon={Play} label="Resume all" onClick={resumeAll} />
        ) : null}
        <IconButton small icon={folded ? ChevronUp : ChevronDown} label={folded ? "Show uploads" : "Hide uploads"} onClick={() => setChosen(!folded)} />
        {going.length ? null : <IconButton small icon={X} label="Clear the list" onClick={clearEnded} />}
      </header>
      <progress class="dock-total" aria-label="All uploads" max={Math.max(1, size)} value={size ? sent : all.length - going.length} />
      {folded ? null : (
        <ul class="dock-list" tabIndex={0} aria-label="Files on their way">
          {listed.map((one) => (
            <Line key={one.id} one={one} several={going.filter((other) => other.state === "asking").length > 1} />
          ))}
          {all.length > LISTED ? <li class="dock-rest muted small">{`and ${count(all.length - LISTED)} more`}</li> : null}
        </ul>
      )}
    </section>
  );
}

const WORDS: Record<Upload["state"], string> = {
  waiting: "Waiting",
  running: "",
  paused: "Paused",
  asking: "There is a file of this name already",
  retrying: "Waiting for the server",
  done: "Done",
  failed: "",
  skipped: "Left out",
};

function Line({ one, several }: { one: Upload; several: boolean }) {
  const name = shown(nameOf(one.path));
  const Icon = one.state === "failed" ? CircleAlert : one.state === "done" ? Check : one.file ? FileIcon : Folder;
  const share = one.size ? `${Math.floor((100 * one.sent) / one.size)} %` : "";
  const words = one.state === "failed" ? one.fault : WORDS[one.state] || `${share} of ${bytes(one.size)}`;
  return (
    <li class={`dock-line dock-${one.state}`}>
      <Icon size={16} class="dock-icon" />
      <div class="dock-what">
        <p class="clip" title={shown(one.path)}>
          {name}
        </p>
        <p class="muted small num">{one.state === "paused" && one.sent ? `Paused at ${share} of ${bytes(one.size)}` : words}</p>
        {one.state === "running" || one.state === "paused" || one.state === "retrying" ? (
          <progress aria-label={`Upload of ${name}`} max={Math.max(1, one.size)} value={one.sent} />
        ) : null}
        {one.state === "asking" ? <Ask one={one} several={several} /> : null}
      </div>
      {one.state === "running" || one.state === "waiting" || one.state === "retrying" ? (
        <IconButton small icon={Pause} label={`Pause ${name}`} onClick={() => pause(one.id)} />
      ) : null}
      {one.state === "paused" || one.state === "failed" ? (
        <IconButton small icon={Play} label={one.state === "failed" ? `Try ${name} again` : `Resume ${name}`} onClick={() => resume(one.id)} />
      ) : null}
      {isOver(one) && one.state !== "failed" ? null : <IconButton small icon={X} label={`Give up ${name}`} onClick={() => cancel(one.id)} />}
    </li>
  );
}

function Ask({ one, several }: { one: Upload; several: boolean }) {
  const [all, setAll] = useState(false);
  return (
    <div class="dock-ask">
      <Button small onClick={() => answer(one.id, "replace", all)}>
        Replace
      </Button>
      <Button small onClick={() => answer(one.id, "keep", all)}>
        Keep both
      </Button>
      <Button small onClick={() => answer(one.id, "skip", all)}>
        Leave out
      </Button>
      {several ? (
        <label class="checkbox small">
          <input type="checkbox" checked={all} onChange={(event) => setAll(event.currentTarget.checked)} />
          <span>For all</span>
        </label>
      ) : null}
    </div>
  );
}
