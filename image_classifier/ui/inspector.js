// The inspector: what the running process has loaded, with the proof.

import { $, h, highlighted } from "./dom.js";
import { number, text, translate } from "./i18n.js";
import { plot } from "./plot.js";

/** Cards that a step of the deployment flow produces or checks. */
export const CARDS = ["identity", "proof", "files", "weights", "sources", "labels", "engines", "curves", "capacity", "conformance", "environment"];

let data;

export function showInspector(model, inspection) {
  data = inspection;
  const cards = {
    identity: [identity], proof: [proof], engines: [engines, true], curves: [curves, true], files: [files, true],
    sources: [sources, true], weights: [weights], conformance: [conformance], environment: [environment],
    labels: [labels], capacity: [() => capacity(model.slo)],
  };
  const places = [];
  for (const [name, [build, wide]] of Object.entries(cards)) {
    const card = h("div", { className: `card${wide ? " wide" : ""}`, id: `inspector-${name}`, tabindex: "-1" }, h("h2", { t: name === "identity" ? "identity" : `${name}_title` }));
    $("inspector").append(card);
    places.push([card, build]);
  }
  for (const [card, build] of places) card.append(...[build()].flat().filter(Boolean)); // plots need a width
}

const pairs = (rows) => h("dl", { className: "pairs" }, rows.filter(([, value]) => value !== null && value !== undefined).flatMap(([key, value]) => [h("dt", { t: key }), h("dd", {}, value)]));
const mono = (value) => h("span", { className: "mono" }, value);
const bytes = (count) => (count < 1e6 ? `${number(count / 1e3)} kB` : `${number(count / 1e6)} MB`);

function table(headings, rows) {
  const numeric = (key) => ["size", "values", "max_difference", "agreement", "accuracy", "fastest"].includes(key);
  return h("div", { className: "scroll", tabindex: "0" }, h("table", {},
    h("thead", {}, h("tr", {}, headings.map((key) => h("th", { scope: "col", className: numeric(key) ? "number" : null, t: key })))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, index) => h("td", { className: numeric(headings[index]) ? "number" : null }, cell)))))));
}

function identity() {
  const imported = data.imported;
  return pairs([
    ["tag", mono(data.tag)], ["manifest_digest", mono(data.manifest_sha256)], ["evidence_digest", mono(data.evidence_sha256)],
    ["signature", h("span", { className: data.signature === "verified" ? "good" : "warn", t: `signature_state_${data.signature}` })],
    ["schema", String(data.schema_version)],
    ["architecture", data.architecture === null ? h("span", { t: "finished_graph" }) : mono(data.architecture)],
    ["imported_at", imported.imported_at], ["import_command", mono(imported.command)],
    ["import_machine", h("span", {}, `${imported.machine.cpu}, `, h("span", { t: ["cores", { n: imported.machine.cores }] }))],
    ["commit", imported.source_commit && mono(imported.source_commit)],
  ]);
}

function proof() {
  return h("ul", { className: "proof" }, data.proof.map((one) => {
    const values = { ...one.values };
    for (const share of ["agreement", "required"]) if (share in values) values[share] = `${number(100 * values[share], 4)} %`;
    return h("li", {}, h("span", { className: one.proven ? "good" : "warn", t: one.proven ? "proven" : "unproven" }), h("span", { t: [`proof_${one.code}`, values] }));
  }));
}

function files() {
  const rows = data.files.map((file) => [mono(file.name), bytes(file.size_bytes), file.pinned_by === "nothing" ? h("span", { t: "nothing" }) : file.pinned_by,
    file.sha256 ? mono(`${file.sha256.slice(0, 16)}…`) : "–"]);
  return [h("p", { className: "note", t: "files_note" }), table(["file", "size", "pinned_by", "sha256"], rows)];
}

function weights() {
  if (!data.tensors.length) return h("p", { t: "no_weights" });
  const count = (shape) => shape.reduce((product, side) => product * side, 1);
  const total = data.tensors.reduce((sum, tensor) => sum + count(tensor.shape), 0);
  const size = data.files.filter((file) => file.name.endsWith(".safetensors")).reduce((sum, file) => sum + file.size_bytes, 0);
  return [h("p", { className: "note", t: ["weights_summary", { tensors: data.tensors.length, parameters: total, size: bytes(size) }] }),
    table(["tensor", "shape", "type", "values"], data.tensors.map((tensor) => [mono(tensor.name), mono(`(${tensor.shape.join(", ")})`), tensor.dtype, number(count(tensor.shape))]))];
}

