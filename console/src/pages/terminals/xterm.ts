/** xterm.js as this console has it. Loaded when a terminal is shown. */

import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import * as Unicode11Addon from "@xterm/addon-unicode11";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { Terminal, type ITerminalOptions } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { clusterProvider } from "../../../../src/sandkeeper/web/clusters.js";

export interface Made {
  terminal: Terminal;
  fit: FitAddon;
  search: SearchAddon;
}

export function makeTerminal(host: HTMLElement, options: ITerminalOptions): Made {
  const terminal = new Terminal({
    fontFamily: getComputedStyle(document.documentElement).getPropertyValue("--mono"),
    fontSize: 14,
    // At a line height of 1 fonts whose underscores lie low (DejaVu Sans Mono) lose them.
    lineHeight: 1.2,
    scrollback: 10_000,
    cursorBlink: true,
    allowProposedApi: true,
    screenReaderMode: false,
    ...options,
  });
  const fit = new FitAddon();
  const search = new SearchAddon();
  terminal.loadAddon(fit);
  terminal.loadAddon(search);
  terminal.loadAddon(new WebLinksAddon(openLink));
  terminal.unicode.register(clusterProvider(Unicode11Addon));
  terminal.unicode.activeVersion = "clusters";
  terminal.open(host);
  return { terminal, fit, search };
}

function openLink(event: MouseEvent, address: string): void {
  event.preventDefault();
  window.open(address, "_blank", "noopener,noreferrer");
}
