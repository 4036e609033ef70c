/** What is open: as text to be edited, as a picture, or as bytes. */

import { ArrowLeft, Download, FileWarning, Info, X } from "lucide-preact";
import { lazy, Suspense } from "preact/compat";
import { useEffect, useState } from "preact/hooks";
import { useComeback } from "../../app/comeback";
import { setQuery } from "../../app/router";
import { ApiError, usePoll } from "../../api/client";
import { Button, Empty, Failure, IconButton, LinkButton, Loading, Segmented } from "../../ui";
import { bytes } from "../../ui/format";
import { downloadUrl, look, pictureUrl, read, readRange, stat } from "./calls";
import { drafts, looksLikeText, textOf } from "./documents";
import { HexView } from "./HexView";
import { KINDS, modeText } from "./modes";
import { nameOf, shown } from "./paths";
import type { Stat } from "./types";

const Editor = lazy(() => import("./Editor"));

const TEXT_MOST = 16 << 20;
const SAMPLE = 32 << 10;
const LOOK_MS = 3000;
const PICTURE = /\.(png|jpe?g|gif|webp|svg|avif|ico|bmp)$/i;

type View = "text" | "picture" | "bytes";

interface Loaded {
  stat: Stat;
  views: View[];
  text?: string;
  etag: string;
}

interface Props {
  path: string;
  view: string;
  line: number;
  onClose(): void;
  onProperties(): void;
  onSaved(): void;
}

/** Look at a file and read it as far as it is to be shown; throws ApiError. */
async function load(path: string, signal: AbortSignal): Promise<Loaded> {
  const about = await stat(path, signal);
  const isFile = (about.type === "symlink" ? (await look(path, signal)).kind : about.type) === "file";
  if (!isFile) return { stat: about, views: [], etag: about.etag };
  const isPicture = PICTURE.test(path) && about.size > 0;
  // Files of /proc say that they are empty.
  const sample = about.size > 0 ? await readRange(path, 0, Math.min(SAMPLE, about.size), signal) : new Uint8Array();
  const mayBeText = about.size <= TEXT_MOST && looksLikeText(sample, about.size <= SAMPLE);
  if (mayBeText) {
    const { data, etag } = await read(path, signal);
    const text = textOf(data);
    if (text !== undefined) {
      const views: View[] = isPicture ? ["picture", "text", "bytes"] : about.size > 0 ? ["text", "bytes"] : ["text"];
      return { stat: about, views, text, etag };
    }
  }
  return { stat: about, views: isPicture ? ["picture", "bytes"] : ["bytes"], etag: about.etag };
}

export function FileView({ path, view, line, onClose, onProperties, onSaved }: Props) {
  const [loaded, setLoaded] = useState<Loaded>();
  const [fault, setFault] = useState<unknown>();
  const [again, setAgain] = useState(0);
  const disk = usePoll(async (signal) => (await look(path, signal)).etag, LOOK_MS, [path]);
  const name = shown(nameOf(path));

  useEffect(() => {
    const control = new AbortController();
    setFault(undefined);
    load(path, control.signal).then(setLoaded, (error) => control.signal.aborted || setFault(error));
    return () => control.abort();
  }, [path, again]);

  useEffect(() => setLoaded(undefined), [path]);
  useComeback(() => fault !== undefined && setAgain((n) => n + 1));

  // Somebody else has written: what is shown without changes of our own follows.
  useEffect(() => {
    if (disk.data && loaded && disk.data !== loaded.etag && !drafts.value.has(path)) setAgain((n) => n + 1);
  }, [disk.data]);

  const views = loaded?.views ?? [];
  const now = views.find((one) => one === view) ?? views[0];
  const isGone = fault instanceof ApiError && fault.status === 404;
  return (
    <section class="file-view" aria-label={name}>
      <header class="file-head">
        <IconButton class="file-back" icon={ArrowLeft} label="Back to the files" onClick={onClose} />
        <div class="file-title">
          <h2 class="clip" title={shown(path)}>
            {name}
          </h2>
          {loaded ? (
            <p class="muted small num clip">
              {[KINDS[loaded.stat.type] ?? loaded.stat.type, bytes(loaded.stat.size), modeText(loaded.stat.permissions), loaded.stat.owner].join(" · ")}
            </p>
          ) : null}
        </div>
        {views.length > 1 && now ? (
          <Segmented
            label="Show as"
            value={now}
            options={views.map((one) => ({ value: one, label: { text: "Text", picture: "Picture", bytes: "Bytes" }[one] }))}
            onChange={(value) => setQuery({ view: value })}
          />
        ) : null}
        <IconButton icon={Info} label="Properties" onClick={onProperties} />
        <a class="button button-ghost button-icon" href={downloadUrl(path)} download={name} aria-label={`Download ${name}`} title="Download">
          <Download size={16} />
        </a>
        <IconButton class="file-close" icon={X} label="Close" onClick={onClose} />
      </header>
      <div class="file-body">
        {isGone ? (
          <Empty icon={FileWarning} title="There is no such file" action={<Button onClick={onClose}>Close</Button>}>
            {`${shown(path)} was deleted or moved.`}
          </Empty>
        ) : fault !== undefined ? (
          <Failure error={fault} retry={() => setAgain((n) => n + 1)} />
        ) : !loaded ? (
          <Loading label={`Reading ${name}`} />
        ) : now === "text" && loaded.text !== undefined ? (
          <Suspense fallback={<Loading label="Loading the editor" />}>
            <Editor
              key={path}
              path={path}
              text={loaded.text}
              etag={loaded.etag}
              diskEtag={disk.data}
              line={line}
              onSaved={() => {
                disk.refresh();
                onSaved();
              }}
            />
          </Suspense>
        ) : now === "picture" ? (
          <Picture path={path} etag={loaded.stat.etag} />
        ) : now === "bytes" ? (
          <HexView path={path} length={loaded.stat.size} etag={loaded.stat.etag} />
        ) : (
          <Empty icon={FileWarning} title={`This is a ${(KINDS[loaded.stat.type] ?? "special file").toLowerCase()}`}>
            It holds nothing that can be shown.
          </Empty>
        )}
      </div>
    </section>
  );
}

function Picture({ path, etag }: { path: string; etag: string }) {
  const [size, setSize] = useState("");
  const [whole, setWhole] = useState(false);
  const [bad, setBad] = useState(false);
  if (bad) {
    return (
      <Empty icon={FileWarning} title="This picture cannot be shown" action={<LinkButton href={downloadUrl(path)} download={nameOf(path)} icon={Download}>Download</LinkButton>}>
        The browser does not know its format, or the file is damaged.
      </Empty>
    );
  }
  return (
    <figure class={`picture ${whole ? "picture-whole" : ""}`}>
      <div class="picture-frame">
        <img
          src={pictureUrl(path, etag)}
          alt={shown(nameOf(path))}
          onLoad={(event) => setSize(`${event.currentTarget.naturalWidth} × ${event.currentTarget.naturalHeight} pixels`)}
          onError={() => setBad(true)}
        />
      </div>
      <figcaption class="picture-bar">
        <span class="muted small num">{size}</span>
        <Segmented
          label="Size"
          value={whole ? "whole" : "fit"}
          options={[
            { value: "fit", label: "Fit" },
            { value: "whole", label: "100 %" },
          ]}
          onChange={(value) => setWhole(value === "whole")}
        />
      </figcaption>
    </figure>
  );
}
