#!/usr/bin/env bash
# Install unlearn-audit on a machine without a network: wheels are fetched on one that has it, and carried over.
#
#   air-gapped.sh fetch FOLDER PACKAGE [gate]     PACKAGE: a checkout, a wheel or a requirement; gate: verdicts only, no torch
#   air-gapped.sh install FOLDER ENVIRONMENT      makes ENVIRONMENT, or adds to it, from FOLDER alone
#
# Both machines have the same system and the same Python (PYTHON=python3.12 chooses one). INDEX is where torch comes
# from: PyTorch's index without CUDA, unless it is set; INDEX= takes the usual one, for machines with a GPU.
set -euo pipefail
python=${PYTHON:-python3}
index=${INDEX-https://download.pytorch.org/whl/cpu}
here=$(cd "$(dirname "$0")" && pwd)
case "${1:-}" in
  fetch)
    mkdir -p "$2"
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$2" "$3"
    if [ "${4:-}" = gate ]; then
      cp "$here/requirements-gate.txt" "$2/"
      "$python" -m pip download --quiet --only-binary :all: --dest "$2" -r "$2/requirements-gate.txt"
    else
      "$python" -m pip download --quiet --only-binary :all: --dest "$2" ${index:+--extra-index-url "$index"} "$2"/unlearn_audit-*.whl
    fi
    (cd "$2" && sha256sum -- *.whl > SHA256SUMS)
    ;;
  install)
    (cd "$2" && sha256sum --quiet --check SHA256SUMS)
    [ -x "$3/bin/pip" ] || "$python" -m venv "$3"
    offline=("$3/bin/pip" install --quiet --no-index --find-links "$2")
    if [ -e "$2/requirements-gate.txt" ]; then
      "${offline[@]}" -r "$2/requirements-gate.txt"
      "${offline[@]}" --no-deps "$2"/unlearn_audit-*.whl
    else
      "${offline[@]}" "$2"/unlearn_audit-*.whl
    fi
    "$3/bin/unlearn-audit" --version
    ;;
  *)
    sed -n '2,8p' "$0" >&2
    exit 2
    ;;
esac
