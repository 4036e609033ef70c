/** What a person has dropped or chosen: files, and folders with all that is in them. */

import { joined } from "./paths";

export interface Dropped {
  path: string;
  file?: File;
}

/** Read what was dropped, to stand below `folder`. Call it within the event: the items end with it. */
export function readDropped(transfer: DataTransfer, folder: string): Promise<Dropped[]> {
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  if (!entries.length) {
    return Promise.resolve(Array.from(transfer.files, (file) => ({ path: joined(folder, file.name), file })));
  }
  return collected(entries, folder);
}

async function collected(entries: FileSystemEntry[], folder: string): Promise<Dropped[]> {
  const found: Dropped[] = [];
  for (const entry of entries) {
    const path = joined(folder, entry.name);
    if (entry.isDirectory) {
      found.push({ path });
      found.push(...(await collected(await all(entry as FileSystemDirectoryEntry), path)));
    } else found.push({ path, file: await fileOf(entry as FileSystemFileEntry) });
  }
  return found;
}

async function all(folder: FileSystemDirectoryEntry): Promise<FileSystemEntry[]> {
  const reader = folder.createReader();
  const found: FileSystemEntry[] = [];
  // It gives a hundred at a time, and none at the end.
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    found.push(...some);
  }
}

function fileOf(entry: FileSystemFileEntry): Promise<File> {
  return new Promise((resolve, reject) => entry.file(resolve, reject));
}

/** What an `<input type="file">` holds; of a folder that was chosen, its folders too. */
export function readChosen(files: FileList, folder: string): Dropped[] {
  const found: Dropped[] = [];
  const made = new Set<string>();
  for (const file of files) {
    const parts = (file.webkitRelativePath || file.name).split("/");
    for (let depth = 1; depth < parts.length; depth += 1) {
      const path = joined(folder, parts.slice(0, depth).join("/"));
      if (!made.has(path)) {
        made.add(path);
        found.push({ path });
      }
    }
    found.push({ path: joined(folder, parts.join("/")), file });
  }
  return found;
}
