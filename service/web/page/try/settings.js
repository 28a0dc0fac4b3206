// The choices above the picture: models, language of the class names, threshold.

import { namesOf } from "./answers.js";

const languages = new Map();

function languageName(code) {
  if (!languages.has(code)) {
    const name = new Intl.DisplayNames([code], { type: "language", fallback: "code" }).of(code);
    languages.set(code, name);
  }
  return languages.get(code);
}

export class Choices {
  /**
   * @param parts `{form, model, other, otherField, lang, langField, threshold, thresholdShown}`.
   * @param onChange Called when a choice has changed.
   */
  constructor(parts, onChange) {
    this._parts = parts;
    this._served = [];
    parts.form.addEventListener("submit", (event) => event.preventDefault());
    parts.threshold.addEventListener("input", () => {
      const value = Number(parts.threshold.value);
      parts.thresholdShown.textContent = value > 0 ? `${Math.round(100 * value)} %` : "off";
    });
    parts.form.addEventListener("change", () => {
      this._offerLanguages();
      onChange();
    });
  }

  /** Offer the served models; keep what is chosen if it is still served. */
  offer({ default: first, models }) {
    this._served = models;
    const { model, other, otherField } = this._parts;
    const names = models.map((each) => [each.model, each.model]);
    fill(model, names, model.value || first);
    fill(other, [["", "none"], ...names], other.value);
    otherField.hidden = models.length < 2;
    this._offerLanguages();
  }

  /** The chosen models: one or two. */
  get models() {
    const { model, other } = this._parts;
    const tags = [...new Set([model.value, other.value])].filter(Boolean);
    return tags.map((tag) => this._served.find((each) => each.model === tag));
  }

  get lang() {
    return this._parts.lang.value || "en";
  }

  /** Query parameters of a prediction, besides the model. */
  get parameters() {
    const threshold = Number(this._parts.threshold.value);
    return threshold > 0 ? { threshold: String(threshold) } : {};
  }

  _offerLanguages() {
    const { lang, langField } = this._parts;
    const codes = new Set();
    for (const model of this.models) {
      for (const code of Object.keys(model.translations)) {
        const isOther = namesOf(model, code).some((name, i) => name !== model.class_names[i]);
        if (isOther) codes.add(code);
      }
    }
    fill(lang, ["en", ...codes].map((code) => [code, languageName(code)]), lang.value);
    for (const option of lang.options) option.lang = option.value;
    langField.hidden = codes.size === 0;
  }
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  const values = options.map(([value]) => value);
  select.value = values.includes(chosen) ? chosen : values[0];
}
