// The frame: views, the API key, and where files go.

import { models } from "./api.js";
import { receive } from "./incoming.js";
import * as jobs from "./jobs/jobs.js";
import { accept, askForKey, whenEntered } from "./key.js";
import * as served from "./models/models.js";
import * as review from "./review/review.js";
import * as pictures from "./try/try.js";

const VIEWS = { try: pictures, jobs, models: served, review };
const TITLES = { try: "try the model", jobs: "jobs", models: "models", review: "review" };

const element = (id) => document.getElementById(id);
let shown = null; // name of the view
let offered = ""; // the models, as JSON; empty until they are known

/** Show the view that the address names, such as `#jobs` or `#review/JOB`. */
function showView() {
  const [name, id] = location.hash.slice(1).split("/");
  const next = name in VIEWS ? name : "try";
  if (next === shown && id === undefined) return;
  shown = next;
  document.title = `Loupe: ${TITLES[shown]}`;
  for (const each of Object.keys(VIEWS)) {
    element(each).hidden = each !== shown;
    const link = element(`${each}-link`);
    if (each === shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (offered) VIEWS[shown].refresh?.(id);
}

/** Offer the models in all views, if they have changed. */
function offer(found) {
  const text = JSON.stringify(found);
  if (text === offered) return;
  offered = text;
  for (const view of Object.values(VIEWS)) view.offer(found);
}

async function start() {
  const notice = element("notice");
  notice.hidden = true;
  try {
    offer(await models());
  } catch (error) {
    notice.hidden = askForKey(error);
    notice.textContent = notice.hidden ? "" : error.message;
    return;
  }
  accept();
  VIEWS[shown].refresh?.(location.hash.split("/")[1]);
}

// Links to operations of the API's description, which was at this address before.
if (location.hash.startsWith("#/")) location.replace(`docs${location.hash}`);

receive({
  inputs: [element("files"), element("job-files"), element("job-folder")],
  dropSign: element("drop"),
  onFiles: (files) => VIEWS[shown].receiveFiles(files),
});
whenEntered(start);
served.whenMoved(start);
addEventListener("hashchange", showView);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && offered) start(); // others may have trained or promoted models
});
showView();
start();
