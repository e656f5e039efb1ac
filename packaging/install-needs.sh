#!/bin/sh
# Installs the system packages that the tests, the lab and the demo use; with the word `package` also those of
# `make package-test`. Starts no service. Goes on without what it cannot get: the tests that need it are skipped then
# and say so.
set -u

NEEDS='
corosync corosync-qdevice corosync-qnetd pacemaker pacemaker-cli-utils libxml2-utils
fence-agents resource-agents openipmi ipmitool
drbd-utils
mosquitto etcd-server etcd-client snmpd snmp
iproute2 procps openssl socat
systemd
spin gcc libc6-dev
mandoc
libcairo2 fonts-dejavu-core
python3-venv
'
[ "${1:-}" != package ] || NEEDS="$NEEDS mmdebstrap lintian shellcheck rpm zsh fish"

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing() {
    for package in $NEEDS; do
        installed "$package" || echo "$package"
    done
}

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    echo 'This is no Debian: no system package is installed; tests that miss a program are skipped.'
    exit 0
fi
if [ -z "$(missing)" ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "Not root: these packages stay missing, and tests that need them are skipped:" $(missing)
    exit 0
fi

# policy-rc.d (invoke-rc.d(8)): 101 forbids every start while packages are installed. What was there comes back.
POLICY=/usr/sbin/policy-rc.d
KEPT=$POLICY.kept-by-pairguard
restore() {
    rm -f "$POLICY"
    [ ! -e "$KEPT" ] || mv "$KEPT" "$POLICY"
}
[ -e "$KEPT" ] || [ ! -e "$POLICY" ] || mv "$POLICY" "$KEPT"
trap restore EXIT
trap 'exit 1' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' > "$POLICY"
chmod 755 "$POLICY"

export DEBIAN_FRONTEND=noninteractive
install() {
    apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" </dev/null >/dev/null
}

echo 'Installing' $(missing)
apt-get update -q </dev/null >/dev/null || echo 'cannot read the list of packages; going on with what is known'
install $(missing) || for package in $(missing); do
    install "$package" || echo "Package $package could not be installed; tests that need it are skipped."
done
exit 0
