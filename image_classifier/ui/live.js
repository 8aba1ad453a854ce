// Live plots: the difference of two readings of /metrics, each second while the view is shown.

import { $, h } from "./dom.js";
import { number, text, translate } from "./i18n.js";
import { plot } from "./plot.js";

const EVERY_MS = 1000;
const KEPT = 120;
const PLOTS = [
  ["plot_rate", ["rate"]], ["plot_latency", ["p50_ms", "p99_ms"]], ["plot_batch", ["batch_size"]], ["plot_queue", ["queue_ms"]],
  ["plot_flight", ["in_flight"]], ["plot_refused", ["refused", "errors"]], ["plot_probability", ["top_probability"]],
];
let samples = [], timer, before, redraws;

export function showLive() {
  const follow = () => ($("view-live").hidden || document.hidden ? stop() : start());
  document.addEventListener("view", follow);
  document.addEventListener("visibilitychange", follow);
  follow();
}

function stop() {
  clearInterval(timer);
  timer = before = undefined;
}

function start() {
  if (timer) return;
  samples = [];
  translate($("live-status"), "live_waiting");
  timer = setInterval(sample, EVERY_MS);
  sample();
}

async function sample() {
  let after;
  try {
    const response = await fetch("../metrics", { signal: AbortSignal.timeout(EVERY_MS) });
    after = response.ok ? read(await response.text()) : undefined;
  } catch { /* the server is away, or busy */ }
  if (!timer) return;
  translate($("live-status"), after ? "live_connected" : "live_waiting");
  if (before && after && started(before) === started(after)) {
    samples = [...samples, between(before, after)].slice(-KEPT);
    draw();
  }
  before = after;
}

/** Read Prometheus' text format: values by "name kind", the kind an outcome or a stage; of the total duration
    also the buckets, [upper bound in seconds, observations up to it], ascending. */
function read(exposition) {
  const values = {}, buckets = [];
  for (const [, name, labels = "", value] of exposition.matchAll(/^(\w+)(?:\{(.*)\})? (\S+)$/gm)) {
    const { le, outcome, stage } = Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)/g)].map(([, key, one]) => [key, one]));
    if (le === undefined) values[`${name} ${outcome ?? stage ?? ""}`] = Number(value);
    else if (stage === "total") buckets.push([le === "+Inf" ? Infinity : Number(le), Number(value)]);
  }
  return { at: Date.now() / 1000, values, buckets: buckets.sort(([one], [other]) => one - other) };
}

/** Tells servers apart: a restarted one, or another one behind a balancer. */
const started = (reading) => reading.values["process_start_time_seconds "];

/** What all processes did between two readings of one server; null where nothing was measured. */
function between(before, after) {
  const seconds = Math.max(after.at - before.at, 1e-3);
  const grown = (key) => (after.values[key] ?? 0) - (before.values[key] ?? 0);
  const mean = (name, kind = "") => (grown(`${name}_count ${kind}`) > 0 ? grown(`${name}_sum ${kind}`) / grown(`${name}_count ${kind}`) : null);
  const requests = "classifier_requests_total ";
  const outcomes = Object.keys(after.values).filter((key) => key.startsWith(requests));
  const all = outcomes.reduce((sum, key) => sum + grown(key), 0);
  const ok = grown(`${requests}ok`), refused = grown(`${requests}overloaded`);
  const buckets = after.buckets.map(([upper, count], index) => [upper, count - (before.buckets[index]?.[1] ?? 0)]);
  const queue = mean("classifier_stage_seconds", "queue");
  return {
    at: after.at,
    rate: ok / seconds,
    refused: refused / seconds,
    errors: (all - ok - refused) / seconds,
    in_flight: after.values["classifier_in_flight "] ?? 0,
    p50_ms: percentile(buckets, 0.5),
    p99_ms: percentile(buckets, 0.99),
    queue_ms: queue === null ? null : queue * 1000,
    batch_size: mean("classifier_batch_size"),
    top_probability: mean("classifier_top_probability"),
  };
}

/** Estimate a percentile in milliseconds, observations evenly spread within a bucket. */
function percentile(buckets, share) {
  const wanted = share * (buckets.at(-1)?.[1] ?? 0);
  if (wanted <= 0) return null;
  let lower = 0, below = 0;
  for (const [upper, count] of buckets.slice(0, -1)) {
    if (count >= wanted) return 1000 * (lower + ((upper - lower) * (wanted - below)) / (count - below));
    [lower, below] = [upper, count];
  }
  return 1000 * lower; // in the last bucket, which has no upper bound
}

const columns = (fields) => [samples.map((sample) => sample.at), ...fields.map((field) => samples.map((sample) => sample[field]))];

function draw() {
  redraws ??= PLOTS.map(([title, fields]) => {
    const value = h("output", {});
    const canvas = h("div", { role: "img" });
    $("plots").append(h("div", { className: "plot" }, h("h3", {}, h("span", { t: title }), value), canvas));
    return [title, fields, value, canvas];
  }).map(([title, fields, value, canvas]) => // once all have their places, and so their widths
    [title, fields, value, canvas, plot(canvas, { series: fields, data: columns(fields), time: true })]);
  for (const [title, fields, value, canvas, redraw] of redraws) {
    value.textContent = fields.map((field) => samples.at(-1)[field]).map((one) => (one === null ? "–" : number(one))).join(" / ");
    canvas.setAttribute("aria-label", `${text(title)}: ${value.textContent}`);
    redraw(columns(fields));
  }
}
