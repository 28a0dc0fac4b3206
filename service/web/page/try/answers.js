// The answer of one model to one picture: label, confidence, bars, and what the model saw.

import { percent } from "../text.js";

const MAX_BARS = 10;
const answerTemplate = document.getElementById("answer");
const neighbourTemplate = document.getElementById("neighbour");
const barTemplate = document.getElementById("bar");

/** Return the class names of a model in a language. */
export function namesOf(model, lang) {
  return model.translations[lang] ?? model.class_names;
}

/** Return the text of an answer's label: a class, or that the model is not sure. */
export function labelOf(model, answer, lang) {
  if (answer.index !== null) return namesOf(model, lang)[answer.index];
  if (answer.reason === "blank") return "Blank";
  return answer.abstained ? "Unsure" : "No label";
}

/** Return the confidence as text; a blank picture has none. */
export function confidenceOf(answer) {
  return answer.reason === "blank" ? "" : percent(answer.confidence);
}

/** Return an answer as one sentence, for screen readers. */
export function sentence(model, answer, lang) {
  const label = labelOf(model, answer, lang);
  if (answer.reason === "blank") return `${label}.`;
  const [best] = ranked(model, answer, lang);
  if (answer.index === null) return `${label}. Closest: ${best.name}, ${percent(best.share)}.`;
  return `${label}, ${percent(answer.confidence)}.`;
}

/** Return how familiar a picture is, as texts, if the model knows. */
export function familiarityOf(answer) {
  if (answer.familiarity == null) return [];
  const text = `familiar ${percent(answer.familiarity)}`;
  return answer.unfamiliar ? [`${text}: unlike what the model learnt`] : [text];
}

/** Return the classes, the most probable first. */
function ranked(model, answer, lang) {
  const names = namesOf(model, lang);
  return model.class_names
    .map((name, index) => ({ index, name: names[index], share: answer.probabilities[name] ?? 0 }))
    .sort((one, other) => other.share - one.share);
}

export class AnswerView {
  /** @param onExplain Called with `saliency` or `nearest`; returns the answer with this field. */
  constructor(onExplain) {
    this.element = answerTemplate.content.firstElementChild.cloneNode(true);
    this._offer("ask-counted", "saliency", onExplain, (png) => this._showMap(png));
    this._offer("ask-nearest", "nearest", onExplain, (found) => this._showNearest(found));
    this._bars = new Map(); // by index of the class
    this._answer = null; // the one that is shown
    this._names = []; // of the classes
  }

