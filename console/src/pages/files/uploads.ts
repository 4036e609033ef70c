/**
 * What is being uploaded: a few files at a time, each to be paused, resumed and given up. A large one goes in
 * parts, so that a pause, a lost connection or a closed page costs one part at most.
 */

import { signal } from "@preact/signals";
import { api, ApiError, apiUrl, describe } from "../../api/client";
import { shown } from "../../app/session";
import { look, makeFolder } from "./calls";
import { fileRoute, isText, parentOf } from "./paths";

const AT_ONCE = 3;
const PARTS_FROM = 16 << 20;
const PART = 8 << 20;
const PARTS_MOST = 10_000;
const KEPT_SECONDS = 86_000;
const SHOWN_MS = 150;
const PAUSES = [1000, 2000, 5000, 10_000];
const REMEMBERED = "sandkeeper-uploads";

export type UploadState = "waiting" | "running" | "paused" | "asking" | "retrying" | "done" | "failed" | "skipped";
export type Answer = "replace" | "keep" | "skip";

export interface Upload {
  id: number;
  path: string;
  /** Nothing for a folder. */
  file?: File;
  size: number;
  sent: number;
  state: UploadState;
  fault: string;
  replaces: boolean;
}

interface Part {
  partNumber: number;
  etag: string;
  size: number;
}

/** All uploads of this page, oldest first, as they are shown: a new array a few times a second, when something changed. */
export const uploads = signal<readonly Upload[]>([]);

/** The same as they are. */
let all: Upload[] = [];
const byId = new Map<number, Upload>();
let due = 0;

const ended: ReadonlySet<UploadState> = new Set<UploadState>(["done", "failed", "skipped"]);
const listeners = new Set<(folder: string) => void>();
let counted = 0;
let forAll: Answer | undefined;
const running = new Map<number, AbortController>();

/** Be told of folders in which something has arrived; returns how to stop that. */
export function onArrival(listener: (folder: string) => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function isOver(one: Upload): boolean {
  return ended.has(one.state);
}

/** Queue files and folders, a folder before what is in it. */
export function enqueue(wanted: readonly { path: string; file?: File }[]): void {
  if (all.every(isOver)) forAll = undefined;
  const made = wanted.map(({ path, file }): Upload => {
    counted += 1;
    return { id: counted, path, file, size: file?.size ?? 0, sent: 0, state: "waiting", fault: "", replaces: false };
  });
  for (const one of made) byId.set(one.id, one);
  all = [...all, ...made];
  publish();
  pump();
}

export function pause(id: number): void {
  change(id, { state: "paused" });
  running.get(id)?.abort();
}

export function resume(id: number): void {
  change(id, { state: "waiting", fault: "" });
  pump();
}

export function pauseAll(): void {
  for (const one of all) {
    if (one.state === "running" || one.state === "waiting" || one.state === "retrying") pause(one.id);
  }
}

export function resumeAll(): void {
  for (const one of all) if (one.state === "paused") change(one.id, { state: "waiting", fault: "" });
  pump();
}

/** Give one up, with what the server has of it. */
export function cancel(id: number): void {
  const one = find(id);
  running.get(id)?.abort();
  keep((other) => other.id !== id);
  if (one) void abandon(one);
  pump();
}

export function clearEnded(): void {
  keep((one) => !isOver(one));
}

/** Answer what is to become of a file that is there already, of this one or of all that ask. */
export function answer(id: number, what: Answer, every: boolean): void {
  if (every) forAll = what;
  for (const one of all) {
    if (one.state === "asking" && (every || one.id === id)) settle(one, what);
  }
  pump();
}

function settle(one: Upload, what: Answer): void {
  if (what === "skip") change(one.id, { state: "skipped" });
  else if (what === "replace") change(one.id, { state: "waiting", replaces: true });
  else change(one.id, { state: "waiting", path: besides(one.path) });
}

/** `notes (2).txt` beside `notes.txt`. */
export function besides(path: string): string {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const dot = name.lastIndexOf(".");
  const [stem, ending] = dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ""];
  const counted = /^(.*) \((\d+)\)$/.exec(stem);
  const next = counted ? `${counted[1]} (${Number(counted[2]) + 1})` : `${stem} (2)`;
  return path.slice(0, path.lastIndexOf("/") + 1) + next + ending;
}

