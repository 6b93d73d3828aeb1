// One exported step model, from its manifest alone. The same file runs in Node.js and in a browser.
//
//   const stepper = await Stepper.open(ort, manifest, bytes);
//   const scores = await stepper.step(id);      // Float32Array, one number for each id
//
// `ort` is onnxruntime-web (or -node); `bytes` is the artifact that `manifest.artifact.entry` names.

const ARRAYS = { float32: Float32Array, int32: Int32Array };

export class Stepper {
  static async open(ort, manifest, bytes) {
    if (manifest.kind !== "keras_stateful step model" || manifest.format_version !== 1) {
      throw new Error(`not a step model of format version 1: ${manifest.kind} ${manifest.format_version}`);
    }
    await verify(manifest, bytes);
    return new Stepper(ort, manifest, await ort.InferenceSession.create(bytes));
  }

  constructor(ort, manifest, session) {
    this.ort = ort;
    this.manifest = manifest;
    this.session = session;
    this.input = manifest.inputs[0];
    this.output = manifest.outputs[0];
    this.reset();
  }

  // Back to the initial state.
  reset() {
    this.states = this.manifest.states.map((state) => {
      const shape = [1, ...state.shape.slice(1)];
      return new this.ort.Tensor(state.dtype, initialValue(state, shape), shape);
    });
  }

  // Reads one id; gives the scores of all ids to come next. The new states are kept.
  async step(id) {
    if (!Number.isInteger(id) || id < 0 || id >= (this.input.vocabulary ?? Infinity)) {
      throw new RangeError(`id ${id} is outside the vocabulary of ${this.input.vocabulary}`);
    }
    const feeds = { [this.input.tensor]: new this.ort.Tensor("int32", Int32Array.of(id), [1, 1]) };
    this.manifest.states.forEach((state, i) => (feeds[state.input] = this.states[i]));
    const results = await this.session.run(feeds);
    this.states = this.manifest.states.map((state) => results[state.output]);
    return results[this.output.tensor].data;
  }
}

// Text, where the manifest's metadata holds the model's characters: id i stands for characters[i].
export class Writer {
  constructor(stepper) {
    this.stepper = stepper;
    this.characters = Array.from(stepper.manifest.metadata.characters);
    this.ids = new Map(this.characters.map((character, i) => [character, i]));
  }

  // Reads a prompt from the initial state; characters that the model does not know are left out.
  async read(prompt) {
    this.stepper.reset();
    const ids = Array.from(prompt, (character) => this.ids.get(character)).filter((id) => id !== undefined);
    if (!ids.length) throw new Error("the prompt holds no character that the model knows");
    for (const id of ids) this.scores = await this.stepper.step(id);
  }

  // The next character, which the model then reads. Temperature 0 takes the likeliest.
  async next(temperature) {
    const id = draw(this.scores, temperature, this.stepper.output.from_logits);
    this.scores = await this.stepper.step(id);
    return this.characters[id];
  }
}

export function draw(scores, temperature, fromLogits) {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[best]) best = i;
  if (temperature === 0) return best;
  const logit = (score) => (fromLogits ? score : Math.log(Math.max(score, 1e-30)));
  const weights = Array.from(scores, (score) => Math.exp((logit(score) - logit(scores[best])) / temperature));
  let left = Math.random() * weights.reduce((a, b) => a + b, 0);
  for (let i = 0; i < weights.length; i++) if ((left -= weights[i]) <= 0) return i;
  return best;
}

function initialValue(state, shape) {
  const size = shape.reduce((a, b) => a * b, 1);
  const array = new ARRAYS[state.dtype](size);
  if ("fill" in state.initial) return array.fill(state.initial.fill);
  if ("values" in state.initial) array.set(state.initial.values.flat(Infinity));
  else array.set(new ARRAYS[state.dtype](Uint8Array.from(atob(state.initial.base64), (c) => c.charCodeAt(0)).buffer));
  return array;
}

async function verify(manifest, bytes) {
  const wanted = manifest.artifact.files.find((file) => file.path === manifest.artifact.entry);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== wanted.sha256) throw new Error(`${wanted.path} is not what was exported: its SHA-256 is ${found}`);
}
