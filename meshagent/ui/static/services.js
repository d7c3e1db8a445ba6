// All services, and everything of one: instances, routes with their splits, rules, settings, documents.

import { ask } from "./ask.js";
import { badge, code, facts, h, link, part } from "./dom.js";
import { count, milliseconds, percent, rate } from "./format.js";
import { filter, matches, table } from "./table.js";

export const every = 5;
const state = { wanted: "" };

export function load(asked) {
  return asked.name ? ask("service", { name: asked.name }) : ask("services");
}

export function draw(data, asked, redraw) {
  return asked.name ? one(data, redraw) : all(data, redraw);
}

export function health(row) {
  if (row.kind !== "service") return badge(row.kind, "quiet");
  const tones = { passing: "good", partly: "warn", failing: "bad", none: "quiet" };
  const words = row.instances ? `${row.passing} of ${row.instances} passing` : "no instance";
  return badge(words, tones[row.health]);
}

function all(data, redraw) {
  const rows = data.services.filter((row) =>
    matches(`${row.name} ${row.protocol} ${row.hosts.join(" ")}`, state.wanted),
  );
  return [
    h("h1", { tabindex: "-1" }, "Services"),
    h("p", { class: "lead" }, "What is registered, or has a document."),
    h(
      "div",
      { class: "bar" },
      filter("services-filter", "Name, protocol or host", state.wanted, (value) => {
        state.wanted = value;
        redraw();
      }),
    ),
    h(
      "section",
      { class: "part", "aria-label": "Services" },
      table({ id: "services", caption: "Services", columns: COLUMNS, rows, redraw }),
    ),
  ];
}

const COLUMNS = [
  { title: "Service", value: (row) => row.name, cell: (row) => link(row.name, "services", row.name) },
  { title: "Protocol", value: (row) => row.protocol },
  { title: "Instances", value: (row) => row.passing, cell: health },
  { title: "Hosts", value: (row) => row.hosts.length, cell: (row) => some(row.hosts) },
  { title: "Requests", right: true, value: (row) => row.rps, cell: (row) => rate(row.rps) },
  {
    title: "Route",
    value: (row) => row.rules_of_route,
    cell: (row) => (row.rules_of_route ? count(row.rules_of_route, "rule") : null),
  },
  { title: "Subsets", value: (row) => row.subsets.join(", ") },
  { title: "Settings", value: (row) => settings(row) },
];

function some(names) {
  return names.length > 4 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", ");
}

function settings(row) {
  return [row.data_path === "l4" && "bytes (l4)", row.mtls === "permissive" && "permissive"].filter(Boolean).join(", ");
}

function one(data, redraw) {
  const live = {
    incoming: data.edges.filter((edge) => edge.destination === data.name),
    outgoing: data.edges.filter((edge) => edge.source === data.name),
  };
  return [
    h("h1", { tabindex: "-1" }, data.name),
    h("p", { class: "lead" }, link("Services", "services"), ` › ${data.name} `, health(data)),
    part(
      "At a glance",
      facts([
        ["kind", data.kind],
        ["protocol", data.protocol],
        ["hosts", data.hosts.join(", ") || "–"],
        ["requests", rate(data.rps)],
        ["subsets", data.subsets.join(", ") || "–"],
        ["settings", settings(data) || "as everybody"],
      ]),
    ),
    part(
      "Instances",
      table({
        id: "instances",
        caption: `Instances of ${data.name}`,
        columns: INSTANCES,
        rows: data.instances_here,
        redraw,
        empty: "None is registered.",
      }),
    ),
    part(
      "Who may call it",
      table({ id: "rules", caption: `Rules for calls to ${data.name}`, columns: RULES, rows: data.rules, redraw }),
    ),
    data.rollout && part("Rollout", rollout(data.rollout, redraw)),
    data.routes.length > 0 && part("Route", data.routes.map(route)),
    data.settings.length > 0 &&
      part(
        "Settings in force",
        table({
          id: "settings",
          caption: `Settings of calls to ${data.name}`,
          columns: SETTINGS,
          rows: data.settings,
          redraw,
        }),
      ),
    live.incoming.length > 0 &&
      part(
        "Live calls to it",
        table({
          id: "incoming",
          caption: "Live calls to it",
          columns: [
            { title: "From", value: (edge) => edge.source, cell: (edge) => link(edge.source, "services", edge.source) },
            ...LIVE,
          ],
          rows: live.incoming,
          redraw,
        }),
      ),
    live.outgoing.length > 0 &&
      part(
        "Live calls from it",
        table({
          id: "outgoing",
          caption: "Live calls from it",
          columns: [
            {
              title: "To",
              value: (edge) => edge.destination,
              cell: (edge) => link(edge.destination, "services", edge.destination),
            },
            ...LIVE,
          ],
          rows: live.outgoing,
          redraw,
        }),
      ),
    data.documents.length > 0 &&
      part(
        "Documents",
        data.documents.map((each) => [
          h("h3", {}, each.kind, h("span", { class: "muted" }, ` from ${each.origin}`)),
          code(each.yaml, `${each.kind} ${data.name}`),
        ]),
      ),
  ];
}

