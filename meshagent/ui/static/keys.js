// Keys: `g` and a letter go to a page. Who dictates, or has a program that presses keys, can turn them off.

import { h } from "./dom.js";

const GO = {
  t: ["topology", "Topology"],
  i: ["intentions", "Intentions"],
  w: ["what-if", "What if"],
  s: ["services", "Services"],
  h: ["hosts", "Hosts"],
  c: ["certificates", "Certificates"],
  y: ["history", "History"],
  r: ["refusals", "Refusals"],
};
const OFF = "keys-off";
const PATIENCE = 1500; // milliseconds between g and its letter
let began = 0;

/** Listen. `go(page)` and `theme()` do what the keys say. */
export function onKey({ go, theme }) {
  document.addEventListener("keydown", (event) => {
    if (localStorage.getItem(OFF) || event.ctrlKey || event.metaKey || event.altKey || writes(event.target)) return;
    const after = performance.now() - began < PATIENCE;
    began = 0;
    if (after && GO[event.key]) go(GO[event.key][0]);
    else if (event.key === "g") began = performance.now();
    else if (event.key === "?") openHelp();
    else if (event.key === "d") theme();
    else if (event.key === "/") toFilter(event);
  });
}

/** The list of keys. */
export function openHelp() {
  const help = document.getElementById("help");
  const rows = [
    ...Object.entries(GO).map(([key, [, title]]) => [["g", key], title]),
    [["/"], "to the filter of the page"],
    [["d"], "dark, light, or as the system has it"],
    [["?"], "this list"],
    [["←", "↑", "→", "↓"], "in the matrix of intentions: from cell to cell, Enter shows who says so"],
  ];
  const off = h("input", { type: "checkbox", id: "keys-off", on: { change: (event) => turn(event.target.checked) } });
  off.checked = Boolean(localStorage.getItem(OFF));
  help.replaceChildren(
    h("h2", { id: "help-title" }, "Keys"),
    h("table", {}, h("caption", { class: "unseen" }, "Keys and what they do"), h("tbody", {}, rows.map(row))),
    h("p", {}, h("label", { class: "check" }, off, "No keys of a single letter")),
    h("form", { method: "dialog" }, h("button", { class: "main" }, "Close")),
  );
  if (!help.open) help.showModal();
}

function row([keys, does]) {
  const shown = keys.flatMap((key, index) => [index ? " " : "", h("kbd", {}, key)]);
  return h("tr", {}, h("th", { scope: "row" }, shown), h("td", {}, does));
}

function turn(off) {
  if (off) localStorage.setItem(OFF, "yes");
  else localStorage.removeItem(OFF);
}

function writes(target) {
  return target instanceof Element && target.matches("input, select, textarea, dialog *");
}

function toFilter(event) {
  const field = document.querySelector("main [data-filter]");
  if (!field) return;
  event.preventDefault();
  field.focus();
}
