/** Records of the terminals' routes, as `/openapi.json` has them. */

export interface TerminalRecord {
  id: string;
  sessionId: string;
  status: "running" | "exited";
  pid: number;
  shell: string;
  workingDir: string;
  cols: number;
  rows: number;
  clients: number;
  outputBytes: number;
  lostBytes: number;
  queuedInputBytes: number;
  startedAt: string;
  endedAt: string;
  exitCode: number | null;
  exitSignal: number | null;
  args?: string[];
  user?: string;
  tag?: string;
}

export interface NewTerminal {
  sessionId?: string;
  shell?: string;
  workingDir?: string;
  cols?: number;
  rows?: number;
}
