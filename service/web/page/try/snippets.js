// The code of a call in three languages.

import { hasKey, urlOf } from "../api.js";

const KEY_VARIABLE = "LOUPE_API_KEY";

function inShell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl(file, url) {
  const type = "-H 'Content-Type: application/octet-stream'";
  const lines = [`curl ${inShell(url.href)}`, type, `--data-binary ${inShell(`@${file}`)}`];
  if (hasKey()) lines.push(`-H "X-API-Key: $${KEY_VARIABLE}"`);
  return lines.join(" \\\n  ");
}

function python(file, url) {
  const parameters = [...url.searchParams].map(([name, value]) => `"${name}": ${quoted(value)}`);
  const lines = [
    ...(hasKey() ? ["import os"] : []),
    "from pathlib import Path",
    "",
    "import httpx",
    "",
    "answer = httpx.post(",
    `    ${quoted(url.origin + url.pathname)},`,
    ...(parameters.length > 0 ? [`    params={${parameters.join(", ")}},`] : []),
    ...(hasKey() ? [`    headers={"X-API-Key": os.environ["${KEY_VARIABLE}"]},`] : []),
    `    content=Path(${quoted(file)}).read_bytes(),`,
    ")",
    "print(answer.json())",
  ];
  return lines.join("\n");
}

function javascript(file, url) {
  const key = `, "X-API-Key": process.env.${KEY_VARIABLE}`;
  return `import { readFile } from "node:fs/promises";

const answer = await fetch(${quoted(url.href)}, {
  method: "POST",
  headers: { "Content-Type": "application/octet-stream"${hasKey() ? key : ""} },
  body: await readFile(${quoted(file)}),
});
console.log(await answer.json());`;
}

/** Quote a text for Python and JavaScript. */
function quoted(text) {
  return JSON.stringify(text);
}

const WRITERS = { curl, python, javascript };

/** Return the code that sends a file with parameters, in `curl`, `python` or `javascript`. */
export function snippet(language, file, parameters) {
  const url = urlOf("predict", parameters);
  url.search = url.search.replaceAll("%3A", ":"); // as in the tags of models
  return WRITERS[language](file, url);
}

/** Copy a text, also on pages that came without HTTPS; return whether it worked. */
export async function copy(text) {
  if (navigator.clipboard) {
    return navigator.clipboard.writeText(text).then(
      () => true,
      () => false,
    );
  }
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  return isCopied;
}
