// Sends a picture to URLs with fetch, in three kinds of bodies, and prints the answers.
import { readFileSync } from "node:fs";

const [key, file, ...urls] = process.argv.slice(2);
const bytes = readFileSync(file);
const form = new FormData();
form.append("image", new Blob([bytes], { type: "image/png" }));

for (const url of urls) {
  const stream = new Blob([bytes]).stream();
  for (const body of [bytes, form, stream]) {
    const headers = { "X-API-Key": key };
    if (body !== form) headers["Content-Type"] = "image/png";
    const answer = await fetch(url, { method: "POST", headers, body, duplex: "half" });
    console.log(`${answer.status} ${await answer.text()}`);
  }
}
