import type { ComponentChildren } from "preact";
import { CircleAlert, RotateCw } from "lucide-preact";
import { describe } from "../api/client";
import { Button, type Icon } from "./Button";
import "./Layout.css";

export interface PageHeadProps {
  title: string;
  crumbs?: { label: string; href: string }[];
  status?: ComponentChildren;
  children?: ComponentChildren;
}

/** The head of a page: where one is, its state, what one can do. */
export function PageHead({ title, crumbs = [], status, children }: PageHeadProps) {
  return (
    <header class="page-head">
      <div class="page-title">
        {crumbs.length ? (
          <nav class="crumbs" aria-label="Breadcrumb">
            {crumbs.map((crumb) => (
              <a key={crumb.href} href={crumb.href}>
                {crumb.label}
              </a>
            ))}
          </nav>
        ) : null}
        <h1 class="clip" title={title}>
          {title}
        </h1>
        {status}
      </div>
      {children ? <div class="page-actions">{children}</div> : null}
    </header>
  );
}

export function Toolbar({ children }: { children: ComponentChildren }) {
  return <div class="toolbar">{children}</div>;
}

export interface PanelProps {
  title?: string;
  actions?: ComponentChildren;
  pad?: boolean;
  class?: string;
  children: ComponentChildren;
}

export function Panel({ title, actions, pad = true, children, class: more = "" }: PanelProps) {
  return (
    <section class={`panel ${more}`} aria-label={title}>
      {title || actions ? (
        <header class="panel-head">
          <h2>{title}</h2>
          {actions}
        </header>
      ) : null}
      <div class={pad ? "panel-body" : "panel-flush"}>{children}</div>
    </section>
  );
}

export interface EmptyProps {
  icon: Icon;
  title: string;
  children?: ComponentChildren;
  action?: ComponentChildren;
}

/** Nothing here yet, and what to do about it. */
export function Empty({ icon: Icon, title, children, action }: EmptyProps) {
  return (
    <div class="empty">
      <span class="empty-icon" aria-hidden="true">
        <Icon size={24} />
      </span>
      <h2>{title}</h2>
      {children ? <p>{children}</p> : null}
      {action ? <div class="empty-action">{action}</div> : null}
    </div>
  );
}

export function Failure({ error, retry, title = "This could not be loaded" }: {
  error: unknown;
  retry?(): void;
  title?: string;
}) {
  return (
    <div class="empty empty-bad" role="alert">
      <span class="empty-icon" aria-hidden="true">
        <CircleAlert size={24} />
      </span>
      <h2>{title}</h2>
      <p>{describe(error)}</p>
      {retry ? (
        <div class="empty-action">
          <Button icon={RotateCw} onClick={retry}>
            Try again
          </Button>
        </div>
      ) : null}
    </div>
  );
}

export function Loading({ label = "Loading" }: { label?: string }) {
  return (
    <div class="loading" role="status">
      <span class="spinner" aria-hidden="true" />
      <span>{label}</span>
    </div>
  );
}

export type Tone = "good" | "warn" | "bad" | "info" | "plain";

export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return <span class={`badge badge-${tone}`}>{children}</span>;
}

export function Meter({ value, max, label }: { value: number; max: number; label: string }) {
  const share = max > 0 ? Math.min(1, Math.max(0, value / max)) : 0;
  const tone = share > 0.92 ? "bad" : share > 0.8 ? "warn" : "accent";
  return (
    <div
      class="meter"
      role="meter"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={Math.round(share * 100)}
    >
      <div class={`meter-bar meter-${tone}`} style={{ width: `${share * 100}%` }} />
    </div>
  );
}

export function Keys({ keys }: { keys: string }) {
  return (
    <span class="keys">
      {keys.split(" ").map((key, index) => (
        <kbd key={index}>{key}</kbd>
      ))}
    </span>
  );
}
