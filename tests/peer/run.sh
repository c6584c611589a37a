#!/bin/sh
# mitmproxy's layer tests give with our classes what they give without:
#     tests/peer/run.sh CHECKOUT
# CHECKOUT is mitmproxy's source, at a tag whose dependencies the interpreter named by PYTHON has.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
checkout=$(cd "${1:?usage: tests/peer/run.sh CHECKOUT}" && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "$checkout/mitmproxy" "$checkout/test" "$work"
printf "[pytest]\nasyncio_mode = auto\n" >"$work/pytest.ini"
if [ -f "$checkout/setup.cfg" ]; then cp "$checkout/setup.cfg" "$work"; fi

run() {
    (cd "$work" && PYTHONPATH="$work:$here" "$python" -m pytest test/mitmproxy/proxy/layers \
        test/mitmproxy/proxy/test_tunnel.py test/mitmproxy/proxy/test_layer.py \
        -q -p no:cacheprovider -W ignore -rfE "$@" || true) |
        grep -E '^(FAILED|ERROR|[0-9]+ (passed|failed|error))' | sed 's/ - .*//; s/ in [0-9.]*s.*//'
}

run >"$work/without"
run -p tests.peer.swap >"$work/with"
tail -n 1 "$work/with"
diff "$work/without" "$work/with"
