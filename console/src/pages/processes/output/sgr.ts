/** Colours and styles of terminal output (ECMA-48, SGR), a line at a time. */

export interface Look {
  /** 0–15 of the palette, or a CSS colour. */
  fore?: number | string;
  back?: number | string;
  bold?: boolean;
  dim?: boolean;
  italic?: boolean;
  under?: boolean;
  struck?: boolean;
  inverse?: boolean;
}

export interface Span {
  text: string;
  look: Look;
}

export const PLAIN: Look = Object.freeze({});

// CSI …, OSC … (ended by BEL or ST), other escapes of two or three characters, and bare controls.
const ESCAPES =
  /\x1b\[([0-9:;<=>?]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g;

/** Read one line; `look` is how the line before ended. Returns its parts and how it ends. */
export function parse(line: string, look: Look = PLAIN): { spans: Span[]; look: Look } {
  const text = overwritten(line);
  if (!/[\x00-\x08\x0b-\x1f\x7f]/.test(text)) return { spans: text ? [{ text, look }] : [], look };
  const spans: Span[] = [];
  let at = 0;
  for (const found of text.matchAll(ESCAPES)) {
    push(spans, text.slice(at, found.index), look);
    at = found.index + found[0].length;
    if (found[2] === "m") look = changed(look, found[1] ?? "");
  }
  push(spans, text.slice(at), look);
  return { spans, look };
}

/** How a line leaves the colours to the next one. */
export function after(line: string, look: Look): Look {
  return line.includes("\x1b") ? parse(line, look).look : look;
}

/** What is left of a line in which `\r` went back to its beginning: a progress bar's last state. */
function overwritten(line: string): string {
  if (!line.includes("\r")) return line;
  const parts = line.split("\r").filter(Boolean);
  return parts.at(-1) ?? "";
}

function push(spans: Span[], text: string, look: Look): void {
  if (!text) return;
  const last = spans.at(-1);
  if (last && last.look === look) last.text += text;
  else spans.push({ text, look });
}

function changed(before: Look, parameters: string): Look {
  const look: Look = { ...before };
  const codes = parameters.replaceAll(":", ";").split(";").map((one) => Number(one) || 0);
  for (let index = 0; index < codes.length; index += 1) {
    const code = codes[index] ?? 0;
    if (code === 38 || code === 48) {
      const [colour, used] = extended(codes.slice(index + 1));
      if (colour !== undefined) look[code === 38 ? "fore" : "back"] = colour;
      index += used;
    } else {
      apply(look, code);
    }
  }
  return Object.keys(look).length ? look : PLAIN;
}

function apply(look: Look, code: number): void {
  if (code === 0) for (const name of Object.keys(look)) delete look[name as keyof Look];
  else if (code === 1) look.bold = true;
  else if (code === 2) look.dim = true;
  else if (code === 3) look.italic = true;
  else if (code === 4) look.under = true;
  else if (code === 7) look.inverse = true;
  else if (code === 9) look.struck = true;
  else if (code === 22) {
    delete look.bold;
    delete look.dim;
  } else if (code === 23) delete look.italic;
  else if (code === 24) delete look.under;
  else if (code === 27) delete look.inverse;
  else if (code === 29) delete look.struck;
  else if (code === 39) delete look.fore;
  else if (code === 49) delete look.back;
  else if (code >= 30 && code <= 37) look.fore = code - 30;
  else if (code >= 90 && code <= 97) look.fore = code - 82;
  else if (code >= 40 && code <= 47) look.back = code - 40;
  else if (code >= 100 && code <= 107) look.back = code - 92;
}

const STEPS = [0, 95, 135, 175, 215, 255];

/** A colour of 256, or of 16 million; and how many codes told it. */
function extended(codes: number[]): [number | string | undefined, number] {
  const [kind, first = 0, second = 0, third = 0] = codes;
  if (kind === 5) {
    if (first < 16) return [first, 2];
    if (first > 231) return [rgb(...grey(first)), 2];
    const cube = first - 16;
    const part = (by: number) => STEPS[Math.floor(cube / by) % 6] ?? 0;
    return [rgb(part(36), part(6), part(1)), 2];
  }
  if (kind === 2) return [rgb(first, second, third), 4];
  return [undefined, 0];
}

function grey(index: number): [number, number, number] {
  const level = 8 + (Math.min(index, 255) - 232) * 10;
  return [level, level, level];
}

function rgb(red: number, green: number, blue: number): string {
  return `rgb(${red & 255} ${green & 255} ${blue & 255})`;
}
