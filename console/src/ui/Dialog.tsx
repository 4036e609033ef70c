import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { X } from "lucide-preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { Button, IconButton } from "./Button";
import { Field, Input } from "./Field";
import "./Dialog.css";

export interface DialogProps {
  title: string;
  onClose(): void;
  children: ComponentChildren;
  footer?: ComponentChildren;
  wide?: boolean;
  /** Makes it a form: Enter in a field submits. */
  onSubmit?(): void;
}

/** A modal dialog: the browser keeps the focus inside, Escape closes, the focus goes back after. */
export function Dialog({ title, onClose, children, footer, wide, onSubmit }: DialogProps) {
  const element = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const shown = element.current;
    const before = document.activeElement;
    shown?.showModal();
    return () => {
      shown?.close();
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  const inside = (
    <>
      <header class="dialog-head">
        <h2 id={id}>{title}</h2>
        <IconButton icon={X} label="Close" small onClick={onClose} />
      </header>
      <div class="dialog-body">{children}</div>
      {footer ? <footer class="dialog-foot">{footer}</footer> : null}
    </>
  );
  return (
    <dialog
      ref={element}
      class={`dialog ${wide ? "dialog-wide" : ""}`}
      aria-labelledby={id}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onMouseDown={(event) => {
        if (event.target === element.current) onClose();
      }}
    >
      {onSubmit ? (
        <form
          onSubmit={(event) => {
            event.preventDefault();
            onSubmit();
          }}
        >
          {inside}
        </form>
      ) : (
        <div>{inside}</div>
      )}
    </dialog>
  );
}

interface Asking {
  title: string;
  text?: string;
  label?: string;
  value?: string;
  action: string;
  danger?: boolean;
  answer(value: string | null): void;
}

const asking = signal<Asking | null>(null);

/** Ask before what cannot be undone. */
export function confirm(question: {
  title: string;
  text: string;
  action: string;
  danger?: boolean;
}): Promise<boolean> {
  return new Promise((resolve) => {
    asking.value = { ...question, answer: (value) => resolve(value !== null) };
  });
}

/** Ask for one text; null: never mind. */
export function prompt(question: {
  title: string;
  label: string;
  value?: string;
  action: string;
  text?: string;
}): Promise<string | null> {
  return new Promise((resolve) => {
    asking.value = { ...question, answer: resolve };
  });
}

/** Where `confirm` and `prompt` appear; the shell has it. */
export function Questions() {
  const one = asking.value;
  return one ? <Question key={one.title} one={one} /> : null;
}

function Question({ one }: { one: Asking }) {
  const [value, setValue] = useState(one.value ?? "");
  function done(answer: string | null) {
    asking.value = null;
    one.answer(answer);
  }
  return (
    <Dialog
      title={one.title}
      onClose={() => done(null)}
      onSubmit={() => {
        if (!one.label || value.trim()) done(value);
      }}
      footer={
        <>
          <Button onClick={() => done(null)}>Cancel</Button>
          <Button type="submit" kind={one.danger ? "danger" : "primary"} autofocus={!one.label}>
            {one.action}
          </Button>
        </>
      }
    >
      {one.text ? <p>{one.text}</p> : null}
      {one.label ? (
        <Field label={one.label}>
          <Input value={value} autofocus onInput={(event) => setValue(event.currentTarget.value)} />
        </Field>
      ) : null}
    </Dialog>
  );
}
