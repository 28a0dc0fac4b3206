// The results of a job: rows and errors, filtered, page by page.

import { errorRows, picture, rows } from "./calls.js";
import { count, percent } from "../text.js";

const PER_PAGE = 48;
const template = document.getElementById("results");
const cardTemplate = document.getElementById("result");

export class ResultsView {
  /**
   * @param job The job.
   * @param classNames Names that its labels may have; empty if they are unknown.
   */
  constructor(job, classNames) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this._job = job;
    this._offset = 0;
    this._newest = 0; // number of the newest question; answers to others are dropped
    this._form = this.element.querySelector("form");
    const labels = this._form.elements.label;
    for (const name of classNames) labels.append(new Option(name, name));
    this._form.elements.kind.disabled = job.failed === 0;
    if (job.done === 0) this._form.elements.kind.value = "errors";
    this._form.addEventListener("submit", (event) => event.preventDefault());
    this._form.addEventListener("change", () => this.show(0));
    this._part("before").addEventListener("click", () => this.show(this._offset - PER_PAGE));
    this._part("after").addEventListener("click", () => this.show(this._offset + PER_PAGE));
  }

  _part(name) {
    return this.element.querySelector(`.${name}`);
  }

  get _filters() {
    const given = new FormData(this._form);
    if (given.get("label") === "any") given.delete("label");
    return Object.fromEntries([...given].filter(([name]) => name !== "kind"));
  }

  /** Show the page that begins at an offset. */
  async show(offset) {
    const number = (this._newest += 1);
    const isErrors = this._form.elements.kind.value === "errors";
    for (const each of this.element.querySelectorAll(".of-rows")) each.hidden = isErrors;
    this._part("range").textContent = "Loading…";
    const wanted = { offset: String(offset), limit: String(PER_PAGE) };
    let page;
    try {
      page = isErrors
        ? await errorRows(this._job.id, wanted)
        : await rows(this._job.id, { ...this._filters, ...wanted });
    } catch (error) {
      if (number === this._newest) this._part("range").textContent = error.message;
      return;
    }
    if (number !== this._newest) return;
    this._offset = offset;
    this._put(page, isErrors);
  }

  _put(page, isErrors) {
    const last = page.offset + page.rows.length;
    const kind = isErrors ? "pictures that could not be read" : "results";
    const all = page.matched < page.total ? ` (of ${count(page.total)})` : "";
    this._part("range").textContent =
      page.matched === 0
        ? `No ${kind}${all}.`
        : `${count(page.offset + 1)}–${count(last)} of ${count(page.matched)}${all} ${kind}`;
    this._part("before").disabled = page.offset === 0;
    this._part("after").disabled = last >= page.matched;
    const items = page.rows.map((row) => card(row));
    this._part("cards").replaceChildren(...items);
    if (page.rows.length > 0) this._showPictures(page.rows, items, this._newest);
  }

  /** Show the pictures, if the source can give the first one. */
  async _showPictures(shown, items, number) {
    for (const [place, row] of shown.entries()) {
      const url = await picture(this._job.id, row.id);
      if (number !== this._newest) return;
      if (url === null && place === 0) return;
      const image = items[place].querySelector("img");
      image.hidden = url === null;
      image.onload = () => URL.revokeObjectURL(url);
      image.onerror = () => (image.hidden = true);
      if (url !== null) image.src = url;
    }
  }
}

function card(row) {
  const item = cardTemplate.content.firstElementChild.cloneNode(true);
  const part = (name) => item.querySelector(`.${name}`);
  part("file").textContent = row.id;
  part("problem").textContent = row.error ?? "";
  if (row.error !== undefined) return item;
  const isBlank = row.reason === "blank";
  part("label").textContent = row.label ?? (isBlank ? "Blank" : "Unsure");
  part("confidence").textContent = isBlank ? "" : percent(row.confidence);
  const facts = [];
  if (row.label_true !== undefined && row.label_true !== row.label) {
    facts.push(`should be ${row.label_true ?? "unknown"}`);
  }
  if (row.familiarity !== undefined && row.familiarity !== null) {
    facts.push(`familiar ${percent(row.familiarity)}`);
  }
  part("facts").textContent = facts.join(" · ");
  return item;
}
