// Calls about jobs: submit, list, follow, cancel, and fetch results.

import { call, keyHeaders, Refused, send, urlOf } from "../api.js";

export const ENDED = new Set(["done", "failed", "cancelled"]);

const TYPES = {
  zip: "application/zip",
  csv: "text/csv",
  parquet: "application/vnd.apache.parquet",
  npy: "application/x-npy",
  gz: "application/gzip",
  tgz: "application/gzip",
  tar: "application/x-tar",
};

/** Return whether a file is a set of pictures, rather than one of them. */
export function isSet(file) {
  return suffix(file.name) in TYPES || suffix(file.name) === "npz";
}

function suffix(name) {
  return name.slice(name.lastIndexOf(".") + 1).toLowerCase();
}

/** Return `{jobs, next}`, the newest first. */
export function list(after) {
  return call(urlOf("jobs", { limit: "10", after }));
}

/**
 * Submit a file as a job; return it.
 *
 * @param onProgress Called with the share that has been sent; `fetch` cannot tell.
 */
export function submit(file, parameters, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", urlOf("jobs", parameters));
    const type = TYPES[suffix(file.name ?? "")] ?? file.type ?? "";
    request.setRequestHeader("Content-Type", type || "application/octet-stream");
    for (const [name, value] of Object.entries(keyHeaders())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    request.onerror = () => reject(new Refused(0, "unreachable", "The upload was interrupted."));
    request.onload = () => {
      const { status, response } = request;
      if (status === 202) resolve(response);
      else reject(new Refused(status, response?.code, response?.error ?? `Status ${status}.`));
    };
    request.send(file);
  });
}

export function cancel(id) {
  return call(urlOf(`jobs/${id}`), { method: "DELETE" });
}

/** Enqueue a failed or cancelled job again. */
export function retry(id) {
  return call(urlOf(`jobs/${id}/retry`), { method: "POST" });
}

/** Call `onJob` with the job after each change, until it has ended; events need no polling. */
export async function follow(id, onJob, signal) {
  for await (const line of lines(`jobs/${id}/events`, {}, signal)) {
    if (!line.startsWith("data: ")) continue;
    const content = JSON.parse(line.slice("data: ".length));
    if (content.error && !content.state) throw new Refused(503, content.code, content.error);
    onJob(content);
  }
}

/** Return a page of a job's rows: `{rows, offset, matched, total}`. */
export function rows(id, parameters) {
  const url = urlOf(`jobs/${id}/rows`, parameters);
  if (parameters.label === "") url.searchParams.set("label", ""); // rows without a label
  return call(url);
}

/** Return a page of a job's errors, likewise. */
export function errorRows(id, parameters) {
  return call(urlOf(`jobs/${id}/errors/rows`, parameters));
}

/** Return the picture of a row as a file, or `null` if the source cannot give it. */
export async function pictureFile(id, row) {
  try {
    return await (await open(`jobs/${id}/picture`, { row: String(row) })).blob();
  } catch {
    return null;
  }
}

/** Return a URL of the picture of a row, to be revoked, or `null`. */
export async function picture(id, row) {
  const file = await pictureFile(id, row);
  return file === null ? null : URL.createObjectURL(file);
}

/** Save a file of a job, such as its results as CSV. */
export async function save(path, parameters, name) {
  const link = document.createElement("a");
  link.download = name;
  const hasKey = Object.keys(keyHeaders()).length > 0;
  if (hasKey) link.href = URL.createObjectURL(await (await open(path, parameters)).blob());
  else link.href = urlOf(path, parameters); // the browser writes it to disk while it arrives
  link.click();
  if (hasKey) URL.revokeObjectURL(link.href);
}

/** Yield the lines of a text that are not empty, as they arrive. */
async function* lines(path, parameters, signal) {
  const response = await open(path, parameters, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts.filter(Boolean);
  }
  if (rest) yield rest;
}

async function open(path, parameters, signal) {
  const response = await send(urlOf(path, parameters), { headers: keyHeaders(), signal });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Refused(response.status, body?.code, body?.error ?? `Status ${response.status}.`);
}
