/** Keys of the page that is shown; none while somebody types in a field or a dialog is open. */

import { useLayoutEffect, useRef } from "preact/hooks";

type Handler = (event: KeyboardEvent) => void;

interface Binding {
  keys: Record<string, Handler>;
  description: string;
}

const bound = new Set<{ current: Binding }>();
let waiting = "";
let forget = 0;

/** Whether what is typed goes into a field (or a terminal, which takes all keys). */
export function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement &&
    (target.isContentEditable ||
      /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) ||
      target.closest("[data-takes-keys]") !== null)
  );
}

window.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (isTyping(event.target) || document.querySelector("dialog[open]")) return;
  const pressed = waiting ? `${waiting} ${event.key}` : event.key;
  window.clearTimeout(forget);
  waiting = "";
  for (const one of [...bound].reverse()) {
    const handler = one.current.keys[pressed];
    if (handler) {
      event.preventDefault();
      handler(event);
      return;
    }
  }
  if ([...bound].some((one) => Object.keys(one.current.keys).some((key) => key.startsWith(`${pressed} `)))) {
    waiting = pressed;
    forget = window.setTimeout(() => {
      waiting = "";
    }, 1500);
  }
});

/** Bind keys (`KeyboardEvent.key`, or two with a space in between) while a component is shown. */
export function useKeys(keys: Record<string, Handler>, description = ""): void {
  const held = useRef<Binding>({ keys, description });
  held.current = { keys, description };
  // Before it is painted: a key that is pressed at once counts.
  useLayoutEffect(() => {
    bound.add(held);
    return () => {
      bound.delete(held);
    };
  }, []);
}

/** What can be pressed now: keys and words, for the list that `?` shows. */
export function knownKeys(): { keys: string; description: string }[] {
  return [...bound]
    .map((one) => one.current)
    .filter((one) => one.description)
    .map((one) => ({ keys: Object.keys(one.keys).join(", "), description: one.description }));
}
