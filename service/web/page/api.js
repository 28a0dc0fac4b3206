// Calls of the service. All are relative to the page, which may be behind a path prefix.

const base = new URL(".", document.baseURI);
let key = ""; // in memory only

/** An error that the service answered, or `unreachable` if it did not answer. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Send this API key with every call from now on. */
export function useKey(text) {
  new Headers({ "X-API-Key": text }); // throws if no header can hold it
  key = text;
}

export function hasKey() {
  return key !== "";
}

/** Return the absolute URL of a path of the service, with the parameters that have a value. */
export function urlOf(path, parameters = {}) {
  const url = new URL(path, base);
  for (const [name, value] of Object.entries(parameters)) {
    if (value) url.searchParams.set(name, value);
  }
  return url;
}

/** Return the headers that carry the key, if there is one. */
export function keyHeaders() {
  return key ? { "X-API-Key": key } : {};
}

/** Return the response, or throw `Refused` if there is none. */
export async function send(url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "unreachable", "The service does not answer. Is it still running?");
  }
}

/** Return the JSON that the service answers, or throw `Refused`. */
export async function call(url, options = {}) {
  const headers = { ...options.headers, ...keyHeaders() };
  const response = await send(url, { ...options, headers });
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  const message = body?.error ?? `The answer has status ${response.status} and is not from Loupe.`;
  throw new Refused(response.status, body?.code ?? "unknown", message);
}

/** Return `{default, models}`, as `GET /models` lists them. */
export function models() {
  return call(urlOf("models"));
}

/** Return `{versions, promotions}` of the name in a tag. */
export function versions(name) {
  return call(urlOf(`models/${name}/versions`));
}

/** Put a version into production, even a worse one if `force` is set. */
export function promote(tag, force) {
  return call(urlOf(`models/${tag}/promote`, { force: force && "true" }), { method: "POST" });
}

/** Put the version before into production. */
export function rollBack(name) {
  return call(urlOf(`models/${name}/rollback`), { method: "POST" });
}

/**
 * Classify one picture; the answer contains the image that the model saw.
 *
 * @param parameters Of the query; another `explain` replaces `seen`.
 */
export function predict(picture, parameters, signal) {
  const url = urlOf("predict", { explain: "seen", ...parameters });
  const headers = { "Content-Type": "application/octet-stream" };
  return call(url, { method: "POST", body: picture, headers, signal });
}
