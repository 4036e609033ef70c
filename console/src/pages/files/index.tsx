import {
  Copy,
  Download,
  Eye,
  EyeOff,
  FilePlus,
  FolderInput,
  FolderOpen,
  FolderPlus,
  FolderUp,
  House,
  Info,
  Pencil,
  Plus,
  RefreshCw,
  SquareTerminal,
  Trash2,
  Upload,
} from "lucide-preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { useComeback } from "../../app/comeback";
import { useKeys } from "../../app/keys";
import { navigate } from "../../app/router";
import { session } from "../../app/session";
import { usePoll } from "../../api/client";
import { failed, LinkButton, Loading, Menu, PageHead, Segmented, toast, type Item } from "../../ui";
import type { PageProps } from "../page";
import { archiveUrl, downloadUrl, look } from "./calls";
import { ChangesPanel } from "./ChangesPanel";
import { drafts } from "./documents";
import { readChosen, readDropped, type Dropped } from "./dropped";
import { FileView } from "./FileView";
import { FindPanel } from "./FindPanel";
import { FolderTree } from "./FolderTree";
import { Browse, Crumbs, MenuButton } from "./Frame";
import { copyText, follow, terminalIn, useArrivals, useFileInstead } from "./keeping";
import { newFile, newFolder, place as placeAt, removeAll, rename } from "./operations";
import { isWithin, parentOf, shown } from "./paths";
import { filesHref, placeOf, sideOf, type Place, type Side } from "./place";
import { Properties } from "./Properties";
import { Tree, type Node, type Sort } from "./tree";
import { UploadDock } from "./UploadDock";
import { enqueue } from "./uploads";
import "./files.css";

const LOOK_MS = 3000;

let lastSort: Sort = { by: "name", down: false };
let showsHidden = true;

export default function FilesPage({ path, query }: PageProps) {
  const at = placeOf(path, query);
  const workdir = session.value?.workdir;
  // Without a folder it is the one of the file, else the working directory.
  useEffect(() => {
    if (at || !workdir) return;
    const asked = sideOf(query);
    navigate(filesHref(asked.file ? parentOf(asked.file) : workdir, asked), { replace: true });
  }, [!at, workdir]);
  return at ? <Browser key={at.folder} at={at} /> : <Loading />;
}

