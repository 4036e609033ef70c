/** What all our editors are made of. */

import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { bracketMatching, foldGutter, foldKeymap, indentOnInput, LanguageDescription, syntaxHighlighting } from "@codemirror/language";
import { languages } from "@codemirror/language-data";
import { highlightSelectionMatches, search, searchKeymap } from "@codemirror/search";
import { EditorState, type Extension } from "@codemirror/state";
import {
  drawSelection,
  EditorView,
  highlightActiveLine,
  highlightActiveLineGutter,
  highlightSpecialChars,
  keymap,
  lineNumbers,
} from "@codemirror/view";
import { classHighlighter } from "@lezer/highlight";
import { nonce } from "../../app/csp";
import { lineEnd } from "./documents";

/** Extensions of an editor; colours are classes, which `editor.css` has for both themes. */
export function editing({ readOnly = false, label, ends }: { readOnly?: boolean; label: string; ends: Extension }): Extension[] {
  return [
    EditorView.cspNonce.of(nonce),
    EditorView.contentAttributes.of({ "aria-label": label, "data-takes-keys": "", tabindex: "0" }),
    ends,
    EditorState.readOnly.of(readOnly),
    lineNumbers(),
    highlightActiveLineGutter(),
    highlightActiveLine(),
    highlightSpecialChars(),
    history(),
    foldGutter(),
    drawSelection(),
    indentOnInput(),
    bracketMatching(),
    highlightSelectionMatches(),
    search({ top: true }),
    syntaxHighlighting(classHighlighter),
    keymap.of([...defaultKeymap, ...searchKeymap, ...historyKeymap, ...foldKeymap, indentWithTab]),
  ];
}

/** How lines of a text end, as an extension. */
export function endsOf(text: string): Extension {
  return EditorState.lineSeparator.of(lineEnd(text));
}

/** Prose is wrapped, code is not. */
export function wrapping(name: string): Extension {
  return /\.(md|markdown|txt|rst|adoc)$/i.test(name) ? EditorView.lineWrapping : [];
}

/** The language of a file by its name; nothing where we know none. Its code is fetched then. */
export async function languageOf(name: string): Promise<Extension | undefined> {
  const found = LanguageDescription.matchFilename(languages, name);
  return found ? await found.load() : undefined;
}
