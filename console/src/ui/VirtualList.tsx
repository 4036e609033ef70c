import type { ComponentChildren, Ref } from "preact";
import { useEffect, useImperativeHandle, useLayoutEffect, useRef, useState } from "preact/hooks";
import "./VirtualList.css";

export interface VirtualHandle {
  scrollTo(index: number, where?: "start" | "center" | "nearest"): void;
  focus(): void;
}

export interface VirtualListProps {
  count: number;
  rowHeight: number;
  label: string;
  render(index: number): ComponentChildren;
  role?: "listbox" | "tree" | "list" | "grid";
  /** The row with the focus, for aria-activedescendant; rows have the id `${id}-${index}`. */
  active?: number;
  id?: string;
  handle?: Ref<VirtualHandle>;
  onRange?(first: number, last: number): void;
  onKeyDown?(event: KeyboardEvent): void;
  class?: string;
}

const AROUND = 8;
const HIGHEST = 8_000_000;
/** No element may be much higher in browsers; beyond it, rows are placed by proportion. */

/** Rows of one height, of which only those in sight are in the document. */
export function VirtualList(props: VirtualListProps) {
  const { count, rowHeight, role = "list", active, id = "", onRange } = props;
  const element = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 0 });
  const full = count * rowHeight;
  const drawn = Math.min(full, HIGHEST);
  const squeeze = full > drawn ? (full - view.height) / Math.max(1, drawn - view.height) : 1;
  const top = view.top * squeeze;
  const first = Math.max(0, Math.floor(top / rowHeight) - AROUND);
  const last = Math.min(count, Math.ceil((top + view.height) / rowHeight) + AROUND);

  useLayoutEffect(() => {
    const shown = element.current;
    if (!shown) return;
    const measure = () => setView({ top: shown.scrollTop, height: shown.clientHeight });
    const observer = new ResizeObserver(measure);
    observer.observe(shown);
    measure();
    return () => observer.disconnect();
  }, []);

  useImperativeHandle(
    props.handle ?? null,
    () => ({
      focus: () => element.current?.focus(),
      scrollTo(index, where = "nearest") {
        const shown = element.current;
        if (!shown) return;
        const height = shown.clientHeight;
        const at = index * rowHeight;
        const now = shown.scrollTop * squeeze;
        let wanted = now;
        if (where === "start") wanted = at;
        else if (where === "center") wanted = at - height / 2 + rowHeight / 2;
        else if (at < now) wanted = at;
        else if (at + rowHeight > now + height) wanted = at + rowHeight - height;
        shown.scrollTop = Math.max(0, wanted) / squeeze;
        setView({ top: shown.scrollTop, height });
      },
    }),
    [rowHeight, squeeze],
  );

  useEffect(() => {
    onRange?.(first, last);
  }, [first, last, count]);

  const rows: ComponentChildren[] = [];
  for (let index = first; index < last; index += 1) rows.push(props.render(index));
  const offset = squeeze === 1 ? first * rowHeight : view.top - (top - first * rowHeight);
  const isActive = active !== undefined && active >= first && active < last;

  return (
    <div
      ref={element}
      class={`virtual ${props.class ?? ""}`}
      role={role}
      aria-label={props.label}
      aria-activedescendant={isActive && id ? `${id}-${active}` : undefined}
      tabIndex={0}
      onScroll={(event) =>
        setView({ top: event.currentTarget.scrollTop, height: event.currentTarget.clientHeight })
      }
      onKeyDown={props.onKeyDown}
    >
      <div class="virtual-space" role="presentation" style={{ height: `${drawn}px` }}>
        <div class="virtual-rows" role="presentation" style={{ transform: `translateY(${offset}px)` }}>
          {rows}
        </div>
      </div>
    </div>
  );
}
