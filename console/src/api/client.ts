/** Requests to the API: addresses, errors as sentences, streams that go on where they were. */

import { useEffect, useRef, useState } from "preact/hooks";
import { connection, epoch, lost } from "../app/connection";
import { root } from "../app/place";
import { shown, shownProtocols, signedOut } from "../app/session";

export type Query = Record<string, string | number | boolean | undefined | null>;

export interface Options {
  query?: Query;
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** An answer that is a refusal, or none at all (status 0). */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code = "",
    readonly body: unknown = undefined,
  ) {
    super(message);
    this.name = "ApiError";
  }
}

/** The address of a path of the API ("/process/web"); its segments are encoded already. */
export function apiUrl(path: string, query: Query = {}): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") search.set(name, String(value));
  }
  const text = search.toString();
  return root.href + path.replace(/^\//, "") + (text ? `?${text}` : "");
}

/** A WebSocket of the API, with what the session has to show. */
export function openSocket(path: string, query: Query = {}): WebSocket {
  return new WebSocket(apiUrl(path, query).replace(/^http/, "ws"), shownProtocols());
}

async function raw(
  path: string,
  { query, ...init }: RequestInit & { query?: Query } = {},
): Promise<Response> {
  let reply: Response;
  try {
    const headers = new Headers(init.headers);
    for (const [name, value] of Object.entries(shown())) headers.set(name, value);
    reply = await fetch(apiUrl(path, query), { cache: "no-store", ...init, headers });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    lost();
    throw new ApiError(0, "The server cannot be reached.");
  }
  if (reply.status === 401) signedOut();
  if (reply.status >= 400) throw await refusal(reply);
  return reply;
}

async function refusal(reply: Response): Promise<ApiError> {
  const text = await reply.text().catch(() => "");
  let body: unknown = text;
  let message = text.slice(0, 500).trim();
  let code = "";
  try {
    body = JSON.parse(text);
    const told = body as { error?: unknown; code?: unknown };
    if (typeof told.error === "string") message = told.error;
    if (typeof told.code === "string") code = told.code;
  } catch {
    // Not every refusal is JSON: an unknown route's is plain text.
  }
  return new ApiError(reply.status, message || `${reply.status} ${reply.statusText}`, code, body);
}

async function call<T>(method: string, path: string, options: Options = {}): Promise<T> {
  const { body, headers = {}, query, signal } = options;
  const isObject = body !== undefined && !(body instanceof Blob) && typeof body !== "string";
  const reply = await raw(path, {
    method,
    query,
    signal,
    headers: isObject ? { "Content-Type": "application/json", ...headers } : headers,
    body: isObject ? JSON.stringify(body) : (body as BodyInit | undefined),
  });
  const text = await reply.text();
  const type = reply.headers.get("content-type") ?? "";
  return (type.includes("json") && text ? JSON.parse(text) : text) as T;
}

export const api = {
  get: <T>(path: string, options?: Options) => call<T>("GET", path, options),
  post: <T>(path: string, options?: Options) => call<T>("POST", path, options),
  put: <T>(path: string, options?: Options) => call<T>("PUT", path, options),
  patch: <T>(path: string, options?: Options) => call<T>("PATCH", path, options),
  del: <T>(path: string, options?: Options) => call<T>("DELETE", path, options),
  raw,
};

/** Read NDJSON record by record; the next block is asked for when the last record was taken. */
export async function* lines<T>(
  path: string,
  options: { query?: Query; signal?: AbortSignal; headers?: Record<string, string> },
): AsyncGenerator<T> {
  const headers = { Accept: "application/x-ndjson", ...options.headers };
  const reply = await raw(path, { query: options.query, signal: options.signal, headers });
  if (!reply.body) return;
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const parts = (rest + value).split("\n");
      rest = parts.pop() ?? "";
      for (const part of parts) if (part) yield JSON.parse(part) as T;
    }
    if (rest.trim()) yield JSON.parse(rest) as T;
  } catch (error) {
    if (options.signal?.aborted || error instanceof ApiError) throw error;
    throw new ApiError(0, "The connection was lost.");
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

/** Follow a stream over lost connections: it is opened again behind the last record that came.
 *
 * Ends when `until` says so of a record, when the server ends it, or with `signal`. Throws what the
 * server refuses.
 */
export async function follow<T, R>(
  path: string,
  options: {
    query(resume: R | undefined): Query;
    resume(record: T): R | undefined;
    onRecord(record: T): void;
    until?(record: T): boolean;
    signal: AbortSignal;
    headers?: Record<string, string>;
  },
): Promise<void> {
  let at: R | undefined;
  while (!options.signal.aborted) {
    try {
      const { signal, headers } = options;
      for await (const record of lines<T>(path, { query: options.query(at), signal, headers })) {
        at = options.resume(record) ?? at;
        options.onRecord(record);
        if (options.until?.(record)) return;
      }
      return;
    } catch (error) {
      if (options.signal.aborted) return;
      if (!(error instanceof ApiError) || error.status !== 0) throw error;
      await reachable(options.signal);
    }
  }
}

/** Resolve when the server answers again. */
export function reachable(signal: AbortSignal): Promise<void> {
  lost();
  return new Promise((resolve) => {
    const stop = connection.subscribe((state) => {
      if (state === "online") done();
    });
    function done() {
      queueMicrotask(() => stop());
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done);
  });
}

export interface Polled<T> {
  data: T | undefined;
  error: ApiError | undefined;
  refresh(): void;
}

/** Ask again and again: not while the tab is hidden or the server away, at once when it is back. */
export function usePoll<T>(
  fetcher: (signal: AbortSignal) => Promise<T>,
  ms: number,
  deps: unknown[] = [],
): Polled<T> {
  const [state, setState] = useState<{ data?: T; error?: ApiError }>({});
  const latest = useRef(fetcher);
  latest.current = fetcher;
  const kick = useRef<() => void>(() => undefined);

  useEffect(() => {
    const control = new AbortController();
    let timer = 0;
    let busy = false;
    let again = false;

    async function ask(): Promise<void> {
      window.clearTimeout(timer);
      if (busy) {
        again = true;
        return;
      }
      busy = true;
      try {
        const data = await latest.current(control.signal);
        if (!control.signal.aborted) setState({ data });
      } catch (error) {
        if (control.signal.aborted) return;
        // What was there stays while the server is away: a banner tells that it is.
        const told = error instanceof ApiError ? error : new ApiError(0, String(error));
        setState((last) => (told.status === 0 ? last : { data: last.data, error: told }));
      } finally {
        busy = false;
        if (!control.signal.aborted) next();
      }
    }

    function next(): void {
      if (again) {
        again = false;
        void ask();
      } else if (ms > 0 && !document.hidden && connection.peek() === "online") {
        timer = window.setTimeout(() => void ask(), ms);
      }
    }

    function wake(): void {
      if (!document.hidden) void ask();
    }

    kick.current = () => void ask();
    setState((last) => (last.data === undefined && !last.error ? last : {}));
    void ask();
    let first = true;
    const stop = epoch.subscribe(() => {
      if (!first) wake();
      first = false;
    });
    document.addEventListener("visibilitychange", wake);
    return () => {
      control.abort();
      window.clearTimeout(timer);
      stop();
      document.removeEventListener("visibilitychange", wake);
    };
  }, [ms, ...deps]);

  return { data: state.data, error: state.error, refresh: () => kick.current() };
}

/** What went wrong, as a sentence for a person. */
export function describe(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  const sentence = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(sentence) ? sentence : `${sentence}.`;
}
