// node write.mjs DIRECTORY PROMPT [LENGTH] [TEMPERATURE]
// Writes LENGTH characters (200) after PROMPT; temperature 0, the default, is greedy.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as ort from "onnxruntime-web";
import { Stepper, Writer } from "./stepper.mjs";

const [directory, prompt, length = "200", temperature = "0"] = process.argv.slice(2);
if (!directory || !prompt) {
  console.error("usage: node write.mjs DIRECTORY PROMPT [LENGTH] [TEMPERATURE]");
  process.exit(2);
}
ort.env.wasm.numThreads = 1;
const manifest = JSON.parse(await readFile(join(directory, "manifest.json"), "utf8"));
const bytes = new Uint8Array(await readFile(join(directory, manifest.artifact.entry)));
const writer = new Writer(await Stepper.open(ort, manifest, bytes));
await writer.read(prompt);
for (let i = 0; i < Number(length); i++) process.stdout.write(await writer.next(Number(temperature)));
process.stdout.write("\n");
