// Which certificates services hold, when they end, and which roots they lead to.

import { ask } from "./ask.js";
import { badge, h, link, part } from "./dom.js";
import { moment, until } from "./format.js";
import { filter, matches, table } from "./table.js";

export const every = 10;
const DAY = 86400;
const state = { wanted: "" };

export function load() {
  return ask("certificates");
}

export function draw(data, asked, redraw) {
  const rows = data.certificates.filter((row) => matches(`${row.service} ${row.host}`, state.wanted));
  return [
    h("h1", { tabindex: "-1" }, "Certificates"),
    h(
      "p",
      { class: "lead" },
      "What ends first stands first. Agents renew between 50 and 66 % of a certificate's life.",
    ),
    h(
      "div",
      { class: "bar" },
      filter("certificates-filter", "Service or host", state.wanted, (value) => {
        state.wanted = value;
        redraw();
      }),
    ),
    part(
      "Of services",
      table({
        id: "certificates",
        caption: "Certificates of services",
        columns: COLUMNS,
        rows,
        redraw,
        empty: "No host reports one.",
      }),
    ),
    part("Roots", table({ id: "roots", caption: "Roots that are trusted", columns: ROOTS, rows: data.roots, redraw })),
    data.authorities.length > 0 &&
      part(
        "Signing authorities",
        table({ id: "signers", caption: "Signing authorities", columns: SIGNERS, rows: data.authorities, redraw }),
      ),
  ];
}

/** How long it is good for; `near` seconds before its end that is a warning. */
function left(seconds, near) {
  if (seconds === null || seconds === undefined) return null;
  if (seconds <= 0) return badge(`ended ${until(seconds)}`, "bad");
  return badge(`ends ${until(seconds)}`, seconds < near ? "warn" : "good");
}

const COLUMNS = [
  { title: "Service", value: (row) => row.service, cell: (row) => link(row.service, "services", row.service) },
  { title: "Host", value: (row) => row.host, cell: (row) => link(row.host, "hosts", row.host) },
  { title: "Ends", value: (row) => row.seconds, cell: (row) => left(row.seconds, 300) },
  { title: "At", value: (row) => row.ends_at, cell: (row) => moment(row.ends_at) },
  { title: "Root", value: (row) => row.root, cell: (row) => h("span", { class: "mono" }, row.root.slice(0, 16)) },
];

const ROOTS = [
  { title: "Trust domain", value: (row) => row.trust_domain },
  {
    title: "State",
    value: (row) => row.state,
    cell: (row) => badge(row.state, row.state === "leaving" ? "warn" : "good"),
  },
  { title: "Ends", value: (row) => row.seconds, cell: (row) => left(row.seconds, 30 * DAY) },
  { title: "At", value: (row) => row.ends_at, cell: (row) => moment(row.ends_at) },
  {
    title: "Fingerprint",
    value: (row) => row.fingerprint,
    cell: (row) => h("span", { class: "mono" }, row.fingerprint),
  },
];

const SIGNERS = [
  { title: "Authority", value: (row) => row.name },
  { title: "Address", value: (row) => row.address },
  {
    title: "Ends",
    value: (row) => row.seconds,
    cell: (row) => left(row.seconds, 7 * DAY) ?? badge("waits for ca root sign", "warn"),
  },
];
