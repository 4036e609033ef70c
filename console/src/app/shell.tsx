import type { ComponentType } from "preact";
import { CloudOff, FileQuestion, Keyboard, KeyRound, LogOut, Moon, RotateCw, Sun } from "lucide-preact";
import { Component, Fragment } from "preact";
import { useEffect, useState } from "preact/hooks";
import { pages, type PageDef } from "../pages";
import type { PageProps } from "../pages/page";
import { Button, ContextMenus, Dialog, Empty, Failure, IconButton, Keys, Loading, Questions, Toasts } from "../ui";
import { seconds } from "../ui/format";
import { connection, epoch, lostSince, tryNow } from "./connection";
import { knownKeys, useKeys } from "./keys";
import { href, navigate, route } from "./router";
import { learn, session, SignIn, signOut } from "./session";
import { theme, toggleTheme } from "./theme";
import "./shell.css";

export function Shell() {
  useEffect(() => {
    let gone = false;
    let timer = 0;
    async function first(): Promise<void> {
      if (gone || (await learn())) return;
      timer = window.setTimeout(() => void first(), 1000);
    }
    void first();
    // The session lasts as long as somebody looks: each answer renews it.
    const renewing = window.setInterval(() => void learn(), 30 * 60 * 1000);
    const stop = epoch.subscribe((value) => {
      if (value) void learn();
    });
    return () => {
      gone = true;
      window.clearTimeout(timer);
      window.clearInterval(renewing);
      stop();
    };
  }, []);

  const known = session.value;
  if (!known) return <Loading label="Connecting" />;
  if (known.tokenNeeded && !known.signedIn) {
    return (
      <>
        <Banner />
        <SignIn />
      </>
    );
  }
  return <Inside />;
}

function Inside() {
  const [help, setHelp] = useState(false);
  const first = useFirstVersion();
  useKeys({ "?": () => setHelp(true) }, "Show these keys");
  useKeys({ "/": focusSearch }, "Search on this page");
  useKeys({ "g o": () => navigate(href("overview")) });
  const { page, path, query } = route.value;
  const known = pages.find((one) => one.id === page);

  useEffect(() => {
    document.title = `${known?.title ?? "Not found"} · ${session.value?.hostname || "sandkeeper"}`;
  }, [known?.id, session.value?.hostname]);

  return (
    <div class="shell">
      <a class="skip" href={location.hash || "#/"} onClick={skip}>
        Skip to the page
      </a>
      <Side page={page} onHelp={() => setHelp(true)} />
      <div class="shell-main">
        <Banner />
        {first !== session.value?.version ? <Upgraded /> : null}
        <main class="shell-page" id="page" tabIndex={-1}>
          {known ? (
            <Loaded key={known.id} page={known} path={path} query={query} />
          ) : (
            <Empty
              icon={FileQuestion}
              title="There is no such page"
              action={<Button onClick={() => navigate(href("overview"))}>Go to the overview</Button>}
            >
              The address names “{page}”, which this console does not have.
            </Empty>
          )}
        </main>
      </div>
      {help ? <Help onClose={() => setHelp(false)} /> : null}
      <Questions />
      <ContextMenus />
      <Toasts />
    </div>
  );
}

function Side({ page, onHelp }: { page: string; onHelp(): void }) {
  const known = session.value;
  const [signing, setSigning] = useState(false);
  const shown = pages.filter((one) => one.id !== "terminals" || known?.terminals !== false);
  return (
    <aside class="side">
      <a class="side-brand" href={href("overview")}>
        <img src="./icon.svg" alt="" width={28} height={28} />
        <span>
          <strong class="clip">{known?.hostname || "sandkeeper"}</strong>
          <small>sandkeeper {known?.version}</small>
        </span>
      </a>
      <nav class="side-nav" aria-label="Pages">
        {shown.map((one) => (
          <NavLink key={one.id} page={one} active={one.id === page} />
        ))}
      </nav>
      <div class="side-foot">
        <IconButton icon={Keyboard} label="Keys" onClick={onHelp} class="side-keys" />
        <IconButton
          icon={theme.value === "dark" ? Sun : Moon}
          label={theme.value === "dark" ? "Light theme" : "Dark theme"}
          onClick={toggleTheme}
        />
        {known?.tokenNeeded && known.right === "user" ? (
          <IconButton icon={KeyRound} label="Sign in as operator" onClick={() => setSigning(true)} />
        ) : null}
        {known?.session ? (
          <IconButton icon={LogOut} label="Sign out" onClick={() => void signOut()} />
        ) : null}
      </div>
      {signing ? (
        <Dialog title="Sign in as operator" onClose={() => setSigning(false)}>
          <SignIn onDone={() => setSigning(false)} />
        </Dialog>
      ) : null}
    </aside>
  );
}

