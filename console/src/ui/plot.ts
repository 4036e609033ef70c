/** uPlot with our colours; loaded when the first chart is shown. */

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { clock } from "./format";
import { dataOf, type ChartProps } from "./series";

export function draw(place: HTMLElement, props: () => ChartProps, height: number): uPlot {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const font = "11px system-ui, sans-serif";
  const muted = colour("--muted");
  const grid = { stroke: colour("--line"), width: 1 };
  const now = props();
  const options: uPlot.Options = {
    width: place.clientWidth || 300,
    height,
    padding: [8, 20, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
    scales: {
      x: { time: true, range: (_plot, low, high) => span(props(), low, high) },
      y: { range: (_plot, low, high) => range(props(), low, high) },
    },
    axes: [
      {
        stroke: muted,
        font,
        grid: { show: false },
        ticks: { show: false },
        size: 22,
        gap: 4,
        space: 72,
        values: (_plot, splits) => splits.map((split) => hours(split, splits)),
      },
      {
        stroke: muted,
        font,
        grid,
        ticks: { show: false },
        size: 64,
        gap: 6,
        space: 36,
        incrs: now.binary ? BINARY : undefined,
        values: (_plot, splits) => splits.map((split) => props().format(split)),
      },
    ],
    series: [
      {},
      ...now.series.map((one, index) => {
        const stroke = colour(`--c${one.tone ?? index + 1}`);
        const fill = now.series.length === 1 ? `${stroke}22` : undefined;
        return { label: one.label, stroke, fill, width: 1.5, spanGaps: false, points: { show: false } };
      }),
    ],
    plugins: [tip(props)],
  };
  return new uPlot(options, dataOf(now), place);
}

const BINARY = Array.from({ length: 50 }, (_, power) => 2 ** power);

function span(props: ChartProps, low: number | null, high: number | null): [number, number] {
  if (low === null || high === null) {
    const now = Date.now() / 1000;
    return [now - (props.span ?? 60), now];
  }
  if (low === high && !props.span) return [low - 30, high];
  return [props.span ? Math.min(low, high - props.span) : low, high];
}

function range(props: ChartProps, _low: number, high: number): [number, number] {
  if (props.fixed && props.max) return [0, props.max];
  const top = Math.max(props.max ?? 0, (high || 0) * 1.1);
  return [0, top || 1];
}

function hours(time: number, all: number[]): string {
  const isClose = (all[1] ?? 0) - (all[0] ?? 0) < 60;
  return isClose ? clock(time * 1000) : clock(time * 1000).slice(0, 5);
}

/** What stands at the pointer, in a small box of its own. */
function tip(props: () => ChartProps): uPlot.Plugin {
  const box = document.createElement("div");
  box.className = "chart-tip";
  box.hidden = true;
  return {
    hooks: {
      init: (plot) => {
        plot.over.append(box);
        plot.over.addEventListener("mouseleave", () => {
          box.hidden = true;
        });
      },
      setCursor: (plot) => {
        const index = plot.cursor.idx;
        const time = index === null || index === undefined ? undefined : plot.data[0][index];
        box.hidden = time === undefined || (plot.cursor.left ?? -1) < 0;
        if (box.hidden || index === null || index === undefined || time === undefined) return;
        const { series, format } = props();
        box.replaceChildren(
          row(clock(time * 1000)),
          ...series.map((one) =>
            row(series.length > 1 ? `${one.label}  ${format(one.values[index])}` : format(one.values[index])),
          ),
        );
        const left = plot.cursor.left ?? 0;
        const flips = left > plot.over.clientWidth / 2;
        box.style.left = flips ? "" : `${left + 12}px`;
        box.style.right = flips ? `${plot.over.clientWidth - left + 12}px` : "";
      },
    },
  };
}

function row(text: string): HTMLElement {
  const made = document.createElement("div");
  made.textContent = text;
  return made;
}
