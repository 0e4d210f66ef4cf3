// What a page shows, in its address, so that it can be shared; and back. Nothing of it goes to the server.

export function toHash(shown) {
  return `#${encodeURIComponent(JSON.stringify(shown))}`;
}

// Returns null where the address says nothing, or nothing of this kind.
export function fromHash(hash) {
  try {
    const shown = JSON.parse(decodeURIComponent(hash.slice(1)));
    return shown && typeof shown === "object" && Array.isArray(shown.columns) ? shown : null;
  } catch {
    return null;
  }
}
