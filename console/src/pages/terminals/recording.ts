/** Recordings of terminals (asciicast v2): read as they come, and played with a clock of their own. */

export interface Moment {
  /** Seconds since the start. */
  at: number;
  kind: "o" | "r" | "m";
  data: string;
}

export interface Recording {
  cols: number;
  rows: number;
  title: string;
  /** Unix seconds at which it began. */
  began: number;
  moments: Moment[];
  seconds: number;
}

/** Read an asciicast; `told` hears how many bytes have come. Throws where it is none. */
export async function readRecording(body: ReadableStream<Uint8Array>, told: (bytes: number) => void): Promise<Recording> {
  const reader = body.pipeThrough(counting(told)).pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array, string>).getReader();
  const lines: string[] = [];
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop()!;
    for (const part of parts) lines.push(part);
  }
  if (rest) lines.push(rest);
  return parsed(lines);
}

function counting(told: (bytes: number) => void): TransformStream<Uint8Array, Uint8Array> {
  let bytes = 0;
  return new TransformStream({
    transform(chunk, controller) {
      bytes += chunk.length;
      told(bytes);
      controller.enqueue(chunk);
    },
  });
}

export function parsed(lines: readonly string[]): Recording {
  const head = JSON.parse(lines[0] ?? "null") as Record<string, unknown> | null;
  if (head?.version !== 2) throw new Error("this is no asciicast of version 2");
  const moments: Moment[] = [];
  for (const line of lines.slice(1)) {
    if (!line) continue;
    const [at, kind, data] = JSON.parse(line) as [number, Moment["kind"], string];
    moments.push({ at, kind, data });
  }
  return {
    cols: Number(head.width) || 80,
    rows: Number(head.height) || 24,
    title: String(head.title ?? ""),
    began: Number(head.timestamp) || 0,
    moments,
    seconds: moments.at(-1)?.at ?? 0,
  };
}

/** The same recording in which no pause is longer than `most` seconds. */
export function withoutPauses(recording: Recording, most: number): Recording {
  let before = 0;
  let at = 0;
  const moments = recording.moments.map((one) => {
    at += Math.min(most, Math.max(0, one.at - before));
    before = one.at;
    return { ...one, at };
  });
  return { ...recording, moments, seconds: at };
}

/** What a player draws on. */
export interface Stage {
  reset(cols: number, rows: number): void;
  resize(cols: number, rows: number): void;
  /** Resolves when it is drawn. */
  write(text: string): Promise<void>;
}

const JUMP_BYTES = 1 << 20;

/** Plays a recording; times are seconds of the recording. */
export class Player {
  playing = false;
  speed = 1;
  private at = 0;
  private next = 0;
  private since = 0;
  private timer = 0;
  private work: Promise<void> = Promise.resolve();
  private target = 0;
  private ended = false;

  constructor(private recording: Recording, private stage: Stage, private changed: () => void) {
    stage.reset(recording.cols, recording.rows);
  }

  get seconds(): number {
    return this.recording.seconds;
  }

  get position(): number {
    if (!this.playing) return this.at;
    return Math.min(this.seconds, this.at + ((performance.now() - this.since) / 1000) * this.speed);
  }

  play(): void {
    if (this.playing || this.ended) return;
    if (this.at >= this.seconds) this.seek(0);
    this.playing = true;
    this.since = performance.now();
    this.tick();
    this.changed();
  }

  pause(): void {
    if (!this.playing) return;
    this.at = this.position;
    this.playing = false;
    clearTimeout(this.timer);
    this.changed();
  }

  toggle(): void {
    if (this.playing) this.pause();
    else this.play();
  }

  setSpeed(speed: number): void {
    this.at = this.position;
    this.since = performance.now();
    this.speed = speed;
    this.changed();
  }

  seek(seconds: number): void {
    this.at = Math.max(0, Math.min(this.seconds, seconds));
    this.since = performance.now();
    this.target = this.at;
    this.show();
    this.changed();
  }

  /** Play another cut of the same recording (`withoutPauses`) from the same moment on. */
  recut(recording: Recording): void {
    const index = this.next;
    this.recording = recording;
    this.seek(index ? recording.moments[index - 1]!.at : 0);
  }

  close(): void {
    this.pause();
    this.ended = true;
  }

  private tick = (): void => {
    if (!this.playing || this.ended) return;
    this.target = this.position;
    this.show();
    this.changed();
    if (this.target >= this.seconds) {
      this.pause();
      return;
    }
    const due = this.recording.moments[this.next]?.at ?? this.seconds;
    const wait = ((due - this.target) / this.speed) * 1000;
    this.timer = window.setTimeout(this.tick, Math.max(16, Math.min(wait, 100)));
  };

  /** Draw up to the target; one drawing goes on at a time, and heeds a later target. */
  private show(): void {
    this.work = this.work.then(() => this.drawn());
  }

  private async drawn(): Promise<void> {
    const { moments } = this.recording;
    if (this.next > 0 && moments[this.next - 1]!.at > this.target) {
      this.stage.reset(this.recording.cols, this.recording.rows);
      this.next = 0;
    }
    while (!this.ended && this.next < moments.length && moments[this.next]!.at <= this.target) {
      let text = "";
      while (this.next < moments.length && moments[this.next]!.at <= this.target && text.length < JUMP_BYTES) {
        const { kind, data } = moments[this.next]!;
        if (kind === "r") {
          if (text) break;
          const [cols = 0, rows = 0] = data.split("x").map(Number);
          if (cols > 0 && rows > 0) this.stage.resize(cols, rows);
        } else if (kind === "o") text += data;
        this.next += 1;
      }
      if (text) await this.stage.write(text);
    }
  }
}

/** `1:02`, `1:00:02`. */
export function clock(seconds: number): string {
  const whole = Math.floor(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const tail = `${String(minutes).padStart(hours ? 2 : 1, "0")}:${String(rest).padStart(2, "0")}`;
  return hours ? `${hours}:${tail}` : tail;
}
