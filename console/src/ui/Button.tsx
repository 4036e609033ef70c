import type { LucideIcon } from "lucide-preact";
import type { ComponentChildren, JSX } from "preact";
import "./Button.css";

export type Icon = LucideIcon;

type ButtonAttributes = Omit<JSX.IntrinsicElements["button"], "icon" | "size" | "ref">;

export interface ButtonProps extends ButtonAttributes {
  kind?: "primary" | "plain" | "ghost" | "danger";
  small?: boolean;
  icon?: Icon;
  busy?: boolean;
  children?: ComponentChildren;
}

export function Button({ kind = "plain", small, icon: Icon, busy, children, ...rest }: ButtonProps) {
  const { class: more, disabled, type, ...attributes } = rest;
  return (
    <button
      type={type ?? "button"}
      {...attributes}
      class={`button button-${kind} ${small ? "button-small" : ""} ${more ?? ""}`}
      disabled={busy || disabled}
      aria-busy={busy || undefined}
    >
      {busy ? <span class="spinner" aria-hidden="true" /> : Icon ? <Icon size={16} /> : null}
      {children}
    </button>
  );
}

export interface IconButtonProps extends ButtonAttributes {
  icon: Icon;
  label: string;
  small?: boolean;
}

export function IconButton({ icon: Icon, label, small, ...rest }: IconButtonProps) {
  const { class: more, type, ...attributes } = rest;
  return (
    <button
      type={type ?? "button"}
      {...attributes}
      class={`button button-ghost button-icon ${small ? "button-small" : ""} ${more ?? ""}`}
      aria-label={label}
      title={label}
    >
      <Icon size={16} />
    </button>
  );
}

/** A link that looks like a button: for downloads and what opens in a new tab. */
export function LinkButton({
  icon: Icon,
  kind = "plain",
  small,
  children,
  ...rest
}: Omit<JSX.IntrinsicElements["a"], "icon" | "size" | "ref"> & {
  kind?: ButtonProps["kind"];
  small?: boolean;
  icon?: Icon;
  children?: ComponentChildren;
}) {
  const { class: more, ...attributes } = rest;
  return (
    <a {...attributes} class={`button button-${kind} ${small ? "button-small" : ""} ${more ?? ""}`}>
      {Icon ? <Icon size={16} /> : null}
      {children}
    </a>
  );
}