function find(id: number): Upload | undefined {
  return byId.get(id);
}

function keep(wanted: (one: Upload) => boolean): void {
  for (const one of all) if (!wanted(one)) byId.delete(one.id);
  all = all.filter(wanted);
  publish();
}

function change(id: number, changes: Partial<Upload>): void {
  const one = find(id);
  if (one) Object.assign(one, changes);
  publish();
}

/** Have it shown: thousands of small files change more often than anybody can see. */
function publish(): void {
  due ||= window.setTimeout(() => {
    due = 0;
    uploads.value = [...all];
  }, SHOWN_MS);
}

function pump(): void {
  while (running.size < AT_ONCE) {
    const next = all.find((one) => one.state === "waiting" && !running.has(one.id));
    if (!next) return;
    // What is in a folder waits for the folder.
    if (next.file === undefined && running.size > 0) return;
    void run(next.id);
    if (next.file === undefined) return;
  }
}

async function run(id: number): Promise<void> {
  const control = new AbortController();
  running.set(id, control);
  change(id, { state: "running", fault: "" });
  try {
    await attempt(id, control.signal);
  } finally {
    running.delete(id);
    pump();
  }
}

async function attempt(id: number, signal: AbortSignal): Promise<void> {
  for (let tries = 0; ; tries += 1) {
    const one = find(id);
    if (!one) return;
    try {
      await send(one, signal);
      change(id, { state: "done", sent: one.size, fault: "" });
      for (const tell of listeners) tell(parentOf(one.path));
      return;
    } catch (error) {
      if (signal.aborted || !find(id)) return;
      if (isThere(error)) {
        if (one.file === undefined) change(id, { state: "done" });
        else if (forAll) settle(one, forAll);
        else change(id, { state: "asking" });
        return;
      }
      if (!isPassing(error)) {
        change(id, { state: "failed", fault: describe(error) });
        return;
      }
      change(id, { state: "retrying", fault: "The connection was lost; it goes on when the server is back." });
      await rest(PAUSES[Math.min(tries, PAUSES.length - 1)]!, signal);
      if (signal.aborted) return;
      change(id, { state: "running" });
    }
  }
}

function isThere(error: unknown): boolean {
  return error instanceof ApiError && error.status === 412;
}

/** Whether the same call may do later: the server is away, restarts, or has much to do. */
function isPassing(error: unknown): boolean {
  return error instanceof ApiError && [0, 429, 502, 503, 504].includes(error.status);
}

