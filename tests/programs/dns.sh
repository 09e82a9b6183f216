# DNS over TCP: dnsmasq, asked by dig.

serve() {
    local text
    text=$(printf 'x%.0s' $(seq 250))
    exec dnsmasq --keep-in-foreground --no-resolv --no-hosts --conf-file=/dev/null --user=root \
        --log-facility=- --pid-file --host-record=one.example,192.0.2.1,2001:db8::1 \
        --host-record=two.example,192.0.2.2 --txt-record=large.example,"$text","$text","$text" \
        --mx-host=one.example,two.example,10 --port=53
}

normalize() { sed -E 's/, id: [0-9]+/, id: ID/; s/^;; (Query time|WHEN): .*/;; \1/; s/#53\(.*\)/#53/; s/; <<>> .*//'; }

ask() { dig +tcp +tries=1 +time=5 "@$HOST" "$@"; }

questions() {
    ask one.example A
    ask one.example AAAA
    ask one.example MX
    ask large.example TXT
    ask -x 192.0.2.2
    ask +keepopen one.example A two.example A large.example TXT
}

missing() { ask nothing.example A; }

refused() { ask one.example A; }