function labels() {
  const list = h("ol", { className: "labels", tabindex: "0", label: "labels_title" });
  const shown = h("span", { className: "small-text", role: "status" });
  const search = h("input", { type: "search", label: "search_labels" });
  const show = () => {
    const wanted = search.value.toLocaleLowerCase();
    const found = data.labels.map((label, index) => [label, index]).filter(([label, index]) => label.toLocaleLowerCase().includes(wanted) || String(index) === wanted);
    list.replaceChildren(...found.map(([label, index]) => h("li", {}, h("span", { className: "small-text mono" }, `${index} `), label)));
    translate(shown, "shown_labels", { n: found.length, total: data.labels.length });
  };
  search.addEventListener("input", show);
  show();
  return [h("p", { className: "row" }, search, shown), list];
}

function sources() {
  return data.sources.map((source, index) => h("details", { open: index === 0 }, h("summary", { className: "mono" }, source.name),
    highlighted(source.text, source.name.endsWith(".py") ? "python" : "json")));
}

function engines() {
  const rows = data.engines.map(({ attempt, certificate, serves }) => {
    const verdict = serves ? "serves" : attempt.verdict;
    const percent = (share) => (share === null || share === undefined ? "–" : `${number(100 * share, 4)} %`);
    const best = attempt.compared?.images_per_s ?? Math.max(0, ...attempt.curve.map((point) => point.images_per_s));
    const reason = serves
      ? h("span", { className: "small-text", t: ["why_serves", { rate: 1e3 / data.plan.service_time_ms, batches: data.plan.batch_sizes.join(", ") }] })
      : h("span", { className: "small-text" }, attempt.reason);
    return [mono(attempt.engine), h("span", {}, h("span", { className: serves || verdict === "passed" ? "good" : "bad", t: `verdict_${verdict}` }), h("br"), reason),
      number(certificate?.max_logit_difference ?? "–"), percent(certificate?.top1_agreement ?? certificate?.label_agreement),
      certificate?.accuracy == null ? "–" : `${percent(certificate.accuracy)} (${percent(certificate.reference_accuracy)})`, best ? number(best, 4) : "–"];
  });
  return table(["engine", "verdict", "max_difference", "agreement", "accuracy", "fastest"], rows);
}

function curves() {
  const lines = data.engines.flatMap(({ attempt }) => [...new Set(attempt.curve.map((point) => point.streams))].map((streams) => [`${attempt.engine} ×${streams}`, attempt.curve.filter((point) => point.streams === streams)]));
  if (!lines.length) return h("p", { t: "no_curves" });
  const sizes = [...new Set(lines.flatMap(([, points]) => points.map((point) => point.batch_size)))].sort((a, b) => a - b);
  const place = h("div", { className: "plots" });
  queueMicrotask(() => {
    for (const field of ["latency_ms", "images_per_s"]) {
      const box = h("div", { className: "plot" }, h("h3", { t: field }));
      place.append(box);
      const canvas = h("div", { role: "img", "aria-label": `${text(field)}: ${lines.map(([name, points]) => `${name} ${points.map((point) => `${point.batch_size}: ${number(point[field])}`).join(", ")}`).join("; ")}` });
      box.append(canvas);
      plot(canvas, { series: lines.map(([name]) => name), xLabel: "batch_size", logarithmic: true, height: 220,
        data: [sizes, ...lines.map(([, points]) => sizes.map((size) => points.find((point) => point.batch_size === size)?.[field] ?? null))] });
    }
  });
  return [h("p", { className: "note", t: "curves_note" }), place];
}

function capacity(slo) {
  if (!slo) return h("p", { className: "note", t: "no_capacity" });
  return pairs([["highest_rate", `${number(slo.highest_rate_per_s)}/s (p99 ${number(slo.p99_ms)} ≤ ${number(slo.budget_ms)} ms)`], ["first_failed", slo.first_failed_rate_per_s === null ? null : `${number(slo.first_failed_rate_per_s)}/s`],
    ["saturated", `${number(slo.saturated_per_s)}/s`], ["processor", slo.machine.cpu], ["measured", slo.measured_at], ["rule", slo.rule]]);
}

function conformance() {
  const cases = Object.entries(data.conformance);
  return [h("p", { className: "note", t: ["conformance_note", { n: cases.length }] }), table(["case", "outcome"], cases.map(([name, outcome]) => [mono(name), mono(outcome.length > 32 ? `${outcome.slice(0, 16)}…` : outcome)]))];
}

function environment() {
  const here = data.environment;
  const names = [...new Set([...Object.keys(here.packages), ...Object.keys(here.packages_at_import)])].sort();
  return [pairs([["python", here.python], ["platform", here.platform], ["processor", h("span", {}, `${here.machine.cpu}, `, h("span", { t: ["cores", { n: here.machine.cores }] }))],
    ["gpu", here.machine.accelerator ?? h("span", { t: "none" })], ["requirements", here.requirements_sha256 && mono(here.requirements_sha256)],
    ["bento", here.bento ? mono(here.bento) : h("span", { t: "checkout" })]]),
  table(["package", "here", "at_import"], names.map((name) => [name, here.packages[name] ?? "–", here.packages_at_import[name] ?? "–"]))];
}
