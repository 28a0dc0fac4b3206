// The form that asks for an API key.

import { hasKey, useKey } from "./api.js";

const UNAUTHORIZED = 401;
const form = document.getElementById("key-form");
const field = document.getElementById("key");
const problem = document.getElementById("key-problem");

/** Ask for a key if an error says that one is needed; return whether it does. */
export function askForKey(error) {
  if (error.status !== UNAUTHORIZED) return false;
  problem.textContent = hasKey() ? error.message : "";
  if (form.hidden) {
    form.hidden = false;
    field.focus();
  }
  return true;
}

/** Call `onKey` when a key has been entered. */
export function whenEntered(onKey) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      useKey(field.value.trim());
    } catch {
      problem.textContent = "A key has only letters, digits and signs of ASCII.";
      return;
    }
    field.value = "";
    onKey();
  });
}

/** Hide the form: the key is right, or none is needed. */
export function accept() {
  form.hidden = true;
}
