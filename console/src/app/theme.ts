/** Dark or light: the system's, until somebody chooses here. */

import { computed, effect, signal } from "@preact/signals";

export type Theme = "dark" | "light";

const KEY = "sandkeeper.theme";
const system = window.matchMedia("(prefers-color-scheme: light)");
const systemTheme = signal<Theme>(system.matches ? "light" : "dark");
system.addEventListener("change", () => {
  systemTheme.value = system.matches ? "light" : "dark";
});

const chosen = signal<Theme | null>(kept());

export const theme = computed<Theme>(() => chosen.value ?? systemTheme.value);

effect(() => {
  document.documentElement.dataset.theme = theme.value;
});

export function toggleTheme(): void {
  chosen.value = theme.value === "dark" ? "light" : "dark";
  try {
    localStorage.setItem(KEY, chosen.value);
  } catch {
    // A browser that keeps nothing: it holds for this page.
  }
}

function kept(): Theme | null {
  try {
    const value = localStorage.getItem(KEY);
    return value === "dark" || value === "light" ? value : null;
  } catch {
    return null;
  }
}
