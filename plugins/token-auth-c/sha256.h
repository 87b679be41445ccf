/* SHA-256 and HMAC-SHA256, as FIPS 180-4 and RFC 2104 have them. */

#ifndef SHA256_H
#define SHA256_H

#include "stablegate.h"

struct sha256 {
  u32 state[8];
  u64 length;
  u8 block[64];
};

static const u32 sha256_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static u32 sha256_rotate(u32 x, int by) { return x >> by | x << (32 - by); }

static void sha256_init(struct sha256 *hash) {
  static const u32 initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  for (int i = 0; i < 8; i++) hash->state[i] = initial[i];
  hash->length = 0;
}

static void sha256_compress(struct sha256 *hash) {
  u32 w[64], s[8];
  for (int i = 0; i < 16; i++) {
    const u8 *b = hash->block + 4 * i;
    w[i] = (u32)b[0] << 24 | (u32)b[1] << 16 | (u32)b[2] << 8 | b[3];
  }
  for (int i = 16; i < 64; i++) {
    u32 a = sha256_rotate(w[i - 15], 7) ^ sha256_rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
    u32 b = sha256_rotate(w[i - 2], 17) ^ sha256_rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + a + w[i - 7] + b;
  }
  for (int i = 0; i < 8; i++) s[i] = hash->state[i];
  for (int i = 0; i < 64; i++) {
    u32 e = sha256_rotate(s[4], 6) ^ sha256_rotate(s[4], 11) ^ sha256_rotate(s[4], 25);
    u32 one = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + sha256_k[i] + w[i];
    u32 a = sha256_rotate(s[0], 2) ^ sha256_rotate(s[0], 13) ^ sha256_rotate(s[0], 22);
    u32 two = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
    for (int j = 7; j > 0; j--) s[j] = s[j - 1];
    s[4] += one;
    s[0] = one + two;
  }
  for (int i = 0; i < 8; i++) hash->state[i] += s[i];
}

static void sha256_update(struct sha256 *hash, const u8 *at, u32 len) {
  for (u32 i = 0; i < len; i++) {
    hash->block[hash->length++ % 64] = at[i];
    if (hash->length % 64 == 0) sha256_compress(hash);
  }
}

static void sha256_final(struct sha256 *hash, u8 out[32]) {
  u64 bits = hash->length * 8;
  u8 byte = 0x80;
  do {
    sha256_update(hash, &byte, 1);
    byte = 0;
  } while (hash->length % 64 != 56);
  for (int i = 7; i >= 0; i--) {
    byte = bits >> (8 * i);
    sha256_update(hash, &byte, 1);
  }
  for (int i = 0; i < 32; i++) out[i] = hash->state[i / 4] >> (24 - 8 * (i % 4));
}

static void hmac_sha256(struct bytes key, struct bytes message, u8 out[32]) {
  u8 block[64] = {0};
  struct sha256 hash;
  if (key.len > 64) {
    sha256_init(&hash);
    sha256_update(&hash, key.at, key.len);
    sha256_final(&hash, block);
  } else {
    for (u32 i = 0; i < key.len; i++) block[i] = key.at[i];
  }
  for (int i = 0; i < 64; i++) block[i] ^= 0x36;
  sha256_init(&hash);
  sha256_update(&hash, block, 64);
  sha256_update(&hash, message.at, message.len);
  sha256_final(&hash, out);
  for (int i = 0; i < 64; i++) block[i] ^= 0x36 ^ 0x5c;
  sha256_init(&hash);
  sha256_update(&hash, block, 64);
  sha256_update(&hash, out, 32);
  sha256_final(&hash, out);
}

#endif
