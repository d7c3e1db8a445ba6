// Numbers and times as people read them.

export const NOTHING = "–";

/** A number with at most three digits that count. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NOTHING;
  if (value >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return value.toPrecision(2).replace(/\.0+$/, "");
}

/** Requests a second. */
export function rate(value) {
  return value === null || value === undefined ? NOTHING : `${number(value)}/s`;
}

/** A share of one, in percent. */
export function percent(share) {
  return share === null || share === undefined ? NOTHING : `${number(share * 100)} %`;
}

/** Milliseconds. */
export function milliseconds(value) {
  if (value === null || value === undefined) return NOTHING;
  return value >= 1000 ? `${number(value / 1000)} s` : `${number(value)} ms`;
}

/** How long that is: `3 h`. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  for (const [unit, size] of [
    ["d", 86400],
    ["h", 3600],
    ["min", 60],
  ]) {
    if (Math.abs(seconds) >= 2 * size) return `${Math.round(seconds / size)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

/** `ends in 3 h`, `ended 5 min ago`. */
export function until(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  return seconds >= 0 ? `in ${span(seconds)}` : `${span(-seconds)} ago`;
}

/** A moment (ISO) in this machine's zone, to the second. */
export function moment(iso) {
  if (!iso) return NOTHING;
  const at = new Date(iso);
  const two = (value) => String(value).padStart(2, "0");
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** `1 instance`, `3 instances`. */
export function count(value, one, many = `${one}s`) {
  return `${number(value)} ${value === 1 ? one : many}`;
}
