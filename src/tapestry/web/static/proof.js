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

/** Whether a key has signed bytes (Ed25519); null where this browser does not know how to look. */
async function verified(key, signature, bytes) {
  if (key.length !== 32 || signature.length !== 64) return false;
  let known;
  try {
    known = await crypto.subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]);
  } catch (error) {
    if (error.name === "NotSupportedError" || error.name === "SyntaxError") return null;
    return false;
  }
  return crypto.subtle.verify({ name: "Ed25519" }, known, signature, bytes);
}

/** Whether a key has signed a note under its origin's name; null as above. */
export async function signedBy(note, key) {
  const id = (await sha256(joined(utf8(`${note.origin}\n`), Uint8Array.of(PLAIN), key))).slice(0, 4);
  const named = note.signatures.find((each) => each.name === note.origin && same(each.data.slice(0, 4), id));
  return named ? verified(key, named.data.slice(4), utf8(note.text)) : false;
}

// -- the core's key ----------------------------------------------------------------------------------
//
// Entry 1 names the first. Another takes its place by a `core-succeeded`, for which more than half of the members
// have signed (docs/formats/ledger.md): each with a witness key, which its member's root key has certified, which
// its admission names. Each of these is an entry, and is shown to be in the tree before it is read.

/** This browser knows no Ed25519. */
class Unable extends Error {}

function must(holds, why) {
  if (!holds) throw new Error(why);
}

const preAuthentication = (kind, data) =>
  joined(utf8(`DSSEv1 ${utf8(kind).length} ${kind} ${data.length} `), data);

const payloadOf = (envelope) => JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(unbase64(envelope.payload)));

/** What an envelope says that this key, and no other, has signed. */
async function opened(envelope, kind, key) {
  const [signature, ...more] = envelope.signatures;
  must(!more.length && envelope.payloadType === `application/vnd.${kind}+json`, `this is no ${kind}`);
  must(signature.keyid === hex(await sha256(key)), "signed by another key");
  const bytes = preAuthentication(envelope.payloadType, unbase64(envelope.payload));
  const holds = await verified(key, unbase64(signature.sig), bytes);
  if (holds === null) throw new Unable();
  must(holds, "a signature does not hold");
  const said = payloadOf(envelope);
  must(said.format === kind, `this is no ${kind}`);
  return said;
}

/** Entries by number, of which each was shown to be in the tree, at its place. */
async function proven(given, note) {
  const found = new Map();
  for (const [text, { entry, proof }] of Object.entries(given)) {
    const sequence = Number(text);
    const roots = await climb(await leafHash(utf8(entry)), sequence - 1, note.size, proof.map(unhex));
    const value = JSON.parse(entry);
    must(same(roots[roots.length - 1], note.root) && value.sequence === sequence, "an entry is not in the ledger");
    found.set(sequence, value);
  }
  return (sequence, type, before) => {
    const entry = found.get(sequence);
    must(entry?.type === type && entry.scope === "consortium", `entry ${sequence} is no ${type}`);
    must(sequence < before, `entry ${sequence} comes too late`);
    return entry;
  };
}

/** A member's root key: of its admission, or of the vote that put another in its place. */
function rootKey(member, [first, decided], entry, before) {
  if (decided === undefined) {
    const { body } = entry(first, "member-admitted", before);
    must(body.member === member, "that is another member");
    return unhex(body.root_key);
  }
  const asked = entry(first, "proposal-opened", decided).body;
  const { body } = entry(decided, "proposal-decided", before);
  const { subject } = payloadOf(JSON.parse(asked.envelope));
  must(body.in_force === true && body.proposal === asked.proposal, "that was not decided");
  must(subject.kind === "replace-root-key" && subject.member === member, "that is another member");
  return unhex(subject.root_key);
}

/** The member that has signed for a key to take the core's place, as `words` say. */
async function endorsed(envelope, words, told, roots, entry) {
  const { keyid } = envelope.signatures[0];
  const { body } = entry(told.certificates[keyid], "key-certified", told.sequence);
  must(Object.hasOwn(roots, body.member), "whoever has signed is no member");
  const certificate = await opened(JSON.parse(body.envelope), "tapestry.key", roots[body.member]);
  must(certificate.role === "witness" && certificate.member === body.member, "that key may not sign this");
  const [at, from, until] = [words.at, certificate.not_before, certificate.expires].map(Date.parse);
  must(from <= at && at < until, "that key did not hold then");
  const said = await opened(envelope, "tapestry.succession", unhex(certificate.public_key));
  const agreed = ["consortium", "core_key", "size", "root"].every((name) => said[name] === words[name]);
  must(agreed && said.member === certificate.member, "a member has signed for something else");
  must(certificate.node === null || said.node === certificate.node, "another node has signed");
  return certificate.member;
}

