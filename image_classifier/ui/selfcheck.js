// The self-check: every golden sample through the path of requests.

import { ask } from "./api.js";
import { $, h } from "./dom.js";
import { number, translate } from "./i18n.js";

export function showSelfCheck(_, inspection) {
  const button = $("run-selfcheck");
  button.addEventListener("click", async () => {
    button.disabled = true;
    const { certificate } = inspection.engines.find((engine) => engine.serves);
    await run(inspection.golden.length, certificate.required_agreement);
    button.disabled = false;
  });
  $("selfcheck-rows").replaceChildren(...inspection.golden.map((golden) => h("tr", {}, h("td", {}, golden.name), h("td", {}, golden.label ?? ""), h("td", { colspan: "4" }))));
}

async function run(count, requiredShare) {
  $("selfcheck-rows").replaceChildren();
  let passed = 0, largest = 0;
  for (let index = 0; index < count; index += 1) {
    let cells;
    try {
      const check = await ask(`api/selfcheck/${index}`, { method: "POST" });
      passed += check.passed ? 1 : 0;
      largest = Math.max(largest, check.max_logit_difference);
      cells = [h("td", {}, check.name), h("td", {}, check.expected), h("td", {}, check.served), h("td", { className: "number" }, number(check.max_logit_difference, 2)),
        h("td", { className: "number" }, number(check.milliseconds)), h("td", { className: check.passed ? "good" : "bad", t: check.passed ? "passed" : "failed" })];
    } catch (error) {
      cells = [h("td", {}, String(index)), h("td", { colspan: "5", className: "bad", t: `error_${error.code ?? "unreachable"}` })];
    }
    $("selfcheck-rows").append(h("tr", {}, cells));
    translate($("selfcheck-summary"), "selfcheck_summary", { passed, total: index + 1, difference: largest });
  }
  $("selfcheck-summary").className = passed >= requiredShare * count ? "good" : "bad";
}
