// Files of a ZIP archive (PKWARE's APPNOTE.TXT): its directory at the end, and DEFLATE by the browser.

import { Failure } from "./api.js";

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const STORED = 0;
const DEFLATED = 8;
// A flag of an entry.
const ENCRYPTED = 1;
// The trainer's limit of unpacked bytes.
const MAX_BYTES = 256 * 2 ** 20;

// The bytes of all but hidden files, in order of their names: [{ name, bytes }].
export async function unzip(archive) {
  const buffer = await archive.arrayBuffer();
  const entries = directory(new DataView(buffer)).sort((one, other) => (one.name < other.name ? -1 : 1));
  const total = entries.reduce((sum, { size }) => sum + size, 0);
  if (total > MAX_BYTES) throw new Failure(`${archive.name} unpacks to ${total} bytes; the limit is ${MAX_BYTES}.`);
  return Promise.all(entries.map(async (entry) => {
    if (!entry.canUnpack) throw new Failure(`${entry.name} of ${archive.name} is encrypted, or compressed by another method than DEFLATE. Create the archive without either.`);
    const bytes = await unpack(buffer, entry).catch(() => {
      throw new Failure(`${entry.name} of ${archive.name} is damaged.`);
    });
    return { name: entry.name, bytes };
  }));
}

function directory(view) {
  let at = view.byteLength - 22;
  while (at >= 0 && view.getUint32(at, true) !== END) at -= 1;
  if (at < 0) throw new Failure("The archive is damaged, or not a ZIP archive.");
  const entries = [];
  let place = view.getUint32(at + 16, true);
  for (let count = view.getUint16(at + 10, true); count > 0 && view.getUint32(place, true) === ENTRY; count -= 1) {
    const [nameLength, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(place + offset, true));
    const name = new TextDecoder().decode(new Uint8Array(view.buffer, place + 46, nameLength));
    const [packed, size] = [20, 24].map((offset) => view.getUint32(place + offset, true));
    const [flags, method] = [8, 10].map((offset) => view.getUint16(place + offset, true));
    const canUnpack = !(flags & ENCRYPTED) && (method === STORED || method === DEFLATED);
    entries.push({ name, packed, size, method, canUnpack, header: view.getUint32(place + 42, true) });
    place += 46 + nameLength + extra + comment;
  }
  return entries.filter(({ name }) => !name.endsWith("/") && !/(^|\/)(\.|__MACOSX)/.test(name));
}

async function unpack(buffer, { packed, method, header }) {
  const view = new DataView(buffer);
  const begin = header + 30 + view.getUint16(header + 26, true) + view.getUint16(header + 28, true);
  const content = new Uint8Array(buffer, begin, packed);
  if (method === STORED) return content;
  const unpacked = new Blob([content]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}
