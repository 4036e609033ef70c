/** What is to be done when the server is back: read again what could not be read. */

import { useEffect, useRef } from "preact/hooks";
import { epoch } from "./connection";

/** Run something each time the server is back, not at first. */
export function useComeback(run: () => void): void {
  const latest = useRef(run);
  latest.current = run;
  const before = useRef(epoch.value);
  useEffect(() => {
    if (before.current === epoch.value) return;
    before.current = epoch.value;
    latest.current();
  }, [epoch.value]);
}
