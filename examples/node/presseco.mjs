// A presseco bundle in Node: the five steps of docs/bundle.md and what a loader must refuse.

import { createHash } from "node:crypto";
import { readFile, realpath } from "node:fs/promises";
import path from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import ort from "onnxruntime-node";
import { prepare } from "./text.mjs";

const TOLERANCE = { fp32: 1e-3, int8: 0.3 };

export class Classifier {
  /** Load and check a bundle folder; `precision` is "int8" or "fp32". */
  static async load(folder, precision = "int8") {
    const manifest = JSON.parse(await readFile(path.join(folder, "bundle.json"), "utf8"));
    if (manifest.schema_version !== 1) {
      throw new Error(`bundle schema version is ${manifest.schema_version}; this example reads 1`);
    }
    const text = manifest.text;
    if (text.preparation !== "presseco.text.prepare 1" || text.overflow !== "head") {
      throw new Error(`unknown text preparation: ${JSON.stringify(text)}`);
    }
    const needed = [...Object.values(manifest.models), "tokenizer.json", "golden.jsonl"];
    await verify(folder, manifest.files, [...needed, "hf/tokenizer_config.json"]);
    const tokenizer = new Tokenizer(
      JSON.parse(await readFile(path.join(folder, "tokenizer.json"), "utf8")),
      JSON.parse(await readFile(path.join(folder, "hf", "tokenizer_config.json"), "utf8")),
    );
    const session = await ort.InferenceSession.create(path.join(folder, manifest.models[precision]));
    const classifier = new Classifier(manifest, tokenizer, session);
    await classifier.#selfTest(path.join(folder, "golden.jsonl"), precision);
    return classifier;
  }

  constructor(manifest, tokenizer, session) {
    this.manifest = manifest;
    this.tokenizer = tokenizer;
    this.session = session;
  }

  /** Return the token ids of a text, special tokens included, its beginning only if it is long. */
  tokens(text, title = null) {
    const { ids } = this.tokenizer.encode(prepare(text, title));
    const max = this.manifest.text.max_tokens;
    return ids.length <= max ? ids : [...ids.slice(0, max - 1), ids.at(-1)];
  }

  /** Return the raw logits of one text's token ids. */
  async logits(ids) {
    const tensor = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, ids.length]);
    const feed = { input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) };
    return Array.from((await this.session.run(feed)).logits.data);
  }

  /** Classify one text: {sector: {label, display, probability, abstained}, ...}. */
  async predict(text, title = null) {
    const logits = await this.logits(this.tokens(text, title));
    const blank = !/[\p{L}\p{N}]/u.test(prepare(text, title));
    const answers = {};
    let start = 0;
    for (const task of this.manifest.tasks) {
      const p = softmax(logits.slice(start, start + task.labels.length), task.temperature);
      const best = p.indexOf(Math.max(...p));
      answers[task.name] = {
        label: task.labels[best].id,
        display: task.labels[best].display,
        probability: p[best],
        abstained: blank || p[best] < task.threshold,
      };
      start += task.labels.length;
    }
    return answers;
  }

  async #selfTest(file, precision) {
    const golden = (await readFile(file, "utf8")).trimEnd().split("\n").map((line) => JSON.parse(line));
    for (const { text, input_ids } of golden) {
      if (this.tokens(text).join() !== input_ids.join()) throw new Error(`other tokens than at export: ${text}`);
    }
    const short = golden.sort((a, b) => a.input_ids.length - b.input_ids.length).slice(0, 8);
    for (const { input_ids, logits } of short) {
      const got = await this.logits(input_ids);
      const worst = Math.max(...got.map((x, i) => Math.abs(x - logits[precision][i])));
      if (!(worst <= TOLERANCE[precision])) throw new Error(`${precision}: golden logits differ by ${worst}`);
    }
  }
}

async function verify(folder, files, needed) {
  const unnamed = needed.filter((name) => !(name in files));
  if (unnamed.length) throw new Error(`bundle.json has no checksum for ${unnamed.join(", ")}`);
  const root = await realpath(folder);
  for (const [name, { sha256 }] of Object.entries(files)) {
    const file = await realpath(path.join(root, name));
    if (!file.startsWith(root + path.sep)) throw new Error(`${name} leaves the bundle's folder`);
    const found = createHash("sha256").update(await readFile(file)).digest("hex");
    if (found !== sha256) throw new Error(`${name}: sha256 is ${found}, expected ${sha256}`);
  }
}

function softmax(logits, temperature) {
  const scaled = logits.map((x) => x / temperature);
  const top = Math.max(...scaled);
  const powers = scaled.map((x) => Math.exp(x - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / sum);
}
