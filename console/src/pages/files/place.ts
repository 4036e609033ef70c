/** Where one is in the files, as it stands in the address: a folder, what is open in it, what is beside. */

import { href } from "../../app/router";
import { decoded, encoded, isText } from "./paths";

export type Side = "browse" | "find" | "changes";

export interface Place {
  folder: string;
  /** The file that is open; empty for none. */
  file: string;
  line: number;
  /** How it is shown, where a person has chosen. */
  view: string;
  side: Side;
}

/** `#/files/srv/work?file=/srv/work/a.txt`; what is not UTF-8 is percent-encoded twice, in `at` and `raw`. */
export function filesHref(folder: string, { file = "", line = 0, view = "", side = "browse" }: Partial<Place> = {}): string {
  const query: Record<string, string> = {};
  const segments = isText(folder) ? folder.split("/").filter(Boolean) : [];
  if (!isText(folder)) query.at = encoded(folder);
  else if (!segments.length) query.at = "%2F";
  if (file) {
    if (isText(file)) query.file = file;
    else query.raw = encoded(file);
  }
  if (line) query.line = String(line);
  if (view) query.view = view;
  if (side !== "browse") query.side = side;
  return href("files", segments, query);
}

/** Read the address; nothing where it names no folder. */
export function placeOf(path: string[], query: URLSearchParams): Place | undefined {
  const at = query.get("at");
  if (!path.length && at === null) return undefined;
  return { folder: at === null ? "/" + path.join("/") : decoded(at), ...sideOf(query) };
}

/** What an address says besides the folder. */
export function sideOf(query: URLSearchParams): Omit<Place, "folder"> {
  const raw = query.get("raw");
  const side = query.get("side");
  return {
    file: raw === null ? (query.get("file") ?? "") : decoded(raw),
    line: Number(query.get("line")) || 0,
    view: query.get("view") ?? "",
    side: side === "find" || side === "changes" ? side : "browse",
  };
}
