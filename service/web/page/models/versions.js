// The versions of a model: compare two, promote one, or roll back.

import { promote, rollBack, versions } from "../api.js";
import { askForKey } from "../key.js";
import { count, percent, plusMinus } from "../text.js";
import { openReport } from "./report.js";

const REFUSALS = new Set(["not_better", "not_comparable", "not_measured"]);
const template = document.getElementById("versions");
const rowTemplate = document.getElementById("version");
const FIGURES = [
  ["Test accuracy", "accuracy", percent],
  ["Loss", "loss", (value) => value.toFixed(3)],
  ["Calibration error", "calibration_error", percent],
  ["Accuracy in training", "train_accuracy", percent],
  ["Test images", "test_images", count],
  ["Training", "training_seconds", (value) => `${count(Math.round(value))} s`],
];

export class VersionsView {
  /**
   * @param name Name of the model.
   * @param mayPromote Whether the caller may change what is in production.
   * @param onMoved Called when another version is in production.
   */
  constructor(name, mayPromote, onMoved) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this._name = name;
    this._mayPromote = mayPromote;
    this._onMoved = onMoved;
    for (const side of ["a", "b"]) {
      this._part(side).addEventListener("change", () => this._compare());
    }
    this._part("back").hidden = !mayPromote;
    this._part("back").addEventListener("click", () => this._move(() => rollBack(name)));
    this._part("by-command").hidden = mayPromote;
    this._part("by-command").querySelector("code").textContent = "loupe models promote TAG";
  }

  _part(name) {
    return this.element.querySelector(`.${name}`);
  }

  /** Read and show all versions. */
  async load() {
    try {
      const { versions: found, promotions } = await versions(this._name);
      this._versions = found;
      const rows = found.map((version) => this._row(version));
      this._part("list").replaceChildren(...rows);
      this._part("history").replaceChildren(...promotions.map(historyLine));
      this._part("past").hidden = promotions.length === 0;
      this._offer(found);
    } catch (error) {
      askForKey(error);
      this._part("problem").textContent = error.message;
    }
  }

  _row(version) {
    const row = rowTemplate.content.firstElementChild.cloneNode(true);
    const part = (name) => row.querySelector(`.${name}`);
    const { figures, labels } = version;
    part("version-name").textContent = shortName(version.model);
    part("version-name").title = version.model;
    part("created").textContent = new Date(version.created).toLocaleString();
    part("accuracy").textContent =
      figures === null
        ? "not measured"
        : `${percent(figures.accuracy)} ± ${plusMinus(figures.accuracy, figures.test_images)}`;
    part("labels").textContent = [...labels, ...(version.served ? ["served"] : [])].join(", ");
    part("report").hidden = version.report === null;
    openReport(part("report"), version.model);
    const isProduction = labels.includes("production");
    part("promote").hidden = !this._mayPromote || isProduction;
    part("promote").setAttribute("aria-label", `Promote ${version.model}`);
    part("promote").addEventListener("click", () =>
      this._move((force) => promote(version.model, force), version.model),
    );
    return row;
  }

  /** Ask, then move the label `production`; ask again if the service refuses. */
  async _move(move, tag) {
    const what = tag ? `Put ${tag} into production?` : `Put the version before into production?`;
    if (!(await confirmed(what, tag ? "Promote" : "Roll back"))) return;
    this._part("problem").textContent = "";
    try {
      await move(false);
    } catch (error) {
      if (!REFUSALS.has(error.code)) {
        askForKey(error);
        this._part("problem").textContent = error.message;
        return;
      }
      const reason = error.message.replace(/ Promote it nevertheless: .*$/, ""); // by a command
      if (!(await confirmed(reason, "Promote nevertheless"))) return;
      await move(true).catch((again) => (this._part("problem").textContent = again.message));
    }
    await this._onMoved();
  }

  _offer(found) {
    this._part("comparison").hidden = found.length < 2;
    const production = found.findIndex((version) => version.labels.includes("production"));
    const first = Math.max(production, 0);
    const chosen = { a: first, b: first === 0 ? 1 : 0 };
    for (const side of ["a", "b"]) {
      const options = found.map((version, place) => new Option(shortName(version.model), place));
      this._part(side).replaceChildren(...options);
      this._part(side).value = String(chosen[side]);
    }
    if (found.length > 1) this._compare();
  }

  _compare() {
    const [a, b] = ["a", "b"].map((side) => this._versions[Number(this._part(side).value)]);
    const known = FIGURES.filter(([, name]) =>
      [a, b].some(({ figures }) => figures !== null && figures[name] !== null),
    );
    const rows = known.map(([title, name, format]) => {
      const texts = [a, b].map(({ figures }) =>
        figures === null || figures[name] === null ? "–" : format(figures[name]),
      );
      return tableRow(title, ...texts);
    });
    this._part("figures").replaceChildren(...rows);
    const isComparable = a.figures && b.figures && a.figures.test_digest === b.figures.test_digest;
    this._part("verdict").textContent = isComparable
      ? verdict(a, b)
      : "Measured on different images, or not at all: the figures cannot be compared.";
  }
}

/** Return the version in a tag. */
function shortName(tag) {
  return tag.slice(tag.indexOf(":") + 1);
}

/** Say which version is more accurate, if the difference is more than chance. */
function verdict(a, b) {
  const difference = b.figures.accuracy - a.figures.accuracy;
  const variance = [a, b].reduce(
    (sum, { figures: { accuracy, test_images: images } }) =>
      sum + (accuracy * (1 - accuracy)) / images,
    0,
  );
  const better = shortName((difference > 0 ? b : a).model);
  const size = `${(100 * Math.abs(difference)).toFixed(1)} percentage points`;
  if (Math.abs(difference) <= 1.96 * Math.sqrt(variance)) {
    return `The difference of ${size} may be chance.`;
  }
  return `${better} is more accurate by ${size}, more than chance.`;
}

function tableRow(title, ...texts) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = title;
  row.append(head);
  for (const text of texts) row.insertCell().textContent = text;
  return row;
}

function historyLine({ time, kind, forced, to }) {
  const item = document.createElement("li");
  const what = kind === "rollback" ? "rolled back to" : forced ? "forced" : "promoted";
  item.textContent = `${new Date(time).toLocaleString()}: ${what} ${shortName(to)}`;
  return item;
}

/** Ask a question in a dialog; return whether the answer is yes. */
function confirmed(question, action) {
  const dialog = document.getElementById("confirm");
  dialog.querySelector("p").textContent = question;
  dialog.querySelector(".primary").textContent = action;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }),
  );
}
