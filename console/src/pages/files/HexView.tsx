/** Any file as bytes, read by ranges as one scrolls. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import { Button, Empty, Failure, Input } from "../../ui";
import { bytes as size, count } from "../../ui/format";
import { Binary } from "lucide-preact";
import { asciiOf, Bytes, hexOf, offsetOf, offsetText } from "./bytes";
import { readRange } from "./calls";
import { Rows, rowId, type RowsHandle } from "./rows";

const LIST = "files-hex";
const ROW_HEIGHT = 22;
const NARROW = 620;

interface Props {
  path: string;
  length: number;
  /** Another state is another view. */
  etag: string;
}

export function HexView({ path, length, etag }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const list = useRef<RowsHandle>(null);
  const [, setCame] = useState(0);
  const [fault, setFault] = useState<unknown>();
  const [width, setWidth] = useState(16);
  const [active, setActive] = useState(0);
  const [wanted, setWanted] = useState("");
  const bytes = useMemo(
    () =>
      new Bytes(length, (from, to, signal) => readRange(path, from, to, signal), (error) => {
        setFault(error);
        setCame((n) => n + 1);
      }),
    [path, length, etag],
  );
  useEffect(() => () => bytes.close(), [bytes]);

  useEffect(() => {
    const element = box.current!;
    const seen = new ResizeObserver(() => setWidth(element.clientWidth < NARROW ? 8 : 16));
    seen.observe(element);
    return () => seen.disconnect();
  }, []);

  const rows = Math.ceil(length / width);
  const target = offsetOf(wanted);
  const isWrong = wanted !== "" && !(target < length);

  function go(row: number): void {
    const next = Math.max(0, Math.min(rows - 1, row));
    setActive(next);
    list.current?.show(next);
  }

  function pressed(event: JSX.TargetedKeyboardEvent<HTMLElement>, page: number): void {
    const to: Record<string, number> = {
      ArrowDown: active + 1,
      ArrowUp: active - 1,
      PageDown: active + page,
      PageUp: active - page,
      Home: 0,
      End: rows - 1,
    };
    const row = to[event.key];
    if (row === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    go(row);
  }

  function render(index: number) {
    const data = bytes.row(index, width);
    const hex = data ? hexOf(data) : [];
    return (
      <div
        key={index}
        id={rowId(LIST, index)}
        role="option"
        aria-selected={index === active}
        class={`hex-row mono ${index === active ? "is-active" : ""}`}
        aria-label={data ? undefined : "Loading"}
      >
        <span class="hex-offset">{offsetText(index * width, length)}</span>
        <span class="hex-bytes">
          <span>{hex.slice(0, 8).join(" ")}</span>
          {width > 8 ? <span>{hex.slice(8).join(" ")}</span> : null}
        </span>
        <span class="hex-text">{data ? asciiOf(data) : ""}</span>
      </div>
    );
  }

  return (
    <div class="hex" ref={box}>
      <form
        class="hex-bar"
        onSubmit={(event) => {
          event.preventDefault();
          if (!isWrong && wanted) go(Math.floor(target / width));
        }}
      >
        <span class="muted small num clip" title={`${count(length)} bytes`}>
          {size(length)}
        </span>
        <Input
          class="mono hex-goto"
          value={wanted}
          placeholder="Offset, 0x1f or 31"
          aria-label="Go to offset"
          aria-invalid={isWrong || undefined}
          onInput={(event) => setWanted(event.currentTarget.value)}
        />
        <Button small type="submit" disabled={!wanted || isWrong}>
          Go
        </Button>
      </form>
      {fault !== undefined ? <Failure error={fault} retry={() => (setFault(undefined), setCame((n) => n + 1))} /> : null}
      {length === 0 ? (
        <Empty icon={Binary} title="This file is empty">
          There are no bytes to show.
        </Empty>
      ) : (
        <Rows ref={list} id={LIST} className="hex-rows" count={rows} rowHeight={ROW_HEIGHT} label="Bytes" role="listbox" active={active} render={render} onKeyDown={pressed} />
      )}
    </div>
  );
}
