declare module "*/clusters.js" {
  import type { IUnicodeVersionProvider } from "@xterm/xterm";

  export function clusterProvider(unicode11: typeof import("@xterm/addon-unicode11")): IUnicodeVersionProvider;
}
