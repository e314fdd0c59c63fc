#!/usr/bin/env bash
# Sign the Statement of a gate, and verify it before a checkpoint is taken into use. Needs openssl and jq, and no network.
#
#   sign-statement.sh sign KEY.pem statement.json > statement.dsse.json
#   sign-statement.sh verify PUBLIC.pem statement.dsse.json unlearned.safetensors
#
# The envelope is DSSE (https://github.com/secure-systems-lab/dsse), which cosign, in-toto and securesystemslib read,
# too. A pair of keys:
#   openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem && openssl ec -in KEY.pem -pubout -out PUBLIC.pem
#
# A signature alone says that somebody signed, and not what: a Statement may say FAILED. So `verify` asks three things:
# is it signed by this key, does it speak of this very file, and did the gate pass?
set -euo pipefail

TYPE=application/vnd.in-toto+json
refuse() { echo "not verified: $1" >&2; exit 1; }

# What is signed: the type and the Statement, each after its length in bytes, so that neither runs into the other.
encoded() { printf 'DSSEv1 %d %s %d ' "${#TYPE}" "$TYPE" "$(($(wc -c < "$1")))"; cat "$1"; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case "${1:-}" in
  sign)
    encoded "$3" | openssl dgst -sha256 -sign "$2" -out "$work/signature"
    openssl base64 -A -in "$3" -out "$work/payload.txt"
    openssl base64 -A -in "$work/signature" -out "$work/signature.txt"
    jq -n --rawfile payload "$work/payload.txt" --rawfile signature "$work/signature.txt" --arg type "$TYPE" \
      '{payload: $payload, payloadType: $type, signatures: [{keyid: "", sig: $signature}]}'
    ;;
  verify)
    [ "$(jq -r .payloadType "$3")" = "$TYPE" ] || refuse "this is no envelope of a Statement: $3"
    jq -j .payload "$3" | openssl base64 -d -A > "$work/statement"
    jq -j '.signatures[0].sig' "$3" | openssl base64 -d -A > "$work/signature"
    encoded "$work/statement" | openssl dgst -sha256 -verify "$2" -signature "$work/signature" > /dev/null 2>&1 ||
      refuse "it was not signed with this key, or was changed since"
    digest=$(openssl dgst -sha256 -r "$4" | cut -d ' ' -f 1)
    jq -e --arg digest "$digest" 'any(.subject[]; .digest.sha256 == $digest)' "$work/statement" > /dev/null ||
      refuse "it does not speak of $4"
    [ "$(jq -r .predicateType "$work/statement")" = "https://in-toto.io/attestation/test-result/v0.1" ] ||
      refuse "it is no result of a test"
    result=$(jq -r .predicate.result "$work/statement")
    case $result in PASSED | WARNED) ;; *) refuse "the gate's result is $result" ;; esac
    policy=$(jq -r '.predicate.configuration[0] | "\(.name), sha256 \(.digest.sha256)"' "$work/statement")
    echo "verified: $4, $result by the policy $policy"
    ;;
  *)
    sed -n '2,5p' "$0" >&2
    exit 2
    ;;
esac
