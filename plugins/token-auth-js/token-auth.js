// Lets in who shows a token that was signed with the key of the configuration and has not expired.
// See README.md for what a token is.

import { set } from 'stablegate:plugin/attrs@0.1.0';
import { get } from 'stablegate:plugin/config@0.1.0';
import { write } from 'stablegate:plugin/log@0.1.0';
import { hmacSha256 } from './sha256.js';

const encode = (text) => new TextEncoder().encode(text);
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export const accessControl = {
  access(session) {
    const key = get('key');
    if (key?.tag !== 'bytes') throw "the hook's config has no key";
    const skip = get('skip');
    const token = find(session, skip?.tag === 'integer' ? Number(skip.val) : 0);
    const { user, denied } = token === undefined ? { denied: 'no token' } : check(token, key.val);
    if (denied) return { tag: 'deny', val: denied };
    set('user', { tag: 'bytes', val: encode(user) });
    write('info', user);
    return { tag: 'allow' };
  },
};

export const targetSelection = {
  // A target with a token in it is no host's name: send the session to the part before it.
  selectTarget(session) {
    const end = session.target?.indexOf('/') ?? -1;
    return end > 0 ? { tag: 'name', val: session.target.slice(0, end) } : undefined;
  },
};

// The token of a session: its first data, or what follows the host in the target it asks for.
function find(session, skip) {
  if (session.firstData !== undefined) {
    if (session.firstData.length < skip) return undefined;
    try {
      return decoder.decode(session.firstData.slice(skip)).replace(/[\r\n]+$/, '');
    } catch {
      return ''; // What is no text is no token either.
    }
  }
  const start = session.target?.indexOf('/') ?? -1;
  return start < 0 ? undefined : session.target.slice(start + 1);
}

function check(token, key) {
  const parts = /^([^.]+)\.([0-9]{1,18})\.([0-9a-f]{64})$/.exec(token);
  if (!parts) return { denied: 'bad token' };
  const [, user, expires, mac] = parts;
  const right = hmacSha256(key, encode(`${user}.${expires}`));
  // All of it, whatever differs: how long it takes must not tell where.
  let difference = 0;
  right.forEach((byte, at) => {
    difference |= byte ^ Number.parseInt(mac.slice(2 * at, 2 * at + 2), 16);
  });
  if (difference !== 0) return { denied: 'bad token' };
  if (Date.now() / 1000 >= Number(expires)) return { denied: 'token expired' };
  return { user };
}
