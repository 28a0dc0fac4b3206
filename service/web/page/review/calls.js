// Calls that Review needs.

import { call, urlOf } from "../api.js";

/** Return `{jobs, next}`, the newest jobs first. */
export function list() {
  return call(urlOf("jobs", { limit: "100" }));
}

/** Return a page of captured pictures: `{share, rows, offset, matched, total}`. */
export function captured(parameters) {
  return call(urlOf("captures", parameters));
}
