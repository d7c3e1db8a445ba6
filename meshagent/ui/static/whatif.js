// What would be: the verdict on a request that nobody makes, and what documents would change that nobody applied.

import { Problem, ask } from "./ask.js";
import { badge, diff, field, h, part } from "./dom.js";
import { count } from "./format.js";
import { table } from "./table.js";

export const every = 0;
const EXAMPLE = "kind: intention\nname: payments\nsources:\n- name: web\n  action: allow\n";
const state = { source: "", destination: "", method: "", path: "", header: "", answer: null, text: "", outcome: null };

export async function load(asked) {
  if (asked.source) Object.assign(state, { source: asked.source, destination: asked.destination ?? "", answer: null });
  const mesh = await ask("mesh");
  if (asked.source && state.destination) await explain();
  return { services: mesh.services, revision: mesh.revision };
}

export function draw(data, asked, redraw) {
  return [
    h("h1", { tabindex: "-1" }, "What if"),
    h(
      "p",
      { class: "lead" },
      "Worked out from the policy in force, by the same functions as ",
      h("code", {}, "meshagent explain"),
      " and ",
      h("code", {}, "policy plan"),
      ". Nothing is changed here.",
    ),
    request(data, redraw),
    documents(data, redraw),
  ];
}

async function explain() {
  const { source, destination, method, path, header } = state;
  try {
    state.answer = await ask("explain", { source, destination, method, path, header });
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    state.answer = problem;
  }
}

function request(data, redraw) {
  const text = (name, placeholder, list) =>
    h("input", {
      id: `ask-${name}`,
      value: state[name],
      placeholder,
      list,
      autocomplete: "off",
      spellcheck: "false",
      on: {
        input: (event) => {
          state[name] = event.target.value.trim();
        },
      },
    });
  const send = async (event) => {
    event.preventDefault();
    await explain();
    redraw();
  };
  const form = h(
    "form",
    { class: "bar", on: { submit: send } },
    field("Source", text("source", "web", "known")),
    field("Destination", text("destination", "payments", "known")),
    field("Method", text("method", "any")),
    field("Path", text("path", "any")),
    field("Header", text("header", "name=value")),
    h("button", { class: "main", id: "ask-send" }, "Ask"),
    h(
      "datalist",
      { id: "known" },
      data.services.map((name) => h("option", { value: name })),
    ),
  );
  return part("A request", form, h("div", { "aria-live": "polite" }, verdict(state.answer)));
}

function verdict(answer) {
  if (!answer) return null;
  if (answer instanceof Problem) return h("div", { class: "note bad" }, h("p", {}, answer.message));
  const tone = answer.allowed ? "good" : answer.outcome === "depends" ? "warn" : "bad";
  const rows = answer.instances.map((each) => ({ ...each, place: `${each.address}:${each.port}` }));
  return [
    h(
      "div",
      { class: `note ${tone}` },
      h("pre", { class: "wrapped", tabindex: "0", role: "region", "aria-label": "The verdict" }, answer.words),
    ),
    answer.doubts.map((each) => h("p", { class: "note warn" }, each)),
    h("h3", {}, "Instances that it would reach"),
    table({
      id: "reached",
      caption: "Instances that the call would reach",
      columns: REACHED,
      rows,
      redraw: () => {},
      empty: "None.",
    }),
    answer.settings.length > 0 && h("h3", {}, "What holds on the way there"),
    answer.settings.length > 0 &&
      table({ id: "held", caption: "Settings of the call", columns: HELD, rows: answer.settings, redraw: () => {} }),
  ];
}

const REACHED = [
  { title: "Instance", value: (row) => row.id },
  { title: "Service", value: (row) => row.service },
  { title: "Host", value: (row) => row.host },
  { title: "Address", value: (row) => row.place },
  {
    title: "Health",
    value: (row) => row.health,
    cell: (row) => badge(row.health, row.health === "passing" ? "good" : "bad"),
  },
  { title: "Called", value: (row) => (row.called ? "yes" : "no") },
];

const HELD = [
  { title: "Setting", value: (row) => row.name },
  { title: "Value", value: (row) => row.words },
  { title: "Said by", value: (row) => row.level },
  { title: "From", value: (row) => (row.level === "built-in" ? "" : row.origin) },
];

function documents(data, redraw) {
  const area = h("textarea", {
    id: "documents",
    rows: 10,
    spellcheck: "false",
    placeholder: EXAMPLE,
    on: {
      input: (event) => {
        state.text = event.target.value;
      },
    },
  });
  area.value = state.text;
  const send = async (event) => {
    event.preventDefault();
    try {
      state.outcome = await ask("what-if", { documents: state.text });
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      state.outcome = { problems: [problem.message] };
    }
    redraw();
  };
  return part(
    "Documents",
    h(
      "form",
      { on: { submit: send } },
      h("label", { class: "field wide" }, h("span", {}, "Policy documents (YAML)"), area),
      h("p", {}, h("button", { class: "main", id: "plan" }, "See what would change")),
    ),
    h("div", { "aria-live": "polite" }, outcome(state.outcome, redraw)),
  );
}

function outcome(found, redraw) {
  if (!found) return null;
  if (found.problems.length) {
    return h(
      "div",
      { class: "note bad" },
      h("p", {}, "These could not be applied:"),
      h(
        "ul",
        {},
        found.problems.map((each) => h("li", { class: "mono" }, each)),
      ),
    );
  }
  const { calls, observed, ways, settings } = found.plan;
  const rows = [
    ...calls.map((row) => ({ ...row, what: row.turn })),
    ...observed.map((row) => ({ ...row, what: "was seen" })),
    ...ways.map((row) => ({ ...row, what: "goes elsewhere" })),
    ...settings.map((row) => ({ ...row, what: "setting" })),
  ];
  return [
    found.warnings.map((each) => h("p", { class: "note warn" }, each)),
    h("h3", {}, rows.length ? `${count(rows.length, "effect")}` : "Nothing would change for any call"),
    rows.length > 0 && table({ id: "effects", caption: "What would change", columns: EFFECTS, rows, redraw }),
    found.diffs.map((each) => [
      h("h3", {}, `${each.kind} ${each.name}`),
      diff(each.diff, `Difference of ${each.kind} ${each.name}`),
    ]),
  ];
}

const TONES = { gains: "warn", widens: "warn", loses: "bad", narrows: "bad", differs: "quiet", "was seen": "bad" };
const EFFECTS = [
  { title: "What", value: (row) => row.what, cell: (row) => badge(row.what, TONES[row.what] ?? "quiet") },
  { title: "In words", value: (row) => row.words },
  { title: "By", value: (row) => row.rule ?? "" },
];
