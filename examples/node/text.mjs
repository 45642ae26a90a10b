// The text preparation `presseco.text.prepare 1`, step by step as in src/presseco/text.py.

const MAX_CHARS = 20000;
const VARIANTS = new Map([
  ["’", "'"], ["‘", "'"], ["ʼ", "'"],
  ["\u00a0", " "], ["\u202f", " "], ["\u2009", " "], ["\u2007", " "],
  ["“", '"'], ["”", '"'], ["‑", "-"],
  ["\u00ad", ""], ["\u200b", ""], ["\ufeff", ""],
]);
const ANY_VARIANT = new RegExp(`[${[...VARIANTS.keys()].join("")}]`, "gu");

export function prepare(text, title = null) {
  let body = clean(cut(text, 4 * MAX_CHARS));
  const head = title ? clean(cut(title, MAX_CHARS)).replaceAll("\n", " ") : "";
  if (head && !body.toLowerCase().startsWith(head.toLowerCase())) {
    body = body ? `${head}\n${body}` : head;
  }
  return cut(body, MAX_CHARS).split("\n").map(calm).join("\n");
}

// Python counts code points, JavaScript UTF-16 units: an emoji is one of the first, two of the other.
function cut(text, length) {
  return text.length <= length ? text : Array.from(text.slice(0, 2 * length)).slice(0, length).join("");
}

function clean(text) {
  return text
    .replace(/\r\n|\r|\u2028/g, "\n")
    .replace(/[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]+/gu, " ")
    .normalize("NFC")
    .replace(ANY_VARIANT, (c) => VARIANTS.get(c))
    .replace(/[ \t]+/g, " ")
    .replace(/\s*\n\s*/g, "\n")
    .trim();
}

function calm(line) {
  const letters = (line.match(/\p{L}/gu) ?? []).length;
  const capitals = (line.match(/\p{Uppercase}/gu) ?? []).length;
  if (letters < 12 || capitals < 0.8 * letters) return line;
  const [first, ...rest] = Array.from(line);
  return title(first) + rest.join("").toLowerCase();
}

// JavaScript has no title case: ǆ would become Ǆ instead of ǅ, and ß SS instead of Ss.
function title(character) {
  const at = "Ǆǆǅ Ǉǉǈ Ǌǌǋ Ǳǳǲ".split(" ").find((forms) => forms.includes(character));
  if (at) return at[2];
  const [first, ...rest] = Array.from(character.toUpperCase());
  return first + rest.join("").toLowerCase();
}
