/** What keeps the tree and the address true, and what leads away from the page. */

import { useEffect } from "preact/hooks";
import { api } from "../../api/client";
import { href, navigate } from "../../app/router";
import { failed, toast } from "../../ui";
import { look } from "./calls";
import { parentOf, shown } from "./paths";
import { filesHref, type Place } from "./place";
import type { Tree } from "./tree";
import { onArrival } from "./uploads";

const ARRIVAL_MS = 400;

/** Read folders again in which uploads have arrived, many at a time once. */
export function useArrivals(tree: Tree): void {
  useEffect(() => {
    const waiting = new Set<string>();
    let timer = 0;
    const stop = onArrival((folder) => {
      waiting.add(folder);
      timer ||= window.setTimeout(() => {
        timer = 0;
        for (const one of waiting) void tree.reload(one);
        waiting.clear();
      }, ARRIVAL_MS);
    });
    return () => {
      stop();
      clearTimeout(timer);
    };
  }, [tree]);
}

/** An address may name a file where a folder is meant. */
export function useFileInstead(tree: Tree, at: Place): void {
  const hasFailed = tree.root.state === "failed";
  useEffect(() => {
    if (!hasFailed) return;
    look(at.folder).then(
      ({ kind }) => {
        if (kind === "file") navigate(filesHref(parentOf(at.folder), { file: at.folder }), { replace: true });
      },
      () => undefined, // what is wrong is shown already
    );
  }, [hasFailed]);
}

/** Open a terminal that begins in a folder. */
export async function terminalIn(folder: string): Promise<void> {
  try {
    const { id } = await api.post<{ id: string }>("/terminals", { body: { workingDir: folder } });
    navigate(href("terminals", [id]));
  } catch (error) {
    failed("The terminal was not opened", error);
  }
}

/** Download what an address gives. */
export function follow(url: string): void {
  const link = document.createElement("a");
  link.href = url;
  link.download = "";
  link.click();
}

/** Copy a path, or show it where that is not allowed. */
export async function copyText(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    toast("The path was copied.", { kind: "good" });
  } catch {
    toast(shown(text), { kind: "info" });
  }
}

