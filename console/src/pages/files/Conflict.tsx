/** Both sides of a file that somebody else has changed meanwhile, to be made one. */

import { MergeView, unifiedMergeView } from "@codemirror/merge";
import { EditorView } from "@codemirror/view";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "../../api/client";
import { Button, Failure, failed, Loading, toast } from "../../ui";
import { read, write } from "./calls";
import { editing, endsOf, languageOf } from "./codemirror";
import { textOf } from "./documents";
import { nameOf, shown } from "./paths";

interface Props {
  path: string;
  mine: string;
  onClose(): void;
  /** What is in the file now, and the state that it has. */
  onSettled(text: string, etag: string): void;
}

interface Theirs {
  text: string;
  /** Empty: the file is gone. */
  etag: string;
}

const NARROW = 560;

export function Conflict({ path, mine, onClose, onSettled }: Props) {
  const [theirs, setTheirs] = useState<Theirs>();
  const [fault, setFault] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const host = useRef<HTMLDivElement>(null);
  const editor = useRef<EditorView>();
  const kept = useRef(mine);
  const [isUnified, setUnified] = useState(false);
  const name = shown(nameOf(path));

  async function load(): Promise<void> {
    setFault(undefined);
    try {
      const found = await read(path);
      const text = textOf(found.data);
      if (text === undefined) throw new Error("what is there now is not text");
      setTheirs({ text, etag: found.etag });
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) setTheirs({ text: "", etag: "" });
      else setFault(error);
    }
  }

  useEffect(() => void load(), [path]);

  useEffect(() => {
    const parent = host.current;
    if (!theirs || !parent) return undefined;
    let gone = false;
    let close = (): void => undefined;
    void languageOf(name).catch(() => undefined).then((language) => {
      if (gone) return;
      const more = language ? [language] : [];
      const own = [EditorView.lineWrapping, ...editing({ label: `Your text of ${name}`, ends: endsOf(kept.current) }), ...more];
      const isNarrow = parent.clientWidth < NARROW;
      setUnified(isNarrow);
      if (isNarrow) {
        const made = new EditorView({ doc: kept.current, parent, extensions: [...own, unifiedMergeView({ original: theirs.text })] });
        editor.current = made;
        close = () => made.destroy();
      } else {
        const other = editing({ label: `Text of ${name} in the sandbox`, ends: endsOf(theirs.text), readOnly: true });
        const made = new MergeView({
          a: { doc: theirs.text, extensions: [EditorView.lineWrapping, ...other, ...more] },
          b: { doc: kept.current, extensions: own },
          parent,
          revertControls: "a-to-b",
          renderRevertControl: revertButton,
          collapseUnchanged: { margin: 3, minSize: 6 },
        });
        editor.current = made.b;
        close = () => made.destroy();
      }
      editor.current.focus();
    });
    return () => {
      gone = true;
      if (editor.current) kept.current = editor.current.state.sliceDoc();
      close();
    };
  }, [theirs]);

  async function save(): Promise<void> {
    if (!editor.current || !theirs) return;
    const text = editor.current.state.sliceDoc();
    setBusy(true);
    try {
      const etag = await write(path, new Blob([text]), theirs.etag);
      toast(`${name} was saved.`, { kind: "good" });
      onSettled(text, etag);
    } catch (error) {
      if (error instanceof ApiError && error.status === 412) {
        toast("It has changed once more: this is what is there now.");
        kept.current = text;
        await load();
      } else failed(`${name} was not saved`, error);
    } finally {
      setBusy(false);
    }
  }

  if (fault !== undefined) return <Failure error={fault} retry={() => void load()} title="What is in the file now could not be read" />;
  if (!theirs) return <Loading label="Reading what is in the file now" />;
  const isGone = theirs.etag === "";
  return (
    <section class="conflict" aria-label="Conflict">
      <header class="conflict-head">
        <div class="conflict-text">
          <h2>{isGone ? "The file is gone" : "Somebody else has changed this file"}</h2>
          <p class="muted">
            {isGone
              ? "It was deleted or moved after you had opened it. Save to write it anew."
              : "Theirs is what is in the sandbox now. Change yours until it is right, then save it over theirs."}
          </p>
        </div>
        <div class="conflict-actions">
          <Button onClick={onClose}>Go on editing</Button>
          {isGone ? null : <Button onClick={() => onSettled(theirs.text, theirs.etag)}>Take theirs</Button>}
          <Button kind="primary" busy={busy} onClick={() => void save()}>
            {isGone ? "Save anew" : "Save yours"}
          </Button>
        </div>
      </header>
      <div class="conflict-sides">
        {isUnified ? (
          <span>Yours, with what differs from theirs</span>
        ) : (
          <>
            <span>Theirs, in the sandbox</span>
            <span>Yours, not saved</span>
          </>
        )}
      </div>
      <div ref={host} class="conflict-host" />
    </section>
  );
}

function revertButton(): HTMLElement {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "conflict-take";
  button.textContent = "→";
  button.title = "Take this change of theirs";
  button.setAttribute("aria-label", button.title);
  return button;
}
