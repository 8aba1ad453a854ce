// Try it: classify images, show bars, time and what the model sees.

import { ask, exchange } from "./api.js";
import { $, copyable, h, lanes } from "./dom.js";
import { number, translate } from "./i18n.js";

const KEPT = 24; // results on the page; older ones are dropped
let model;

export function showTry(loaded, inspection) {
  model = loaded;
  $("top-k").max = model.labels.length;
  $("top-k").value = Math.min(5, model.labels.length);
  $("top-k").addEventListener("input", showRequests);
  showRequests();
  for (const [button, input] of [["pick", "file"], ["photo", "camera"]]) {
    $(button).addEventListener("click", () => $(input).click());
    $(input).addEventListener("change", () => { classifyAll($(input).files); $(input).value = ""; });
  }
  const drop = $("drop");
  for (const type of ["dragover", "dragenter"]) drop.addEventListener(type, (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());
  drop.addEventListener("drop", (event) => { drop.classList.remove("over"); classifyAll(event.dataTransfer.files); });
  addEventListener("paste", (event) => { if (!$("view-try").hidden) classifyAll(event.clipboardData.files); });
  $("samples").append(...inspection.golden.map((golden, index) => {
    const name = golden.label === null ? golden.name : `${golden.name} (${golden.label})`;
    const address = `api/golden/${index}`;
    return h("button", { type: "button", title: name, onclick: async () => {
      const data = await fetch(address).then((answer) => answer.blob());
      classifyAll([new File([data], golden.name)]);
    } }, h("img", { src: address, alt: name, loading: "lazy" }));
  }));
}

async function classifyAll(files) {
  for (const file of [...files].slice(0, KEPT)) await classify(file);
}

/** The title of a block of text that is copied. */
const titled = (key) => h("span", { className: "small-text", t: key });

function showRequests() {
  const address = new URL("../classify", location.href).href;
  const query = `?top_k=${Number($("top-k").value) || 1}`;
  const python = `import json, urllib.request

request = urllib.request.Request(
    "${address}${query}", data=open("photo.jpg", "rb").read(),
    headers={"Content-Type": "application/octet-stream"},
)
print(json.load(urllib.request.urlopen(request))["predictions"])`;
  $("requests").replaceChildren(
    copyable(titled("curl_raw"), `curl -T photo.jpg '${address}${query}'`),
    copyable(titled("curl_form"), `curl -F image=@photo.jpg -F top_k=${Number($("top-k").value) || 1} '${address}'`),
    copyable(titled("python_client"), python),
  );
}

async function classify(file) {
  const picture = h("img", { src: URL.createObjectURL(file), alt: file.name });
  const bars = h("div", {}, h("p", { t: "waiting" }));
  const times = h("div");
  const traced = h("div", { className: "traced" });
  const see = h("button", { type: "button", t: "see", onclick: () => showSteps(file, traced, see) });
  const card = h("article", { className: "card", "aria-label": file.name },
    h("div", { className: "result" }, h("figure", {}, picture, h("figcaption", {}, `${file.name} · ${number(file.size / 1024)} kB`)), bars, times),
    h("p", { className: "row" }, see), traced);
  $("results").prepend(card);
  while ($("results").children.length > KEPT) $("results").lastElementChild.remove();
  try {
    const { answer, headers, milliseconds } = await exchange(`../classify?top_k=${$("top-k").value}`, {
      method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    bars.replaceChildren(...barsOf(answer.predictions));
    times.replaceChildren(...waterfall(headers.get("server-timing") ?? "", milliseconds));
  } catch (error) {
    bars.replaceChildren(...failure(error));
    see.remove();
  } finally {
    picture.addEventListener("load", () => URL.revokeObjectURL(picture.src), { once: true });
  }
}

function failure(error) {
  return [h("p", { className: "error", t: `error_${error.code ?? "unreachable"}` }),
    h("p", { className: "small-text" }, `${error.status ?? ""} ${error.code ?? ""} ${error.message}`)];
}

function barsOf(predictions) {
  const { activation, threshold } = model.outputs;
  const valueOf = (one) => one.probability ?? one.score;
  const largest = activation === "none" ? Math.max(...predictions.map((one) => Math.abs(one.score)), 1e-9) : 1;
  const items = predictions.map((one) => h("li", {},
    h("i", { className: "fill", style: { width: `${(100 * Math.abs(valueOf(one))) / largest}%` } }),
    threshold !== null && activation === "sigmoid" ? h("i", { className: "threshold", style: { width: `${100 * threshold}%` } }) : null,
    h("span", {}, one.label),
    h("span", { className: "value" }, activation === "none" ? number(valueOf(one), 5) : `${number(100 * valueOf(one), 4)} %`)));
  const notes = [h("p", { className: "small-text", t: `${activation}_note` })];
  if (threshold !== null) notes.push(h("p", { className: "small-text", t: ["threshold_note", { threshold }] }));
  return [h("h3", { t: "predictions" }), items.length ? h("ol", { className: "bars" }, items) : h("p", { t: ["no_prediction", { threshold }] }), ...notes];
}

function waterfall(header, total) {
  const parts = [...header.matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, value]) => [name, Number(value)]);
  const order = ["queue", "decode", "infer"].map((name) => parts.find(([other]) => other === name)).filter(Boolean);
  const network = Math.max(0, total - parts.reduce((sum, [, value]) => sum + value, 0));
  let begin = 0;
  const rows = [["upload", network], ...order].map(([name, value]) => {
    const row = [h("span", { t: name }), begin, value, `${number(value)} ms`];
    begin += value;
    return row;
  });
  return [h("h3", { t: "time_title" }), lanes(rows, "waterfall"), h("p", { className: "small-text", t: ["total_time", { ms: total }] })];
}

async function showSteps(file, place, button) {
  button.disabled = true;
  try {
    const steps = await ask("api/trace", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    place.replaceChildren(...steps.map((step) => h("figure", {},
      h("img", { src: `data:image/png;base64,${step.picture}`, alt: "" }),
      h("figcaption", {}, h("strong", { t: `step_${step.name}` }),
        h("span", {}, `${step.width} × ${step.height} ${step.mode}`), h("br"),
        h("span", { t: ["range", { low: step.minimum, high: step.maximum }] }),
        step.milliseconds === null ? null : h("span", {}, ` · ${number(step.milliseconds)} ms`),
        step.name === "normalise" ? h("span", {}, h("br"), h("span", { t: "normalise_note" })) : null))));
  } catch (error) {
    place.replaceChildren(h("div", {}, failure(error)));
  }
  button.disabled = false;
}
