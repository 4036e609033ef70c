/** Whether the server answers: noticed by any request that fails, and by a heartbeat.
 *
 * A server that restarts or a sandbox that is suspended is waited for as long as the page is open.
 * `epoch` grows each time it is back: what holds a connection opens it again then.
 */

import { signal } from "@preact/signals";
import { root } from "./place";

export const connection = signal<"online" | "lost">("online");
export const epoch = signal(0);
export const lostSince = signal(0);

const BEAT_MS = 5000;
const PATIENCE_MS = 5000;
const FIRST_TRY_MS = 400;
const LONGEST_MS = 5000;

let timer = 0;
let pause = FIRST_TRY_MS;

/** Say that a request did not reach the server. */
export function lost(): void {
  if (connection.value === "lost") return;
  connection.value = "lost";
  lostSince.value = Date.now();
  pause = FIRST_TRY_MS;
  again(pause);
}

/** Try now: a person asked for it, or the network is back. */
export function tryNow(): void {
  pause = FIRST_TRY_MS;
  again(0);
}

async function beat(): Promise<void> {
  if (document.hidden && connection.value === "online") {
    again(BEAT_MS);
    return;
  }
  if (await answers()) {
    if (connection.value === "lost") {
      connection.value = "online";
      epoch.value += 1;
    }
    again(BEAT_MS);
  } else if (connection.value === "online") {
    lost();
  } else {
    pause = Math.min(LONGEST_MS, pause * 1.6);
    again(pause);
  }
}

async function answers(): Promise<boolean> {
  try {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    const reply = await fetch(new URL("health", root), { signal, cache: "no-store" });
    await reply.body?.cancel();
    return reply.ok;
  } catch {
    return false;
  }
}

function again(ms: number): void {
  window.clearTimeout(timer);
  timer = window.setTimeout(() => void beat(), ms);
}

again(BEAT_MS);
window.addEventListener("online", tryNow);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) tryNow();
});
