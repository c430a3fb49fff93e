#!/bin/sh
# Installs what is missing, and nothing twice: a virtual environment with the locked requirements, and the database server
# that DATABASE names: mariadb, which is the default, or mysql.
# Exit code 2 and the one line to type where it may not install.
set -eu
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }

# apt_install PACKAGE…: with root's rights or a sudo that asks for nothing; fails where there is neither.
apt_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    if [ "$(id -u)" = 0 ]; then sudo=""; elif sudo -n true >/dev/null 2>&1; then sudo="sudo -n"; else return 1; fi
    say "installing $*"
    set -- $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
    # A fresh machine has no list of packages yet, an older one an outdated list.
    "$@" >/dev/null 2>&1 || { $sudo apt-get update -qq >/dev/null && "$@" >/dev/null; }
}

# tell_to_install WHAT APT DNF BREW: which packages a person has to install, in the words of this machine.
tell_to_install() {
    if command -v apt-get >/dev/null 2>&1; then line="sudo apt-get install $2"
    elif command -v dnf >/dev/null 2>&1; then line="sudo dnf install $3"
    else line="brew install $4"; fi
    say "$1 is missing, type: $line"
    exit 2
}

find_python() {
    for python in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$python"
            return
        fi
    done
    return 1
}

make_venv() {
    python=$(find_python) || tell_to_install "Python 3.11 or newer" "python3 python3-venv" python3.11 python@3.11
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        apt_install "$version-venv" || tell_to_install "venv, a part of Python," "$version-venv" "$version" "$version"
    fi
    say "making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
}

install_requirements() {
    # What was installed last lies beside it: the same lock again is nothing to do.
    cmp -s requirements-dev.lock .venv/installed.lock && return
    say "installing the locked requirements"
    # uv itself comes from the lock too, by its hashes.
    awk '/^[a-z]/ { wanted = /^uv==/ } wanted' requirements-dev.lock >.venv/uv.lock
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.lock
    # A company's own certificate is known to the system, where it has a store of them.
    if [ -e /etc/ssl/certs/ca-certificates.crt ]; then export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}"; fi
    .venv/bin/python -m uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements-dev.lock
    cp requirements-dev.lock .venv/installed.lock
}

install_mariadb() {
    PATH="$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"
    has_mariadb && return
    # The core packages are the programs alone: no service starts. The data directory's maker needs the client's.
    packages="mariadb-server-core mariadb-client-core"
    # shellcheck disable=SC2086
    apt_install $packages || tell_to_install MariaDB "$packages" mariadb-server mariadb
    has_mariadb || tell_to_install MariaDB "$packages" mariadb-server mariadb
}

# For the tests of the console alone: `setup.sh browser`.
install_chromium() {
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" >/dev/null 2>&1 && return
    done
    apt_install chromium || tell_to_install Chromium chromium chromium "--cask chromium"
}

has_mariadb() {
    command -v mariadbd >/dev/null 2>&1 && command -v mariadb-install-db >/dev/null 2>&1
}

.venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || make_venv
install_requirements
case "${DATABASE:-mariadb}" in
    mariadb) install_mariadb ;;
    mysql) sh devstack/mysql.sh ;;
    *) say "DATABASE is $DATABASE: it has to be mariadb or mysql"; exit 2 ;;
esac
[ "${1:-}" != browser ] || install_chromium
