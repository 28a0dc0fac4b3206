// "Try": from a picture to the answers.

import { predict } from "../api.js";
import { AnswerView, sentence } from "./answers.js";
import { offerCamera } from "./camera.js";
import { Gallery } from "./gallery.js";
import { askForKey } from "../key.js";
import { Pad } from "./pad.js";
import { samplesOf } from "./samples.js";
import { Choices } from "./settings.js";
import { copy, snippet } from "./snippets.js";

const WHILE_DRAWING_MS = 80; // between calls
const SPOKEN_AFTER_MS = 700; // without a change

const element = (id) => document.getElementById(id);
let picture = null; // the one that is shown: {name, file, url, isDrawn, isInGallery}
let views = []; // one for each chosen model
let shownSamples = null; // their look

const pad = new Pad(element("pad"), (isDrawing) => {
  element("shown").hidden = true;
  showTools();
  askSoon(isDrawing);
});

const gallery = new Gallery(
  { section: element("gallery"), list: element("cards"), summary: element("gallery-summary") },
  (chosen) => {
    show(chosen);
    element("stage-title").scrollIntoView({ block: "nearest" });
  },
);

const choices = new Choices(
  {
    form: element("settings"),
    model: element("model"),
    other: element("other"),
    otherField: element("other-field"),
    lang: element("lang"),
    langField: element("lang-field"),
    threshold: element("threshold"),
    thresholdShown: element("threshold-shown"),
  },
  changed,
);

/** Offer the served models, as `GET /models` lists them. */
export function offer(served) {
  choices.offer(served);
  changed();
}

// Pictures

function show(chosen) {
  pad.reset();
  setPicture(chosen);
  const image = element("shown");
  image.hidden = false;
  image.onerror = () => {
    image.hidden = true;
    element("pad-hint").textContent = `The browser cannot show ${chosen.name}`;
    element("pad-hint").hidden = false;
  };
  image.src = chosen.url;
  image.alt = chosen.name;
  showTools();
  gallery.mark(chosen);
  ask();
}

function setPicture(next) {
  const isInGallery = picture?.isInGallery;
  if (picture !== null && picture !== next && !isInGallery) URL.revokeObjectURL(picture.url);
  picture = next;
}

/** Show files that were chosen, dropped or pasted: one in full, several as a gallery. */
export function receiveFiles(files) {
  if (files.length === 0) return;
  const pictures = files.map(({ file }) => ({
    name: file.name,
    file,
    url: URL.createObjectURL(file),
    isInGallery: files.length > 1,
  }));
  if (pictures.length > 1) {
    gallery.add(pictures);
    gallery.ask(asked());
  }
  show(pictures[0]);
}

function showTools() {
  element("undo").disabled = !pad.canUndo;
  element("clear").disabled = pad.isEmpty && picture === null;
  element("pad-hint").textContent = "Draw here";
  element("pad-hint").hidden = !pad.isEmpty || !element("shown").hidden;
}

async function offerSamples(look) {
  if (look === shownSamples) return;
  shownSamples = look;
  const buttons = (await samplesOf(look)).map(({ name, file }) => {
    const button = document.createElement("button");
    const image = new Image();
    button.type = "button";
    image.alt = `Sample: ${name}`;
    image.src = URL.createObjectURL(file);
    button.append(image);
    button.addEventListener("click", () => receiveFiles([{ file }]));
    return button;
  });
  element("samples").replaceChildren(...buttons);
}

element("undo").addEventListener("click", () => pad.undo());
element("clear").addEventListener("click", () => {
  element("shown").hidden = true;
  pad.clear();
  forget();
});
element("width").addEventListener("input", (event) => (pad.width = Number(event.target.value)));
element("gallery-clear").addEventListener("click", () => {
  gallery.clear();
  if (picture?.isInGallery) forget();
});
document.addEventListener("keydown", (event) => {
  const isUndo = (event.ctrlKey || event.metaKey) && event.key === "z";
  if (isUndo && event.target === element("pad") && pad.canUndo) pad.undo();
});

offerCamera({
  button: element("camera"),
  dialog: element("camera-dialog"),
  video: element("video"),
  take: element("take"),
  close: element("camera-close"),
  problem: element("camera-problem"),
  onPicture: (file) => receiveFiles([{ file }]),
});

// Answers

function asked() {
  return { models: choices.models, parameters: choices.parameters, lang: choices.lang };
}

