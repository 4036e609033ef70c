/** What can be done with a process, from the table and from its page alike. */

import { CircleStop, OctagonX, RotateCw, Send, Trash2 } from "lucide-preact";
import { api } from "../../api/client";
import type { ProcessRecord } from "../../api/types";
import { href, navigate, route } from "../../app/router";
import { confirm, failed, type Item, toast } from "../../ui";
import { isOver } from "./status";

export const SIGNALS = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGSTOP", "SIGCONT", "SIGWINCH", "SIGTERM", "SIGKILL"];

export function place(process: ProcessRecord, more = ""): string {
  return `/process/${encodeURIComponent(process.id)}${more}`;
}

export async function stop(process: ProcessRecord): Promise<void> {
  await attempt(`${process.name} was not stopped`, () => api.del(place(process)), `SIGTERM was sent to ${process.name}.`);
}

export async function kill(process: ProcessRecord): Promise<void> {
  const sure = await confirm({
    title: `Kill ${process.name}?`,
    text: "SIGKILL ends the process and its group at once. It cannot save anything or clean up.",
    action: "Kill process",
    danger: true,
  });
  if (sure) await attempt(`${process.name} was not killed`, () => api.del(place(process, "/kill")), `${process.name} was killed.`);
}

export async function send(process: ProcessRecord, signal: string): Promise<void> {
  await attempt(
    `${signal} was not sent`,
    () => api.post(place(process, "/signal"), { body: { signal } }),
    `${signal} was sent to ${process.name}.`,
  );
}

export async function restart(process: ProcessRecord): Promise<void> {
  if (!isOver(process)) {
    const sure = await confirm({
      title: `Restart ${process.name}?`,
      text: "It is sent SIGTERM, SIGKILL after ten seconds, and then started again with the same command, folder and variables.",
      action: "Restart process",
    });
    if (!sure) return;
  }
  await attempt(`${process.name} was not restarted`, async () => {
    const made = await api.post<ProcessRecord>(place(process, "/restart"));
    toast(`${made.name} was started again.`, { kind: "good" });
    if (route.peek().page === "processes") navigate(href("processes", [made.id]));
  });
}

/** `leave` is called before the record is gone: whoever shows it need not find that out. */
export async function forget(process: ProcessRecord, leave?: () => void): Promise<boolean> {
  const sure = await confirm({
    title: `Remove ${process.name}?`,
    text: "Its record and all its output are deleted. This cannot be undone.",
    action: "Remove process",
    danger: true,
  });
  if (!sure) return false;
  leave?.();
  return attempt(`${process.name} was not removed`, () => api.del(place(process, "/record")), `${process.name} was removed.`);
}

/** What the menu of a row, and of a page, offers. */
export function items(process: ProcessRecord, changed: () => void): Item[] {
  const then = (work: Promise<unknown>) => void work.finally(changed);
  if (isOver(process)) {
    return [
      { label: "Start again", icon: RotateCw, run: () => then(restart(process)) },
      "line",
      { label: "Remove", icon: Trash2, danger: true, run: () => then(forget(process)) },
    ];
  }
  return [
    { label: "Stop", icon: CircleStop, run: () => then(stop(process)) },
    { label: "Restart", icon: RotateCw, run: () => then(restart(process)) },
    { label: "Interrupt (SIGINT)", icon: Send, run: () => then(send(process, "SIGINT")) },
    "line",
    { label: "Kill", icon: OctagonX, danger: true, run: () => then(kill(process)) },
  ];
}

async function attempt(what: string, work: () => Promise<unknown>, done = ""): Promise<boolean> {
  try {
    await work();
    if (done) toast(done, { kind: "good" });
    return true;
  } catch (error) {
    failed(what, error);
    return false;
  }
}
