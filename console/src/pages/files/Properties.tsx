/** Everything about one file or folder; its mode and owner can be changed. */

import { useEffect, useState } from "preact/hooks";
import { Button, Checkbox, Dialog, Failure, failed, Field, Input, Loading, toast } from "../../ui";
import { bytes, count, stamp } from "../../ui/format";
import { setAttributes, stat, usage, type Attributes } from "./calls";
import { isMode, KINDS, modeText } from "./modes";
import { nameOf, shown } from "./paths";
import type { Stat, Usage } from "./types";

interface Props {
  path: string;
  onClose(): void;
  onChanged(): void;
}

const WHO = [
  { title: "Owner", shift: 6 },
  { title: "Group", shift: 3 },
  { title: "Others", shift: 0 },
];
const RIGHTS = [
  { title: "Read", bit: 4 },
  { title: "Write", bit: 2 },
  { title: "Execute", bit: 1 },
];

export function Properties({ path, onClose, onChanged }: Props) {
  const [about, setAbout] = useState<Stat>();
  const [fault, setFault] = useState<unknown>();
  const [mode, setMode] = useState("");
  const [owner, setOwner] = useState("");
  const [group, setGroup] = useState("");
  const [recursive, setRecursive] = useState(false);
  const [busy, setBusy] = useState(false);
  const name = shown(nameOf(path));

  useEffect(() => {
    const control = new AbortController();
    stat(path, control.signal).then(
      (found) => {
        setAbout(found);
        setMode(found.permissions);
        setOwner(found.owner);
        setGroup(found.group);
      },
      (error) => control.signal.aborted || setFault(error),
    );
    return () => control.abort();
  }, [path]);

  const wanted: Attributes = {};
  if (about && mode !== about.permissions) wanted.permissions = mode.trim();
  if (about && owner !== about.owner) wanted.owner = owner.trim();
  if (about && group !== about.group) wanted.group = group.trim();
  const isFolder = about?.type === "directory";
  // For all below, what is the folder's own already is meant too.
  if (about && isFolder && recursive && !Object.keys(wanted).length) wanted.permissions = mode.trim();
  const isSame = !Object.keys(wanted).length;

  async function save(): Promise<void> {
    if (isSame || !isMode(mode)) return;
    setBusy(true);
    try {
      await setAttributes(path, { ...wanted, recursive: isFolder && recursive });
      toast(`Permissions of ${name} were changed.`, { kind: "good" });
      onChanged();
      onClose();
    } catch (error) {
      failed("The permissions were not changed", error);
      setBusy(false);
    }
  }

  return (
    <Dialog
      title={`Properties of ${name}`}
      onClose={onClose}
      onSubmit={() => void save()}
      footer={
        <>
          <Button onClick={onClose}>Close</Button>
          <Button type="submit" kind="primary" busy={busy} disabled={isSame || !isMode(mode)}>
            Change permissions
          </Button>
        </>
      }
    >
      {fault !== undefined ? (
        <Failure error={fault} />
      ) : !about ? (
        <Loading />
      ) : (
        <div class="properties">
          <Facts about={about} />
          {isFolder ? <FolderSize path={path} /> : null}
          {about.type === "symlink" ? (
            <p class="muted">The permissions of a link are those of what it leads to.</p>
          ) : (
            <>
              <ModeGrid mode={mode} onChange={setMode} />
              <div class="properties-owner">
                <Field label="Mode" error={isMode(mode) ? undefined : "One to four octal digits are wanted, 640 for instance."} hint={isMode(mode) ? modeText(mode) : undefined}>
                  <Input class="mono" value={mode} maxLength={4} onInput={(event) => setMode(event.currentTarget.value)} />
                </Field>
                <Field label="Owner">
                  <Input value={owner} onInput={(event) => setOwner(event.currentTarget.value)} />
                </Field>
                <Field label="Group">
                  <Input value={group} onInput={(event) => setGroup(event.currentTarget.value)} />
                </Field>
              </div>
              {isFolder ? (
                <Checkbox label="Also for everything in this folder" checked={recursive} onChange={(event) => setRecursive(event.currentTarget.checked)} />
              ) : null}
            </>
          )}
        </div>
      )}
    </Dialog>
  );
}

function Facts({ about }: { about: Stat }) {
  const facts: [string, string][] = [
    ["Path", shown(about.path)],
    ["Kind", KINDS[about.type] ?? about.type],
    ...(about.target === undefined ? [] : ([["Leads to", shown(about.target)]] as [string, string][])),
    ["Size", `${bytes(about.size)} (${count(about.size)} bytes)`],
    ["Modified", stamp(about.lastModified)],
    ["Read last", stamp(about.lastAccessed)],
    ["Inode", `${about.inode}${about.links > 1 && about.type !== "directory" ? `, ${about.links} names` : ""}`],
  ];
  return (
    <dl class="facts">
      {facts.map(([title, value]) => (
        <div key={title}>
          <dt>{title}</dt>
          <dd class="num">{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function FolderSize({ path }: { path: string }) {
  const [total, setTotal] = useState<Usage>();
  const [busy, setBusy] = useState(false);
  const [control] = useState(() => new AbortController());
  useEffect(() => () => control.abort(), []);

  async function add(): Promise<void> {
    setBusy(true);
    try {
      setTotal(await usage(path, control.signal));
    } catch (error) {
      if (!control.signal.aborted) failed("The folder could not be added up", error);
    }
    setBusy(false);
  }

  if (!total) {
    return (
      <Button small busy={busy} onClick={() => void add()}>
        Add up what is in it
      </Button>
    );
  }
  return (
    <p class="num">
      {`${bytes(total.apparent)} in ${count(total.files)} files and ${count(total.directories)} folders, ${bytes(total.disk)} on disk. `}
      {`${bytes(total.filesystemFree)} of ${bytes(total.filesystemSize)} are free.`}
      {total.unreadable ? ` ${count(total.unreadable)} could not be read.` : ""}
    </p>
  );
}

function ModeGrid({ mode, onChange }: { mode: string; onChange(mode: string): void }) {
  const bits = isMode(mode) ? parseInt(mode, 8) : 0;
  return (
    <table class="mode-grid">
      <caption class="sr-only">Permissions</caption>
      <thead>
        <tr>
          <td />
          {RIGHTS.map(({ title }) => (
            <th key={title} scope="col">
              {title}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {WHO.map(({ title: who, shift }) => (
          <tr key={who}>
            <th scope="row">{who}</th>
            {RIGHTS.map(({ title: right, bit }) => (
              <td key={right}>
                <input
                  type="checkbox"
                  aria-label={`${who}: ${right.toLowerCase()}`}
                  checked={Boolean(bits & (bit << shift))}
                  onChange={() => onChange((bits ^ (bit << shift)).toString(8).padStart(3, "0"))}
                />
              </td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}
