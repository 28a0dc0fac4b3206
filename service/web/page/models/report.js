// Links to reports of models.

import { keyHeaders, urlOf } from "../api.js";
import { save } from "../jobs/calls.js";

/** Make a link open the report of a model; where a key is needed, it saves the report. */
export function openReport(link, tag) {
  const path = `models/${tag}/report`;
  link.href = urlOf(path);
  link.addEventListener("click", (event) => {
    if (Object.keys(keyHeaders()).length === 0) return; // else a link cannot carry the key
    event.preventDefault();
    save(path, {}, `${tag.replace(":", "-")}.html`).catch((error) => {
      link.textContent = error.message;
    });
  });
}
