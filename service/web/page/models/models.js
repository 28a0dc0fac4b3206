// "Models": what is served, and how good it is.

import { percent, plusMinus } from "../text.js";
import { openReport } from "./report.js";
import { VersionsView } from "./versions.js";

const MAX_CLASSES = 20; // that are named
const template = document.getElementById("model-card");

let reload = async () => {};
const opened = new Set(); // names of models whose versions are shown

/** Call `action` when another version is in production. */
export function whenMoved(action) {
  reload = action;
}

/** Show the served models, as `GET /models` lists them. */
export function offer({ default: first, models, rights }) {
  const mayPromote = rights.includes("promote");
  const cards = models.map((model) => card(model, model.model === first, mayPromote));
  document.getElementById("model-list").replaceChildren(...cards);
}

/** Ignore files: models take none. */
export function receiveFiles() {}

function card(model, isDefault, mayPromote) {
  const element = template.content.firstElementChild.cloneNode(true);
  const part = (name) => (name === "model" ? element : element.querySelector(`.${name}`));
  part("tag").textContent = model.model;
  part("roles").textContent = roles(model, isDefault).join(", ");
  for (const [name, value] of facts(model)) {
    const term = document.createElement("dt");
    const description = document.createElement("dd");
    term.textContent = name;
    description.textContent = value;
    const pair = document.createElement("div");
    pair.append(term, description);
    part("facts").append(pair);
  }
  part("classes").textContent = classes(model.class_names);
  part("report").hidden = model.report === null;
  openReport(part("report"), model.model);
  offerVersions(part, model.model.slice(0, model.model.indexOf(":")), mayPromote);
  return element;
}

function classes(names) {
  const left = names.length - MAX_CLASSES;
  const shown = names.slice(0, MAX_CLASSES).join(", ");
  return left > 0 ? `${shown} and ${left} others` : shown;
}

function roles(model, isDefault) {
  const versions = model.aliases.filter((alias) => alias.includes(":"));
  const names = versions.map((alias) => alias.slice(alias.indexOf(":") + 1));
  return isDefault ? ["answers by default", ...names] : names;
}

function facts({ dataset, created, input, figures }) {
  const colours = input.channels === 3 ? "in colour" : "grey";
  const known = [
    ["Data set", dataset],
    ["Images", `${input.look}, ${input.height} × ${input.width}, ${colours}`],
    ["Trained", new Date(created).toLocaleString()],
  ];
  if (figures === null) return [["Test accuracy", "not measured"], ...known];
  return [
    ["Test accuracy", `${percent(figures.accuracy)} ± ${plusMinus(figures.accuracy, figures.test_images)}`],
    ["Test images", figures.test_images.toLocaleString("en")],
    ["Calibration error", percent(figures.calibration_error)],
    ...known,
  ];
}

/** Show the versions of a model when its button is pressed. */
function offerVersions(part, name, mayPromote) {
  const button = part("show-versions");
  const show = () => {
    const isShown = opened.has(name);
    button.setAttribute("aria-expanded", String(isShown));
    part("shown").replaceChildren();
    part("model").classList.toggle("wide", isShown);
    if (!isShown) return;
    const view = new VersionsView(name, mayPromote, () => reload());
    part("shown").append(view.element);
    view.load();
  };
  button.addEventListener("click", () => {
    if (!opened.delete(name)) opened.add(name);
    show();
  });
  if (opened.has(name)) show();
}
