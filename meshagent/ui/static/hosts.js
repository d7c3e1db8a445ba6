// The hosts of the mesh as their reports tell, and this one as its agent tells.

import { ask } from "./ask.js";
import { badge, facts, h, link, part } from "./dom.js";
import { count, moment, span } from "./format.js";
import { filter, matches, table } from "./table.js";

export const every = 5;
const state = { wanted: "", asked: "" };

export function load() {
  return ask("hosts");
}

export function draw(data, asked, redraw) {
  if (asked.name !== state.asked) Object.assign(state, { asked: asked.name, wanted: asked.name });
  const rows = data.hosts.filter((row) => matches(`${row.host} ${row.services.join(" ")}`, state.wanted));
  const sick = rows.filter((row) => row.problems.length);
  return [
    h("h1", { tabindex: "-1" }, "Hosts"),
    h(
      "p",
      { class: "lead" },
      "What each host's agent says of itself in the store. A host that is away for longer than its lease says nothing.",
    ),
    h(
      "div",
      { class: "bar" },
      filter("hosts-filter", "Host or service", state.wanted, (value) => {
        state.wanted = value;
        redraw();
      }),
    ),
    h(
      "section",
      { class: "part", "aria-label": "Hosts" },
      table({ id: "hosts", caption: "Hosts", columns: COLUMNS, rows, redraw, empty: "No host reports." }),
    ),
    sick.length > 0 &&
      part(
        "Problems",
        sick.map((row) => [
          h("h3", {}, row.host),
          h(
            "ul",
            {},
            row.problems.map((each) => h("li", {}, each)),
          ),
        ]),
      ),
    here(data),
  ];
}

const COLUMNS = [
  { title: "Host", value: (row) => row.host },
  { title: "State", value: (row) => row.problems.length, cell: standing },
  {
    title: "Policy",
    value: (row) => row.behind,
    cell: (row) => (row.behind ? badge(`${row.behind} behind`, "warn") : badge(`revision ${row.revision}`, "good")),
  },
  { title: "Agent", value: (row) => row.agent_version },
  { title: "Envoy", value: (row) => row.envoy_version },
  { title: "Services", value: (row) => row.services.length, cell: (row) => names(row.services) },
  { title: "Gateways", value: (row) => row.gateways.join(", ") },
  { title: "Certificates until", value: (row) => row.svid_ends, cell: (row) => moment(row.svid_ends) },
  { title: "Last report", right: true, value: (row) => row.age, cell: (row) => `${span(Math.max(0, row.age))} ago` },
];

function standing(row) {
  const rejected = Object.keys(row.rejected).length;
  if (rejected) return badge(`rejects ${rejected}`, "bad");
  return row.problems.length ? badge(count(row.problems.length, "problem"), "bad") : badge("well", "good");
}

function names(services) {
  const shown = services.slice(0, 4).flatMap((name, index) => [index ? ", " : "", link(name, "services", name)]);
  return h("span", {}, shown, services.length > 4 ? ` and ${services.length - 4} more` : "");
}

function here(data) {
  if (!data.agent) return part("This host", h("p", { class: "empty" }, data.why));
  const agent = data.agent;
  const problems = [
    ...Object.entries(agent.problems),
    ...Object.entries(agent.rejected).map(([name, text]) => [`rejected ${name}`, text]),
  ];
  return part(
    "This host",
    facts([
      ["host", agent.host],
      ["address", agent.address],
      [
        "Envoy",
        h(
          "span",
          {},
          `${agent.envoy_version} `,
          agent.envoy.ready ? badge("ready", "good") : badge("not ready", "bad"),
        ),
      ],
      ["store", agent.store_ok ? badge("followed", "good") : badge(`away since ${moment(agent.stale_since)}`, "bad")],
      ["policy in force", `revision ${agent.applied_revision}`],
      ["Envoy restarts", String(agent.envoy.restarts)],
      ["services", agent.services.join(", ") || "–"],
    ]),
    problems.length > 0 &&
      h(
        "ul",
        {},
        problems.map(([name, text]) => h("li", {}, `${name}: ${text}`)),
      ),
  );
}
