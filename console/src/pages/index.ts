/** The pages, in the order of the navigation; each is loaded when it is first opened. */

import type { ComponentType } from "preact";
import { Activity, Cable, Code, Folder, LayoutDashboard, SquareTerminal } from "lucide-preact";
import type { Icon } from "../ui/Button";
import type { PageProps } from "./page";

export interface PageDef {
  id: string;
  title: string;
  icon: Icon;
  key: string;
  load(): Promise<{ default: ComponentType<PageProps> }>;
}

export const pages: PageDef[] = [
  { id: "overview", title: "Overview", icon: LayoutDashboard, key: "o", load: () => import("./overview") },
  { id: "processes", title: "Processes", icon: Activity, key: "p", load: () => import("./processes") },
  { id: "terminals", title: "Terminals", icon: SquareTerminal, key: "t", load: () => import("./terminals") },
  { id: "files", title: "Files", icon: Folder, key: "f", load: () => import("./files") },
  { id: "ports", title: "Ports", icon: Cable, key: "l", load: () => import("./ports") },
  { id: "api", title: "API", icon: Code, key: "a", load: () => import("./api") },
];
