/* Lets in who shows a token that was signed with the key of the configuration and has not expired.
 * See README.md for what a token is. */

#include "sha256.h"
#include "stablegate.h"

#define TEXT(literal) ((struct bytes){(const u8 *)literal, sizeof literal - 1})

/* Memory for what the gateway passes in: given out one after the other, and free again as a whole
 * when the answer has been read. */
extern u8 __heap_base;
static size_t heap;

EXPORT("cabi_realloc")
void *cabi_realloc(void *old, size_t old_len, size_t align, size_t new_len) {
  if (heap == 0) heap = (size_t)&__heap_base;
  size_t at = (heap + align - 1) & -align;
  size_t end = __builtin_wasm_memory_size(0) * 65536;
  if (at + new_len > end &&
      __builtin_wasm_memory_grow(0, (at + new_len - end + 65535) / 65536) == (size_t)-1)
    __builtin_trap();
  heap = at + new_len;
  for (size_t i = 0; i < old_len && i < new_len; i++) ((u8 *)at)[i] = ((u8 *)old)[i];
  return (void *)at;
}

static struct decision deny(struct bytes reason) {
  return (struct decision){.decision = {DECISION_DENY, reason}};
}

/* Takes what is before the first `separator` off the front of `text`. Without one, nothing. */
static int cut(struct bytes *text, u8 separator, struct bytes *front) {
  for (u32 i = 0; i < text->len; i++) {
    if (text->at[i] != separator) continue;
    *front = (struct bytes){text->at, i};
    *text = (struct bytes){text->at + i + 1, text->len - i - 1};
    return 1;
  }
  return 0;
}

static int digit(u8 c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

/* The token of a session: its first data, or what follows the host in the target it asks for. */
static int find_token(const struct session *session, u32 skip, struct bytes *token) {
  if (session->first_data.some) {
    *token = session->first_data.value;
    if (token->len < skip) return 0;
    token->at += skip;
    token->len -= skip;
    while (token->len && (token->at[token->len - 1] == '\n' || token->at[token->len - 1] == '\r'))
      token->len--;
    return 1;
  }
  struct bytes host;
  *token = session->target.value;
  return session->target.some && cut(token, '/', &host);
}

static struct decision decide(const struct session *session) {
  struct optional_value key, skip;
  config_get((const u8 *)"key", 3, &key);
  if (!key.some || key.value.tag != VALUE_BYTES)
    return (struct decision){.failed = 1, .error = TEXT("the hook's config has no key")};
  config_get((const u8 *)"skip", 4, &skip);
  int skips = skip.some && skip.value.tag == VALUE_INTEGER;

  struct bytes token, user, expires, rest;
  if (!find_token(session, skips ? skip.value.integer : 0, &token)) return deny(TEXT("no token"));
  rest = token;
  if (!cut(&rest, '.', &user) || !cut(&rest, '.', &expires) || user.len == 0 || rest.len != 64)
    return deny(TEXT("bad token"));

  u8 mac[32], difference = 0;
  hmac_sha256(key.value.bytes, (struct bytes){token.at, user.len + 1 + expires.len}, mac);
  for (int i = 0; i < 32; i++) {
    int high = digit(rest.at[2 * i]), low = digit(rest.at[2 * i + 1]);
    if (high < 0 || low < 0) return deny(TEXT("bad token"));
    /* All of it, whatever differs: how long it takes must not tell where. */
    difference |= mac[i] ^ (u8)(high << 4 | low);
  }
  if (difference) return deny(TEXT("bad token"));

  u64 expiry = 0;
  if (expires.len == 0 || expires.len > 18) return deny(TEXT("bad token"));
  for (u32 i = 0; i < expires.len; i++) {
    if (expires.at[i] < '0' || expires.at[i] > '9') return deny(TEXT("bad token"));
    expiry = expiry * 10 + (expires.at[i] - '0');
  }
  struct datetime now;
  wall_clock_now(&now);
  if (now.seconds >= expiry) return deny(TEXT("token expired"));

  attrs_set((const u8 *)"user", 4, VALUE_BYTES, (size_t)user.at, user.len);
  log_write(LOG_INFO, user.at, user.len);
  return (struct decision){.decision = {DECISION_ALLOW}};
}

EXPORT("stablegate:plugin/access-control@0.1.0#access")
const struct decision *access(const struct session *session) {
  static struct decision answer;
  answer = decide(session);
  return &answer;
}

/* A target with a token in it is no host's name: send the session to the part before it. */
EXPORT("stablegate:plugin/target-selection@0.1.0#select-target")
const struct selection *select_target(const struct session *session) {
  static struct selection answer;
  struct bytes rest = session->target.value, host;
  answer = (struct selection){0};
  if (session->target.some && cut(&rest, '/', &host) && host.len) {
    answer.selected.some = 1;
    answer.selected.target.tag = TARGET_NAME;
    answer.selected.target.text = host;
  }
  return &answer;
}

EXPORT("cabi_post_stablegate:plugin/access-control@0.1.0#access")
void access_done(const struct decision *answer) { heap = 0; }

EXPORT("cabi_post_stablegate:plugin/target-selection@0.1.0#select-target")
void select_target_done(const struct selection *answer) { heap = 0; }
