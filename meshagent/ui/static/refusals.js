// Calls that were refused or failed on this host, newest first, each with the reason and what to do about it.

import { ask } from "./ask.js";
import { asking, badge, facts, h, link, part } from "./dom.js";
import { milliseconds, moment } from "./format.js";
import { filter, matches, table } from "./table.js";

export const every = 3;
const state = { wanted: "", at: "" };

export function load() {
  return ask("refusals");
}

export function draw(data, asked, redraw) {
  const rows = data.requests.filter((row) =>
    matches([row.source, row.destination, row.reason, row.method, row.path, row.ticket].join(" "), state.wanted),
  );
  const choose = (row) =>
    h(
      "button",
      {
        type: "button",
        id: `at ${key(row)}`,
        "aria-label": `Why ${row.source} to ${row.destination} at ${moment(row.time)}`,
        on: {
          click: () => {
            state.at = key(row);
            redraw();
          },
        },
      },
      "Why",
    );
  const columns = [...COLUMNS, { title: "More", value: (row) => row.ticket, cell: choose }];
  return [
    h("h1", { tabindex: "-1" }, "Refusals"),
    h(
      "p",
      { class: "lead" },
      `Calls that did not come to a good end, as the proxy of ${data.host || "this host"} logged them, the newest first.`,
    ),
    data.why && h("p", { class: "note warn" }, data.why),
    h(
      "div",
      { class: "bar" },
      filter("refusals-filter", "Service, reason, path or ticket", state.wanted, (value) => {
        state.wanted = value;
        redraw();
      }),
    ),
    tally(rows),
    h(
      "div",
      { class: "two" },
      h(
        "section",
        { class: "part", "aria-label": "Refusals" },
        table({
          id: "refusals",
          caption: "Refused and failed calls",
          columns,
          rows,
          redraw,
          empty: "None: nothing was refused, or nothing is logged.",
        }),
      ),
      details(
        rows.find((row) => key(row) === state.at),
        data.reasons,
      ),
    ),
  ];
}

function key(row) {
  return `${row.time} ${row.ticket} ${row.side} ${row.source} ${row.destination}`;
}

function tally(rows) {
  const found = new Map();
  for (const row of rows) found.set(row.reason, (found.get(row.reason) ?? 0) + 1);
  const most = [...found].sort((one, other) => other[1] - one[1]).slice(0, 6);
  return (
    most.length > 0 &&
    h(
      "ul",
      { class: "stats" },
      most.map(([reason, times]) => h("li", {}, h("b", {}, String(times)), h("span", {}, reason))),
    )
  );
}

const COLUMNS = [
  { title: "At", value: (row) => row.time, cell: (row) => moment(row.time) },
  { title: "From", value: (row) => row.source || "somebody unknown" },
  { title: "To", value: (row) => row.destination },
  { title: "Reason", value: (row) => row.reason, cell: (row) => badge(row.reason, "bad") },
  {
    title: "Request",
    value: (row) => `${row.method} ${row.path}`.trim() || "connection",
    cell: (row) => h("span", { class: "mono" }, `${row.method} ${row.path}`.trim() || "connection"),
  },
  { title: "Status", right: true, value: (row) => row.status || null },
  { title: "Side", value: (row) => row.side },
];

function details(row, reasons) {
  if (!row)
    return part("Why", h("p", { class: "empty" }, "Choose a call: here it says what happened, and what to do."));
  const reason = reasons[row.reason] ?? { words: row.reason, next_step: "" };
  const asked = { source: row.source, destination: row.destination };
  return part(
    "Why",
    h("p", {}, badge(row.reason, "bad"), " ", reason.words),
    reason.next_step && h("p", {}, "Next: ", reason.next_step),
    facts([
      [
        "call",
        h(
          "span",
          {},
          row.source ? link(row.source, "services", row.source) : "somebody unknown",
          " → ",
          link(row.destination, "services", row.destination),
        ),
      ],
      ["ticket", h("span", { class: "mono" }, row.ticket || row.far_ticket || "–")],
      ["more", row.ticket ? h("span", { class: "mono" }, `meshagent explain ${row.ticket}`) : "–"],
      ["in Envoy's words", [...row.flag_words, row.details].filter(Boolean).join("; ") || "–"],
      ["rule", h("span", { class: "mono" }, row.rule || "–")],
      ["caller proved", row.source_id || "nothing"],
      ["took", row.duration_ms < 0 ? "–" : milliseconds(row.duration_ms)],
      ["trace", h("span", { class: "mono" }, row.trace_id || "–")],
    ]),
    row.source && h("p", {}, h("a", { href: asking("what-if", asked) }, "What the policy says of this pair now")),
  );
}
