import { Plus, Trash2 } from "lucide-preact";
import { useState } from "preact/hooks";
import { api, ApiError, describe } from "../../api/client";
import type { ProcessRecord } from "../../api/types";
import { href, navigate } from "../../app/router";
import { session } from "../../app/session";
import { Button, Checkbox, Dialog, Field, IconButton, Input, Select, TextArea, toast } from "../../ui";

interface Form {
  command: string;
  name: string;
  workingDir: string;
  env: { name: string; value: string }[];
  inheritEnv: boolean;
  stdin: boolean;
  keepAlive: boolean;
  restartOnFailure: boolean;
  maxRestarts: string;
  timeout: string;
  memory: string;
  memoryUnit: "MiB" | "GiB";
  cpus: string;
  pids: string;
  openFiles: string;
}

const BLANK: Form = {
  command: "",
  name: "",
  workingDir: "",
  env: [],
  inheritEnv: true,
  stdin: false,
  keepAlive: false,
  restartOnFailure: false,
  maxRestarts: "",
  timeout: "",
  memory: "",
  memoryUnit: "MiB",
  cpus: "",
  pids: "",
  openFiles: "",
};

/** Start a process: what it is, what it gets, what it may use. */
export function StartDialog({ onClose }: { onClose(): void }) {
  const [form, setForm] = useState<Form>(BLANK);
  const [error, setError] = useState<{ field: string; text: string } | null>(null);
  const [busy, setBusy] = useState(false);
  const change = (part: Partial<Form>) => {
    setForm((before) => ({ ...before, ...part }));
    setError(null);
  };
  const text = (name: keyof Form) => ({
    value: String(form[name]),
    onInput: (event: Event) => change({ [name]: (event.currentTarget as HTMLInputElement).value }),
  });
  const told = (field: string) => (error?.field === field ? error.text : undefined);

  async function start() {
    const body = bodyOf(form);
    if (typeof body === "string") {
      setError({ field: body, text: "This has to be a number above zero." });
      return;
    }
    setBusy(true);
    try {
      const made = await api.post<ProcessRecord>("/process", { body });
      toast(`${made.name} was started.`, { kind: "good" });
      onClose();
      navigate(href("processes", [made.id]));
    } catch (caught) {
      setError({ field: fieldOf(caught), text: describe(caught) });
    } finally {
      setBusy(false);
    }
  }

  return (
    <Dialog
      title="Start a process"
      wide
      onClose={onClose}
      onSubmit={() => void start()}
      footer={
        <>
          {error && error.field === "" ? (
            <p class="field-error start-error" role="alert">
              {error.text}
            </p>
          ) : null}
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="primary" type="submit" busy={busy} disabled={!form.command.trim()}>
            Start process
          </Button>
        </>
      }
    >
      <Field label="Command" hint="Run by a shell, in a process group of its own." error={told("command")}>
        <TextArea class="mono" rows={2} autofocus required placeholder="npm run dev" {...text("command")} onKeyDown={submitOnEnter} />
      </Field>
      <div class="start-two">
        <Field label="Name" hint="Empty: one is made up." error={told("name")}>
          <Input {...text("name")} />
        </Field>
        <Field label="Folder" hint="Empty: the server’s own." error={told("workingDir")}>
          <Input class="mono" placeholder={session.value?.workdir} {...text("workingDir")} />
        </Field>
      </div>

      <fieldset class="start-group">
        <legend>Environment</legend>
        {form.env.map((one, index) => (
          <div key={index} class="start-variable">
            <Input
              class="mono"
              aria-label={`Name of variable ${index + 1}`}
              placeholder="NAME"
              value={one.name}
              onInput={(event) => change({ env: replaced(form.env, index, { ...one, name: event.currentTarget.value }) })}
            />
            <Input
              class="mono"
              aria-label={`Value of variable ${index + 1}`}
              placeholder="value"
              value={one.value}
              onInput={(event) => change({ env: replaced(form.env, index, { ...one, value: event.currentTarget.value }) })}
            />
            <IconButton
              icon={Trash2}
              label={`Remove variable ${index + 1}`}
              onClick={() => change({ env: form.env.filter((_, place) => place !== index) })}
            />
          </div>
        ))}
        <div class="start-row">
          <Button
            small
            icon={Plus}
            onClick={(event) => {
              const group = event.currentTarget.closest("fieldset");
              change({ env: [...form.env, { name: "", value: "" }] });
              requestAnimationFrame(() =>
                group?.querySelector<HTMLElement>(".start-variable:last-of-type input")?.focus(),
              );
            }}
          >
            Add variable
          </Button>
          <Checkbox
            label="Besides those of the server"
            checked={form.inheritEnv}
            onChange={(event) => change({ inheritEnv: event.currentTarget.checked })}
          />
        </div>
      </fieldset>

      <fieldset class="start-group">
        <legend>Limits for all it starts</legend>
        <div class="start-four">
          <Field label="Memory" error={told("memory")}>
            <span class="start-joined">
              <Input inputMode="decimal" placeholder="none" {...text("memory")} aria-label="Memory" />
              <Select
                aria-label="Unit of memory"
                value={form.memoryUnit}
                onChange={(event) => change({ memoryUnit: event.currentTarget.value as Form["memoryUnit"] })}
              >
                <option>MiB</option>
                <option>GiB</option>
              </Select>
            </span>
          </Field>
          <Field label="Processors" error={told("cpus")}>
            <Input inputMode="decimal" placeholder="all" {...text("cpus")} />
          </Field>
          <Field label="Processes" error={told("pids")}>
            <Input inputMode="numeric" placeholder="none" {...text("pids")} />
          </Field>
          <Field label="Open files" error={told("openFiles")}>
            <Input inputMode="numeric" placeholder="none" {...text("openFiles")} />
          </Field>
          <Field label="Seconds" error={told("timeout")}>
            <Input inputMode="decimal" placeholder="none" {...text("timeout")} />
          </Field>
        </div>
        {error?.field === "limits" ? <p class="field-error">{error.text}</p> : null}
      </fieldset>

      <fieldset class="start-group">
        <legend>Options</legend>
        <div class="start-row">
          <Checkbox label="Open standard input" checked={form.stdin} onChange={(event) => change({ stdin: event.currentTarget.checked })} />
          <Checkbox label="Keep the sandbox awake" checked={form.keepAlive} onChange={(event) => change({ keepAlive: event.currentTarget.checked })} />
          <Checkbox
            label="Restart on failure"
            checked={form.restartOnFailure}
            onChange={(event) => change({ restartOnFailure: event.currentTarget.checked })}
          />
        </div>
        {form.restartOnFailure ? (
          <Field label="Restarts at most" hint="Empty: without end." error={told("maxRestarts")}>
            <Input inputMode="numeric" {...text("maxRestarts")} />
          </Field>
        ) : null}
      </fieldset>
    </Dialog>
  );
}

