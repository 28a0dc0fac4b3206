// One job: its progress while it runs, and its results.

import { count, duration, percent } from "../text.js";
import { cancel, ENDED, follow, retry, save } from "./calls.js";
import { ResultsView } from "./results.js";

const MAX_FOLLOWED = 3; // browsers open six connections, and other calls need some
const template = document.getElementById("job");

const RECONNECT_MS = 2000;
const waiting = []; // starts to follow, of jobs beyond those
let followed = 0;

export class JobView {
  /**
   * @param job The job.
   * @param namesOf Returns the class names of a model, by its tag.
   */
  constructor(job, namesOf) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this._following = false;
    this._namesOf = namesOf;
    this._part("cancel").addEventListener("click", () =>
      this._try(async () => this.show(await cancel(job.id))),
    );
    this._part("retry").addEventListener("click", () =>
      this._try(async () => this.show(await retry(job.id))),
    );
    this._part("rows").addEventListener("click", () =>
      this._showRows(this._part("shown").childElementCount === 0),
    );
    this._part("review-link").href = `#review/${job.id}`;
    for (const button of this.element.querySelectorAll("[data-format]")) {
      const { format } = button.dataset;
      const path = `jobs/${job.id}/results`;
      button.addEventListener("click", () =>
        this._try(() => save(path, { format }, `${job.id}.${format}`)),
      );
    }
    this.show(job);
  }

  /** When the job was submitted, in seconds. */
  get created() {
    return this._job.created;
  }

  _part(name) {
    return this.element.querySelector(`.${name}`);
  }

  /** Show a job, and follow it until it has ended. */
  show(job) {
    this._job = job;
    const isEnded = ENDED.has(job.state);
    const started = new Date(1000 * job.created).toLocaleString();
    this._part("state").textContent = job.state;
    this._part("state").dataset.state = job.state;
    this._part("about").textContent = `${job.model} · ${started} · ${job.id}`;
    this._part("progress").hidden = isEnded;
    this._showProgress(job);
    this._part("counts").textContent = this._counts(job).join(" · ");
    this._part("problem").textContent = job.error ?? "";
    this._part("cancel").hidden = isEnded || job.state === "cancelling";
    this._part("retry").hidden = !["failed", "cancelled"].includes(job.state);
    this._part("after").hidden = !isEnded || job.done + job.failed === 0;
    if (this._part("after").hidden) this._showRows(false);
    this._part("review-link").hidden = job.done === 0;
    if (!isEnded && !this._following) this._follow();
  }

  _showProgress(job) {
    const bar = this._part("progress");
    if (job.total) bar.value = (job.done + job.failed + job.skipped) / job.total;
    else bar.removeAttribute("value");
  }

  _counts(job) {
    const parts = [`${count(job.done)} of ${job.total === null ? "?" : count(job.total)} scored`];
    if (job.failed > 0) parts.push(`${count(job.failed)} could not be read`);
    if (job.skipped > 0) parts.push(`${count(job.skipped)} skipped${reasons(job.skipped_files)}`);
    const seconds = (job.finished ?? Date.now() / 1000) - job.started;
    if (job.started !== null && job.done > 0 && seconds > 0.5) {
      parts.push(`${count(Math.round(job.done / seconds))} per second`);
    }
    if (job.eta_seconds !== null) parts.push(`${duration(job.eta_seconds)} left`);
    return parts;
  }

  /** Show the job after each change, when its turn comes; again if the connection ends. */
  async _follow() {
    this._following = true;
    if (followed === MAX_FOLLOWED) await new Promise((resolve) => waiting.push(resolve));
    followed += 1;
    while (!ENDED.has(this._job.state)) {
      const error = await this._try(() => follow(this._job.id, (job) => this.show(job)));
      if (error?.status >= 400 && error.status < 500) break; // such as a job that is gone
      if (!ENDED.has(this._job.state)) await pause(RECONNECT_MS);
    }
    followed -= 1;
    this._following = false;
    waiting.shift()?.();
  }

  _showRows(isShown) {
    this._part("rows").setAttribute("aria-expanded", String(isShown));
    this._part("rows").textContent = isShown ? "Hide results" : "Show results";
    this._part("shown").replaceChildren();
    if (!isShown) return;
    const view = new ResultsView(this._job, this._namesOf(this._job.model));
    this._part("shown").append(view.element);
    view.show(0);
  }

  /** Run an action; show and return its error. */
  async _try(action) {
    try {
      await action();
    } catch (error) {
      this._part("problem").textContent = error.message;
      return error;
    }
    return null;
  }
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Return why files were skipped, from their numbers by reason and suffix. */
function reasons(skipped) {
  const texts = Object.entries(skipped).map(([reason, bySuffix]) => {
    const total = Object.values(bySuffix).reduce((sum, each) => sum + each, 0);
    return `${count(total)} ${reason.replaceAll("_", " ")}`;
  });
  return texts.length > 0 ? ` (${texts.join(", ")})` : "";
}
