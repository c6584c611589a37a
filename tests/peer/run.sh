#!/bin/sh
# mitmproxy's layer tests give with our classes what they give without, and so do its tests of what TURBO cuts:
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

layers="test/mitmproxy/proxy/layers test/mitmproxy/proxy/test_tunnel.py test/mitmproxy/proxy/test_layer.py"
cut="test/mitmproxy/proxy test/mitmproxy/net test/mitmproxy/test_addonmanager.py test/mitmproxy/test_certs.py
    test/mitmproxy/test_command.py test/mitmproxy/test_http.py test/mitmproxy/test_log.py
    test/mitmproxy/test_optmanager.py test/mitmproxy/addons/test_proxyserver.py test/mitmproxy/addons/test_script.py
    test/mitmproxy/addons/test_tlsconfig.py test/mitmproxy/tools/test_dump.py"

# run FILES [PYTEST OPTIONS]: the failures and the sum.  CI makes hypothesis try the same examples each time, however slowly.
run() {
    files=$1; shift
    # shellcheck disable=SC2086  # a list
    (cd "$work" && CI=1 PYTHONPATH="$work:$here" "$python" -m pytest $files \
        -q -p no:cacheprovider -W ignore -rfE "$@" || true) |
        grep -E '^(FAILED|ERROR|[0-9]+ (passed|failed|error))' | sed 's/ - .*//; s/ in [0-9.]*s.*//'
}

# compare FILES PLUGIN
compare() {
    run "$1" >"$work/without"
    run "$1" -p "$2" >"$work/with"
    tail -n 1 "$work/with"
    diff "$work/without" "$work/with"
}

compare "$layers" tests.peer.swap
compare "$cut" tests.peer.cuts
