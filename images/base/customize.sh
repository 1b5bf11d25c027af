#!/bin/sh
# The last step of making a root file system ($1): take out what differs from run to run or is of no use in a
# container, and add the user that our processes run as.
set -eu
root=$1

echo 'app:x:10001:' >>"$root/etc/group"
echo 'app:x:10001:10001:app:/app:/usr/sbin/nologin' >>"$root/etc/passwd"

# mmdebstrap settles on usrmerge before it sees that we want usr-is-merged, and with it comes all of Perl.
chroot "$root" dpkg --purge usrmerge libfile-find-rule-perl libnumber-compare-perl libtext-glob-perl perl libperl5.36 \
    perl-modules-5.36 libgdbm-compat4 libgdbm6 >/dev/null

# Nothing here needs another user's rights.
find "$root" -xdev -type f -perm /6000 -exec chmod ug-s {} +

# Debian compiles Python's library with time stamps and in no fixed order: once more, by content.
find "$root/usr" -name __pycache__ -type d -prune -exec rm -rf {} +
if [ -x "$root/usr/bin/python3" ]; then
    PYTHONHASHSEED=0 chroot "$root" python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3
    PYTHONHASHSEED=0 chroot "$root" python3 -m compileall -q --invalidation-mode unchecked-hash \
        -x 'lib2to3/tests|/test/' /usr/lib/python3.11
fi

cd "$root"
rm -rf etc/.pwd.lock etc/apt/sources.list* etc/dpkg/dpkg.cfg.d/* etc/group- etc/gshadow- etc/hostname \
    etc/machine-id etc/passwd- etc/resolv.conf etc/shadow- etc/subgid- etc/subuid- var/lib/dpkg/*-old var/lib/systemd
find run tmp var/cache var/lib/apt/lists var/log var/tmp -mindepth 1 -delete
