// "Jobs": score a set of pictures of any size, and follow the work.

import { isSet, list, submit } from "./calls.js";
import { JobView } from "./job.js";
import { askForKey } from "../key.js";
import { duration } from "../text.js";
import { MAX_BYTES, MAX_FILES, pack } from "../zip.js";

const element = (id) => document.getElementById(id);
const views = new Map(); // by id of the job
let next = null; // cursor of the next page of jobs
let isSubmitting = false;
let unsent = []; // files whose upload failed
const classNames = new Map(); // by tag of a served model

/** Offer the served models, as `GET /models` lists them. */
export function offer({ default: first, models }) {
  const select = element("job-model");
  const before = select.value || first;
  select.replaceChildren(...models.map(({ model }) => new Option(model, model)));
  select.value = models.some(({ model }) => model === before) ? before : first;
  for (const model of models) classNames.set(model.model, model.class_names);
}

/** List the newest jobs. */
export async function refresh() {
  await guarded(async () => {
    const page = await list();
    next = page.next;
    put(page.jobs);
  });
}

/** Score files: each set of pictures is a job, and so are all other files together. */
export async function receiveFiles(files) {
  if (files.length === 0 || isSubmitting) return;
  isSubmitting = true;
  unsent = files;
  await guarded(async () => {
    const sets = files.filter(({ file }) => isSet(file));
    const others = files.filter(({ file }) => !isSet(file));
    for (const set of sets) {
      await submitOne(set.file);
      unsent = unsent.filter((each) => each !== set);
    }
    if (others.length > 0) await submitOne(await packed(others));
    unsent = [];
  });
  isSubmitting = false;
  element("upload").hidden = true;
  element("job-again").hidden = unsent.length === 0;
}

/** Return the options of the form that have a value. */
function options() {
  const given = Object.fromEntries(new FormData(element("job-form")));
  if (given.labels === "column") given.labels = `column:${given.column}`;
  delete given.column;
  return given;
}

async function packed(files) {
  const bytes = files.reduce((sum, { file }) => sum + file.size, 0);
  if (files.length > MAX_FILES || bytes > MAX_BYTES) {
    throw new Error(
      `At most ${MAX_FILES.toLocaleString("en")} files of 4 GB together can be sent from here. ` +
        "Put them into an archive first, or use: loupe score FOLDER",
    );
  }
  return pack(files, (count) => {
    if (count % 50 === 0) showUpload(`Reading ${count} of ${files.length} files`, 0);
  });
}

async function submitOne(set) {
  const name = set.name ?? "the files";
  showUpload(`Sending ${name}`, 0);
  const started = performance.now();
  const job = await submit(set, options(), (share) => {
    const seconds = (performance.now() - started) / 1000;
    const left = seconds > 1 && share > 0 ? `, ${duration((seconds / share) * (1 - share))} left` : "";
    showUpload(`Sending ${name}: ${Math.floor(100 * share)} %${left}`, share);
  });
  put([job]);
  views.get(job.id).element.scrollIntoView({ block: "nearest" });
}

function showUpload(text, share) {
  element("upload").hidden = false;
  element("upload-text").textContent = text;
  element("upload-bar").value = share;
}

/** Show jobs among the others, the newest first. */
function put(jobs) {
  for (const job of jobs) {
    if (views.has(job.id)) views.get(job.id).show(job);
    else views.set(job.id, new JobView(job, (tag) => classNames.get(tag) ?? []));
  }
  const sorted = [...views.values()].sort((one, other) => other.created - one.created);
  sorted.forEach((view, place) => {
    const before = element("job-list").children[place];
    if (before !== view.element) element("job-list").insertBefore(view.element, before ?? null);
  });
  element("job-none").hidden = views.size > 0;
  element("job-more").hidden = next === null;
}

/** Run an action; show why it failed beside the form. */
async function guarded(action) {
  const problem = element("job-problem");
  problem.textContent = "";
  try {
    await action();
  } catch (error) {
    askForKey(error);
    problem.textContent = error.message;
  }
}

element("job-form").addEventListener("submit", (event) => event.preventDefault());
element("job-again").addEventListener("click", () => receiveFiles(unsent));
element("job-labels").addEventListener("change", (event) => {
  element("job-column-field").hidden = event.target.value !== "column";
});
element("job-more").addEventListener("click", () =>
  guarded(async () => {
    const page = await list(next);
    next = page.next;
    put(page.jobs);
  }),
);
