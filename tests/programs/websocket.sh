# WebSocket: the package `websockets`, both ends.

serve() { exec "$VENV/python" "$HERE/websocket_server.py"; }

ask() { ${exec-} "$VENV/python" "$HERE/websocket_client.py" "$HOST" "$@"; }

messages() { ask messages; }
closes() { ask closes; }
wrong_password() { ask wrong_password; }
refused() { ask refused; }

client_killed() {
    exec=exec ask waits > "$CONTROL/said" &
    wait_for says waits "$CONTROL/said"
    kill -9 $!
    wait $! 2>/dev/null
    wait_for says 'waits: gone' "$LOG"
    grep 'waits: gone' "$LOG" | tail -1
}

server_killed() {
    ask waits > "$CONTROL/said-2" &
    wait_for says waits "$CONTROL/said-2"
    kill_server
    wait $!
    echo "status $?"
    cat "$CONTROL/said-2"
}
