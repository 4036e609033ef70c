/** A list of any length of which only what is seen is drawn; see `ui/virtual.ts`. */

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useImperativeHandle, useLayoutEffect, useRef, useState } from "preact/hooks";
import { forwardRef } from "preact/compat";
import { Track } from "../../ui/virtual";

export interface RowsHandle {
  /** Bring a row into view, moved as little as possible. */
  show(index: number): void;
  focus(): void;
}

interface Props {
  count: number;
  rowHeight: number;
  label: string;
  role: "tree" | "listbox";
  /** The row that keys act on; none: -1. */
  active: number;
  id: string;
  className?: string;
  multiselectable?: boolean;
  render(index: number): ComponentChildren;
  onKeyDown?(event: JSX.TargetedKeyboardEvent<HTMLElement>, page: number): void;
  onContextMenu?(event: JSX.TargetedMouseEvent<HTMLElement>): void;
  onFocus?(): void;
}

/** The id of a row's element, for `aria-activedescendant`; `render` gives it to what it makes. */
export function rowId(list: string, index: number): string {
  return `${list}-${index}`;
}

export const Rows = forwardRef<RowsHandle, Props>(function Rows(props, handle) {
  const { count, rowHeight, active } = props;
  const scroller = useRef<HTMLDivElement>(null);
  const [height, setHeight] = useState(0);
  const [first, setFirst] = useState(0);
  const track = new Track(count, rowHeight, height);
  const now = useRef({ track, first });
  now.current = { track, first };
  // What our own code has scrolled to: the event that tells of it must not round `first`.
  const told = useRef(-1);

  function go(wanted: number): void {
    const { track: line } = now.current;
    const next = line.clamped(wanted);
    now.current.first = next;
    setFirst(next);
    const top = Math.round(line.scrollTopOf(next));
    told.current = top;
    if (scroller.current) scroller.current.scrollTop = top;
  }

  useLayoutEffect(() => {
    const element = scroller.current!;
    const measure = (): void => setHeight(element.clientHeight);
    measure();
    const seen = new ResizeObserver(measure);
    seen.observe(element);
    return () => seen.disconnect();
  }, []);

  // The list has become shorter, or the view taller.
  useLayoutEffect(() => {
    if (height && first > track.last) go(track.last);
  }, [count, height, rowHeight]);

  useEffect(() => {
    const element = scroller.current!;
    const wheel = (event: WheelEvent): void => {
      const { track: line, first: at } = now.current;
      if (!line.isScaled || event.ctrlKey) return;
      event.preventDefault();
      const unit = event.deltaMode === 1 ? line.rowHeight : event.deltaMode === 2 ? line.height : 1;
      go(at + (event.deltaY * unit) / line.rowHeight);
    };
    element.addEventListener("wheel", wheel, { passive: false });
    return () => element.removeEventListener("wheel", wheel);
  }, []);

  useImperativeHandle(handle, () => ({
    show: (index) => {
      const { track: line, first: at } = now.current;
      const wanted = line.showing(index, at);
      if (wanted !== at) go(wanted);
    },
    focus: () => scroller.current?.focus({ preventScroll: true }),
  }));

  function scrolled(): void {
    const top = scroller.current!.scrollTop;
    if (Math.abs(top - told.current) < 1) return;
    told.current = -1;
    setFirst(track.firstAt(top));
  }

  const { from, to, offset } = track.window(first);
  const place = track.scrollTopOf(first) + offset;
  const drawn = [];
  for (let index = from; index < to; index += 1) drawn.push(props.render(index));
  return (
    <div
      ref={scroller}
      id={props.id}
      class={`rows ${props.className ?? ""}`}
      role={props.role}
      aria-label={props.label}
      aria-multiselectable={props.multiselectable}
      aria-activedescendant={active >= from && active < to ? rowId(props.id, active) : undefined}
      tabIndex={0}
      onScroll={scrolled}
      onKeyDown={(event) => props.onKeyDown?.(event, Math.max(1, Math.floor(height / rowHeight) - 1))}
      onContextMenu={props.onContextMenu}
      onFocus={props.onFocus}
    >
      <div class="rows-track" role="presentation" style={{ height: `${track.length}px` }}>
        <div class="rows-drawn" role="presentation" style={{ transform: `translateY(${Math.round(place)}px)` }}>
          {drawn}
        </div>
      </div>
    </div>
  );
});
