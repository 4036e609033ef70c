/** The sixteen colours of terminals, readable on our backgrounds (AA for all but black on dark). */

import type { Theme } from "../app/theme";

const DARK = [
  "#7d8996", "#ff8a8a", "#63d392", "#f2b83f", "#82bbff", "#d0a6ff", "#4fd1c5", "#d5dbe2",
  "#98a4b2", "#ffa8a8", "#8be3ae", "#ffd175", "#a9d0ff", "#e0c4ff", "#7fe3d9", "#ffffff",
];
const LIGHT = [
  "#17202a", "#b0212d", "#10693a", "#7a4c00", "#1a5aa8", "#6d3cbf", "#0b6b63", "#556170",
  "#3c4855", "#c4303b", "#1a7d49", "#8c5900", "#2a6cbd", "#7f50cd", "#0f766e", "#45505d",
];
const NAMES = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"] as const;

export function colours(theme: Theme): string[] {
  return theme === "dark" ? DARK : LIGHT;
}

/** What xterm.js takes as its theme. */
export function palette(theme: Theme): Record<string, string> {
  const all = colours(theme);
  const named: Record<string, string> = {};
  NAMES.forEach((name, index) => {
    named[name] = all[index] ?? "";
    named[`bright${name.charAt(0).toUpperCase()}${name.slice(1)}`] = all[index + 8] ?? "";
  });
  return theme === "dark"
    ? { ...named, background: "#0b0e11", foreground: "#e7ebf0", cursor: "#4fd1c5", cursorAccent: "#0b0e11", selectionBackground: "#2c5f5b" }
    : { ...named, background: "#ffffff", foreground: "#17202a", cursor: "#0f766e", cursorAccent: "#ffffff", selectionBackground: "#b9e3df" };
}
