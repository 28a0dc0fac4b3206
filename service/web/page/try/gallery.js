// Several pictures: a card for each, with the answers of one or two models.

import { predict } from "../api.js";
import { confidenceOf, labelOf } from "./answers.js";

const MAX_PICTURES = 200; // bulk scoring is better at more
const AT_ONCE = 4; // calls in flight
const cardTemplate = document.getElementById("card");

export class Gallery {
  /**
   * @param parts `{section, list, summary}`, elements of the page.
   * @param onChoose Called with the picture of a card that is pressed.
   */
  constructor({ section, list, summary }, onChoose) {
    this._section = section;
    this._list = list;
    this._summary = summary;
    this._onChoose = onChoose;
    this._cards = [];
    this._leftOut = 0;
    this._run = null; // the calls in flight can be cancelled
  }

  get size() {
    return this._cards.length;
  }

  /** Add pictures `{name, file, url}`; return those that were left out. */
  add(pictures) {
    const added = pictures.slice(0, MAX_PICTURES - this.size);
    const leftOut = pictures.slice(added.length);
    this._leftOut += leftOut.length;
    for (const picture of added) this._cards.push(this._card(picture));
    this._list.replaceChildren(...this._cards.map((card) => card.item));
    this._section.hidden = this.size === 0;
    return leftOut;
  }

  clear() {
    this._run?.abort();
    this._leftOut = 0;
    for (const card of this._cards) URL.revokeObjectURL(card.picture.url);
    this._cards = [];
    this.add([]);
  }

  /** Mark the card of the picture that is shown in full. */
  mark(picture) {
    for (const card of this._cards) {
      card.button.setAttribute("aria-pressed", String(card.picture === picture));
    }
  }

  /** Ask the models about all pictures; `asked` is `{models, parameters, lang}`. */
  async ask(asked) {
    this._run?.abort();
    const run = (this._run = new AbortController());
    const waiting = [...this._cards];
    const outcomes = [];
    const work = async () => {
      while (waiting.length > 0 && !run.signal.aborted) {
        outcomes.push(await this._askOne(waiting.shift(), asked, run.signal));
        if (!run.signal.aborted) this._summarize(outcomes);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  }

  async _askOne(card, { models, parameters, lang }, signal) {
    const lines = await Promise.all(
      models.map(async (model) => {
        try {
          const wanted = { ...parameters, model: model.model };
          const answer = await predict(card.picture.file, wanted, signal);
          card.seen.src = `data:image/png;base64,${answer.seen}`;
          card.seen.hidden = false;
          const label = labelOf(model, answer, lang);
          const unlike = answer.unfamiliar ? ", unlike what it learnt" : "";
          return { label, text: ` ${confidenceOf(answer)}${unlike}`, lang, isAnswer: true };
        } catch (error) {
          return { label: "", text: error.message, lang: "en", isAnswer: false };
        }
      }),
    );
    if (!signal.aborted) card.answers.replaceChildren(...lines.map(lineElement));
    return lines.every((line) => line.isAnswer);
  }

  _summarize(outcomes) {
    const failed = outcomes.filter((isAnswered) => !isAnswered).length;
    const parts = [`${outcomes.length} of ${this.size} pictures`];
    if (failed > 0) parts.push(`${failed} could not be read`);
    if (this._leftOut > 0) parts.push(`${this._leftOut} left out: at most ${MAX_PICTURES} here`);
    this._summary.textContent = `${parts.join(", ")}.`;
  }

  _card(picture) {
    const item = cardTemplate.content.firstElementChild.cloneNode(true);
    const part = (name) => item.querySelector(`.${name}`);
    const original = part("original");
    original.onerror = () => (original.hidden = true);
    original.src = picture.url;
    part("file").textContent = picture.name;
    const button = part("card");
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => this._onChoose(picture));
    return { item, picture, button, seen: part("seen"), answers: part("answers-short") };
  }
}

function lineElement({ label, text, lang, isAnswer }) {
  const line = document.createElement("span");
  const name = document.createElement("b");
  name.textContent = label;
  name.lang = lang;
  line.append(name, text);
  if (!isAnswer) line.className = "problem";
  return line;
}
