// Makes token-auth.wasm: the script, the engine that runs it, and what the contract needs.

import { cp, rm, writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

// The tool wants the packages that a world names in a directory below it.
await rm('wit/deps', { recursive: true, force: true });
await cp('../wit/0.1.0', 'wit/deps/stablegate-plugin', { recursive: true });

const { component } = await componentize({
  sourcePath: 'token-auth.js',
  witPath: 'wit',
  worldName: 'token-auth',
  // What is left is the time. Output would be taken, randomness too; this plugin needs neither.
  disableFeatures: ['stdio', 'random', 'http', 'fetch-event'],
});
await writeFile('token-auth.wasm', component);
