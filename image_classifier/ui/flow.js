// The deployment flow: the measured start of this process, the next commands, and a replay.

import { ask } from "./api.js";
import { $, copyable, h, lanes } from "./dom.js";
import { number, text, translate } from "./i18n.js";
import { CARDS, showInspector } from "./inspector.js";

const PAUSE_MS = 1100;
const PRODUCES = {
  import: ["weights", "sources", "labels", "engines", "curves", "conformance", "proof"], verify: ["files"], sign: ["identity"],
  build: ["environment"], image: ["environment"], start: ["files", "engines", "conformance"], ready: ["identity", "capacity", "proof"],
};
let inspection, start, position = -1, timer, unready = "";

export async function showFlow(model, loaded) {
  inspection = loaded;
  if (!$("inspector").children.length) queueMicrotask(() => showInspector(model, loaded));
  await showStart();
  $("produced").append(...CARDS.map((name) => h("li", {}, h("a", { href: `#inspector/${name}`, id: `produced-${name}`, t: name === "identity" ? "identity" : `${name}_title` }))));
  $("flow-steps").append(...Object.keys(PRODUCES).map((name) => h("li", { id: `step-${name}`, t: `flow_${name}` })));
  const commands = commandsOf();
  $("next-commands").append(...["verify", "sign", "build", "image"].map((name) => copyable(h("span", { className: "small-text", t: `flow_${name}` }), commands[name])));
  print("recorded", text("log_lines"));
  start.lines.forEach((line) => print("", line));
  follow();
  $("simulate").addEventListener("click", () => { restart(); play(); });
  $("next-step").addEventListener("click", () => { clearTimeout(timer); if (position >= Object.keys(PRODUCES).length - 1) restart(); advance(); });
}

async function showStart() {
  start = await ask("api/start");
  $("timeline").replaceChildren(timeline());
}

/** While the process starts anew, print each step; once it answers again, show the start's times. */
async function follow() {
  if (!$("view-flow").hidden && !document.hidden) {
    let state = "";
    try {
      await ask("../readyz");
      if (unready) {
        await showStart();
        start.lines.forEach((line) => print("", line));
      }
    } catch (error) {
      state = error.message || text("error_unreachable");
      if (state !== unready) print("recorded", state);
    }
    unready = state;
  }
  setTimeout(follow, unready ? 100 : 1000);
}

function timeline() {
  const first = Math.min(...start.steps.map(([, begin]) => begin), start.uptime_s);
  const rows = [["process", 0, first], ...start.steps].sort((a, b) => a[1] - b[1]);
  return lanes(rows.map(([name, begin, seconds, service]) => [h("span", {}, service ? `${service}: ` : "", h("span", { t: `start_${name}` })), begin, seconds, `${number(seconds)} s`]), "timeline");
}

function commandsOf() {
  const path = `$(.venv/bin/bentoml models get ${inspection.tag} -o path)`;
  return {
    import: inspection.imported.command,
    verify: `.venv/bin/python model_import.py verify ${inspection.tag}`,
    sign: `MODEL=${path}\n.venv/bin/model_signing sign key --private_key model.pem --signature "$MODEL/model.sig" \\\n    --ignore-paths "$MODEL/model.yaml" --ignore-paths "$MODEL/record.json" \\\n    --ignore-paths "$MODEL/slo.json" "$MODEL"`,
    build: "make bento && make verify-rebuild",
    image: "make image && make image-test",
    start: `${inspection.environment.bento ? `bentoml serve ${inspection.environment.bento}` : "make serve"}`,
    ready: `curl -i '${new URL("../readyz", location.href).href}'`,
  };
}

function outputOf(name) {
  const imported = inspection.imported;
  if (name === "import") {
    const engines = inspection.engines.map(({ attempt, certificate, serves }) => `${attempt.engine.padEnd(20)} ${String(certificate?.max_logit_difference ?? "–").padEnd(10)} ${serves ? "chosen" : attempt.verdict} ${attempt.reason}`);
    return [text("recorded", { when: imported.imported_at }), `${imported.machine.cpu}, ${imported.machine.cores} cores`, ...engines, `imported: ${inspection.tag}`];
  }
  if (name === "build") {
    const record = inspection.environment.bento_record;
    return record ? [text("recorded_build"), ...record.split("\n").slice(0, 40)] : [text("no_recording")];
  }
  if (name === "start") return [text("measured_start", { process: String(start.process) }), ...start.steps.map(([step, , seconds, service]) => `${step.padEnd(16)} ${seconds.toFixed(3)} s ${service}`), ...start.lines.filter((line) => line.includes("serving:"))];
  if (name === "ready") return [text("measured_start", { process: String(start.process) }), `ready ${Math.max(0, ...start.steps.map(([, begin, seconds]) => begin + seconds)).toFixed(2)} s after the process began`];
  if (name === "sign" && inspection.signature !== "none") return [text(`signature_state_${inspection.signature}`)];
  return [text("not_recorded")];
}

function print(kind, line) {
  const terminal = $("terminal");
  terminal.append(h("div", { className: kind || null }, line));
  while (terminal.children.length > 500) terminal.firstChild.remove();
  terminal.scrollTop = terminal.scrollHeight;
}

function restart() {
  clearTimeout(timer);
  position = -1;
  $("terminal").replaceChildren();
  for (const lit of document.querySelectorAll(".lit")) lit.classList.remove("lit");
  for (const step of $("flow-steps").children) { step.classList.remove("done"); step.removeAttribute("aria-current"); }
}

function advance() {
  const names = Object.keys(PRODUCES);
  if (position >= 0) { const before = $(`step-${names[position]}`); before.classList.add("done"); before.removeAttribute("aria-current"); }
  position += 1;
  if (position >= names.length) {
    translate($("flow-status"), "replay_done");
    return false;
  }
  const name = names[position];
  $(`step-${name}`).setAttribute("aria-current", "step");
  translate($("flow-status"), "replaying", { step: text(`flow_${name}`) });
  print("command", `$ ${commandsOf()[name]}`);
  outputOf(name).forEach((line, index) => print(index === 0 && line.startsWith("#") ? "recorded" : "", line));
  for (const card of PRODUCES[name]) for (const element of [$(`produced-${card}`), $(`inspector-${card}`)]) element?.classList.add("lit");
  return true;
}

function play() {
  if (advance()) timer = setTimeout(play, PAUSE_MS);
}