/** One change of the core's key: the new one, and who has signed for it of how many. Throws where it does not hold. */
async function succeeded(told, note, entry) {
  const { body, at } = entry(told.sequence, "core-succeeded", Infinity);
  const envelopes = body.envelopes.map((text) => JSON.parse(text));
  const size = told.sequence - 1;
  const { root } = payloadOf(envelopes[0]);
  const proof = told.consistency.map(unhex);
  must(await consistent(size, unhex(root), note.size, note.root, proof), "that was another ledger");
  const roots = {};
  for (const [member, numbers] of Object.entries(told.members)) {
    roots[member] = rootKey(member, numbers, entry, told.sequence);
  }
  const words = { consortium: note.consortium, core_key: body.core_key, size, root, at };
  const names = new Set();
  for (const envelope of envelopes) names.add(await endorsed(envelope, words, told, roots, entry));
  must(2 * names.size > Object.keys(roots).length, "too few members have signed");
  return { key: body.core_key, value: `${names.size}/${Object.keys(roots).length}: ${[...names].join(", ")}` };
}

/** The key that signs for the ledger, from the first on; undefined where a change of it does not hold, null where
 *  none could be looked at.
 *  `chain`: what the server gives of the entries that changed it; null where it gives nothing. */
async function keyInForce(first, numbers, chain, note, say) {
  let key = first;
  if (!numbers.length) return key;
  const lost = (ok, why) => numbers.forEach((each) => say(`succession-${each}`, ok, "", why));
  if (!chain) return lost(null, "ungiven"), null;
  let entry;
  try {
    entry = await proven(chain.entries, note);
    must(chain.successions.map((each) => each.sequence).join() === numbers.join(), "others than were named");
  } catch {
    return lost(false), undefined;
  }
  for (const told of chain.successions) {
    try {
      const found = await succeeded(told, note, entry);
      key = found.key;
      say(`succession-${told.sequence}`, true, found.value);
    } catch (error) {
      say(`succession-${told.sequence}`, error instanceof Unable ? null : false, error.message);
      if (!(error instanceof Unable)) return undefined;
      key = entry(told.sequence, "core-succeeded", Infinity).body.core_key;
    }
  }
  return key;
}

// -- all of it -----------------------------------------------------------------------------------------

/** Check what the server gave for one entry, step by step.
 *
 *  `given`: entry and first (bytes of entries as text), sequence, proof (hexadecimal), checkpoint (a note),
 *  key (of the core, hexadecimal), successions (numbers of entries that changed it) and chain (these, proven).
 *  `told(step, ok, value, why)` hears of every step: ok is true, false, or null where it could not be looked at,
 *  since this browser knows no Ed25519 (why: "unknown") or was not given what it takes ("ungiven"). */
export async function check(given, told) {
  const verdicts = [];
  const say = (step, ok, value = "", why = "unknown") => {
    verdicts.push(ok);
    told(step, ok, value, why);
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
  const founded = JSON.parse(given.first);
  const founding = founded.type === "founded" ? founded.body?.core_key : undefined;
  const key = await keyInForce(founding, given.successions, given.chain, note, say);
  say("key", key === null ? null : key === given.key, given.key, "ungiven");
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
  return (step, ok, value, why) => {
    const row = place.querySelector(`[data-step="${step}"]`);
    if (!row) return;
    const mark = row.querySelector("[data-mark]");
    const said = row.querySelector("[data-value]");
    row.dataset.ok = ok === null ? "unknown" : String(ok);
    if (mark) mark.textContent = ok === null ? word(why) : ok ? word("good") : word("bad");
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
    const given = { ...answer, sequence: Number(place.dataset.sequence), chain: null };
    if (given.successions.length) given.chain = await fetched(`${place.dataset.successions}?size=${given.size}`);
    const visible = document.querySelector("[data-entry]")?.textContent === given.entry;
    told("shown", visible, "");
    const { verdict, note } = await check(given, told);
    // What fails is not remembered: what holds later would contradict it.
    if (!visible || verdict === "fails") return say("fails");
    // Nor what anybody's key may have signed.
    if (given.successions.length && !given.chain) return say("partly");
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
