#!/bin/sh
# Runs a command under a root of its own, in which volumes are where a pod wants them and everything else is this
# machine's. Nothing is made on the machine itself: two clusters on it would take each other's mount points away.
# To be run in a mount namespace of its own:
#
#     enter.sh ROOT ro|rw WORKDIR [SOURCE TARGET ro|rw]... -- COMMAND...
#
# ROOT is an empty folder. A target that does not exist here needs a folder to be made in; its nearest parent is then
# a tmpfs with everything of the real one bound into it. (An overlay would do, but for Unix sockets: nobody can connect
# to one through it, tried on 6.18.)
set -eu

root=$1 access=$2 workdir=$3
shift 3
wanted=$PATH # the container's own
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
made=""  # folders that are a tmpfs of ours
ours=""  # targets so far, and the above

replicate() { # a folder of this machine, "" for all of it
    mount -t tmpfs -o mode=755 fullsend "$root$1"
    made="$made $1/"
    ours="$ours $1"
    for there in "$1"/* "$1"/.[!.]*; do
        here=$root$there
        if [ -L "$there" ]; then
            cp -P "$there" "$here"
        elif [ -d "$there" ]; then
            mkdir "$here"
            case "$root/" in
                "$there"/*) mount --bind "$there" "$here" ;; # with all that is mounted below, it would hold itself
                *) mount --rbind "$there" "$here" ;;
            esac
        elif [ -e "$there" ]; then
            : >"$here"
            mount --bind "$there" "$here"
        else
            continue
        fi
        case "$access $there" in
            "ro /proc" | "ro /sys" | "ro /dev") ;;
            ro*) [ -L "$there" ] || mount -o remount,bind,ro "$here" ;;
        esac
    done
}

is_ours() {
    for one in $ours; do
        case "$1/" in "$one"/*) return 0 ;; esac
    done
    return 1
}

replicate ""
while [ "$1" != -- ]; do
    source=$1 target=$2 mode=$3
    shift 3
    parent=$target
    while [ -n "$parent" ] && [ ! -e "$parent" ]; do parent=${parent%/*}; done
    if [ -n "$parent" ] && [ "$parent" != "$target" ] && ! is_ours "$parent"; then
        replicate "$parent"
    fi
    if [ -d "$source" ]; then
        mkdir -p "$root$target"
    else
        mkdir -p "$root${target%/*}"
        [ -e "$root$target" ] || : >"$root$target"
    fi
    mount --bind "$source" "$root$target"
    [ "$mode" = rw ] || mount -o remount,bind,ro "$root$target"
    ours="$ours $target"
done
shift
if [ "$access" = ro ]; then
    for one in $made; do mount -o remount,bind,ro "$root${one%/}"; done
fi
exec chroot "$root" /usr/bin/env "PATH=$wanted" /bin/sh -c 'cd "$0" && exec "$@"' "$workdir" "$@"