/** Show what the choices now say. */
function changed() {
  const chosen = choices.models;
  views = chosen.map((model) => new AnswerView((explain) => explained(model, explain)));
  element("answers").replaceChildren(...(picture ? views.map((view) => view.element) : []));
  offerSamples(chosen[0].input.look);
  if (gallery.size > 0) gallery.ask(asked());
  if (picture !== null) ask();
}

function forget() {
  setPicture(null);
  gallery.mark(null);
  element("answers").replaceChildren();
  element("empty").hidden = false;
  element("brief").textContent = "";
  element("code").hidden = true;
  showTools();
}

let timer = null;
let isAsking = false;

/** Ask about the drawing: at once when the pointer is up, else one question after the other. */
function askSoon(isDrawing) {
  if (isDrawing && timer !== null) return;
  clearTimeout(timer);
  timer = setTimeout(
    () => {
      timer = null;
      if (isDrawing && isAsking) askSoon(true);
      else askAboutDrawing();
    },
    isDrawing ? WHILE_DRAWING_MS : 0,
  );
}

async function askAboutDrawing() {
  const blob = await pad.picture();
  if (pad.isEmpty) {
    if (picture?.isDrawn) forget(); // else another picture was chosen meanwhile
    return;
  }
  const file = new File([blob], "drawing.png", { type: "image/png" });
  setPicture({ name: file.name, file, url: URL.createObjectURL(file), isDrawn: true });
  gallery.mark(null);
  isAsking = true;
  await ask();
  isAsking = false;
}

let newest = 0; // number of the newest question; answers to others are dropped

async function ask() {
  const number = (newest += 1);
  const current = picture;
  const { models: chosen, parameters, lang } = asked();
  if (chosen.length === 0) return;
  element("empty").hidden = true;
  element("answers").replaceChildren(...views.map((view) => view.element));
  current.isSplit = false;
  showCode();
  const sentences = await Promise.all(
    chosen.map((model, i) => askOne(views[i], model, current, parameters, lang, number)),
  );
  if (number !== newest) return;
  if (current.isSplit) showCode();
  element("brief").textContent = sentences[0];
  speak(sentences.join(" "));
}

/** Return the answer about the current picture with an explanation. */
function explained(model, explain) {
  return predict(picture.file, { ...asked().parameters, model: model.model, explain });
}

async function askOne(view, model, current, parameters, lang, number) {
  const started = performance.now();
  let text;
  let render;
  try {
    const answer = await predict(current.file, { ...parameters, model: model.model });
    const milliseconds = performance.now() - started;
    render = () => view.show(model, answer, lang, milliseconds);
    text = sentence(model, answer, lang);
  } catch (error) {
    askForKey(error);
    const symbols =
      error.code === "several_objects" ? await askAboutEach(model, current, parameters) : null;
    if (symbols === null) {
      render = () => view.refuse(model, error);
      text = error.message;
    } else {
      current.isSplit ||= model === asked().models[0];
      render = () => view.showSymbols(model, symbols, lang);
      text = `${symbols.length} symbols: ${symbols.map((each) => each.label ?? "unsure").join(" ")}.`;
    }
  }
  if (number === newest && picture === current) {
    view.showPicture(current.url);
    render();
  }
  return text;
}

/** Return the answers to each symbol of a picture, or `null` if there are none. */
async function askAboutEach(model, current, parameters) {
  const wanted = { ...parameters, model: model.model, explain: "", split: "true" };
  return predict(current.file, wanted).then(
    (answer) => answer.predictions ?? null,
    () => null,
  );
}

let speaking = null;

/** Tell screen readers the answer when the drawing rests. */
function speak(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => (element("spoken").textContent = text), SPOKEN_AFTER_MS);
}

// Code

function showCode() {
  const { models: chosen, parameters, lang } = asked();
  const language = document.querySelector("input[name=language]:checked").value;
  const wanted = { model: chosen[0].model, ...parameters, ...(lang !== "en" && { lang }) };
  if (picture.isSplit) wanted.split = "true";
  element("code").hidden = false;
  element("snippet").textContent = snippet(language, picture.name, wanted);
  element("download").href = picture.url;
  element("download").download = picture.name;
}

for (const input of document.querySelectorAll("input[name=language]")) {
  input.addEventListener("change", showCode);
}
element("copy").addEventListener("click", async () => {
  const isCopied = await copy(element("snippet").textContent);
  element("copied").textContent = isCopied ? "Copied." : "The browser did not allow it.";
});
