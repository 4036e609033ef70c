/**
 * One viewer of a session: its WebSocket, opened again for as long as somebody looks. What is typed while
 * there is no connection goes to the same session when it is back, and never to another.
 */

import { openSocket } from "../../api/client";

export type LinkState = "connecting" | "connected" | "lost" | "exited" | "refused";

export interface Screen {
  cols: number;
  rows: number;
  /** Begin anew: the next text draws the whole screen. */
  reset(): void;
  write(text: string): void;
  /** Somebody has set this size. */
  sized(cols: number, rows: number): void;
}

interface Message {
  type: "output" | "error" | "resize";
  data?: string;
  cols?: number;
  rows?: number;
}

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 8000;
/** What is typed while there is no connection; more than that nobody types blindly. */
const KEPT_MOST = 65536;
/** Below the server's limit of a frame, whatever the characters are. */
const FRAME_CHARACTERS = 65536;

export class Link {
  state: LinkState = "connecting";
  fault = "";
  private socket: WebSocket | undefined;
  private tries = 0;
  private timer = 0;
  private kept = "";
  private ended = false;

  constructor(
    private readonly id: string,
    private readonly screen: Screen,
    private readonly readOnly: boolean,
    private readonly changed: () => void,
  ) {}

  start(): void {
    this.open();
  }

  /** Try at once: there is reason to hope. */
  hope(): void {
    if (this.state !== "lost") return;
    this.tries = 0;
    clearTimeout(this.timer);
    this.open();
  }

  close(): void {
    this.ended = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }

  resize(cols: number, rows: number): void {
    this.send({ type: "resize", cols, rows });
  }

  type(text: string): void {
    if (this.readOnly) return;
    if (this.state === "connected") this.typed(text);
    else if (this.state !== "exited" && this.kept.length + text.length <= KEPT_MOST) this.kept += text;
  }

  private typed(text: string): void {
    // Never between the halves of a character.
    const characters = Array.from(text);
    for (let start = 0; start < characters.length; start += FRAME_CHARACTERS) {
      this.send({ type: "input", data: characters.slice(start, start + FRAME_CHARACTERS).join("") });
    }
  }

  private send(message: object): void {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  private become(state: LinkState, fault = ""): void {
    this.state = state;
    this.fault = fault;
    this.changed();
  }

  private open(): void {
    if (this.ended) return;
    const { cols, rows } = this.screen;
    const query = { sessionId: this.id, create: "false", sizes: "true", cols, rows, readOnly: this.readOnly ? "true" : "" };
    const mine = openSocket("/terminal/ws", query);
    this.socket = mine;
    if (this.tries === 0 && this.state !== "lost") this.become("connecting");
    let fresh = true;
    let fault = "";
    mine.onmessage = ({ data }) => {
      if (this.socket !== mine) return;
      const message = JSON.parse(String(data)) as Message;
      if (message.type === "error") fault = message.data ?? "";
      else if (fresh) {
        fresh = false;
        this.begin();
      }
      if (message.type === "resize") this.screen.sized(message.cols ?? 80, message.rows ?? 24);
      else if (message.type === "output") this.screen.write(message.data ?? "");
    };
    mine.onclose = ({ code }) => {
      if (this.socket !== mine || this.ended) return;
      this.socket = undefined;
      if (code === 1000) this.become("exited");
      else if (fault) this.become("refused", fault);
      else {
        this.become("lost");
        this.tries += 1;
        this.timer = window.setTimeout(() => this.open(), Math.min(FIRST_PAUSE * 2 ** (this.tries - 1), LONGEST_PAUSE));
      }
    };
  }

  /** The first frame is there, which tells the size: it is the session that was asked for. */
  private begin(): void {
    this.tries = 0;
    this.screen.reset();
    this.become("connected");
    const { kept } = this;
    this.kept = "";
    if (kept) this.typed(kept);
  }
}
