/* The contract in plugins/wit/0.1.0 as C sees it: the layout of its types in memory, and the parts
 * of its functions that this plugin needs. Add others as you need them, by the same rules:
 *
 * - A string or list is a pointer and a length. What the contract calls a string must be UTF-8 when
 *   it is handed to the gateway, or the call traps; a list of bytes may be anything. A field that may be missing has a tag before it,
 *   0 for none; a variant has the number of its case, counted from 0.
 * - More than 16 numbers are passed through memory, and so is any result of more than one.
 * - The gateway asks `cabi_realloc` for room before it writes, and calls `cabi_post_…` when it has
 *   read an answer.
 *
 * No library is needed. */

#ifndef STABLEGATE_H
#define STABLEGATE_H

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef __SIZE_TYPE__ size_t;

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))

/* A string, or a list of bytes. */
struct bytes {
  const u8 *at;
  u32 len;
};

struct optional_bytes {
  u8 some;
  struct bytes value;
};

struct optional_u32 {
  u8 some;
  u32 value;
};

/* types.value */
struct value {
  u8 tag;
  union {
    u8 boolean;
    long long integer;
    double number;
    struct bytes bytes;
  };
};

enum { VALUE_BOOLEAN, VALUE_INTEGER, VALUE_NUMBER, VALUE_BYTES };

struct optional_value {
  u8 some;
  struct value value;
};

struct attr {
  struct bytes key;
  struct value value;
};

/* types.session */
struct session {
  u64 id;
  struct bytes listener;
  struct bytes session;
  struct bytes transport;
  struct bytes client_addr;
  struct bytes gateway_addr;
  struct optional_bytes target;
  u32 flags;
  const struct bytes *extra;
  u32 extra_len;
  struct optional_bytes first_data;
  const struct attr *attrs;
  u32 attrs_len;
  struct optional_u32 server_id;
  struct {
    u8 some;
    u32 from, to;
  } dial;
};

_Static_assert(sizeof(struct session) == 112, "the record has this size");

/* result<access-control.decision, string> */
struct decision {
  u8 failed;
  union {
    struct {
      u8 tag;
      struct bytes reason;
    } decision;
    struct bytes error;
  };
};

enum { DECISION_PASS, DECISION_ALLOW, DECISION_DENY };

/* result<option<types.target>, string> */
struct selection {
  u8 failed;
  union {
    struct {
      u8 some;
      struct {
        u8 tag;
        union {
          struct bytes text;
          u32 endpoint;
        };
      } target;
    } selected;
    struct bytes error;
  };
};

enum { TARGET_NAME, TARGET_ADDR, TARGET_ENDPOINT };

/* What the gateway offers. */

enum { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

IMPORT("stablegate:plugin/log@0.1.0", "write")
void log_write(int level, const u8 *message, u32 len);

IMPORT("stablegate:plugin/config@0.1.0", "get")
void config_get(const u8 *key, u32 len, struct optional_value *result);

/* A value as parameters: its tag, what is in it or the address of its bytes, their length. */
IMPORT("stablegate:plugin/attrs@0.1.0", "set")
void attrs_set(const u8 *key, u32 len, int tag, u64 payload, u32 payload_len);

struct datetime {
  u64 seconds;
  u32 nanoseconds;
};

IMPORT("wasi:clocks/wall-clock@0.2.0", "now")
void wall_clock_now(struct datetime *result);

#endif
