// "Review": look through the pictures of a job or of the service, and label them.

import { predict } from "../api.js";
import { askForKey } from "../key.js";
import { percent } from "../text.js";
import { captured, list } from "./calls.js";
import { Labels } from "./labels.js";
import { jobPictures, servedPictures } from "./pictures.js";

const KEYS = "1234567890"; // of the first ten classes
const element = (id) => document.getElementById(id);
const labels = new Labels({
  section: element("labelled"),
  list: element("labelled-list"),
  count: element("labelled-count"),
  csv: element("labelled-csv"),
  folder: element("labelled-folder"),
  clear: element("labelled-clear"),
});
let served = []; // models
let jobs = []; // that have results
let seen = []; // pictures that were shown: {id, source, model, label, confidence, …}
let place = -1; // of the picture that is shown
let coming = null; // gives the next pictures
let newest = 0; // number of the newest step; results of others are dropped

/** Offer the served models, as `GET /models` lists them. */
export function offer(found) {
  served = found.models;
  const before = element("review-order").value;
  const others = served.map(({ model }) => new Option(`where ${model} disagrees`, `other:${model}`));
  element("review-order").replaceChildren(
    new Option("least sure first", "confidence"),
    new Option("least familiar first", "familiarity"),
    new Option("wrong ones: the true label is known", "wrong"),
    ...others,
  );
  if (before) element("review-order").value = before;
}

/** List the jobs and begin with one, if its id is given. */
export async function refresh(id = "") {
  const select = element("review-source");
  const before = id || select.value;
  await guarded(async () => {
    const [page, kept] = await Promise.all([list(), captured({ limit: "1" }).catch(() => null)]);
    jobs = page.jobs.filter((job) => job.done > 0 && job.state !== "running");
    const options = jobs.map((job) => new Option(named(job), job.id));
    if (kept !== null && (kept.share > 0 || kept.total > 0)) {
      options.unshift(new Option(`Served pictures (${kept.total})`, "served"));
    }
    select.replaceChildren(...options);
    if (options.some(({ value }) => value === before)) select.value = before;
    element("review-none").hidden = options.length > 0;
    element("review-form").hidden = options.length === 0;
    if (options.length > 0 && (id || coming === null)) await begin();
  });
}

/** Ignore files: pictures come from jobs. */
export function receiveFiles() {}

function named(job) {
  return `Job of ${new Date(1000 * job.created).toLocaleString()}, ${job.done} pictures, ${job.model}`;
}

async function begin() {
  const source = element("review-source").value;
  const order = element("review-order").value;
  const job = jobs.find(({ id }) => id === source);
  coming = job ? jobPictures(job, order) : servedPictures(order);
  seen = [];
  place = -1;
  await step(1);
}

/** Show the next picture, or the one before. */
async function step(change) {
  const number = (newest += 1);
  await guarded(async () => {
    if (place + change < 0) return;
    if (place + change >= seen.length) {
      say("Looking for pictures…");
      const next = await nextOne(number);
      if (number !== newest) return;
      if (next === null) {
        element("review-picture").hidden = true;
        say(seen.length === 0 ? "There are no such pictures." : "That was the last one.");
        place = seen.length;
        return;
      }
      seen.push(next);
    }
    place = Math.min(place + change, seen.length - 1);
    show(seen[place]);
  });
}

/** Return the next picture that is worth a look, or `null` after the last one. */
async function nextOne(number) {
  const order = element("review-order").value;
  const other = order.startsWith("other:") ? order.slice("other:".length) : null;
  while (number === newest) {
    const { value, done } = await coming.next();
    if (done) return null;
    if (other === null) return value;
    if (value.file === null) continue;
    const answer = await predict(value.file, { model: other }).catch(() => null);
    if (answer !== null && answer.label !== value.label) return { ...value, other: answer };
  }
  return null;
}

function show(picture) {
  element("review-picture").hidden = false;
  const image = element("review-image");
  image.hidden = picture.url === null;
  image.src = picture.url ?? "";
  element("review-blind").hidden = picture.url !== null;
  element("review-label").textContent = picture.label ?? "Unsure";
  element("review-confidence").textContent = percent(picture.confidence);
  const facts = [picture.id, picture.model];
  if (picture.familiarity != null) facts.unshift(`familiar ${percent(picture.familiarity)}`);
  if (picture.label_true != null) facts.unshift(`true label: ${picture.label_true}`);
  if (picture.other) facts.unshift(`the other model says ${picture.other.label ?? "unsure"}`);
  element("review-facts").textContent = facts.join(" · ");
  showClasses(picture);
  element("review-back").disabled = place === 0;
  say(`Picture ${place + 1}: ${picture.label ?? "unsure"}, ${percent(picture.confidence)}.`);
}

function classesOf(picture) {
  return served.find(({ model }) => model === picture.model)?.class_names ?? knownClasses();
}

/** Return the labels of the pictures so far, for a model that is no longer served. */
function knownClasses() {
  return [...new Set(seen.map(({ label }) => label).filter(Boolean))].sort();
}

/** Return a key for each class: its name, if all names are one character, else a digit. */
function keysOf(names) {
  const keys = names.map((name) => name.toLowerCase());
  const isShort = keys.every((key) => key.length === 1) && new Set(keys).size === keys.length;
  return isShort ? keys : [...KEYS];
}

function showClasses(picture) {
  const chosen = labels.of(picture);
  const keys = keysOf(classesOf(picture));
  const buttons = classesOf(picture).map((name, number) => {
    const button = document.createElement("button");
    button.type = "button";
    if (keys[number] !== undefined) button.setAttribute("aria-keyshortcuts", keys[number]);
    if (keys[number] !== undefined && keys[number] !== name) {
      const key = document.createElement("kbd");
      key.textContent = keys[number];
      button.append(key, " ");
    }
    button.append(name);
    button.setAttribute("aria-pressed", String(name === chosen));
    button.addEventListener("click", () => label(name));
    return button;
  });
  const group = element("review-classes");
  const focused = [...group.children].indexOf(document.activeElement);
  group.replaceChildren(...buttons);
  buttons[focused]?.focus();
}

function label(name) {
  labels.set(seen[place], name);
  step(1);
}

function say(text) {
  element("review-status").textContent = text;
}

/** Run an action; show why it failed. */
async function guarded(action) {
  element("review-problem").textContent = "";
  try {
    await action();
  } catch (error) {
    askForKey(error);
    element("review-problem").textContent = error.message;
  }
}

element("review-form").addEventListener("submit", (event) => event.preventDefault());
element("review-form").addEventListener("change", () => guarded(begin));
element("review-skip").addEventListener("click", () => step(1));
element("review-back").addEventListener("click", () => step(-1));
document.addEventListener("keydown", (event) => {
  const isElsewhere = element("review").hidden || event.target.closest("input, select, dialog");
  if (isElsewhere || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowRight") step(1);
  else if (event.key === "ArrowLeft") step(-1);
  else if (place >= 0 && place < seen.length) {
    const names = classesOf(seen[place]);
    const name = names[keysOf(names).indexOf(event.key.toLowerCase())];
    if (name === undefined) return;
    label(name);
  } else return;
  event.preventDefault();
});
