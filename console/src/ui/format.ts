/** Numbers, sizes and times as people read them. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const plain = new Intl.NumberFormat("en-GB");
const clocked = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const stamped = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** 1536 → "1.5 KiB" */
export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  let size = Math.abs(value);
  let unit = 0;
  while (size >= 1023.95 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || size >= 99.95 ? 0 : 1;
  return `${value < 0 ? "-" : ""}${size.toFixed(digits)} ${UNITS[unit]}`;
}

/** 12345 → "12,345" */
export function count(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : plain.format(value);
}

/** Of a number of percent: 7.25 → "7.3 %" */
export function percent(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  return `${value >= 99.95 ? Math.round(value) : value.toFixed(1)} %`;
}

export function rate(bytesPerSecond: number | null | undefined): string {
  return bytesPerSecond === null || bytesPerSecond === undefined ? "–" : `${bytes(bytesPerSecond)}/s`;
}

/** 200 → "3 min 20 s"; below ten seconds with a fraction, below one in milliseconds */
export function seconds(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value < 0.001) return value <= 0 ? "0 s" : "< 1 ms";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return two(whole, 60, "min", "s");
  if (whole < 86400) return two(Math.floor(whole / 60), 60, "h", "min");
  return two(Math.floor(whole / 3600), 24, "d", "h");
}

function two(value: number, by: number, large: string, small: string): string {
  const rest = value % by;
  return `${Math.floor(value / by)} ${large}${rest ? ` ${rest} ${small}` : ""}`;
}

export type When = Date | string | number | null | undefined;

export function date(when: When): Date | null {
  if (when === null || when === undefined || when === "") return null;
  const made = new Date(when);
  return Number.isNaN(made.getTime()) ? null : made;
}

/** "2 min ago" */
export function ago(when: When, now = Date.now()): string {
  const made = date(when);
  if (!made) return "–";
  const passed = (now - made.getTime()) / 1000;
  if (passed < 2) return "just now";
  if (passed < 60) return `${Math.floor(passed)} s ago`;
  if (passed < 3600) return `${Math.floor(passed / 60)} min ago`;
  if (passed < 86400) return `${Math.floor(passed / 3600)} h ago`;
  return `${Math.floor(passed / 86400)} d ago`;
}

/** "14:03:27" */
export function clock(when: When): string {
  const made = date(when);
  return made ? clocked.format(made) : "–";
}

/** "28 Nov 2026, 14:03:27" */
export function stamp(when: When): string {
  const made = date(when);
  return made ? stamped.format(made) : "–";
}

/** One word or several: plural(1, "file") → "1 file", plural(3, "file") → "3 files" */
export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}
