/** The calls of the terminals' pages. */

import { signal } from "@preact/signals";
import { api, ApiError, apiUrl } from "../../api/client";
import type { NewTerminal, TerminalRecord } from "./types";

function route(id: string, more = ""): string {
  return `/terminals/${encodeURIComponent(id)}${more}`;
}

export function all(abort: AbortSignal): Promise<TerminalRecord[]> {
  return api.get("/terminals", { signal: abort });
}

/** One session, nothing where there is none. */
export async function one(id: string, abort?: AbortSignal): Promise<TerminalRecord | undefined> {
  try {
    return await api.get<TerminalRecord>(route(id), { signal: abort });
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return undefined;
    throw error;
  }
}

export function open(wanted: NewTerminal): Promise<TerminalRecord> {
  return api.post("/terminals", { body: wanted });
}

export function rename(id: string, sessionId: string): Promise<TerminalRecord> {
  return api.patch(route(id), { body: { sessionId } });
}

/** Hang a running session up; remove one that has ended. */
export function close(id: string): Promise<unknown> {
  return api.del(route(id));
}

export function recording(id: string, abort: AbortSignal): Promise<Response> {
  return api.raw(route(id, "/recording"), { signal: abort });
}

export function recordingUrl(id: string): string {
  return apiUrl(route(id, "/recording"));
}

const KEY = "sandkeeper.terminals";

/** The sessions that are tabs of this window, by their ids; a window that is loaded again has them. */
export const tabs = signal<readonly string[]>(kept());

export function addTab(id: string): void {
  if (!tabs.value.includes(id)) store([...tabs.value, id]);
}

export function dropTab(id: string): void {
  if (tabs.value.includes(id)) store(tabs.value.filter((other) => other !== id));
}

function store(ids: readonly string[]): void {
  tabs.value = ids;
  try {
    sessionStorage.setItem(KEY, JSON.stringify(ids));
  } catch {
    // Without storage the tabs are those of this page.
  }
}

function kept(): string[] {
  try {
    const found: unknown = JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.map(String).slice(0, 64) : [];
  } catch {
    return [];
  }
}

/** How a session ended, in words. */
export function ending({ exitCode, exitSignal }: TerminalRecord): string {
  if (exitSignal) return `ended by signal ${exitSignal}`;
  return exitCode === null ? "ended" : `ended with code ${exitCode}`;
}
