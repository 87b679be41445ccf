/* A hook of the gateway. It exports any of the interfaces of the contract; stablegate.h says how C
 * sees them. */

#include "stablegate.h"

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

/* May this client come in? */
EXPORT("stablegate:plugin/access-control@0.1.0#access")
const struct decision *access(const struct session *session) {
  static struct decision answer;
  log_write(LOG_INFO, session->client_addr.at, session->client_addr.len);
  answer = (struct decision){.decision = {.tag = DECISION_ALLOW}};
  return &answer;
}

EXPORT("cabi_post_stablegate:plugin/access-control@0.1.0#access")
void access_done(const struct decision *answer) { heap = 0; }
