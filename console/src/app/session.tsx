/** Who is signed in: the token becomes a cookie that scripts cannot read and a half of the page's own, and is then
 * forgotten. Cookies go to every port of a host, this page's storage belongs to its origin. */

import { signal } from "@preact/signals";
import { KeyRound } from "lucide-preact";
import { useState } from "preact/hooks";
import { Button } from "../ui/Button";
import { Field, Input } from "../ui/Field";
import { root } from "./place";
import "./session.css";

export interface Session {
  signedIn: boolean;
  /** Signed in here, by a token that somebody typed. */
  session: boolean;
  tokenNeeded: boolean;
  right: "none" | "user" | "operator";
  version: string;
  hostname: string;
  workdir: string;
  home: string;
  user: string;
  terminals: boolean;
}

export const session = signal<Session | undefined>(undefined);
const PLACE = new URL("console-session", root);
const KEPT = `sandkeeper.session ${root.pathname}`;
let asked = false;

type Told = Session & { page?: string };

/** The page's half of the session, without which its cookie only reads; "" when nobody is signed in. */
export function pageHalf(): string {
  return localStorage.getItem(KEPT) ?? "";
}

/** What every request has to show. */
export function shown(): Record<string, string> {
  const half = pageHalf();
  return half ? { "X-Sandkeeper-Session": half } : {};
}

/** The same for a WebSocket, which can have no fields of its own. */
export function shownProtocols(): string[] {
  const half = pageHalf();
  return half ? [`sandkeeper.session.${half}`] : [];
}

function taken({ page, ...facts }: Told): void {
  if (page) localStorage.setItem(KEPT, page);
  else localStorage.removeItem(KEPT);
  session.value = facts;
}

/** Ask the server who this is; false if it cannot be reached. */
export async function learn(): Promise<boolean> {
  try {
    const reply = await fetch(PLACE, { cache: "no-store", headers: shown() });
    if (!reply.ok) return false;
    taken((await reply.json()) as Told);
    return true;
  } catch {
    return false;
  }
}

/** A request was refused for want of a token: see whether the session has ended. */
export function signedOut(): void {
  if (asked) return;
  asked = true;
  void learn().finally(() => {
    asked = false;
  });
}

export async function signOut(): Promise<void> {
  await fetch(PLACE, { method: "DELETE", headers: shown() });
  await learn();
}

async function signIn(token: string): Promise<string> {
  let reply: Response;
  try {
    const headers = { "Content-Type": "application/json" };
    reply = await fetch(PLACE, { method: "POST", headers, body: JSON.stringify({ token }) });
  } catch {
    return "The server cannot be reached. Check that it runs, then try again.";
  }
  if (reply.ok) {
    taken((await reply.json()) as Told);
    return "";
  }
  if (reply.status === 429) return "That was wrong too often. Wait a minute, then try again.";
  const told = (await reply.json().catch(() => ({}))) as { error?: string };
  return reply.status === 401 ? "This server does not accept that token." : (told.error ?? "");
}

/** With `onDone` it is asked for besides: for a token with more rights. */
export function SignIn({ onDone }: { onDone?: () => void }) {
  const [token, setToken] = useState("");
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);

  async function submit(event: Event) {
    event.preventDefault();
    setBusy(true);
    const refused = await signIn(token.trim());
    setBusy(false);
    setError(refused);
    if (!refused) {
      setToken("");
      onDone?.();
    }
  }

  const field = (
    <Field label="Token" error={error} hint="The value of SANDKEEPER_TOKEN or SANDKEEPER_ADMIN_TOKEN.">
      <Input
        type="password"
        autocomplete="current-password"
        autofocus
        required
        value={token}
        onInput={(event) => setToken(event.currentTarget.value)}
      />
    </Field>
  );
  const button = (
    <Button kind="primary" type="submit" busy={busy} disabled={!token.trim()}>
      Sign in
    </Button>
  );
  if (onDone) {
    return (
      <form class="sign-in-again" onSubmit={(event) => void submit(event)}>
        <p>Some actions need the operator’s token. With it, this console has all rights.</p>
        {field}
        {button}
      </form>
    );
  }

  return (
    <main class="sign-in">
      <form class="sign-in-card" onSubmit={(event) => void submit(event)}>
        <span class="sign-in-icon" aria-hidden="true">
          <KeyRound size={20} />
        </span>
        <h1>Sign in to this sandbox</h1>
        <p>The server asks for a token. It becomes a session of this browser and is kept nowhere.</p>
        {field}
        {button}
      </form>
    </main>
  );
}
