import type { ComponentChildren } from "preact";
import { X } from "lucide-preact";
import { useRef } from "preact/hooks";
import "./Tabs.css";

export interface TabsProps {
  label: string;
  active: string;
  tabs: { id: string; label: ComponentChildren; href?: string; onClose?(): void; title?: string }[];
  onChange?(id: string): void;
  children?: ComponentChildren;
}

/** Tabs: left and right change, Delete closes what can be closed. `children` stand behind them. */
export function Tabs({ label, active, tabs, onChange, children }: TabsProps) {
  const list = useRef<HTMLDivElement>(null);

  function choose(index: number) {
    const tab = tabs[(index + tabs.length) % tabs.length];
    if (!tab) return;
    if (tab.href) location.hash = tab.href;
    onChange?.(tab.id);
    list.current?.querySelector<HTMLElement>(`[data-tab="${CSS.escape(tab.id)}"]`)?.focus();
  }

  function onKeyDown(event: KeyboardEvent) {
    const at = tabs.findIndex((tab) => tab.id === active);
    if (event.key === "ArrowRight") choose(at + 1);
    else if (event.key === "ArrowLeft") choose(at - 1);
    else if (event.key === "Home") choose(0);
    else if (event.key === "End") choose(tabs.length - 1);
    else if (event.key === "Delete") tabs[at]?.onClose?.();
    else return;
    event.preventDefault();
  }

  return (
    <div class="tabs">
      <div class="tabs-list" role="tablist" aria-label={label} ref={list} onKeyDown={onKeyDown}>
        {tabs.map((tab, index) => (
          <span key={tab.id} class={`tab ${tab.id === active ? "tab-active" : ""}`} role="presentation">
            <button
              type="button"
              role="tab"
              data-tab={tab.id}
              title={tab.title}
              aria-selected={tab.id === active}
              tabIndex={tab.id === active ? 0 : -1}
              onClick={() => choose(index)}
              onAuxClick={(event) => {
                if (event.button === 1) tab.onClose?.();
              }}
            >
              {tab.label}
            </button>
            {tab.onClose ? (
              <button
                type="button"
                class="tab-close"
                tabIndex={-1}
                aria-hidden="true"
                title="Close"
                onClick={() => tab.onClose?.()}
              >
                <X size={12} />
              </button>
            ) : null}
          </span>
        ))}
      </div>
      {children}
    </div>
  );
}
