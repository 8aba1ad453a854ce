// Small plots by uPlot, in the colours of the page.

import { text } from "./i18n.js";

const LINES = ["#3f7fdc", "#d07a1c", "#2c9c6a", "#a55ac2", "#c8453c", "#6f7f92"];
const plots = new Set();
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
/** `light-dark()` as the canvas takes it: resolved on an element. */
function resolved(name) {
  document.body.style.setProperty("outline-color", colour(name));
  const value = getComputedStyle(document.body).outlineColor;
  document.body.style.removeProperty("outline-color");
  return value;
}

/** Draw `data` ([xs, ys, …]) into `place`; `series` are keys or names. Returns a function that redraws. */
export function plot(place, { series, data, time = false, xLabel = "", height = 150, logarithmic = false, format = undefined }) {
  let chart;
  const draw = () => {
    chart?.destroy();
    const axis = { stroke: resolved("--soft"), grid: { stroke: resolved("--line"), width: 1 }, ticks: { stroke: resolved("--line"), width: 1 }, font: "11px system-ui, sans-serif" };
    chart = new globalThis.uPlot({
      width: Math.max(place.clientWidth, 200), height,
      legend: { show: series.length > 1, live: false },
      cursor: { drag: { x: false, y: false } },
      scales: { x: { time, distr: logarithmic ? 3 : 1, log: 2 }, y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(high ?? 1, time ? 1 : 1e-3) * 1.08] } },
      axes: [{ ...axis, label: xLabel && text(xLabel), labelSize: xLabel ? 18 : 0, labelFont: axis.font, values: logarithmic ? (_, ticks) => ticks.map((tick) => (data[0].includes(tick) ? tick : "")) : undefined, size: 30 },
        { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => (format ?? String)(Math.round(tick * 1e4) / 1e4)) }],
      series: [{ label: text(time ? "time" : xLabel) }, ...series.map((name, index) => ({ label: text(name), stroke: LINES[index % LINES.length], width: 1.6, spanGaps: !time, points: { show: !time, size: 5 } }))],
    }, data, place);
    return chart;
  };
  const entry = { draw, place };
  plots.add(entry);
  draw();
  return (next) => {
    data = next;
    chart.setData(next);
  };
}

/** Draw all plots again: after a change of colours, language or width. */
export function recolour() {
  for (const entry of plots) {
    if (!entry.place.isConnected) plots.delete(entry);
    else if (entry.place.clientWidth) entry.draw();
  }
}
addEventListener("resize", recolour);
document.addEventListener("view", recolour);
