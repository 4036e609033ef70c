import { signal } from "@preact/signals";
import { CircleAlert, CircleCheck, Info, X } from "lucide-preact";
import { describe } from "../api/client";
import { Button, IconButton } from "./Button";
import "./Toast.css";

interface Toast {
  id: number;
  text: string;
  kind: "info" | "good" | "bad";
  action?: { label: string; run(): void };
}

const toasts = signal<Toast[]>([]);
const SECONDS = { info: 5, good: 4, bad: 10 };
const MOST = 4;
let last = 0;

/** Say something in passing; what failed stays longer. */
export function toast(text: string, options: { kind?: Toast["kind"]; action?: Toast["action"] } = {}): void {
  const kind = options.kind ?? "info";
  last += 1;
  const one = { id: last, text, kind, action: options.action };
  toasts.value = [...toasts.value.filter((other) => other.text !== text), one].slice(-MOST);
  window.setTimeout(() => drop(one.id), SECONDS[kind] * 1000);
}

/** Say that something failed and why: failed("The file was not saved", error). */
export function failed(what: string, error: unknown): void {
  toast(`${what}: ${lower(describe(error))}`, { kind: "bad" });
}

function lower(text: string): string {
  return /^[A-Z][a-z ]/.test(text) ? text.charAt(0).toLowerCase() + text.slice(1) : text;
}

function drop(id: number): void {
  toasts.value = toasts.value.filter((one) => one.id !== id);
}

const ICONS = { info: Info, good: CircleCheck, bad: CircleAlert };

export function Toasts() {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.value.map((one) => {
        const Icon = ICONS[one.kind];
        return (
          <div key={one.id} class={`toast toast-${one.kind}`}>
            <Icon size={16} />
            <p>{one.text}</p>
            {one.action ? (
              <Button
                small
                kind="ghost"
                onClick={() => {
                  one.action?.run();
                  drop(one.id);
                }}
              >
                {one.action.label}
              </Button>
            ) : null}
            <IconButton small icon={X} label="Dismiss" onClick={() => drop(one.id)} />
          </div>
        );
      })}
    </div>
  );
}