function submitOnEnter(event: KeyboardEvent): void {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    (event.currentTarget as HTMLTextAreaElement).form?.requestSubmit();
  }
}

function replaced<T>(list: T[], index: number, value: T): T[] {
  return list.map((one, place) => (place === index ? value : one));
}

/** The body of the request, or the name of the field that is no number. */
function bodyOf(form: Form): Record<string, unknown> | string {
  const numbers = ["memory", "cpus", "pids", "timeout", "openFiles"] as const;
  const found: Partial<Record<(typeof numbers)[number], number>> = {};
  for (const name of numbers) {
    if (!form[name].trim()) continue;
    const value = Number(form[name].trim().replace(",", "."));
    if (!(value > 0)) return name;
    found[name] = value;
  }
  const limits = {
    memoryBytes: found.memory && Math.round(found.memory * (form.memoryUnit === "GiB" ? 1024 ** 3 : 1024 ** 2)),
    cpus: found.cpus,
    pids: found.pids,
    openFiles: found.openFiles,
  };
  const restarts = form.maxRestarts.trim();
  if (restarts && !/^\d+$/.test(restarts)) return "maxRestarts";
  const variables = form.env.filter((one) => one.name);
  return {
    command: form.command.trim(),
    name: form.name.trim() || undefined,
    workingDir: form.workingDir.trim() || undefined,
    env: variables.length ? Object.fromEntries(variables.map((one) => [one.name, one.value])) : undefined,
    inheritEnv: form.inheritEnv,
    stdin: form.stdin,
    keepAlive: form.keepAlive,
    timeout: found.timeout ?? (form.keepAlive ? 0 : undefined),
    restartOnFailure: form.restartOnFailure,
    maxRestarts: form.restartOnFailure ? (restarts ? Number(restarts) : -1) : undefined,
    limits: Object.values(limits).some((value) => value !== undefined) ? limits : undefined,
  };
}

/** Beside which field the server's refusal belongs; "" for none. */
function fieldOf(error: unknown): string {
  if (!(error instanceof ApiError)) return "";
  const text = error.message.toLowerCase();
  if (text.includes("limits") || text.includes("memorybytes")) return "limits";
  if (text.includes("name")) return "name";
  if (text.includes("director") || text.includes("folder") || text.includes("workingdir")) return "workingDir";
  return "";
}
