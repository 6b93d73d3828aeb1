// Loads `exported/` beside the page (or ?model=DIRECTORY) and writes as one watches.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { Stepper, Writer } from "./stepper.mjs";

const $ = (id) => document.getElementById(id);
const LENGTH = Number(new URLSearchParams(location.search).get("length") ?? 400);
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;

const temperature = () => Number($("temperature").value);
$("temperature").addEventListener("input", () => ($("shown").value = temperature().toFixed(2)));
$("temperature").dispatchEvent(new Event("input"));

let run = 0; // a new number stops the writing that is under way

async function load() {
  const directory = new URLSearchParams(location.search).get("model") ?? "exported";
  const manifest = await (await fetched(`${directory}/manifest.json`)).json();
  const bytes = new Uint8Array(await (await fetched(`${directory}/${manifest.artifact.entry}`)).arrayBuffer());
  return new Writer(await Stepper.open(ort, manifest, bytes));
}

async function fetched(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${answer.statusText}`);
  return answer;
}

function reset() {
  run += 1;
  $("text").textContent = "";
  $("status").textContent = "Ready.";
}

async function write(writer) {
  reset();
  const mine = run;
  $("status").textContent = "Writing…";
  await writer.read($("prompt").value);
  for (let i = 0; i < LENGTH && mine === run; i++) {
    const character = await writer.next(temperature());
    if (mine !== run) return;
    $("text").append(character);
    if (i % 4 === 3) await new Promise(requestAnimationFrame); // lets the page be painted
  }
  if (mine === run) $("status").textContent = "Done.";
}

try {
  const writer = await load();
  let last = Promise.resolve(); // one writing after the other: they share the state
  $("write").addEventListener("click", () => {
    run += 1;
    last = last.then(() => write(writer)).catch((error) => ($("status").textContent = String(error)));
  });
  $("reset").addEventListener("click", reset);
  $("status").textContent = "Ready.";
} catch (error) {
  $("status").textContent = String(error);
}