function Browser({ at }: { at: Place }) {
  const { folder } = at;
  const tree = useMemo(() => {
    const made = new Tree(folder, lastSort);
    made.showHidden = showsHidden;
    return made;
  }, [folder]);
  const [properties, setProperties] = useState("");
  const [aimed, setAimed] = useState("");
  // What was made or renamed last: keys go on there.
  const [pointed, setPointed] = useState("");
  const files = useRef<HTMLInputElement>(null);
  const folders = useRef<HTMLInputElement>(null);
  const target = useRef(folder);
  void tree.version.value;

  useEffect(() => () => {
    lastSort = tree.sort;
    tree.close();
  }, [tree]);
  usePoll((signal) => tree.refresh(signal), LOOK_MS, [tree]);
  useArrivals(tree);
  useComeback(() => tree.retry());
  useEffect(() => {
    if (at.file && at.side === "browse") void tree.reveal(at.file);
  }, [tree, at.file, at.side]);
  useFileInstead(tree, at);

  function go(changes: Partial<Place>, replace = false): void {
    const next = { ...at, line: 0, view: "", ...changes };
    navigate(filesHref(next.folder, next), { replace });
  }

  function open(file: string, line = 0): void {
    go({ file, line }, at.file !== "");
  }

  function close(): void {
    go({ file: "" });
  }

  function pick(kind: "files" | "folder", into: string): void {
    target.current = into;
    (kind === "files" ? files : folders).current?.click();
  }

  function upload(dropped: readonly Dropped[]): void {
    if (dropped.length) enqueue(dropped);
    else toast("There was nothing to upload.");
  }

  async function make(how: typeof newFile, into: string): Promise<void> {
    const made = await how(into, tree);
    if (made && how === newFile) open(made);
    else if (made) setPointed(made);
  }

  async function gone(nodes: readonly Node[]): Promise<void> {
    const paths = await removeAll(nodes, tree);
    if (paths.some((one) => isWithin(at.file, one))) close();
  }

  async function moved(node: Node, work: Promise<string | undefined>): Promise<void> {
    const to = await work;
    if (to) setPointed(to);
    if (to && isWithin(at.file, node.path)) open(to + at.file.slice(node.path.length));
  }

  function toggleHidden(): void {
    showsHidden = !tree.showHidden;
    tree.setHidden(showsHidden);
  }

  function menu(nodes: Node[]): Item[] {
    const [node] = nodes;
    if (!node) return [];
    const remove: Item = { label: nodes.length > 1 ? `Delete ${nodes.length} entries` : "Delete", icon: Trash2, danger: true, run: () => void gone(nodes) };
    if (nodes.length > 1) return [remove];
    return [...(node.isFolder ? folderItems(node.path) : fileItems(node)), "line", ...commonItems(node), "line", remove];
  }

  function folderItems(into: string): Item[] {
    return [
      ...(session.value?.terminals ? [{ label: "Open a terminal in it", icon: SquareTerminal, run: () => void terminalIn(into) }] : []),
      { label: "Go into this folder", icon: FolderInput, run: () => navigate(filesHref(into)) },
      { label: "New file in it", icon: FilePlus, run: () => void make(newFile, into) },
      { label: "New folder in it", icon: FolderPlus, run: () => void make(newFolder, into) },
      { label: "Upload files into it", icon: Upload, run: () => pick("files", into) },
      { label: "Download as tar.zst", icon: Download, run: () => follow(archiveUrl(into)) },
    ];
  }

  function fileItems(node: Node): Item[] {
    return [
      { label: "Open", icon: FolderOpen, run: () => open(node.path) },
      { label: "Download", icon: Download, run: () => follow(downloadUrl(node.path)) },
    ];
  }

  function commonItems(node: Node): Item[] {
    return [
      { label: "Rename", icon: Pencil, run: () => void moved(node, rename(node, tree)) },
      { label: "Move to…", icon: FolderInput, run: () => void moved(node, placeAt(node, tree, "move")) },
      { label: "Copy to…", icon: Copy, run: () => void placeAt(node, tree, "copy") },
      { label: "Copy its path", icon: Copy, run: () => void copyText(node.path) },
      { label: "Properties and permissions", icon: Info, run: () => setProperties(node.path) },
    ];
  }

  useKeys({ n: () => void make(newFile, folder) }, "New file");
  useKeys({ N: () => void make(newFolder, folder) }, "New folder");
  useKeys({ u: () => pick("files", folder) }, "Upload files");
  useKeys({ ".": toggleHidden }, "Show or hide hidden files");
  useKeys({ Backspace: () => navigate(filesHref(parentOf(folder))) }, "Folder above");

  return (
    <div
      class={`page page-fill files ${at.file ? "files-split" : ""}`}
      onDragOver={(event) => {
        if (!event.dataTransfer?.types.includes("Files")) return;
        event.preventDefault();
        event.dataTransfer.dropEffect = "copy";
        setAimed(aimOf(event.target, folder));
      }}
      onDragLeave={(event) => {
        if (!event.currentTarget.contains(event.relatedTarget as HTMLElement | null)) setAimed("");
      }}
      onDrop={(event) => {
        event.preventDefault();
        setAimed("");
        if (!event.dataTransfer) return;
        readDropped(event.dataTransfer, aimOf(event.target, folder)).then(upload, (error) => failed("What was dropped could not be read", error));
      }}
    >
      <PageHead title="Files" status={<Crumbs folder={folder} />}>
        <MenuButton
          label="New"
          icon={Plus}
          items={[
            { label: "File", icon: FilePlus, run: () => void make(newFile, folder) },
            { label: "Folder", icon: FolderPlus, run: () => void make(newFolder, folder) },
          ]}
        />
        <MenuButton
          label="Upload"
          icon={Upload}
          items={[
            { label: "Files", icon: Upload, run: () => pick("files", folder) },
            { label: "A folder", icon: FolderUp, run: () => pick("folder", folder) },
          ]}
        />
        <LinkButton class="files-download" icon={Download} href={archiveUrl(folder)} download="" title="The folder as tar.zst">
          Download
        </LinkButton>
        <Menu label="More" items={moreItems()} />
      </PageHead>
      <input ref={files} type="file" multiple hidden aria-label="Files to upload" onChange={(event) => chosen(event.currentTarget)} />
      <input
        ref={(element) => {
          folders.current = element;
          element?.setAttribute("webkitdirectory", "");
        }}
        type="file"
        hidden
        aria-label="Folder to upload"
        onChange={(event) => chosen(event.currentTarget)}
      />
      <div class="files-panes">
        <section class="panel files-side" aria-label="Folder">
          <div class="files-tabs">
            <Segmented<Side>
              label="Show"
              value={at.side}
              options={[
                { value: "browse", label: "Browse" },
                { value: "find", label: "Find" },
                { value: "changes", label: "Changes" },
              ]}
              onChange={(side) => go({ side, line: at.line, view: at.view }, true)}
            />
          </div>
          {at.side === "find" ? (
            <FindPanel folder={folder} onOpen={open} onEnter={(to) => navigate(filesHref(to))} />
          ) : at.side === "changes" ? (
            <ChangesPanel folder={folder} onOpen={(file) => void openFound(file)} />
          ) : (
            <Browse tree={tree} onNewFile={() => void make(newFile, folder)} onUpload={() => pick("files", folder)}>
              <FolderTree
                tree={tree}
                narrow={at.file !== ""}
                openPath={at.file}
                pointed={pointed}
                edited={new Set(drafts.value.keys())}
                onOpen={(node) => open(node.path)}
                onEnter={(node) => navigate(filesHref(node.path))}
                onDelete={(nodes) => void gone(nodes)}
                onRename={(node) => void moved(node, rename(node, tree))}
                menu={menu}
              />
            </Browse>
          )}
        </section>
        {at.file ? (
          <div class="panel files-open">
            <FileView
              path={at.file}
              view={at.view}
              line={at.line}
              onClose={close}
              onProperties={() => setProperties(at.file)}
              onSaved={() => void tree.reload(parentOf(at.file))}
            />
          </div>
        ) : null}
      </div>
      {aimed ? (
        <div class="files-drop" aria-hidden="true">
          <Upload size={24} />
          <p>{`Drop to upload into ${shown(aimed)}`}</p>
        </div>
      ) : null}
      <UploadDock />
      {properties ? (
        <Properties path={properties} onClose={() => setProperties("")} onChanged={() => void tree.reload(parentOf(properties))} />
      ) : null}
    </div>
  );

  function moreItems(): Item[] {
    const home = session.value?.home;
    const workdir = session.value?.workdir;
    return [
      { label: tree.showHidden ? "Hide hidden files" : "Show hidden files", icon: tree.showHidden ? EyeOff : Eye, run: toggleHidden },
      ...(session.value?.terminals ? [{ label: "Open a terminal here", icon: SquareTerminal, run: () => void terminalIn(folder) }] : []),
      { label: "Download this folder as tar.zst", icon: Download, run: () => follow(archiveUrl(folder)) },
      { label: "Load again", icon: RefreshCw, run: () => void tree.reloadAll() },
      { label: "Properties of this folder", icon: Info, run: () => setProperties(folder) },
      "line",
      ...(workdir ? [{ label: "Working directory", icon: SquareTerminal, run: () => navigate(filesHref(workdir)) }] : []),
      ...(home ? [{ label: "Home directory", icon: House, run: () => navigate(filesHref(home)) }] : []),
    ];
  }

  function chosen(input: HTMLInputElement): void {
    if (input.files?.length) upload(readChosen(input.files, target.current));
    input.value = "";
  }

  /** What has changed may be a folder. */
  async function openFound(found: string): Promise<void> {
    try {
      if ((await look(found)).kind === "directory") navigate(filesHref(found));
      else open(found);
    } catch (error) {
      failed("It could not be opened", error);
    }
  }
}

/** Where what is dropped goes: into the folder below the pointer, else into the one that is shown. */
function aimOf(element: EventTarget | null, folder: string): string {
  const row = element instanceof Element ? element.closest<HTMLElement>("[data-folder]") : null;
  return row?.dataset.folder ?? folder;
}
