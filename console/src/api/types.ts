/** Records of the API, as docs/ describes them. */

export interface ProcessRecord {
  id: string;
  pid: string;
  name: string;
  command: string;
  status: "running" | "completed" | "failed" | "stopped" | "killed";
  startedAt: string;
  completedAt: string;
  exitCode: number;
  exitReason: string;
  exitSignal: string;
  workingDir: string;
  stdin: boolean;
  keepAlive: boolean;
  restartOnFailure: boolean;
  maxRestarts: number;
  restartCount: number;
  stdoutBytes: number;
  stderrBytes: number;
  lostBytes: number;
  outputUncertain?: boolean;
  usage: { cpuSeconds: number | null; peakRssBytes: number | null } | null;
  limits?: Record<string, unknown> & { enforcedBy?: Record<string, string> };
  argv?: string[];
  user?: string;
  tag?: string;
}

export interface ProcessStats {
  id: string;
  pid: string;
  name: string;
  cpuSeconds: number;
  cpuPercent: number;
  memoryBytes: number;
  memoryLimitBytes: number | null;
  processes: number;
  threads: number;
  stdoutBytes: number;
  stderrBytes: number;
  ports?: number[];
}

export interface LogLine {
  type: "line";
  line: number;
  stream: "stdout" | "stderr" | "notice";
  offset: number;
  time: string;
  text: string;
  continued?: boolean;
}

export interface LogGap {
  type: "gap";
  offset: number;
  to: number;
  reason: string;
}

export interface LogEnd {
  type: "end";
  lines: number;
  offset: number;
  truncated: boolean;
}

export type LogRecord = LogLine | LogGap | LogEnd | { type: "keepalive" };
