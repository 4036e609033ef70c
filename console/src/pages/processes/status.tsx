import type { ProcessRecord } from "../../api/types";
import { Badge, seconds, type Tone } from "../../ui";

export function isOver(process: ProcessRecord): boolean {
  return process.status !== "running";
}

const TONES: Record<string, Tone> = {
  running: "info",
  completed: "good",
  failed: "bad",
  stopped: "plain",
  killed: "warn",
};

export function StatusBadge({ process }: { process: ProcessRecord }) {
  const word = process.exitReason === "oom" ? "out of memory" : process.exitReason === "timeout" ? "timed out" : process.status;
  return <Badge tone={TONES[process.status] ?? "plain"}>{word.charAt(0).toUpperCase() + word.slice(1)}</Badge>;
}

/** Why a process ended, in words; empty while it runs. */
export function cause(process: ProcessRecord): string {
  if (!isOver(process)) return "";
  const code = process.exitCode;
  switch (process.exitReason) {
    case "exited":
      return code === 0 ? "Exited with code 0." : `Exited with code ${code}.`;
    case "signaled":
      return `Ended by ${process.exitSignal}, sent by somebody else or by itself.`;
    case "stopped":
      return process.exitSignal ? "Stopped on request by SIGTERM." : `Stopped on request; it exited with code ${code}.`;
    case "killed":
      return "Killed on request by SIGKILL.";
    case "timeout":
      return "Killed because its time was up.";
    case "oom":
      return "Killed by the kernel: it used more memory than it may.";
    case "unknown":
      return "It ended while no server ran, and the kernel cannot say how.";
    default:
      return `Ended with code ${code}.`;
  }
}

/** For how long it ran, or has been running. */
export function ranFor(process: ProcessRecord, now = Date.now()): number {
  const end = process.completedAt ? Date.parse(process.completedAt) : now;
  return Math.max(0, (end - Date.parse(process.startedAt)) / 1000);
}

export function age(process: ProcessRecord): string {
  return seconds(Math.floor(ranFor(process)));
}