const LIVE = [
  { title: "Requests", right: true, value: (edge) => edge.live.rps, cell: (edge) => rate(edge.live.rps) },
  {
    title: "Errors",
    right: true,
    value: (edge) => edge.live.error_ratio,
    cell: (edge) => percent(edge.live.error_ratio),
  },
  { title: "p50", right: true, value: (edge) => edge.live.p50_ms, cell: (edge) => milliseconds(edge.live.p50_ms) },
  { title: "p99", right: true, value: (edge) => edge.live.p99_ms, cell: (edge) => milliseconds(edge.live.p99_ms) },
];

const INSTANCES = [
  { title: "Instance", value: (row) => row.id },
  { title: "Host", value: (row) => row.host, cell: (row) => link(row.host, "hosts", row.host) },
  { title: "Address", value: (row) => `${row.address}:${row.port}` },
  {
    title: "Health",
    value: (row) => row.health,
    cell: (row) => badge(row.health, row.health === "passing" ? "good" : row.health === "draining" ? "warn" : "bad"),
  },
  { title: "Place", value: (row) => [row.region, row.zone].filter(Boolean).join("/") },
  { title: "Subsets", value: (row) => row.subsets.join(", ") },
  {
    title: "Meta",
    value: (row) =>
      Object.entries(row.meta)
        .map(([name, value]) => `${name}=${value}`)
        .join(", "),
  },
];

const RULES = [
  { title: "Source", value: (row) => row.source },
  {
    title: "May",
    value: (row) => row.words,
    cell: (row) =>
      h(
        "span",
        {},
        badge(row.action ?? "by request", { allow: "good", deny: "bad" }[row.action] ?? "warn"),
        row.action ? "" : ` ${row.words}`,
      ),
  },
  { title: "Rule", value: (row) => row.rule, cell: (row) => h("span", { class: "mono" }, row.rule) },
  { title: "Reason", value: (row) => row.reason },
  { title: "From", value: (row) => from(row.origin) },
];

const SETTINGS = [
  { title: "Setting", value: (row) => row.name },
  { title: "Value", value: (row) => row.words },
  { title: "Said by", value: (row) => row.level },
  { title: "From", value: (row) => (row.level === "built-in" ? "" : from(row.origin)) },
];

export function from(origin) {
  const place = origin.file ? `${origin.file}:${origin.line}` : "";
  return [place, origin.who && `by ${origin.who}`].filter(Boolean).join(" ");
}

function rollout(data, redraw) {
  const targets = [
    { service: data.service, subset: data.base, percent: 100 - data.percent },
    { service: data.service, subset: data.to, percent: data.percent },
  ];
  const rows = Object.entries(data.measured).map(([subset, found]) => ({ subset, ...found }));
  return [
    h("p", {}, data.words),
    shares(targets),
    table({ id: "rollout", caption: "Counted in this step", columns: MEASURED, rows, redraw }),
  ];
}

const MEASURED = [
  { title: "Subset", value: (row) => row.subset },
  { title: "Requests", right: true, value: (row) => row.requests },
  { title: "Failed", right: true, value: (row) => row.failed },
  {
    title: "Errors",
    right: true,
    value: (row) => row.error_rate,
    cell: (row) => percent(row.error_rate === null ? null : row.error_rate / 100),
  },
  { title: "p99", right: true, value: (row) => row.p99_ms, cell: (row) => milliseconds(row.p99_ms) },
];

function route(rule) {
  const name = `Rule ${rule.index}${rule.name ? ` (${rule.name})` : ""}`;
  const asked = rule.match ? code(rule.match, `What ${name} matches`) : h("p", { class: "muted" }, "every request");
  const targets = rule.targets.length ? shares(rule.targets) : h("p", { class: "muted" }, "to the service itself");
  return [
    h("h3", {}, name, h("span", { class: "muted" }, ` from ${rule.origin}`)),
    h("div", { class: "two" }, h("div", {}, asked, rule.more && code(rule.more, `What else ${name} says`)), targets),
  ];
}

function shares(targets) {
  const bars = targets.map((target) => {
    const bar = h("i", {});
    bar.style.flexGrow = String(target.percent);
    return bar;
  });
  const words = targets.map((target) =>
    h("li", {}, `${target.percent} % to ${target.service}${target.subset ? ` (${target.subset})` : ""}`),
  );
  return h(
    "div",
    {},
    targets.length > 1 && h("div", { class: "split", "aria-hidden": "true" }, bars),
    h("ul", { class: "steps" }, words),
  );
}
