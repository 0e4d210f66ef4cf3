// Files of text, which must be UTF-8.

import { Failure } from "./api.js";

export async function readText(file) {
  return decode(await file.arrayBuffer(), file.name);
}

// Returns the text of bytes; of others than UTF-8, the browser itself would replace what it cannot read.
export function decode(bytes, name) {
  let content;
  try {
    content = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Failure(`${name} is not text in UTF-8. Save it as UTF-8, or convert it: iconv -f WINDOWS-1252 -t UTF-8 "${name}" > utf8.txt`);
  }
  if (content.includes("\0")) throw new Failure(`${name} has zero bytes: it is binary, not text.`);
  return content;
}