function NavLink({ page, active }: { page: PageDef; active: boolean }) {
  useKeys({ [`g ${page.key}`]: () => navigate(href(page.id)) }, `Go to ${page.title}`);
  const { icon: Icon } = page;
  return (
    <a href={href(page.id)} title={`${page.title} (g ${page.key})`} aria-current={active ? "page" : undefined}>
      <Icon size={18} />
      <span>{page.title}</span>
    </a>
  );
}

/** A page, once its part of the application has been fetched. */
function Loaded({ page, ...props }: PageProps & { page: PageDef }) {
  const [state, setState] = useState<{ Page?: ComponentType<PageProps>; error?: unknown }>({});
  const [tries, setTries] = useState(0);
  useEffect(() => {
    let gone = false;
    setState({});
    page.load().then(
      (loaded) => {
        if (!gone) setState({ Page: loaded.default });
      },
      (error: unknown) => {
        if (!gone) setState({ error });
      },
    );
    return () => {
      gone = true;
    };
  }, [page.id, tries]);
  if (state.error) {
    return (
      <Failure
        title="This page could not be loaded"
        error="The server may have been upgraded meanwhile, or the connection was lost."
        retry={() => (tries ? location.reload() : setTries(tries + 1))}
      />
    );
  }
  const { Page } = state;
  if (!Page) return <Loading />;
  return (
    <Caught key={page.id}>
      <Page {...props} />
    </Caught>
  );
}

/** Keeps a page that fails from taking the others with it. */
class Caught extends Component<{ children?: preact.ComponentChildren }, { error?: unknown }> {
  override state: { error?: unknown } = {};

  override componentDidCatch(error: unknown): void {
    console.error(error);
    this.setState({ error });
  }

  override render() {
    if (this.state.error) {
      return (
        <Failure
          title="This page has failed"
          error={this.state.error}
          retry={() => this.setState({ error: undefined })}
        />
      );
    }
    return <Fragment>{this.props.children}</Fragment>;
  }
}

function Banner() {
  const [, setNow] = useState(0);
  const isLost = connection.value === "lost";
  useEffect(() => {
    if (!isLost) return;
    const timer = window.setInterval(() => setNow(Date.now()), 1000);
    return () => window.clearInterval(timer);
  }, [isLost]);
  const away = (Date.now() - lostSince.value) / 1000;
  return (
    <div role="alert" class="banner-place">
      {isLost ? (
        <div class="banner">
          <CloudOff size={16} />
          <p>
            The server does not answer{away > 3 ? <span class="num"> since {seconds(away)}</span> : null}. This page goes on by
            itself when it is back.
          </p>
          <Button small icon={RotateCw} onClick={tryNow}>
            Try now
          </Button>
        </div>
      ) : null}
    </div>
  );
}

function Upgraded() {
  return (
    <div class="banner banner-info" role="status">
      <p>The server was upgraded to {session.value?.version}. Load the console again to match it.</p>
      <Button small icon={RotateCw} onClick={() => location.reload()}>
        Load again
      </Button>
    </div>
  );
}

function useFirstVersion(): string | undefined {
  const [first] = useState(session.value?.version);
  return first;
}

function Help({ onClose }: { onClose(): void }) {
  return (
    <Dialog title="Keys" onClose={onClose}>
      <dl class="help">
        {knownKeys().map((one) => (
          <div key={one.keys}>
            <dt>
              {one.keys.split(", ").map((keys) => (
                <Keys key={keys} keys={keys} />
              ))}
            </dt>
            <dd>{one.description}</dd>
          </div>
        ))}
        <div>
          <dt>
            <Keys keys="↑" />
            <Keys keys="↓" />
            <Keys keys="Enter" />
          </dt>
          <dd>Walk through a table, open a row</dd>
        </div>
      </dl>
    </Dialog>
  );
}

function focusSearch(): void {
  document.querySelector<HTMLElement>("[data-search]")?.focus();
}

function skip(event: Event): void {
  event.preventDefault();
  document.getElementById("page")?.focus();
}
