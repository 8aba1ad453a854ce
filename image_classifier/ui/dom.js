// Elements made of text and nodes. No HTML is parsed anywhere: the page forbids it (trusted types).

import { translate } from "./i18n.js";

/** Make an element: `t` is a text of the dictionary, `[key, values]`; `style` a map of properties. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "t") translate(element, ...[value].flat());
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "label") translate(element, value, {}, true);
    else element.setAttribute(name === "className" ? "class" : name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const $ = (id) => document.getElementById(id);

/** A block of text with a button that copies it. */
export function copyable(title, text) {
  const button = h("button", { type: "button", className: "small", t: "copy" });
  button.addEventListener("click", async () => {
    await navigator.clipboard?.writeText(text);
    translate(button, "copied");
    setTimeout(() => translate(button, "copy"), 1500);
  });
  return h("div", { className: "copy" }, h("div", { className: "row" }, typeof title === "string" ? h("span", { className: "small-text" }, title) : title, button), h("pre", { tabindex: "0" }, text));
}

/** Bars on a common scale: [name element, begin, length, text]. */
export function lanes(rows, className) {
  const end = Math.max(...rows.map(([, begin, length]) => begin + length), 1e-9);
  return h("div", { className }, rows.flatMap(([name, begin, length, text]) => [
    h("span", {}, name),
    h("span", { className: "lane" }, h("i", { style: { left: `${(100 * begin) / end}%`, width: `${(100 * length) / end}%` } })),
    h("span", { className: "number" }, text),
  ]));
}

/** Tokens of Prism as elements; plain text where Prism does not know the language. */
export function highlighted(text, language) {
  const grammar = globalThis.Prism?.languages[language];
  const nodes = (tokens) => [tokens].flat().map((token) =>
    typeof token === "string" ? token : h("span", { className: `token ${token.type}` }, nodes(token.content)));
  return h("pre", { tabindex: "0" }, h("code", {}, grammar ? nodes(globalThis.Prism.tokenize(text, grammar)) : text));
}
