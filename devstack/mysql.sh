#!/bin/sh
# Unpacks MySQL's server into .stack/mysql, once. Debian's releases ship none; its unstable suite does, for a C library
# newer than the machine's: the server runs through the loader and the libraries that are unpacked beside it. An apt
# with a state of its own fetches them, so the machine's packages stay as they are. Exit code 2 and one line where MySQL
# cannot be had.
set -eu
cd "$(dirname "$0")/.."
target=.stack/mysql
# Debian signs its unstable suite with the keys of its releases, which every Debian has.
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

give_up() {
    echo "setup: MySQL cannot be had here: $*" >&2
    exit 2
}

# own_apt COMMAND…: apt-get with the machine's proxy and network settings, and nothing else of the machine's.
own_apt() {
    apt-get -qq -c "$work/apt.conf" "$@" >"$work/log" 2>&1
}

# reason: what was logged last, in one line; of apt's many the first that is an error.
reason() {
    grep -m 1 '^E: ' "$work/log" || tail -n 1 "$work/log"
}

write_configuration() {
    cat >"$work/apt.conf" <<EOF
#clear APT::Update;
#clear DPkg;
APT::Update::Error-Mode "any";
Dir::State "$work/state";
Dir::State::lists "lists";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
Dir::Cache::archives "archives";
Dir::Log "$work";
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
EOF
}

# download: the packages, from the first of the machine's mirrors whose unstable suite Debian has signed.
download() {
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
    : >"$work/status"
    # As apt reads its sources in either form; without release information they need not have been fetched before.
    mirrors=$(apt-get indextargets --no-release-info --format '$(REPO_URI)' \
        'Created-By: Packages' 'Component: main' 2>>"$work/log")
    for mirror in $(echo "$mirrors" | awk '!seen[$0]++'); do
        echo "deb [signed-by=$keyring] $mirror unstable main" >"$work/sources.list"
        own_apt update && own_apt install -y --download-only mysql-server-core && return
    done
    return 1
}

unpack() {
    for package in "$work"/cache/archives/*.deb; do
        dpkg-deb --extract "$package" "$work/unpacked" || return
    done
    set -- "$work"/unpacked/usr/lib/*/ld*.so.[0-9]
    "$1" --library-path "${1%/*}" "$work/unpacked/usr/sbin/mysqld" --no-defaults --version >"$work/log" 2>&1
}

[ -e "$target/usr/sbin/mysqld" ] && exit
for needed in apt-get dpkg-deb; do
    command -v "$needed" >/dev/null 2>&1 || give_up "it comes from Debian's packages, and there is no $needed"
done
[ -e "$keyring" ] || give_up "there is no $keyring to know Debian's signature by"
mkdir -p .stack
work=$(mktemp -d "$PWD/.stack/mysql.XXXXXX")
trap 'rm -rf "$work"' EXIT
# apt fetches as a user without rights.
chmod 755 "$work"
echo "its package sources name no mirror" >"$work/log"
write_configuration
echo "setup: fetching MySQL from Debian's unstable suite" >&2
download || give_up "no mirror of this machine has it ($(reason))"
unpack || give_up "it does not run here ($(reason))"
# Whoever makes it at the same time makes the same.
mv -T "$work/unpacked" "$target" 2>/dev/null || [ -e "$target/usr/sbin/mysqld" ]
