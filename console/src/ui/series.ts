/** What a chart shows, for the component and for what draws it. */

import type uPlot from "uplot";

export interface ChartProps {
  label: string;
  /** Seconds since the epoch. */
  times: number[];
  series: { label: string; values: (number | null)[]; tone?: 1 | 2 | 3 | 4 | 5 | 6 }[];
  format(value: number | null | undefined): string;
  height?: number;
  /** The least upper end of the scale. */
  max?: number;
  /** The scale ends at `max`, whatever comes. */
  fixed?: boolean;
  /** So many seconds are shown, up to the last value. */
  span?: number;
  /** The steps of the scale are powers of 1024. */
  binary?: boolean;
}

export function dataOf(props: ChartProps): uPlot.AlignedData {
  return [props.times, ...props.series.map((one) => one.values)] as uPlot.AlignedData;
}
