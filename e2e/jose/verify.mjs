// Verifies access tokens as a program does that knows nothing of dongne but its issuer: it reads the discovery document and
// the keys that this names, by npm's jose. Each line of input is a token; each line of output is a JSON object: the claims, or
// {"error": code}. The keys are kept from one line to the next.
//
//	node verify.mjs <issuer> <audience>

import { createInterface } from 'node:readline';
import { webcrypto } from 'node:crypto';

globalThis.crypto ??= webcrypto; // not there before Node.js 20
const { createRemoteJWKSet, jwtVerify } = await import('jose');

const [issuer, audience] = process.argv.slice(2);
const discovery = await (await fetch(issuer + '/.well-known/openid-configuration')).json();
if (discovery.issuer !== issuer) throw new Error(`the issuer of ${issuer} is ${discovery.issuer}`);
const keys = createRemoteJWKSet(new URL(discovery.jwks_uri), { cooldownDuration: 100 }); // ms; less than a new key waits before it signs

for await (const token of createInterface({ input: process.stdin })) {
  const said = await jwtVerify(token, keys, { issuer, audience, typ: 'at+jwt', algorithms: discovery.id_token_signing_alg_values_supported })
    .then(({ payload, protectedHeader }) => ({ kid: protectedHeader.kid, alg: protectedHeader.alg, claims: payload }), (error) => ({ error: error.code ?? String(error) }));
  console.log(JSON.stringify(said));
}
