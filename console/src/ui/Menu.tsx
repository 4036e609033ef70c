import { signal } from "@preact/signals";
import { Ellipsis } from "lucide-preact";
import { useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { IconButton, type Icon } from "./Button";
import "./Menu.css";

export type Item =
  | "line"
  | { label: string; icon?: Icon; run(): void; danger?: boolean; disabled?: boolean; keys?: string };

export interface MenuProps {
  label: string;
  small?: boolean;
  icon?: Icon;
  items: Item[];
}

interface Place {
  x: number;
  y: number;
}

/** A button that opens a list of things to do. */
export function Menu({ label, icon = Ellipsis, items, small = true }: MenuProps) {
  const [place, setPlace] = useState<Place | null>(null);
  const holder = useRef<HTMLSpanElement>(null);
  const id = useId();
  return (
    <span class="menu" ref={holder}>
      <IconButton
        icon={icon}
        label={label}
        small={small}
        aria-haspopup="menu"
        aria-expanded={place !== null}
        aria-controls={place ? id : undefined}
        onClick={(event) => {
          event.stopPropagation();
          const box = event.currentTarget.getBoundingClientRect();
          setPlace(place ? null : { x: box.right, y: box.bottom + 4 });
        }}
      />
      {place ? (
        <List
          id={id}
          items={items}
          place={place}
          label={label}
          rightAligned
          onClose={() => {
            setPlace(null);
            holder.current?.querySelector("button")?.focus();
          }}
        />
      ) : null}
    </span>
  );
}

const context = signal<{ items: Item[]; place: Place; back: HTMLElement | null } | null>(null);

/** Open a menu where the pointer is (or below the element, for the keyboard's menu key). */
export function contextMenu(event: MouseEvent, items: Item[]): void {
  event.preventDefault();
  let { clientX: x, clientY: y } = event;
  if (!x && !y && event.target instanceof Element) {
    const box = event.target.getBoundingClientRect();
    x = box.left + 16;
    y = box.bottom;
  }
  context.value = { items, place: { x, y }, back: document.activeElement as HTMLElement | null };
}

/** Where `contextMenu` appears; the shell has it. */
export function ContextMenus() {
  const shown = context.value;
  if (!shown) return null;
  return (
    <List
      items={shown.items}
      place={shown.place}
      label="Actions"
      onClose={() => {
        context.value = null;
        shown.back?.focus();
      }}
    />
  );
}

interface ListProps {
  id?: string;
  items: Item[];
  place: Place;
  label: string;
  rightAligned?: boolean;
  onClose(): void;
}

function List({ id, items, place, label, rightAligned, onClose }: ListProps) {
  const list = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const shown = list.current;
    if (!shown) return;
    // A popover is above everything, dialogs too, and no table's edge cuts it off.
    shown.showPopover();
    const box = shown.getBoundingClientRect();
    const left = rightAligned ? place.x - box.width : place.x;
    const top = place.y + box.height > innerHeight - 8 ? Math.max(8, place.y - box.height - 36) : place.y;
    shown.style.left = `${Math.max(8, Math.min(left, innerWidth - box.width - 8))}px`;
    shown.style.top = `${top}px`;
    shown.querySelector<HTMLElement>("[role=menuitem]:not(:disabled)")?.focus();
  }, []);

  useEffect(() => {
    function outside(event: Event) {
      if (!list.current?.contains(event.target as Node)) onClose();
    }
    const moved = () => onClose();
    window.addEventListener("pointerdown", outside, true);
    window.addEventListener("resize", moved);
    window.addEventListener("hashchange", moved);
    return () => {
      window.removeEventListener("pointerdown", outside, true);
      window.removeEventListener("resize", moved);
      window.removeEventListener("hashchange", moved);
    };
  }, []);

  function onKeyDown(event: KeyboardEvent) {
    const all = [...(list.current?.querySelectorAll<HTMLElement>("[role=menuitem]:not(:disabled)") ?? [])];
    const at = all.indexOf(document.activeElement as HTMLElement);
    event.stopPropagation();
    if (event.key === "Escape" || event.key === "Tab") {
      event.preventDefault();
      onClose();
    } else if (event.key === "ArrowDown") {
      event.preventDefault();
      all[(at + 1) % all.length]?.focus();
    } else if (event.key === "ArrowUp") {
      event.preventDefault();
      all[(at - 1 + all.length) % all.length]?.focus();
    }
  }

  return (
    <div
      id={id}
      ref={list}
      popover="manual"
      class="menu-list"
      role="menu"
      aria-label={label}
      onKeyDown={onKeyDown}
      onClick={(event) => event.stopPropagation()}
    >
      {items.map((item, index) =>
        item === "line" ? (
          <div key={index} role="separator" class="menu-line" />
        ) : (
          <button
            key={index}
            type="button"
            role="menuitem"
            tabIndex={-1}
            class={`menu-item ${item.danger ? "menu-danger" : ""}`}
            disabled={item.disabled}
            onClick={() => {
              onClose();
              item.run();
            }}
          >
            {item.icon ? <item.icon size={16} /> : <span class="menu-blank" />}
            <span>{item.label}</span>
            {item.keys ? <kbd>{item.keys}</kbd> : null}
          </button>
        ),
      )}
    </div>
  );
}
