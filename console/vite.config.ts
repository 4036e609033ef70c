import { defineConfig } from "vite";

export default defineConfig({
  // Addresses are relative to the page, so that any prefix in front of it works.
  base: "./",
  plugins: [
    {
      // A plain script, for the terminal page has it as such.
      name: "clusters",
      transform: (code, id) =>
        id.endsWith("/web/clusters.js") ? `${code}\nexport { clusterProvider };` : undefined,
    },
  ],
  build: {
    target: "es2022",
    outDir: "dist",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    chunkSizeWarningLimit: 2000,
    rolldownOptions: { checks: { pluginTimings: false } },
  },
});