  /** Show a field of an explained answer on a click; of the newest, if others come meanwhile. */
  _offer(name, explain, onExplain, show) {
    const button = this._part(name);
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        let about;
        let explained;
        do {
          about = this._answer;
          explained = await onExplain(explain);
        } while (about !== this._answer && this._answer !== null);
        if (this._answer !== null) show(explained[explain]);
      } catch (error) {
        this._part("problem").textContent = error.message;
        this._part("problem").hidden = false;
      }
      button.disabled = false;
    });
  }

  _showMap(png) {
    this._part("map").src = `data:image/png;base64,${png}`;
    this._part("counted").hidden = false;
  }

  _showNearest(found) {
    const pictures = (found ?? []).map(({ index, similarity, image }) => {
      const label = this._names[index];
      const figure = neighbourTemplate.content.firstElementChild.cloneNode(true);
      figure.querySelector("img").src = `data:image/png;base64,${image}`;
      figure.querySelector("img").alt = `A training picture of ${label}`;
      figure.querySelector("figcaption").textContent = `${label}, ${percent(similarity)} alike`;
      return figure;
    });
    const none = "This model was saved without training pictures.";
    this._part("nearest").replaceChildren(...(found ? pictures : [none]));
  }

  _part(name) {
    return this.element.querySelector(`.${name}`);
  }

  /** Show the picture that is asked about; some browsers cannot show some formats. */
  showPicture(url) {
    const image = this._part("original");
    if (image.getAttribute("src") === url) return;
    const figure = this._part("sent");
    figure.hidden = false;
    image.onerror = () => (figure.hidden = true);
    image.src = url;
  }

  /** Show an answer, and how many milliseconds it took. */
  show(model, answer, lang, milliseconds) {
    const label = this._part("label");
    this._answer = answer;
    this._names = namesOf(model, lang);
    this._part("head").hidden = false;
    label.lang = lang;
    label.textContent = labelOf(model, answer, lang);
    label.classList.toggle("unsure", answer.index === null);
    this._part("problem").hidden = true;
    this._part("saw").hidden = false;
    this._part("seen").src = `data:image/png;base64,${answer.seen}`;
    this._part("confidence").textContent = confidenceOf(answer);
    this._facts([...familiarityOf(answer), answer.model, `${Math.round(milliseconds)} ms`]);
    this._part("counted").hidden = true;
    this._part("nearest").replaceChildren();
    this._part("explain").hidden = answer.index === null && answer.reason === "blank";
    this._part("symbols").replaceChildren();
    this._showSteps(answer.steps ?? []);
    this._showBars(model, answer, lang);
  }

  /** Show the answers to each symbol of a picture of several. */
  showSymbols(model, answers, lang) {
    this._withoutAnswer();
    this._part("head").hidden = false;
    this._part("label").lang = lang;
    this._part("label").classList.remove("unsure");
    this._part("label").textContent = answers
      .map((answer) => (answer.index === null ? "?" : namesOf(model, lang)[answer.index]))
      .join(" ");
    this._part("confidence").textContent = "";
    this._facts([`${answers.length} symbols`, model.model]);
    const items = answers.map((answer) => {
      const item = document.createElement("li");
      const name = document.createElement("b");
      name.textContent = labelOf(model, answer, lang);
      item.append(name, ` ${confidenceOf(answer)}`);
      return item;
    });
    this._part("symbols").replaceChildren(...items);
  }

  _withoutAnswer() {
    this._answer = null;
    for (const name of ["head", "saw", "counted", "explain", "how", "problem"]) {
      this._part(name).hidden = true;
    }
    this._part("bars").replaceChildren();
    this._part("symbols").replaceChildren();
    this._part("nearest").replaceChildren();
    this._part("rest").textContent = "";
    this._bars.clear();
  }

  _showSteps(steps) {
    this._part("how").hidden = steps.length === 0;
    const items = steps.map(({ text }) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    });
    this._part("steps").replaceChildren(...items);
  }

  /** Show the service's message about a picture that has no answer. */
  refuse(model, error) {
    this._withoutAnswer();
    this._part("problem").hidden = false;
    this._part("problem").textContent = error.message;
    this._facts([error.code, model.model]);
  }

  _facts(facts) {
    this._part("facts").textContent = facts.join(" · ");
  }

  _showBars(model, answer, lang) {
    const classes = ranked(model, answer, lang);
    const shown = classes.slice(0, MAX_BARS);
    const best = shown[0].index;
    if (classes.length <= MAX_BARS) shown.sort((one, other) => one.index - other.index);
    const list = this._part("bars");
    list.lang = lang;
    list.classList.toggle("short", classes.every(({ name }) => name.length <= 2));
    const bars = shown.map(({ index, name, share }) => {
      const bar = this._bars.get(index) ?? barTemplate.content.firstElementChild.cloneNode(true);
      this._bars.set(index, bar);
      bar.classList.toggle("best", index === best);
      bar.querySelector(".name").textContent = name;
      bar.querySelector(".name").title = name;
      bar.querySelector(".fill").style.setProperty("--share", share);
      bar.querySelector(".value").textContent = percent(share);
      return bar;
    });
    const isSame = bars.every((bar, i) => list.children[i] === bar);
    if (!isSame || list.children.length !== bars.length) list.replaceChildren(...bars);
    const left = classes.length - shown.length;
    this._part("rest").textContent = left > 0 ? `and ${left} other classes` : "";
  }
}
