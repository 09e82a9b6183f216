# rsync and its daemon.

prepare() {
    mkdir -p "$CACHE/files/below"
    bytes 8000000 > "$CACHE/files/large"
    for i in $(seq 50); do seq "$i" > "$CACHE/files/below/$i"; done
    find "$CACHE/files" -exec touch -d 2026-01-01T00:00:00Z {} +
    echo 'user:secret' > "$CACHE/secrets"
    chmod 600 "$CACHE/secrets"
}

serve() {
    mkdir -p "$SERVER/taken"
    cat > "$SERVER/rsyncd.conf" <<END
use chroot = no
uid = root
gid = root
log file = /dev/stderr
reverse lookup = no
[files]
    path = $CACHE/files
[taken]
    path = $SERVER/taken
    read only = no
[private]
    path = $CACHE/files
    auth users = user
    secrets file = $CACHE/secrets
END
    exec rsync --daemon --no-detach --config="$SERVER/rsyncd.conf"
}

copies() {
    rsync "rsync://$HOST/"
    rsync "rsync://$HOST/files/"
    rsync -a --out-format='%i %n %l' "rsync://$HOST/files/" down/
    rsync -a --out-format='%i %n %l' down/ "rsync://$HOST/taken/"
    echo more >> down/large
    touch -d 2026-01-02T00:00:00Z down down/large
    rsync -a --out-format='%i %n %l' down/ "rsync://$HOST/taken/"
    rsync -a --checksum --out-format='%i %n %l' "rsync://$HOST/taken/" again/
    diff -r down again && echo same
}

wrong_password() { RSYNC_PASSWORD=wrong rsync "rsync://user@$HOST/private/"; }

right_password() { RSYNC_PASSWORD=secret rsync "rsync://user@$HOST/private/large"; }

missing() { rsync -a "rsync://$HOST/files/missing" .; rsync "rsync://$HOST/nothing/"; }

refused() { rsync "rsync://$HOST/files/"; }

normalize() { sed -E 's/\([0-9]+ bytes received so far\)/(N bytes received so far)/; s/\[[0-9]+\]/[PID]/'; }

is_arriving() { has_bytes "$(find "$CONTROL/down" -name '.large.*' 2>/dev/null | head -1)" 200000; }

server_killed() {
    rsync --bwlimit=500 -a "rsync://$HOST/files/large" "$CONTROL/down/" &
    wait_for is_arriving
    kill_server
    wait $!
    echo "status $?"
}
