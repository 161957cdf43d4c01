# Waits until the process that started this is gone, however it ended, and removes what is left of what it made.
# Standard input: a pipe that only that process can write to; a line for each thing, written before the thing is made.
# $1: the number of the pipe. Whatever that process started has inherited the other end of it.

netns() { if [ -e "/run/netns/$1" ]; then umount -l "/run/netns/$1"; rm -f "/run/netns/$1"; fi; }
bpffs() { if [ -d "$1" ]; then umount -l "$1"; rmdir "$1"; fi; }
folder() { if [ -e "$1" ]; then rm -rf --one-file-system "$1"; fi; }
cgroup() {
    tries=500
    # It is busy until what was ended is gone.
    while [ -d "$1" ] && [ $tries -gt 0 ]; do
        echo 1 >"$1/cgroup.kill"
        find "$1" -depth -type d -exec rmdir {} \; || sleep 0.01
        tries=$((tries - 1))
    done
}
# A lab's namespaces, mounts, cgroups and files, by the program that made it; any of its commands removes dead labs.
lab() { if [ -e "/run/weft/labs/$1" ]; then "$2" lab down --name "$1" || "$2" lab list; fi; }
# Containers that see the folder, whoever started them.
containers() {
    for seen in $(grep -ls "$1" /proc/[0-9]*/mountinfo); do
        seen=${seen#/proc/}
        kill -KILL "${seen%%/*}"
    done
    find /sys/fs/cgroup -depth -type d -name "$2*" -exec rmdir {} \;
}

# The latest first: what was made may lie in what was made before.
trap '' HUP INT TERM
undo=
while IFS= read -r line; do
    undo="$line
$undo"
done
exec </dev/null
tries=500
while [ $tries -gt 0 ]; do
    held=$(find /proc/[0-9]*/fd -lname "pipe:\\[$1\\]")
    [ -n "$held" ] || break
    for one in $held; do
        one=${one#/proc/}
        kill -KILL "${one%%/*}"
    done
    sleep 0.01
    tries=$((tries - 1))
done
eval "$undo"
