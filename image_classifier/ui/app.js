// Starts the page: which view is shown, language, colours, facts in the header.

import { ask } from "./api.js";
import { $, h } from "./dom.js";
import { currentLanguage, setLanguage, translate } from "./i18n.js";
import { showFlow } from "./flow.js";
import { showInspector } from "./inspector.js";
import { showLive } from "./live.js";
import { recolour } from "./plot.js";
import { showSelfCheck } from "./selfcheck.js";
import { showTry } from "./try.js";

const SHOW = { try: showTry, inspector: showInspector, selfcheck: showSelfCheck, flow: showFlow, live: showLive };
let model, inspection;
const shown = new Set();

function go() {
  const [view] = location.hash.slice(1).split("/");
  const name = view in SHOW ? view : "try";
  for (const other of Object.keys(SHOW)) {
    $(`view-${other}`).hidden = other !== name;
    const link = document.querySelector(`nav a[href="#${other}"]`);
    if (other === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!shown.has(name)) {
    shown.add(name);
    SHOW[name](model, inspection);
  }
  document.dispatchEvent(new CustomEvent("view", { detail: name }));
  scrollTo(0, 0);
  const card = location.hash.includes("/") ? document.getElementById(location.hash.slice(1).replace("/", "-")) : null;
  if (card) {
    card.scrollIntoView({ block: "center" });
    card.focus({ preventScroll: true });
  }
}

function theme(choice) {
  if (choice === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
  recolour();
}

async function header() {
  $("model-name").textContent = model.name;
  document.title = `${model.name} · ${inspection.tag}`;
  const state = h("span");
  const ready = await fetch("../readyz").then((answer) => answer.ok, () => false);
  state.className = ready ? "good" : "bad";
  translate(state, ready ? "ready" : "not_ready");
  $("model-facts").append(
    state, h("span", { className: "mono" }, inspection.tag),
    h("span", {}, `${model.engine.name} · ${model.topology}`),
    h("span", { t: ["classes", { n: model.labels.length }] }),
  );
}

$("language").value = currentLanguage();
$("language").addEventListener("change", (event) => {
  localStorage.setItem("language", event.target.value);
  setLanguage(event.target.value);
  recolour();
});
$("theme").value = localStorage.getItem("theme") ?? "auto";
theme($("theme").value);
$("theme").addEventListener("change", (event) => {
  localStorage.setItem("theme", event.target.value);
  theme(event.target.value);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
setLanguage(currentLanguage());

try {
  [model, inspection] = await Promise.all([ask("../model"), ask("api/inspection")]);
  await header();
  addEventListener("hashchange", go);
  go();
} catch (error) {
  $("failure").hidden = false;
  translate($("failure"), `error_${error.code ?? "unreachable"}`);
  throw error;
}
