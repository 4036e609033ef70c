/** The calls of the files' pages. Paths are absolute (`paths.ts`). */

import { api, ApiError, apiUrl } from "../../api/client";
import { fileRoute } from "./paths";
import type { Changes, ContentMatch, EntriesPage, NameMatch, Stat, Usage } from "./types";

export function entriesPage(folder: string, after: string, limit: number, signal: AbortSignal): Promise<EntriesPage> {
  return api.get(fileRoute("/filesystem-entries", folder), { query: { limit, after }, signal });
}

export function stat(path: string, signal?: AbortSignal): Promise<Stat> {
  return api.get(fileRoute("/filesystem-stat", path), { signal });
}

/** What is at a path, links followed: its tag and `file` or `directory`; both empty where nothing is. */
export async function look(path: string, signal?: AbortSignal): Promise<{ kind: string; etag: string }> {
  const reply = await api.raw(fileRoute("/filesystem", path), { method: "HEAD", signal });
  return { kind: reply.headers.get("x-file-type") ?? "", etag: reply.headers.get("etag") ?? "" };
}

/** The bytes of a file and the tag of the state they are from; never those of a cache. */
export async function read(path: string, signal?: AbortSignal): Promise<{ data: Uint8Array; etag: string }> {
  const query = { download: "true" };
  const reply = await api.raw(fileRoute("/filesystem", path), { query, signal, cache: "no-store" });
  return { data: new Uint8Array(await reply.arrayBuffer()), etag: reply.headers.get("etag") ?? "" };
}

/** Bytes `from` up to, and without, `to`: fewer where the file has become shorter. */
export async function readRange(path: string, from: number, to: number, signal?: AbortSignal): Promise<Uint8Array> {
  if (to <= from) return new Uint8Array();
  const headers = { Range: `bytes=${from}-${to - 1}` };
  try {
    const init = { query: { download: "true" }, headers, signal, cache: "no-store" as const };
    const reply = await api.raw(fileRoute("/filesystem", path), init);
    const data = new Uint8Array(await reply.arrayBuffer());
    return reply.status === 206 ? data : data.subarray(from, to);
  } catch (error) {
    if (error instanceof ApiError && error.status === 416) return new Uint8Array();
    throw error;
  }
}

/** Write a file if it is still in the state of `etag` (empty: if there is none); the new tag. */
export async function write(path: string, content: Blob, etag: string): Promise<string> {
  // Looked at before anything is sent; between the two the condition holds as well.
  if ((await look(path)).etag !== etag) throw new ApiError(412, "the file has changed meanwhile");
  const form = new FormData();
  form.append("file", content, "file");
  const headers: Record<string, string> = etag ? { "If-Match": etag } : { "If-None-Match": "*" };
  const reply = await api.raw(fileRoute("/filesystem", path), { method: "PUT", headers, body: form });
  return reply.headers.get("etag") ?? "";
}

export function makeFolder(path: string): Promise<unknown> {
  const headers = { "If-None-Match": "*" };
  return api.put(fileRoute("/filesystem", path), { body: { isDirectory: true }, headers });
}

export function remove(path: string): Promise<unknown> {
  return api.del(fileRoute("/filesystem", path), { query: { recursive: "true" } });
}

export function move(source: string, destination: string): Promise<unknown> {
  return api.post("/filesystem-move", { body: { source, destination, noOverwrite: true } });
}

export function copy(source: string, destination: string): Promise<unknown> {
  return api.post("/filesystem-copy", { body: { source, destination, noOverwrite: true } });
}

export interface Attributes {
  permissions?: string;
  owner?: string;
  group?: string;
  recursive?: boolean;
}

export function setAttributes(path: string, wanted: Attributes): Promise<unknown> {
  return api.put(fileRoute("/filesystem-attributes", path), { body: wanted });
}

export function usage(path: string, signal: AbortSignal): Promise<Usage> {
  return api.get(fileRoute("/filesystem-usage", path), { signal });
}

export interface FindOptions {
  all: boolean;
  most: number;
}

/** Paths below a folder whose names have the query's characters, or fit it where it is a glob. */
export async function findNames(folder: string, query: string, { all, most }: FindOptions, signal: AbortSignal): Promise<NameMatch[]> {
  const scope = { maxResults: most, ...(all ? { excludeDirs: ",", excludeHidden: "false" } : {}) };
  const isGlob = /[*?[]/.test(query);
  const route = isGlob ? "/filesystem-find" : "/filesystem-search";
  const asked = isGlob ? { patterns: query } : { query };
  const reply = await api.get<{ matches: NameMatch[] }>(fileRoute(route, folder), { query: { ...asked, ...scope }, signal });
  return reply.matches;
}

export interface ContentOptions extends FindOptions {
  caseSensitive: boolean;
  pattern: string;
}

export async function findContent(folder: string, text: string, options: ContentOptions, signal: AbortSignal): Promise<ContentMatch[]> {
  const query = {
    query: text,
    caseSensitive: String(options.caseSensitive),
    contextLines: 1,
    maxResults: options.most,
    ...(options.pattern ? { filePattern: options.pattern } : {}),
    ...(options.all ? { excludeDirs: "," } : {}),
  };
  const reply = await api.get<{ matches: ContentMatch[] }>(fileRoute("/filesystem-content-search", folder), { query, signal });
  return reply.matches;
}

export function changesSince(folder: string, cursor: string, signal?: AbortSignal): Promise<Changes> {
  return api.get(fileRoute("/filesystem-changes", folder), { query: cursor ? { since: cursor } : {}, signal });
}

/** The address of a file's bytes, as its name says they are to be kept. */
export function downloadUrl(path: string): string {
  return apiUrl(fileRoute("/filesystem", path), { download: "true" });
}

export function archiveUrl(folder: string): string {
  return apiUrl(fileRoute("/filesystem-archive", folder), { compression: "zstd" });
}

/** The address of a picture in one state of its file. */
export function pictureUrl(path: string, etag: string): string {
  return apiUrl(fileRoute("/filesystem", path), { download: "true", state: etag });
}
