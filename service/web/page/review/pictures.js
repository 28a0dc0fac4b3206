// The pictures that are reviewed, one after the other.

import { pictureFile, rows } from "../jobs/calls.js";
import { captured } from "./calls.js";

const PER_PAGE = 50;
const SORTS = new Set(["confidence", "familiarity"]);

/** Yield the pictures of a job with their answers; files are `null` where the source has none. */
export async function* jobPictures(job, order) {
  const wanted = SORTS.has(order) ? { sort: order } : {};
  if (order === "wrong") wanted.wrong = "true";
  for await (const row of paged((page) => rows(job.id, { ...wanted, ...page }))) {
    const file = await pictureFile(job.id, row.id);
    yield { ...row, ...shown(file), source: job.id, model: job.model };
  }
}

/** Yield the captured pictures, as the models saw them. */
export async function* servedPictures(order) {
  const wanted = SORTS.has(order) ? { sort: order } : {};
  if (order === "wrong") return; // nobody knows the true labels
  for await (const row of paged((page) => captured({ ...wanted, ...page }))) {
    const bytes = Uint8Array.from(atob(row.picture), (letter) => letter.charCodeAt(0));
    const file = new Blob([bytes], { type: "image/png" });
    yield { ...row, ...shown(file), id: `${row.id}.png`, source: "served" };
  }
}

async function* paged(read) {
  for (let offset = 0; ; offset += PER_PAGE) {
    const page = await read({ offset: String(offset), limit: String(PER_PAGE) });
    yield* page.rows;
    if (offset + page.rows.length >= page.matched) return;
  }
}

function shown(file) {
  return { file, url: file === null ? null : URL.createObjectURL(file) };
}
