/** What is done to files from menus and keys: asked about, done, told, and shown in the tree. */

import { confirm, failed, prompt, toast } from "../../ui";
import { copy, makeFolder, move, remove, write } from "./calls";
import { faultOf, isText, joined, nameOf, parentOf, shown } from "./paths";
import type { Node, Tree } from "./tree";

async function named(question: { title: string; action: string; value?: string }): Promise<string | null> {
  const name = await prompt({ ...question, label: "Name" });
  if (name === null) return null;
  const fault = faultOf(name);
  if (fault) toast(fault, { kind: "bad" });
  return fault ? null : name;
}

/** Returns the path of what was made, nothing where nothing was. */
export async function newFile(folder: string, tree: Tree): Promise<string | undefined> {
  const name = await named({ title: "New file", action: "Create file" });
  if (name === null) return undefined;
  const path = joined(folder, name);
  return done("The file was not created", async () => {
    await write(path, new Blob([]), "");
    await tree.reload(folder);
    return path;
  });
}

export async function newFolder(folder: string, tree: Tree): Promise<string | undefined> {
  const name = await named({ title: "New folder", action: "Create folder" });
  if (name === null) return undefined;
  const path = joined(folder, name);
  return done("The folder was not created", async () => {
    await makeFolder(path);
    await tree.reload(folder);
    return path;
  });
}

export async function rename(node: Node, tree: Tree): Promise<string | undefined> {
  const name = await named({ title: `Rename ${shown(node.name)}`, action: "Rename", value: shown(node.name) });
  if (name === null || name === node.name) return undefined;
  const folder = parentOf(node.path);
  return done("It was not renamed", async () => {
    await move(checked(node.path), joined(folder, name));
    await tree.reload(folder);
    return joined(folder, name);
  });
}

/** Move or copy to a path that is asked for. */
export async function place(node: Node, tree: Tree, how: "move" | "copy"): Promise<string | undefined> {
  const title = `${how === "move" ? "Move" : "Copy"} ${shown(node.name)}`;
  const value = how === "copy" ? copyName(node.path) : node.path;
  const to = await prompt({ title, label: "To", value: shown(value), action: how === "move" ? "Move" : "Copy" });
  if (to === null || to === node.path) return undefined;
  return done(how === "move" ? "It was not moved" : "It was not copied", async () => {
    await (how === "move" ? move : copy)(checked(node.path), to);
    await Promise.all([tree.reload(parentOf(node.path)), tree.reload(parentOf(to))]);
    return to;
  });
}

function copyName(path: string): string {
  const name = nameOf(path);
  const dot = name.lastIndexOf(".");
  const [stem, ending] = dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ""];
  return joined(parentOf(path), `${stem} copy${ending}`);
}

function checked(path: string): string {
  if (!isText(path)) throw new Error("its name is not UTF-8, which this call cannot hold; use mv in a terminal");
  return path;
}

/** Returns the paths that are gone. */
export async function removeAll(nodes: readonly Node[], tree: Tree): Promise<string[]> {
  const [first] = nodes;
  if (!first) return [];
  const what = nodes.length > 1 ? `${nodes.length} entries` : shown(first.name);
  const holds = nodes.some((node) => node.entry.type === "directory");
  const text = holds
    ? "Folders go with everything in them. This cannot be undone."
    : "This cannot be undone.";
  if (!(await confirm({ title: `Delete ${what}?`, text, action: "Delete", danger: true }))) return [];
  const gone: string[] = [];
  for (const node of nodes) {
    try {
      await remove(node.path);
      gone.push(node.path);
    } catch (error) {
      failed(`${shown(node.name)} was not deleted`, error);
    }
  }
  await Promise.all([...new Set(nodes.map((node) => parentOf(node.path)))].map((folder) => tree.reload(folder)));
  if (gone.length) toast(gone.length === 1 ? `${shown(nameOf(gone[0]!))} was deleted.` : `${gone.length} entries were deleted.`, { kind: "good" });
  return gone;
}

async function done<T>(fault: string, work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    failed(fault, error);
    return undefined;
  }
}
