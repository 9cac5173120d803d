// Proofs of RFC 9162 and signed checkpoints, checked where the reader is: nothing here asks the server whether
// something holds. The same rules as tapestry/ledger/tree.py, checkpoint.py and identity/notes.py, and held
// against them by a test. Shape legend: a hash is a Uint8Array of 32; a proof is a list of them, from the leaves up.

const PLAIN = 0x01;
const ORIGIN = /^tapestry\/([0-9a-f]{64})$/;
const SIGNATURE = /^— ([^\s+]{1,255}) ([A-Za-z0-9+/]+={0,2})$/;
const MAX_PROOF = 64;

// -- bytes -----------------------------------------------------------------------------------------

export const hex = (bytes) => Array.from(bytes, (each) => each.toString(16).padStart(2, "0")).join("");

export function unhex(text) {
  if (typeof text !== "string" || !/^(?:[0-9a-f]{2})*$/.test(text)) throw new Error("not hexadecimal");
  return Uint8Array.from(text.match(/../g) ?? [], (each) => parseInt(each, 16));
}

const unbase64 = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
const utf8 = (text) => new TextEncoder().encode(text);

function joined(...parts) {
  const found = new Uint8Array(parts.reduce((sum, each) => sum + each.length, 0));
  let at = 0;
  for (const each of parts) {
    found.set(each, at);
    at += each.length;
  }
  return found;
}

export const same = (one, other) => one.length === other.length && one.every((each, at) => each === other[at]);
export const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));

// -- the tree --------------------------------------------------------------------------------------

export const leafHash = (bytes) => sha256(joined(Uint8Array.of(0), bytes));
export const nodeHash = (left, right) => sha256(joined(Uint8Array.of(1), left, right));

/** What each hash of a proof stands for (section 2.1.3.2): its side, and the entries below it, from 1 on.
 *  Throws where the proof has not as many hashes as one of that place and size. */
export function path(index, size, length) {
  const whole = Number.isSafeInteger(index) && Number.isSafeInteger(size);
  if (!whole || index < 0 || index >= size) throw new Error("there is no such entry in that tree");
  const steps = [];
  let start = 0;
  let stop = size;
  while (stop - start > 1) {
    let half = 1;
    while (half * 2 < stop - start) half *= 2;
    const middle = start + half;
    if (index < middle) {
      steps.push({ side: "right", first: middle + 1, last: stop });
      stop = middle;
    } else {
      steps.push({ side: "left", first: start + 1, last: middle });
      start = middle;
    }
  }
  if (steps.length !== length) throw new Error(`a proof for that place has ${steps.length} hashes, not ${length}`);
  return steps.reverse();
}

/** The roots a proof leads through, the leaf first: the last is that of the tree, if the proof is one. */
export async function climb(leaf, index, size, proof) {
  const steps = path(index, size, proof.length);
  const found = [leaf];
  for (const [at, step] of steps.entries()) {
    const own = found[at];
    found.push(step.side === "left" ? await nodeHash(proof[at], own) : await nodeHash(own, proof[at]));
  }
  return found;
}

/** Whether a tree of `size` entries begins with one of `old` (section 2.1.4.2). */
export async function consistent(old, oldRoot, size, root, proof) {
  if (old > size || proof.length > MAX_PROOF) return false;
  if (old === 0) return proof.length === 0;
  if (old === size) return proof.length === 0 && same(oldRoot, root);
  const way = [...proof];
  let at = old - 1;
  let last = size - 1;
  while (at % 2) [at, last] = [Math.floor(at / 2), Math.floor(last / 2)];
  if (at === 0) way.unshift(oldRoot);
  if (!way.length) return false;
  let older = way[0];
  let newer = way[0];
  for (const each of way.slice(1)) {
    if (!last) return false;
    if (at % 2 || at === last) {
      older = await nodeHash(each, older);
      newer = await nodeHash(each, newer);
      while (at && at % 2 === 0) [at, last] = [Math.floor(at / 2), Math.floor(last / 2)];
    } else {
      newer = await nodeHash(newer, each);
    }
    [at, last] = [Math.floor(at / 2), Math.floor(last / 2)];
  }
  return last === 0 && same(older, oldRoot) && same(newer, root);
}

// -- the checkpoint ----------------------------------------------------------------------------------

/** A signed note: its text, what the text says, and its signatures. Throws where it is none. */
export function readNote(whole) {
  const split = whole.lastIndexOf("\n\n");
  if (split < 1 || !whole.endsWith("\n")) throw new Error("this is no signed note");
  const text = whole.slice(0, split + 1);
  const lines = text.split("\n");
  const origin = ORIGIN.exec(lines[0]);
  if (lines.length !== 4 || !origin || !/^(?:0|[1-9][0-9]{0,15})$/.test(lines[1])) {
    throw new Error("this is no checkpoint of a Tapestry ledger");
  }
  const root = unbase64(lines[2]);
  if (root.length !== 32) throw new Error("the root of a checkpoint is 32 bytes");
  const signatures = whole.slice(split + 2, -1).split("\n").map((line) => {
    const match = SIGNATURE.exec(line);
    if (!match) throw new Error("under the note stands what is no signature");
    return { name: match[1], data: unbase64(match[2]) };
  });
  return { text, origin: lines[0], consortium: origin[1], size: Number(lines[1]), root, signatures };
}

