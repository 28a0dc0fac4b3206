// Labels that people gave: a list, a CSV file, and a folder of pictures for training.

import { pack } from "../zip.js";

export class Labels {
  /** @param parts `{section, list, count, csv, folder, clear}`, elements of the page. */
  constructor(parts) {
    this._parts = parts;
    this._given = new Map(); // pictures and labels, by source and id
    this._isSaved = true;
    parts.csv.addEventListener("click", () => this._save(this._csv(), "labels.csv"));
    parts.folder.addEventListener("click", async () =>
      this._save(await this._archive(), "labelled.zip"),
    );
    parts.clear.addEventListener("click", () => {
      this._given.clear();
      this._changed();
      this._isSaved = true;
    });
    addEventListener("beforeunload", (event) => {
      if (!this._isSaved) event.preventDefault(); // the browser asks
    });
  }

  /** Return the label of a picture, if it has one. */
  of(picture) {
    return this._given.get(keyOf(picture))?.label;
  }

  /** Give a picture a label. */
  set(picture, label) {
    this._given.delete(keyOf(picture)); // the newest comes first
    this._given.set(keyOf(picture), { picture, label });
    this._changed();
  }

  _changed() {
    this._isSaved = false;
    const given = [...this._given.values()].reverse();
    this._parts.section.hidden = given.length === 0;
    this._parts.count.textContent = `${given.length} labelled`;
    this._parts.folder.disabled = given.every(({ picture }) => picture.file === null);
    this._parts.list.replaceChildren(...given.slice(0, 24).map(item));
  }

  _csv() {
    const lines = [...this._given.values()].map(({ picture, label }) =>
      [picture.id, label, picture.label ?? "", picture.confidence, picture.model].map(cell).join(","),
    );
    const text = ["id,label,predicted,confidence,model", ...lines, ""].join("\n");
    return new Blob([text], { type: "text/csv" });
  }

  /** Return a zip archive with a folder for each class, and their names if they need it. */
  async _archive() {
    const files = [];
    const folders = new Map();
    for (const { picture, label } of this._given.values()) {
      const folder = label.replace(/[/\\:*?"<>|\0]/g, "-");
      folders.set(folder, label);
      const path = `labelled/${folder}/${picture.source}-${picture.id.toString().replaceAll("/", "_")}`;
      if (picture.file !== null) files.push({ path, file: picture.file });
    }
    const lines = [...folders].map((names) => names.map(cell).join(","));
    const file = new Blob([["folder,class", ...lines, ""].join("\n")]);
    return pack([...files, { path: "classes.csv", file }], () => {});
  }

  _save(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
    this._isSaved = true;
  }
}

function keyOf({ source, id }) {
  return `${source} ${id}`;
}

function item({ picture, label }) {
  const element = document.createElement("li");
  const image = new Image();
  const name = document.createElement("b");
  image.alt = "";
  image.src = picture.url ?? "";
  image.hidden = picture.url === null;
  name.textContent = label;
  element.append(image, name);
  if (label !== picture.label) element.append(` was ${picture.label ?? "unsure"}`);
  return element;
}

/** Return a value as a cell of a CSV file. */
function cell(value) {
  const text = String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