function rest(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

async function send(one: Upload, signal: AbortSignal): Promise<void> {
  if (!one.file) {
    await checked(one, signal);
    await makeFolder(one.path);
  }
  else if (one.size < PARTS_FROM) await whole(one, one.file, signal);
  else await inParts(one, one.file, signal);
}

/** Ask before anything is sent whether something is there; the condition of the write asks once more. */
async function checked(one: Upload, signal: AbortSignal): Promise<void> {
  if (!one.replaces && (await look(one.path, signal)).kind) throw new ApiError(412, "it is there already");
}

function condition(one: Upload): Record<string, string> {
  return one.replaces ? {} : { "If-None-Match": "*" };
}

async function whole(one: Upload, file: File, signal: AbortSignal): Promise<void> {
  await checked(one, signal);
  const url = apiUrl(fileRoute("/filesystem", one.path));
  await put(url, file, condition(one), signal, (sent) => change(one.id, { sent }));
}

async function inParts(one: Upload, file: File, signal: AbortSignal): Promise<void> {
  const part = Math.max(PART, Math.ceil(one.size / PARTS_MOST));
  const upload = await session(one, file, part, signal);
  const have = new Map(upload.parts.map((known) => [known.partNumber, known]));
  const count = Math.ceil(one.size / part);
  let sent = 0;
  for (const known of have.values()) sent += known.size;
  change(one.id, { sent });
  const route = `/filesystem-multipart/${upload.id}`;
  for (let number = 1; number <= count; number += 1) {
    if (have.has(number)) continue;
    const piece = file.slice((number - 1) * part, number * part);
    const before = sent;
    const url = apiUrl(`${route}/part`, { partNumber: number });
    const done = await put(url, piece, {}, signal, (more) => change(one.id, { sent: before + more }));
    have.set(number, done as Part);
    sent = before + piece.size;
  }
  const parts = Array.from({ length: count }, (_, index) => have.get(index + 1)!).map(({ partNumber, etag }) => ({ partNumber, etag }));
  await api.post(`${route}/complete`, { body: { parts }, headers: condition(one), signal });
  forget(one, file);
}

/** The session of an earlier try, also of a page that was closed since, or a new one. */
async function session(one: Upload, file: File, part: number, signal: AbortSignal): Promise<{ id: string; parts: Part[] }> {
  const known = remembered()[keyOf(one, file)];
  if (known) {
    try {
      const { parts } = await api.get<{ parts: Part[] }>(`/filesystem-multipart/${known.id}/parts`, { signal });
      const fits = (found: Part): boolean => found.size === Math.min(part, one.size - (found.partNumber - 1) * part);
      return { id: known.id, parts: parts.filter(fits) };
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
      forget(one, file);
    }
  }
  await checked(one, signal);
  const { uploadId } = await api.post<{ uploadId: string }>(fileRoute("/filesystem-multipart/initiate", one.path), { body: {}, signal });
  remember(one, file, uploadId);
  return { id: uploadId, parts: [] };
}

async function abandon(one: Upload): Promise<void> {
  const known = one.file && remembered()[keyOf(one, one.file)];
  if (!known || !one.file) return;
  forget(one, one.file);
  try {
    await api.del(`/filesystem-multipart/${known.id}/abort`);
  } catch {
    // Nobody waits for it: the server drops what rests for a day.
  }
}

type Memory = Record<string, { id: string; at: number }>;

function keyOf(one: Upload, file: File): string {
  return [isText(one.path) ? one.path : fileRoute("", one.path), file.size, file.lastModified].join("\n");
}

function remembered(): Memory {
  try {
    const all = JSON.parse(localStorage.getItem(REMEMBERED) ?? "{}") as Memory;
    const now = Date.now() / 1000;
    return Object.fromEntries(Object.entries(all).filter(([, { at }]) => now - at < KEPT_SECONDS));
  } catch {
    return {}; // storage is switched off, or holds what is not ours
  }
}

function store(memory: Memory): void {
  try {
    localStorage.setItem(REMEMBERED, JSON.stringify(memory));
  } catch {
    // Without storage a closed page begins anew.
  }
}

function remember(one: Upload, file: File, id: string): void {
  store({ ...remembered(), [keyOf(one, file)]: { id, at: Date.now() / 1000 } });
}

function forget(one: Upload, file: File): void {
  const memory = remembered();
  delete memory[keyOf(one, file)];
  store(memory);
}

/** PUT a form with a part `file`; `fetch` tells nothing of how far it is. Throws ApiError. */
function put(url: string, data: Blob, headers: Record<string, string>, signal: AbortSignal, told: (sent: number) => void): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", url);
    for (const [name, value] of Object.entries({ ...shown(), ...headers })) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => told(Math.min(data.size, event.loaded));
    request.onload = () => {
      const body = parsed(request.responseText);
      if (request.status < 400) resolve(body);
      else reject(new ApiError(request.status, String((body as { error?: string } | undefined)?.error ?? request.statusText)));
    };
    request.onerror = () => reject(new ApiError(0, "there is no connection to the server"));
    request.onabort = () => reject(new DOMException("paused", "AbortError"));
    const stop = (): void => request.abort();
    signal.addEventListener("abort", stop);
    request.onloadend = () => signal.removeEventListener("abort", stop);
    if (signal.aborted) {
      reject(new DOMException("paused", "AbortError"));
      return;
    }
    const form = new FormData();
    form.append("file", data, "file");
    request.send(form);
  });
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

addEventListener("beforeunload", (event) => {
  if (all.some((one) => !isOver(one) && one.state !== "paused")) event.preventDefault();
});
