# SMTP: aiosmtpd, and Python's smtplib.

serve() { exec "$VENV/python" "$HERE/smtp_server.py"; }

ask() { ${exec-} /usr/bin/python3 "$HERE/smtp_client.py" "$HOST" "$@"; }

mails() {
    ask mails
    # What the server has got.
    grep -a '^mail ' "$LOG" | tail -3
}
wrong_password() { ask wrong_password; }
refused() { ask refused; }

client_killed() {
    exec=exec ask waits > "$CONTROL/said" &
    wait_for says waits "$CONTROL/said"
    kill -9 $!
    wait $! 2>/dev/null
    wait_for says 'gone in the middle' "$LOG"
    grep 'gone in the middle' "$LOG" | tail -1
}

server_killed() {
    ask waits > "$CONTROL/said-2" &
    wait_for says waits "$CONTROL/said-2"
    kill_server
    wait $!
    echo "status $?"
    cat "$CONTROL/said-2"
}
