/** The editor of one text: saves if nobody else has written meanwhile, else shows both sides. */

import { historyField } from "@codemirror/commands";
import { Compartment, EditorState, Prec, type Text } from "@codemirror/state";
import { EditorView, keymap } from "@codemirror/view";
import { TriangleAlert, RotateCw, Save, Undo2 } from "lucide-preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "../../api/client";
import { Button, confirm, failed, toast } from "../../ui";
import { read, write } from "./calls";
import { editing, endsOf, languageOf, wrapping } from "./codemirror";
import { Conflict } from "./Conflict";
import { drafts, drop, keep, textOf } from "./documents";
import { nameOf, shown } from "./paths";
import "./editor.css";

export interface EditorProps {
  path: string;
  /** What was read, and the state that it is of; empty: there is no file yet. */
  text: string;
  etag: string;
  /** The state that the file has now, as far as is known; empty: it is gone. */
  diskEtag: string | undefined;
  line: number;
  onSaved(): void;
}

const FIELDS = { history: historyField };

export default function Editor({ path, text, etag, diskEtag, line, onSaved }: EditorProps) {
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView>();
  const base = useRef({ etag, saved: text });
  const [dirty, setDirty] = useState(false);
  const [busy, setBusy] = useState(false);
  const [conflict, setConflict] = useState<string | undefined>();
  const savedDoc = useRef<Text>();
  const ends = useRef(new Compartment());
  const save = useRef<() => void>(() => undefined);

  useEffect(() => {
    const draft = drafts.value.get(path);
    base.current = draft ? { etag: draft.etag, saved: draft.saved } : { etag, saved: text };
    const language = new Compartment();
    const extensions = [
      editing({ label: `Text of ${shown(nameOf(path))}`, ends: ends.current.of(endsOf(base.current.saved)) }),
      language.of([]),
      wrapping(nameOf(path)),
      Prec.high(keymap.of([{ key: "Mod-s", preventDefault: true, run: () => (save.current(), true) }])),
      EditorView.updateListener.of((update) => {
        if (update.docChanged) noted(update.state);
      }),
    ];
    savedDoc.current = EditorState.create({ doc: base.current.saved, extensions: endsOf(base.current.saved) }).doc;
    const state = draft
      ? EditorState.fromJSON(draft.state, { extensions }, FIELDS)
      : EditorState.create({ doc: text, extensions });
    const made = new EditorView({ state, parent: host.current! });
    view.current = made;
    noted(state);
    let gone = false;
    languageOf(nameOf(path)).then(
      (found) => !gone && found && made.dispatch({ effects: language.reconfigure(found) }),
      () => undefined, // without its colours a text is as good
    );
    return () => {
      gone = true;
      if (isDirty(made.state)) keep(path, { ...base.current, state: made.state.toJSON(FIELDS) });
      else drop(path);
      made.destroy();
      view.current = undefined;
    };
  }, [path]);

  // A new state of the file was read, and nothing was changed here: show it.
  useEffect(() => {
    const shownView = view.current;
    if (!shownView || etag === base.current.etag || isDirty(shownView.state)) return;
    settle(text, etag);
  }, [text, etag]);

  useEffect(() => {
    const shownView = view.current;
    if (!shownView || !line) return;
    const found = shownView.state.doc.line(Math.min(line, shownView.state.doc.lines));
    shownView.dispatch({
      selection: { anchor: found.from, head: found.to },
      effects: EditorView.scrollIntoView(found.from, { y: "center" }),
    });
  }, [path, line]);

  function isDirty(state: EditorState): boolean {
    return !savedDoc.current || !state.doc.eq(savedDoc.current);
  }

  function noted(state: EditorState): void {
    const now = isDirty(state);
    setDirty(now);
    if (now && !drafts.value.has(path)) keep(path, { ...base.current, state: state.toJSON(FIELDS) });
    else if (!now) drop(path);
  }

  /** Take what is in the file now as what is shown. */
  function settle(now: string, tag: string): void {
    const shownView = view.current;
    if (!shownView) return;
    base.current = { etag: tag, saved: now };
    shownView.dispatch({ effects: ends.current.reconfigure(endsOf(now)) });
    const doc = shownView.state.toText(now);
    savedDoc.current = doc;
    if (!shownView.state.doc.eq(doc)) shownView.dispatch({ changes: { from: 0, to: shownView.state.doc.length, insert: doc } });
    noted(shownView.state);
  }

  async function saved(): Promise<void> {
    const shownView = view.current;
    if (!shownView || busy) return;
    const { doc } = shownView.state;
    const content = shownView.state.sliceDoc();
    setBusy(true);
    try {
      const tag = await write(path, new Blob([content]), base.current.etag);
      base.current = { etag: tag, saved: content };
      savedDoc.current = doc;
      if (view.current) noted(view.current.state);
      toast(`${shown(nameOf(path))} was saved.`, { kind: "good" });
      onSaved();
    } catch (error) {
      if (error instanceof ApiError && error.status === 412) setConflict(content);
      else failed(`${shown(nameOf(path))} was not saved`, error);
    } finally {
      setBusy(false);
    }
  }
  save.current = () => void saved();

  async function reload(): Promise<void> {
    const title = "Give up your changes?";
    const sure = !dirty || (await confirm({ title, text: "What you changed since the last save is lost.", action: "Give up changes", danger: true }));
    if (!sure) return;
    try {
      const found = await read(path);
      const now = textOf(found.data);
      if (now === undefined) throw new Error("the file is not text any more");
      settle(now, found.etag);
    } catch (error) {
      failed("The file was not read again", error);
    }
  }

  const isOutdated = diskEtag !== undefined && diskEtag !== base.current.etag && dirty && base.current.etag !== "";
  return (
    <div class="editor">
      {isOutdated && conflict === undefined ? (
        <div class="editor-notice" role="status">
          <TriangleAlert size={16} />
          <p>{diskEtag ? "This file was changed by somebody else." : "This file was deleted or moved."}</p>
          <Button small onClick={() => view.current && setConflict(view.current.state.sliceDoc())}>
            Compare
          </Button>
          {diskEtag ? (
            <Button small icon={RotateCw} onClick={() => void reload()}>
              Load theirs
            </Button>
          ) : null}
        </div>
      ) : null}
      <div class="editor-bar" hidden={conflict !== undefined}>
        <span class="muted small">{dirty ? "Changes are not saved" : "Saved"}</span>
        <Button small kind="ghost" icon={Undo2} disabled={!dirty} onClick={() => void reload()}>
          Give up changes
        </Button>
        <Button small kind="primary" icon={Save} busy={busy} disabled={!dirty} onClick={() => void saved()}>
          Save
        </Button>
      </div>
      <div ref={host} class="editor-host" hidden={conflict !== undefined} />
      {conflict !== undefined ? (
        <Conflict
          path={path}
          mine={conflict}
          onClose={() => setConflict(undefined)}
          onSettled={(now, tag) => {
            setConflict(undefined);
            settle(now, tag);
            onSaved();
          }}
        />
      ) : null}
    </div>
  );
}
