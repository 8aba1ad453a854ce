// Live plots by server-sent events; the connection is open only while the view is shown.

import { $, h } from "./dom.js";
import { number, text, translate } from "./i18n.js";
import { plot } from "./plot.js";

const KEPT = 120;
const PLOTS = [
  ["plot_rate", ["rate"]], ["plot_latency", ["p50_ms", "p99_ms"]], ["plot_batch", ["batch_size"]], ["plot_queue", ["queue_ms"]],
  ["plot_flight", ["in_flight"]], ["plot_refused", ["refused", "errors"]], ["plot_probability", ["top_probability"]],
];
let samples = [], source, redraws;

export function showLive() {
  const follow = () => ($("view-live").hidden || document.hidden ? close() : open());
  document.addEventListener("view", follow);
  document.addEventListener("visibilitychange", follow);
  follow();
}

function close() {
  source?.close();
  source = undefined;
}

function open() {
  if (source) return;
  samples = [];
  translate($("live-status"), "live_waiting");
  source = new EventSource("api/live");
  source.addEventListener("open", () => { samples = []; translate($("live-status"), "live_connected"); });
  source.addEventListener("error", () => translate($("live-status"), "live_waiting"));
  source.addEventListener("message", (event) => {
    samples.push(JSON.parse(event.data));
    samples = samples.slice(-KEPT);
    draw();
  });
}

const columns = (fields) => [samples.map((sample) => sample.at), ...fields.map((field) => samples.map((sample) => sample[field]))];

function draw() {
  redraws ??= PLOTS.map(([title, fields]) => {
    const value = h("output", {});
    const canvas = h("div", { role: "img" });
    $("plots").append(h("div", { className: "plot" }, h("h3", {}, h("span", { t: title }), value), canvas));
    return [title, fields, value, canvas, plot(canvas, { series: fields, data: columns(fields), time: true })];
  });
  for (const [title, fields, value, canvas, redraw] of redraws) {
    value.textContent = fields.map((field) => samples.at(-1)[field]).map((one) => (one === null ? "–" : number(one))).join(" / ");
    canvas.setAttribute("aria-label", `${text(title)}: ${value.textContent}`);
    redraw(columns(fields));
  }
}
