import type { ComponentChildren, JSX } from "preact";
import { createContext } from "preact";
import { useContext, useId } from "preact/hooks";
import { Search, X } from "lucide-preact";
import "./Field.css";

interface Named {
  id: string;
  describedBy: string | undefined;
  invalid: boolean;
}

const Naming = createContext<Named | null>(null);

export interface FieldProps {
  label: string;
  hint?: string;
  error?: string;
  children: ComponentChildren;
}

/** A label, one control and what there is to say about it. */
export function Field({ label, hint, error, children }: FieldProps) {
  const id = useId();
  const told = error || hint;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <Naming.Provider value={{ id, describedBy: told ? `${id}-told` : undefined, invalid: Boolean(error) }}>
        {children}
      </Naming.Provider>
      {told ? (
        <p id={`${id}-told`} class={error ? "field-error" : "field-hint"} role={error ? "alert" : undefined}>
          {told}
        </p>
      ) : null}
    </div>
  );
}

function useNaming() {
  const named = useContext(Naming);
  if (!named) return {};
  return { id: named.id, "aria-describedby": named.describedBy, "aria-invalid": named.invalid || undefined };
}

type Of<Tag extends keyof JSX.IntrinsicElements> = Omit<JSX.IntrinsicElements[Tag], "ref">;

export function Input(props: Of<"input">) {
  return <input autocomplete="off" spellcheck={false} {...useNaming()} {...props} class={`input ${props.class ?? ""}`} />;
}

export function TextArea(props: Of<"textarea">) {
  return <textarea spellcheck={false} {...useNaming()} {...props} class={`input input-area ${props.class ?? ""}`} />;
}

export function Select(props: Of<"select">) {
  return <select {...useNaming()} {...props} class={`input input-select ${props.class ?? ""}`} />;
}

export function Checkbox({ label, ...props }: Of<"input"> & { label: string }) {
  return (
    <label class="checkbox">
      <input {...props} type="checkbox" />
      <span>{label}</span>
    </label>
  );
}

export interface SearchInputProps {
  value: string;
  onInput(text: string): void;
  placeholder: string;
  onKeyDown?(event: KeyboardEvent): void;
  label?: string;
}

/** The field that `/` leads to. */
export function SearchInput({ value, onInput, placeholder, onKeyDown, label }: SearchInputProps) {
  return (
    <span class="search">
      <Search size={16} aria-hidden="true" />
      <input
        type="search"
        class="input"
        data-search
        autocomplete="off"
        spellcheck={false}
        value={value}
        placeholder={placeholder}
        aria-label={label ?? placeholder}
        onInput={(event) => onInput(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Escape") {
            if (value) onInput("");
            else event.currentTarget.blur();
            event.preventDefault();
          } else {
            onKeyDown?.(event);
          }
        }}
      />
      {value ? (
        <button type="button" class="search-clear" aria-label="Clear" onClick={() => onInput("")}>
          <X size={14} />
        </button>
      ) : null}
    </span>
  );
}

export interface SegmentedProps<T extends string> {
  label: string;
  value: T;
  options: { value: T; label: string }[];
  onChange(value: T): void;
}

/** One of few. */
export function Segmented<T extends string>({ label, value, options, onChange }: SegmentedProps<T>) {
  return (
    <div class="segmented" role="group" aria-label={label}>
      {options.map((option) => (
        <button
          key={option.value}
          type="button"
          aria-pressed={option.value === value}
          onClick={() => onChange(option.value)}
        >
          {option.label}
        </button>
      ))}
    </div>
  );
}
