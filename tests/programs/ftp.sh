# FTP: pyftpdlib, and Python's ftplib.

prepare() {
    bytes 6000000 > "$CACHE/large"
    # More than all buffers on the way hold.
    truncate -s 200M "$CACHE/huge"
    seq 1000 > "$CACHE/numbers"
    touch -d 2026-01-01T00:00:00Z "$CACHE"/*
}

serve() {
    mkdir -p "$SERVER/files"
    [ -e "$SERVER/files/large" ] || cp -a "$CACHE"/* "$SERVER/files/"
    exec "$VENV/python" "$HERE/ftp_server.py" "$SERVER/files"
}

ask() { ${exec-} /usr/bin/python3 "$HERE/ftp_client.py" "$HOST" "$@"; }

passive() { ask passive; }
active() { ask active; }
wrong_password() { ask wrong_password; }
refused() { ask refused; }

client_killed() {
    exec=exec ask waits > "$CONTROL/said" &
    wait_for says waits "$CONTROL/said"
    kill -9 $!
    wait $! 2>/dev/null
    wait_for says 'gone waiting' "$SERVER/log"
    echo "the server knows"
}

server_killed() {
    ask waits > "$CONTROL/said-2" &
    wait_for says waits "$CONTROL/said-2"
    kill_server
    wait $!
    echo "status $?"
    cat "$CONTROL/said-2"
}
