// node main.mjs BUNDLE [fp32|int8] < articles.jsonl: one answer a line {"id", "text", "title"?}.

import readline from "node:readline";
import { Classifier } from "./presseco.mjs";

const [folder, precision] = process.argv.slice(2);
if (!folder) {
  console.error("usage: node main.mjs BUNDLE [fp32|int8] < articles.jsonl");
  process.exit(2);
}
const classifier = await Classifier.load(folder, precision);
for await (const line of readline.createInterface({ input: process.stdin })) {
  if (!line.trim()) continue;
  const { id, text, title } = JSON.parse(line);
  console.log(JSON.stringify({ id, ...(await classifier.predict(text, title)) }));
}
