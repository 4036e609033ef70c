import { useEffect, useRef } from "preact/hooks";
import type uPlot from "uplot";
import { theme } from "../app/theme";
import { dataOf, type ChartProps } from "./series";
import "./Chart.css";

/** Lines over time; what a screen reader gets is the last value of each. */
export function Chart(props: ChartProps) {
  const place = useRef<HTMLDivElement>(null);
  const drawn = useRef<uPlot | null>(null);
  const latest = useRef(props);
  latest.current = props;
  const shape = props.series.map((one) => `${one.label}/${one.tone}`).join("|");
  const mode = theme.value;
  const height = props.height ?? 140;

  useEffect(() => {
    const shown = place.current;
    if (!shown) return;
    let gone = false;
    const observer = new ResizeObserver(() => {
      if (drawn.current && shown.clientWidth) drawn.current.setSize({ width: shown.clientWidth, height });
    });
    void import("./plot").then(({ draw }) => {
      if (gone) return;
      drawn.current = draw(shown, () => latest.current, height);
      observer.observe(shown);
    });
    return () => {
      gone = true;
      observer.disconnect();
      drawn.current?.destroy();
      drawn.current = null;
    };
  }, [shape, mode, height]);

  useEffect(() => {
    drawn.current?.setData(dataOf(props));
  }, [props.times, props.series]);

  const told = props.series.map((one) => `${one.label} ${props.format(one.values.at(-1))}`).join(", ");
  return (
    <div class="chart" role="img" aria-label={`${props.label}: ${told}`}>
      <div ref={place} style={{ height: `${height}px` }} />
      {props.series.length > 1 ? (
        <ul class="chart-key" aria-hidden="true">
          {props.series.map((one, index) => (
            <li key={one.label} data-tone={one.tone ?? index + 1}>
              {one.label}
            </li>
          ))}
        </ul>
      ) : null}
    </div>
  );
}
