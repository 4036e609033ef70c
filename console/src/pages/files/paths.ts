/**
 * Paths in the sandbox as this console holds them, and as they stand in addresses.
 *
 * Names are bytes; a path here is a string in which each byte that is not UTF-8 is a lone
 * surrogate U+DC80 to U+DCFF, as Python has it (PEP 383), so that every file can be named.
 */

const encoder = new TextEncoder();

/** Percent-encode every byte of a path but those that no address changes. */
export function encoded(text: string): string {
  let made = "";
  for (const char of text) {
    const code = char.codePointAt(0)!;
    if (/[A-Za-z0-9._~-]/.test(char)) made += char;
    else if (code >= 0xdc80 && code <= 0xdcff) made += escape(code - 0xdc00);
    else for (const byte of encoder.encode(char)) made += escape(byte);
  }
  return made;
}

function escape(byte: number): string {
  return "%" + byte.toString(16).toUpperCase().padStart(2, "0");
}

/** The address of an absolute path below `/filesystem` or its kin: an upper-case `%2F` says so. */
export function fileRoute(route: string, path: string): string {
  return `${route}/${encoded(path)}`;
}

/** A name or path that came percent-encoded, because it is not UTF-8. */
export function decoded(text: string): string {
  const bytes: number[] = [];
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "%") {
      bytes.push(parseInt(text.slice(at + 1, at + 3), 16));
      at += 2;
    } else bytes.push(text.charCodeAt(at));
  }
  return surrogateEscaped(Uint8Array.from(bytes));
}

/** Bytes as text, one lone surrogate for each byte that is no part of a character. */
function surrogateEscaped(bytes: Uint8Array): string {
  const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let made = "";
  for (let at = 0; at < bytes.length; ) {
    const length = [4, 3, 2, 1].find((size) => {
      try {
        return at + size <= bytes.length && strict.decode(bytes.subarray(at, at + size)) !== "" && lead(bytes[at]!) === size;
      } catch {
        return false;
      }
    });
    if (length) made += strict.decode(bytes.subarray(at, at + length));
    else made += String.fromCharCode(0xdc00 + bytes[at]!);
    at += length ?? 1;
  }
  return made;
}

function lead(byte: number): number {
  return byte < 0x80 ? 1 : byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
}

const LONE = /[\ud800-\udbff][\udc00-\udfff]|([\udc00-\udfff])/g;

/** How a path is shown to a person: what cannot be shown is U+FFFD, a line break is visible. */
export function shown(path: string): string {
  return path
    .replace(LONE, (pair, lone?: string) => (lone ? "\ufffd" : pair))
    .replace(/\n/g, "\u2424")
    .replace(/[\0-\x1f\x7f]/g, "\ufffd");
}

/** Whether JSON and hashes can hold a path: names that are not UTF-8 stand in addresses only. */
export function isText(path: string): boolean {
  return path.replace(LONE, (pair, lone?: string) => (lone ? "\0" : pair)).indexOf("\0") < 0;
}

export function joined(folder: string, name: string): string {
  return folder.endsWith("/") ? folder + name : `${folder}/${name}`;
}

export function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/")) || "/";
}

export function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1) || "/";
}

/** The folders from the root down to a path, the path itself last. */
export function ancestry(path: string): string[] {
  const names = path.split("/").filter(Boolean);
  return ["/", ...names.map((_, index) => "/" + names.slice(0, index + 1).join("/"))];
}

/** Whether `path` is `folder` or below it. */
export function isWithin(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder.endsWith("/") ? folder : folder + "/");
}

/** Why a name cannot be one; nothing where it can. */
export function faultOf(name: string): string {
  if (!name.trim()) return "A name is needed.";
  if (name.includes("/")) return "A name holds no slash.";
  if (name === "." || name === "..") return `“${name}” is a folder already.`;
  if (name.includes("\0")) return "A name holds no NUL character.";
  return new TextEncoder().encode(name).length > 255 ? "A name has at most 255 bytes." : "";
}
