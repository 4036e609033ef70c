/** What stands around the tree: the folders above, menus, what is said instead of it. */

import { FilePlus, FolderOpen, FolderX, Upload } from "lucide-preact";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { ApiError } from "../../api/client";
import { href } from "../../app/router";
import { Button, contextMenu, Empty, Failure, LinkButton, Loading, type Icon, type Item } from "../../ui";
import { ancestry, nameOf, shown } from "./paths";
import { filesHref } from "./place";
import type { Tree } from "./tree";

export function MenuButton({ label, icon, items }: { label: string; icon: Icon; items: Item[] }) {
  return (
    <Button
      icon={icon}
      aria-haspopup="menu"
      onClick={(event) => {
        const { left, bottom } = event.currentTarget.getBoundingClientRect();
        contextMenu(new MouseEvent("click", { clientX: left, clientY: bottom + 4, cancelable: true }), items);
      }}
    >
      {label}
    </Button>
  );
}

/** The tree, or why there is none. */
export function Browse({ tree, children, onNewFile, onUpload }: { tree: Tree; children: ComponentChildren; onNewFile(): void; onUpload(): void }) {
  const { root } = tree;
  if (root.state === "failed" && !root.nodes.length) {
    const isGone = root.error instanceof ApiError && root.error.status === 404;
    if (isGone) {
      return (
        <Empty icon={FolderX} title="There is no such folder" action={<LinkButton href={href("files")}>Go to the working directory</LinkButton>}>
          {`${shown(root.path)} was deleted or moved, or the address is wrong.`}
        </Empty>
      );
    }
    return <Failure error={root.error} retry={() => void tree.reload(root.path)} title="This folder could not be read" />;
  }
  if (root.state === "loading" && !root.nodes.length) return <Loading label="Reading the folder" />;
  if (!root.nodes.length) {
    return (
      <Empty
        icon={FolderOpen}
        title="This folder is empty"
        action={
          <>
            <Button kind="primary" icon={Upload} onClick={onUpload}>
              Upload files
            </Button>
            <Button icon={FilePlus} onClick={onNewFile}>
              New file
            </Button>
          </>
        }
      >
        Drop files or folders anywhere on this page, or make a file here.
      </Empty>
    );
  }
  return <>{children}</>;
}

export function Crumbs({ folder }: { folder: string }) {
  const last = useRef<HTMLAnchorElement>(null);
  useEffect(() => last.current?.scrollIntoView({ block: "nearest", inline: "end" }), [folder]);
  const all = ancestry(folder);
  return (
    <nav class="files-crumbs" aria-label="Folders above">
      {all.map((path, index) => (
        <a key={path} ref={index === all.length - 1 ? last : undefined} href={filesHref(path)} aria-current={index === all.length - 1 ? "page" : undefined}>
          {path === "/" ? "/" : shown(nameOf(path))}
        </a>
      ))}
    </nav>
  );
}
