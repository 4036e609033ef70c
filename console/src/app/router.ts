/** Where the person is, in the hash: `#/files/srv/a%20b?sort=size`. Works below any path prefix. */

import { signal } from "@preact/signals";

export interface Route {
  page: string;
  path: string[];
  query: URLSearchParams;
}

function parse(hash: string): Route {
  const [place = "", search = ""] = hash.replace(/^#/, "").split(/\?(.*)/s);
  const parts = place.split("/").filter(Boolean).map(decoded);
  return { page: parts[0] ?? "overview", path: parts.slice(1), query: new URLSearchParams(search) };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const route = signal<Route>(parse(location.hash));

window.addEventListener("hashchange", () => {
  route.value = parse(location.hash);
});

/** Go to an address as `href` makes it, with or without the `#`. */
export function navigate(to: string, options: { replace?: boolean } = {}): void {
  const hash = to.startsWith("#") ? to : `#${to}`;
  if (options.replace) {
    history.replaceState(history.state, "", hash);
    route.value = parse(hash);
  } else {
    location.hash = hash;
  }
}

/** The address of a page and what is in it, for links. */
export function href(page: string, path: string[] = [], query: Record<string, string> = {}): string {
  const place = [page, ...path].map(encodeURIComponent).join("/");
  const search = new URLSearchParams(query).toString();
  return `#/${place}${search ? `?${search}` : ""}`;
}

/** Change parts of the query in place; null takes one away. */
export function setQuery(changes: Record<string, string | null>): void {
  const { page, path, query } = route.value;
  const next = Object.fromEntries(query);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") {
      delete next[name];
    } else {
      next[name] = value;
    }
  }
  navigate(href(page, path, next), { replace: true });
}
