// "Models": what is served, and how good it is.

import { keyHeaders, urlOf } from "../api.js";
import { percent } from "../text.js";
import { save } from "../jobs/calls.js";

const MAX_CLASSES = 20; // that are named
const template = document.getElementById("model-card");

/** Show the served models, as `GET /models` lists them. */
export function offer({ default: first, models }) {
  const cards = models.map((model) => card(model, model.model === first));
  document.getElementById("model-list").replaceChildren(...cards);
}

/** Ignore files: models take none. */
export function receiveFiles() {}

function card(model, isDefault) {
  const element = template.content.firstElementChild.cloneNode(true);
  const part = (name) => element.querySelector(`.${name}`);
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
  part("report").href = urlOf(`models/${model.model}/report`);
  part("report").addEventListener("click", (event) => openReport(event, model));
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
    ["Test accuracy", percent(figures.accuracy)],
    ["Test images", figures.test_images.toLocaleString("en")],
    ["Calibration error", percent(figures.calibration_error)],
    ...known,
  ];
}

/** Save the report where a key is needed: a link cannot carry it. */
function openReport(event, model) {
  if (Object.keys(keyHeaders()).length === 0) return;
  event.preventDefault();
  const name = `${model.model.replace(":", "-")}.html`;
  save(`models/${model.model}/report`, {}, name).catch((error) => {
    event.target.textContent = error.message;
  });
}
