// Classify an image with a form upload, as a browser does: node client.mjs IMAGE [URL]
import { readFile } from "node:fs/promises";

const [path, url = "http://127.0.0.1:3000"] = process.argv.slice(2);
const form = new FormData();
form.append("image", new Blob([await readFile(path)]), "image");
form.append("top_k", "3");

const response = await fetch(`${url}/classify`, { method: "POST", body: form });
const answer = await response.json();
if (!response.ok) {
  // 429 and 503 can be retried after `Retry-After` seconds.
  throw new Error(`${response.status}: ${answer.error.message}`);
}
for (const { label, probability, score } of answer.predictions) { // score: without probabilities
  console.log(label, (probability ?? score).toFixed(4));
}