/** Whether a key has signed a note under its origin's name; null where this browser knows no Ed25519. */
export async function signedBy(note, key) {
  const id = (await sha256(joined(utf8(`${note.origin}\n`), Uint8Array.of(PLAIN), key))).slice(0, 4);
  const named = note.signatures.find((each) => each.name === note.origin && same(each.data.slice(0, 4), id));
  if (!named || named.data.length !== 68) return false;
  let known;
  try {
    known = await crypto.subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]);
  } catch (error) {
    if (error.name === "NotSupportedError" || error.name === "SyntaxError") return null;
    return false;
  }
  return crypto.subtle.verify({ name: "Ed25519" }, known, named.data.slice(4), utf8(note.text));
}

// -- all of it -----------------------------------------------------------------------------------------

/** Check what the server gave for one entry, step by step.
 *
 *  `given`: entry and first (bytes of entries as text), sequence, proof (hexadecimal), checkpoint (a note),
 *  key (of the core, hexadecimal), successor (the entry as text that names a later key; or null).
 *  `told(step, ok, value)` hears of every step: ok is true, false, or null where it could not be looked at. */
export async function check(given, told) {
  const verdicts = [];
  const say = (step, ok, value = "") => {
    verdicts.push(ok);
    told(step, ok, value);
  };
  const note = readNote(given.checkpoint);
  const entry = utf8(given.entry);
  const leaf = await leafHash(entry);
  say("number", JSON.parse(given.entry).sequence === given.sequence, String(given.sequence));
  say("leaf", true, hex(leaf));
  const roots = await climb(leaf, given.sequence - 1, note.size, given.proof.map(unhex));
  roots.slice(1).forEach((root, at) => say(`level-${at + 1}`, true, hex(root)));
  say("root", same(roots[roots.length - 1], note.root), hex(note.root));
  const signed = await signedBy(note, unhex(given.key));
  say("signature", signed, given.key);
  const consortium = hex(await sha256(utf8(given.first)));
  say("consortium", consortium === note.consortium, consortium);
  const names = JSON.parse(given.successor ?? given.first);
  const kind = given.successor ? "core-succeeded" : "founded";
  say("key", names.type === kind && names.body?.core_key === given.key, given.key);
  return { verdict: overall(verdicts), note };
}

/** One that fails makes all of it fail; one that could not be looked at leaves it open. */
export const overall = (verdicts) => (verdicts.includes(false) ? "fails" : verdicts.includes(null) ? "partly" : "holds");

// -- the page ------------------------------------------------------------------------------------------

const SEEN = "tapestry-checkpoint/";

/** Hold a checkpoint that was verified against the newest that this browser has seen of the ledger, and remember
 *  it. `ask(old, size)`: the proof's hashes, null where there is none; throws where nobody answers. */
export async function remembered(note, kept, ask, told) {
  const before = JSON.parse(kept.getItem(SEEN + note.consortium) ?? "null");
  if (before) {
    const [old, size] = before.size <= note.size ? [before.size, note.size] : [note.size, before.size];
    const [oldRoot, root] =
      before.size <= note.size ? [unhex(before.root), note.root] : [note.root, unhex(before.root)];
    const proof = await ask(old, size);
    const holds = proof !== null && (await consistent(old, oldRoot, size, root, proof.map(unhex)));
    told("seen", holds, `${before.size} → ${note.size}`);
    if (!holds) return false;
  } else {
    told("seen", true, String(note.size));
  }
  if (!before || before.size < note.size) {
    kept.setItem(SEEN + note.consortium, JSON.stringify({ size: note.size, root: hex(note.root) }));
  }
  return true;
}

/** Nobody answers, or not now: that is no proof of anything. */
class Lacking extends Error {}

async function fetched(address) {
  let answer;
  try {
    answer = await fetch(address, { headers: { Accept: "application/json" } });
  } catch {
    throw new Lacking();
  }
  if (!answer.ok && answer.status !== 404) throw new Lacking();
  return answer.ok ? answer.json() : null;
}

function shown(place) {
  const word = (name) => place.dataset[name] ?? "";
  return (step, ok, value) => {
    const row = place.querySelector(`[data-step="${step}"]`);
    if (!row) return;
    const mark = row.querySelector("[data-mark]");
    const said = row.querySelector("[data-value]");
    row.dataset.ok = ok === null ? "unknown" : String(ok);
    if (mark) mark.textContent = ok === null ? word("unknown") : ok ? word("good") : word("bad");
    if (said && value) said.textContent = value;
  };
}

async function run(place) {
  const verdict = place.querySelector("[data-verdict]");
  const say = (kind) => {
    verdict.dataset.ok = kind;
    verdict.textContent = place.dataset[kind] ?? "";
  };
  if (!globalThis.crypto?.subtle) return say("insecure");
  say("working");
  try {
    const answer = await fetched(place.dataset.proof);
    if (!answer) return say("lacking");
    const told = shown(place);
    // What is proven must be what the page shows, not something else that is in the ledger.
    const given = { ...answer, sequence: Number(place.dataset.sequence) };
    const visible = document.querySelector("[data-entry]")?.textContent === given.entry;
    told("shown", visible, "");
    const { verdict, note } = await check(given, told);
    // What fails is not remembered: what holds later would contradict it.
    if (!visible || verdict === "fails") return say("fails");
    const ask = async (old, size) => {
      const way = await fetched(`${place.dataset.consistency}?old=${old}&new=${size}`);
      return way && way.proof;
    };
    const seen = await remembered(note, localStorage, ask, told);
    say(overall([seen, verdict === "holds" ? true : null]));
  } catch (error) {
    say(error instanceof Lacking ? "lacking" : "fails");
  }
}

for (const place of globalThis.document?.querySelectorAll("[data-proof]") ?? []) {
  place.querySelector("[data-verify]")?.addEventListener("click", () => run(place));
}
