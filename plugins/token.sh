#!/bin/sh
# Signs a token for the token-auth plugins: token.sh KEY USER SECONDS
set -eu
signed="$2.$(($(date +%s) + $3))"
mac=$(printf %s "$signed" | openssl dgst -sha256 -hmac "$1" -r)
echo "$signed.${mac%% *}"
